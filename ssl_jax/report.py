"""Writes one HTML page on one or several runs:

    python -m ssl_jax.report RUN [RUN ...] [--out=FILE.html]

The page shows scores beside their baselines, training curves, the figures that fit each method,
settings, and when and on what devices the runs trained. It is a single file and loads nothing. The
default is RUN/report/index.html for one run, report.html for several. If the data have moved, give
their new place: --config.data.dir=DIR. The page lists any part that could not be made.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from ssl_jax.runtime import command
from ssl_jax.settings import command_line
from ssl_jax.settings.paths import check_writable, user_path
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

OUT = flags.DEFINE_string(
    "out", "", "HTML file to write; default RUN/report/index.html, or report.html for several runs."
)
IMAGES = flags.DEFINE_integer(
    "images",
    10_000,
    "Maximum number of training images to embed, drawn with a fixed seed.",
    lower_bound=50,
)


def with_runs(argv: list[str]) -> list[str]:
    """Adds a --config with the settings of the first run, and moves the flags before the runs.

    Raises:
        SettingError: no run, or a --config.
    """
    args = command_line.joined(argv[1:], r"out|images|config\.data\.(name|dir|cache)")
    runs = [str(user_path(arg, "RUN")) for arg in args if _is_run(arg)]
    if any(re.match("--?config(=|$)", arg) for arg in args):
        raise SettingError("a report takes the settings of its runs; leave out --config")
    if not runs:
        raise SettingError("name one or more run folders: python -m ssl_jax.report RUN [RUN ...]")
    config = f"--config={command_line.RUN_CONFIG}:{runs[0]}::"
    return [argv[0], config, *(arg for arg in args if not _is_run(arg)), "--", *runs]


def _is_run(arg: str) -> bool:
    """Whether an argument is a run folder, even one whose name looks like a flag."""
    return not arg.startswith("-") or Path(arg, "config.json").is_file()


def target(runs: Sequence[str]) -> Path:
    """The file to write; creates its folder inside a run if needed.

    Raises:
        SettingError: the file cannot be written.
    """
    path = Path(runs[0]) / "report" / "index.html" if len(runs) == 1 else Path("report.html")
    if OUT.value:
        path = user_path(OUT.value, "--out")
    if path.suffix.lower() not in (".html", ".htm") or path.is_dir():
        raise SettingError(f"--out={path}: give a file that ends in .html")
    if OUT.value and not path.absolute().parent.is_dir():
        raise SettingError(f"--out={path}: there is no folder {path.parent}")
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise SettingError(f"--out={path} cannot be written ({error.strerror})") from error
    check_writable(path, "--out")
    return path


def main(folders: Sequence[str]) -> None:
    from functools import partial

    from ml_collections import config_flags
    from rich.console import Console

    from ssl_jax.reporting import make, record
    from ssl_jax.runtime import compilation

    runs = record.read(folders)
    path = target(folders)
    overrides = config_flags.get_override_values(flags.FLAGS["config"])
    for name in overrides:
        if not name.startswith("data."):
            raise SettingError(
                f"--config.{name}: a report takes only settings of its data, such as "
                "--config.data.dir=DIR"
            )
    compilation.enable_cache()
    show = partial(Console().print, markup=False, highlight=False, soft_wrap=True)
    try:
        make.write(runs, path, given=overrides, most=IMAGES.value, say=show)
    except OSError as error:
        raise SettingError(f"--out={path} cannot be written ({error.strerror or error})") from error
    show(f"wrote {printable(path)} ({path.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    command.start(main, prepare=with_runs, operands=True)
