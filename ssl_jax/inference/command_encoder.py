"""The encoder that the flags of a command name: a run, or a weight file in place of one."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from ssl_jax.inference.weights_run import open_encoder
from ssl_jax.ops.mesh import make_mesh
from ssl_jax.runs.restore import Run
from ssl_jax.settings import command_line, weight_flags


def open_given(
    workdir: str | None,
    checkpoint: str | int = "latest",
    *,
    takes: Sequence[str],
    show: Callable[[str], Any],
) -> tuple[Run, dict[str, Any]]:
    """The run in `workdir`, or the file of --weights; and all settings of the command.

    Args:
        workdir: of --workdir; ignored with --weights.
        checkpoint: of --checkpoint.
        takes: the settings that the command follows, see `command_line.check_overrides`.
        show: takes sentences on what was taken from a weight file.

    Raises:
        SettingError: a run, file or flag that cannot be used.
    """
    command_line.check_overrides(takes)
    with jax.set_mesh(make_mesh()):
        run, settings = open_encoder(
            workdir,
            checkpoint,
            weight_flags.weight_file(),
            command_line.CONFIG.value,
            command_line.config_name()[2],
            weight_flags.image_settings(),
        )
    for note in run.notes:
        show(note)
    return run, settings
