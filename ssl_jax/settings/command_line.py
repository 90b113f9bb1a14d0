"""What all commands share: the --config flag, and their flags parsed, every mistake in one line."""

import re
import sys
import traceback
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from ssl_jax.settings import config_files
from ssl_jax.settings.resolve import SettingError

CONFIG = config_flags.DEFINE_config_file("config", None, "A config by its name or path, with :variant.")
RUN_CONFIG = Path(__file__).parents[1] / "runs" / "config_file.py"


def parse(argv, prepare, operands=False):
    """absl's flags, with every mistake as one line and exit code 2."""
    path = None
    try:
        argv, path = with_config_path(prepare(argv))
        sys.argv = argv  # ml_collections looks for --config.NAME there
        rest = flags.FLAGS(argv)
        if not isinstance(CONFIG.value, ConfigDict):
            kind = type(CONFIG.value).__name__
            raise SettingError(f"--config={path}: get_config returns a value of type {kind}, not a ConfigDict")
        if len(rest) > 1 and not operands:
            raise SettingError(f"{rest[1]!r} is not a flag; settings are given as --config.NAME=VALUE")
        return rest
    except SettingError as error:
        fail(error, 2)
    except Exception as error:
        fail(_explained(error, argv, path), 2)


def _explained(error, argv, path) -> str:
    """One line on what absl, ml_collections or the config file `path` has raised."""
    if isinstance(error, (AttributeError, KeyError)) and (message := unknown_setting(error, argv)):
        return message
    line, text, kind = _line_of(error, path), _text(error), type(error).__name__
    told = line or "Traceback (most recent call last)" in str(error)
    if isinstance(error, (flags.Error, TypeError, ValueError, OSError)) and not told:
        return text
    where = f"--config={path}, line {line}" if line else f"--config={path}"
    return f"{where}: {text}" if told and not line else f"{where}: {kind}: {text}"


def _line_of(error, path) -> int | None:
    """Where in the config file `path` an error arose; None where it is of another file."""
    found = None
    for cause in (error, error.__cause__, error.__context__):
        frames = traceback.extract_tb(cause.__traceback__) if cause else ()
        found = found or next(
            (f.lineno for f in reversed(frames) if path and Path(f.filename) == path.absolute()), None
        )
    return found


def _text(error) -> str:
    """What an error says, without the traceback that ml_collections puts into its text."""
    text = ": ".join(map(str, error.args)) if len(error.args) > 1 and not isinstance(error, OSError) else str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if "Traceback (most recent call last)" in text else " ".join(lines)


def with_config_path(argv) -> tuple[list[str], Path]:
    """`argv` with --config first, its name ("swav:cifar10") as the path of the file; and that path.

    Raises:
        SettingError: --config is missing or given twice, or there is no such file.
    """
    argv = joined(argv, "config")
    given = [arg for arg in argv[1:] if re.match("--?config=", arg)]
    others = [arg for arg in argv[1:] if arg not in given]
    if len(given) > 1:
        raise SettingError(f"--config is given twice: {' and '.join(given)}; leave one out")
    value = given[0].partition("=")[2] if given else ""
    name, colon, variant = value.partition(":")
    path = config_files.find(name)
    config_files.check(path)
    return [argv[0], f"--config={path}{colon}{variant}", *others], path


def with_base(argv) -> list[str]:
    """`argv` with --config.base=NAME also appended to the variant, FILE:VARIANT+NAME.

    The config file needs the base when it builds the config.
    """
    argv = joined(argv, r"config(\.base)?")
    named = [i for i, arg in enumerate(argv) if re.match("--?config=", arg)]
    bases = [arg.partition("=")[2] for arg in argv if re.match(r"--?config\.base=", arg)]
    if not (named and bases):
        return argv
    path, _, variant = argv[named[-1]].partition(":")
    variant = variant.partition("+")[0] or "digits"
    return [*argv[: named[-1]], f"{path}:{variant}+{bases[-1]}", *argv[named[-1] + 1 :]]


def joined(argv, names: str) -> list[str]:
    """`argv` with "--NAME VALUE" as "--NAME=VALUE" for the flags that the pattern `names` matches."""
    args = iter(argv)
    return [f"{arg}={next(args, '')}" if re.fullmatch(f"--?({names})", arg) else arg for arg in args]


def with_run(argv) -> list[str]:
    """`argv` with --config naming the settings of the run of --workdir; --data.NAME stands for --config.data.NAME.

    The settings have the evaluators that --evals names, of commands that have this flag; those of the run without it.

    Raises:
        SettingError: no --workdir.
    """
    argv = joined((re.sub(r"^--?data\.", "--config.data.", arg) for arg in argv), "workdir|evals|config")
    last = lambda name: next((arg.partition("=")[2] for arg in argv[::-1] if re.match(f"--?{name}=", arg)), "")
    workdir, evals = last("workdir"), last("evals")
    if not workdir:
        raise SettingError("--workdir is missing; name a run folder")
    if any(re.match("--?config=", arg) for arg in argv):
        raise SettingError("--config: this command takes the settings of the run; leave it out")
    return [argv[0], f"--config={RUN_CONFIG}:{workdir}::{evals}", *argv[1:]]


def unknown_setting(error, argv) -> str:
    """Which flag named a setting that is not there, with what ml_collections says of it; or nothing."""
    said = str(error.args[0]) if error.args else ""
    names = [arg.partition("=")[0].lstrip("-") for arg in argv[1:]]
    wrong = next((n for n in names if n.startswith("config.") and n.rpartition(".")[2] in said), None)
    if wrong is None:  # a section that is not there
        wrong = next((n for n in names if n.startswith("config.") and said.strip("'\"") in n.split(".")[1:]), None)
    near = re.search(r'Did you mean "(\w+)"', said)
    hint = f"; did you mean {near[1]!r}?" if near else ""
    return f"--{wrong} is not a setting{hint}" if wrong else ""


def config_name() -> tuple[str, str, dict]:
    """Stem of the config file, variant, and the overrides given on the command line."""
    flag = flags.FLAGS["config"]
    path, _, variant = config_flags.get_config_filename(flag).partition(":")
    return Path(path).stem, variant, config_flags.get_override_values(flag)


def overrides(section: str) -> dict:
    """Those of one section that were given on the command line, by name."""
    return {k.partition(".")[2]: v for k, v in config_name()[2].items() if k.startswith(f"{section}.")}


def fail(error, code: int):
    """One line on standard error, then the end."""
    line = " ".join(str(error).split())
    print(f"error: {line}", file=sys.stderr)
    sys.exit(code)
