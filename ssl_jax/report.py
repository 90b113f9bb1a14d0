"""One page on one run or several, in a single file:  python -m ssl_jax.report RUN [RUN ...] [--out=FILE.html]

Scores beside their baselines, curves, the figures that fit each method, settings, and where and when the runs trained.
Of one run it becomes RUN/report/index.html, of several report.html. Data that have moved: --config.data.dir=DIR. What
cannot be made is named, and the rest is there.
"""

import re
from pathlib import Path

from absl import flags

from ssl_jax.runtime import command
from ssl_jax.settings import command_line
from ssl_jax.settings.paths import check_writable, user_path
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

OUT = flags.DEFINE_string("out", "", "The file; default RUN/report/index.html, of several runs report.html.")
IMAGES = flags.DEFINE_integer(
    "images", 10_000, "Training images to embed, at most, drawn by a fixed seed.", lower_bound=50
)


def with_runs(argv) -> list[str]:
    """`argv` with --config naming the settings of the first run; flags first, as absl wants them, then the runs."""
    given = command_line.joined(argv[1:], r"out|images|config\.data\.(name|dir|cache)")
    is_run = lambda arg: not arg.startswith("-") or Path(arg, "config.json").is_file()
    runs = [str(user_path(arg, "RUN")) for arg in given if is_run(arg)]
    if any(re.match("--?config(=|$)", arg) for arg in given):
        raise SettingError("a report takes the settings of its runs; leave out --config")
    settings = [arg for arg in given if not is_run(arg)]
    if not runs:
        raise SettingError("name a run folder, or several: python -m ssl_jax.report RUN [RUN ...]")
    config = [f"--config={command_line.RUN_CONFIG}:{runs[0]}::"] if runs else []
    return [argv[0], *config, *settings, "--", *runs]


def target(runs) -> Path:
    """The file that is written, its folder there.

    Raises:
        SettingError: it cannot be.
    """
    own = Path(runs[0]) / "report" / "index.html" if len(runs) == 1 else Path("report.html")
    path = user_path(OUT.value, "--out") if OUT.value else own
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


def main(folders):
    from functools import partial

    from ml_collections import config_flags
    from rich.console import Console

    from ssl_jax.reporting import make, record
    from ssl_jax.runtime import compilation

    runs, path = record.read(folders), target(folders)
    given = config_flags.get_override_values(flags.FLAGS["config"])
    if other := [name for name in given if not name.startswith("data.")]:
        raise SettingError(f"--config.{other[0]}: a report takes only where its data are, as in --config.data.dir=DIR")
    compilation.enable_cache()
    say = partial(Console().print, markup=False, highlight=False, soft_wrap=True)
    try:
        make.write(runs, path, given=given, most=IMAGES.value, say=say)
    except OSError as error:
        raise SettingError(f"--out={path} cannot be written ({error.strerror or error})") from error
    say(f"wrote {printable(path)} ({path.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    command.start(main, prepare=with_runs, operands=True)
