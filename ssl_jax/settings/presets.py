"""Presets of `ssl_jax.evaluate`: the data and the evaluator of a published transfer, by one flag.

--preset=places205 stands for the flags below, before those that are given, so that each can be
changed. The settings are VISSL's, by authors of SwAV; SwAV's own code has none for transfer.
"""

import re
from collections.abc import Sequence

from ssl_jax.settings import command_line
from ssl_jax.settings.resolve import SettingError

# VISSL's linear classifier: SGD with Nesterov's momentum on features after a BatchNorm.
_VISSL = (
    "--evals=augmented",
    "--config.evals.crop=0.875",
    "--config.evals.augmented.standardise=True",
    "--config.evals.augmented.nesterov=True",
    "--config.evals.augmented.learning_rate=0.01",
    "--config.evals.augmented.weight_decay=0.0005",
    "--config.evals.augmented.schedule=drops",
)
# Local Aggregation's, for a ResNet; see `evaluation.augmented`.
_LOCAL_AGGREGATION = (
    "--evals=augmented",
    "--config.evals.crop=0.875",
    '--config.evals.augmented.features=("stage1", "stage2", "stage3", "stage4", "stage5")',
    "--config.evals.augmented.epochs=70",
    "--config.evals.augmented.batch_size=128",
    "--config.evals.augmented.base_batch_size=0",
    "--config.evals.augmented.learning_rate=0.01",
    "--config.evals.augmented.weight_decay=0.0001",
    "--config.evals.augmented.schedule=drops",
    "--config.evals.augmented.drops=(30, 60)",
    "--config.evals.augmented.scale=(0.77, 0.77)",
    "--config.evals.augmented.ratio=(1.0, 1.0)",
    "--config.evals.augmented.ten_crop=0.875",
)
_NEIGHBOURS = (
    "--evals=knn,probe",
    "--config.evals.crop=0.875",
    "--config.evals.knn.k=200",
)

PRESETS: dict[str, tuple[str, ...]] = {
    "places205": (
        "--config.data.name=places205",
        "--config.data.store=stream",
        *_VISSL,
        "--config.evals.augmented.epochs=14",
        "--config.evals.augmented.drops=(4, 8, 12)",
    ),
    "places205_la": (
        "--config.data.name=places205",
        "--config.data.store=stream",
        *_LOCAL_AGGREGATION,
    ),
    "inat18": (
        "--config.data.name=inat18",
        "--config.data.store=stream",
        *_VISSL,
        "--config.evals.augmented.epochs=84",
        "--config.evals.augmented.drops=(24, 48, 72)",
    ),
    "voc07": (
        "--config.data.name=voc07",
        "--evals=svm",
        "--config.evals.crop=0.875",
        "--config.evals.svm.ignored=negative",
    ),
    "cub200": ("--config.data.name=cub200", *_NEIGHBOURS),
    "dogs": ("--config.data.name=dogs", *_NEIGHBOURS),
}


def with_preset(argv: Sequence[str]) -> list[str]:
    """The arguments with the flags of --preset=NAME before them, so that those given have effect.

    With an --evals that names other evaluators, the preset's settings of these are left out, and
    so is its crop with a --crop, as weight files take it.

    Args:
        argv: the command line, program name first.

    Raises:
        SettingError: no such preset, or two.
    """
    argv = command_line.joined(argv, "preset|evals|crop")
    names = [arg.partition("=")[2] for arg in argv[1:] if re.match("--?preset=", arg)]
    if not names:
        return argv
    if len(names) > 1:
        raise SettingError(f"--preset is given twice: {' and '.join(names)}; leave one out")
    if names[0] not in PRESETS:
        raise SettingError(f"--preset={names[0]}: choose one of {', '.join(PRESETS)}")
    preset = PRESETS[names[0]]
    given = [arg.partition("=")[2] for arg in argv[1:] if re.match("--?evals=", arg)]
    if given:
        kept = {"crop", *given[-1].split(",")}
        preset = [flag for flag in preset if not _is_for_others(flag, kept)]
    if any(re.match("--?crop=", arg) for arg in argv[1:]):
        preset = [flag for flag in preset if not flag.startswith("--config.evals.crop=")]
    return [argv[0], *preset, *argv[1:]]


def _is_for_others(flag: str, kept: set[str]) -> bool:
    """Whether a flag chooses evaluators, or sets one that is not among `kept`."""
    match = re.match(r"--config\.evals\.(\w+)", flag)
    return flag.startswith("--evals=") or (match is not None and match[1] not in kept)
