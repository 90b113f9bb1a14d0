"""Writes one HTML page on one or several runs, or on a weight file and a data set:

    python -m ssl_jax.report RUN [RUN ...] [--out=FILE.html]
    python -m ssl_jax.report --weights=FILE --data.dir=DIR [--out=FILE.html]

The page shows scores beside their baselines, training curves, the figures that fit each method,
settings, and when and on what devices the runs trained. It is a single file and loads nothing. The
default is RUN/report/index.html for one run, report.html for several. If the data have moved, give
their new place: --data.dir=DIR. The page lists any part that could not be made.

With --weights, a file of any library that makes ResNets, the page shows scores (knn, linear and
clustering, if there are labels), neighbours and maps of the data; --data.NAME is any setting of
`data`, the name a folder unless given. The default is report.html.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from ssl_jax.runtime import command
from ssl_jax.settings import command_line, weight_flags
from ssl_jax.settings.paths import check_writable, user_path
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

OUT = flags.DEFINE_string(
    "out",
    "",
    "HTML file to write; default RUN/report/index.html, or report.html for several runs and for "
    "weights.",
)
IMAGES = flags.DEFINE_integer(
    "images",
    10_000,
    "Maximum number of training images to embed, drawn with a fixed seed; for densities see "
    "--density_images.",
    lower_bound=50,
)
DENSITY_IMAGES = flags.DEFINE_integer(
    "density_images",
    0,
    "Maximum number of training images for the figure of densities, drawn with a fixed seed; 0 for "
    "all.",
    lower_bound=0,
)


def with_runs(argv: list[str]) -> list[str]:
    """Adds a --config with the settings of the first run, and moves the flags before the runs.

    With --weights the settings are those for a weight file.

    Raises:
        SettingError: neither a run nor a weight file, or both; or a --config.
    """
    of_weights = "|".join(command_line.OF_WEIGHTS)
    args = command_line.joined(
        command_line.with_data(argv[1:]),
        rf"out|images|density_images|weights|{of_weights}|config\.data\.(name|dir|cache)",
    )
    runs = [str(user_path(arg, "RUN")) for arg in args if _is_run(arg)]
    given = [arg.partition("=")[2] for arg in args if re.match("--?weights=", arg)]
    weights = given[-1] if given else ""
    command_line.check_source([argv[0], *args], runs[0] if runs else "", weights)
    if any(re.match("--?config(=|$)", arg) for arg in args):
        raise SettingError("a report takes the settings of its runs; leave out --config")
    if not runs and not weights:
        raise SettingError(
            "name one or more run folders: python -m ssl_jax.report RUN [RUN ...]; or a weight "
            "file with --weights"
        )
    config = f"--config={command_line.RUN_CONFIG}:{runs[0] if runs else ''}::"
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

    from rich.console import Console

    from ssl_jax.reporting import make, record
    from ssl_jax.runs.console import print_plain
    from ssl_jax.runtime import compilation

    weights = weight_flags.weight_file()
    runs = record.read(folders) if folders else []
    path = target(folders)
    overrides = command_line.config_name()[2]
    command_line.check_overrides(("data.", "evals.") if weights else ("data.",))
    compilation.enable_cache()
    show = partial(print_plain, Console())
    try:
        if weights:
            _write_on_weights(path, show)
        else:
            make.write(runs, path, given=overrides, **_limits(), say=show)
    except OSError as error:
        raise SettingError(f"--out={path} cannot be written ({error.strerror or error})") from error
    show(f"wrote {printable(path)} ({path.stat().st_size / 1e6:.1f} MB)")


def _limits() -> dict[str, int]:
    """How many training images are embedded, for the functions that write a page."""
    return dict(most=IMAGES.value, most_for_density=DENSITY_IMAGES.value)


def _write_on_weights(path: Path, show: Callable[[str], Any]) -> None:
    """Writes the page on a weight file and its data."""
    import jax

    from ssl_jax.inference.command_encoder import open_given
    from ssl_jax.ops.mesh import make_mesh
    from ssl_jax.reporting.weights import write

    run, settings = open_given(None, takes=("data.", "evals."), show=show)
    with jax.set_mesh(make_mesh()):
        write(run, settings, path, **_limits(), say=show)


if __name__ == "__main__":
    command.start(main, prepare=with_runs, operands=True)
