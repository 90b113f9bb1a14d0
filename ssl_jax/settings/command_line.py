"""Shared by all commands: the --config flag, and flag parsing with every mistake as one line."""

import re
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

from ssl_jax.settings import config_files, eval_settings
from ssl_jax.settings.resolve import SettingError


class _ConfigFileParser(ConfigFileFlagParser):
    """Reads config files; each has a value for the settings that evaluators share."""

    def parse(self, path: str) -> Any:
        config = super().parse(path)
        eval_settings.complete(config)
        return config


CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A config by its name or path, with :variant."
)
flags.FLAGS["config"].parser = _ConfigFileParser("config")
_CONVERSIONS = {  # what Python says of a value of the wrong type, and what to give
    "invalid literal for int()": "a whole number",
    "could not convert string to float": "a number",
    "('Non-boolean argument to boolean flag'": "true or false",
}
OF_WEIGHTS = ("size", "mean", "std", "range", "crop", "prefix")  # flags that describe a weight file
_LISTED = 20  # settings of a section that a message lists, at most
RUN_CONFIG = Path(__file__).parents[1] / "runs" / "config_file.py"


def parse(
    argv: list[str], prepare: Callable[[list[str]], list[str]], operands: bool = False
) -> list[str]:
    """Parses the flags with absl; a mistake ends the process with one line and exit code 2.

    Args:
        argv: the command line, program name first.
        prepare: rewrites `argv` before parsing.
        operands: whether arguments that are not flags are allowed.

    Returns:
        the program name and the operands.
    """
    path = None
    try:
        argv, path = with_config_path(prepare(argv))
        sys.argv = argv  # ml_collections looks for --config.NAME there
        rest = flags.FLAGS(argv)
        if not isinstance(CONFIG.value, ConfigDict):
            kind = type(CONFIG.value).__name__
            raise SettingError(
                f"--config={path}: get_config returns a value of type {kind}, not a ConfigDict"
            )
        if len(rest) > 1 and not operands:
            raise SettingError(f"{rest[1]!r} is not a flag; give settings as --config.NAME=VALUE")
        if not operands:
            _check_place()
        return rest
    except SettingError as error:
        fail(error, 2)
    except Exception as error:
        fail(_explained(error, argv, path), 2)


def _check_place() -> None:
    """Rejects a `data.dir` for the digits, which would be used in place of what is there.

    Raises:
        SettingError: it is given on the command line.
    """
    place = overrides("data").get("dir")
    if place and CONFIG.value.data.name == "digits":
        raise SettingError(
            f"data.dir={place}: the data set is that of the digits (data.name=digits), which come "
            "with scikit-learn and are read from no folder; set data.name, such as "
            "data.name=folder for pictures of your own, or leave data.dir out"
        )


def _explained(error: Exception, argv: list[str], path: Path | None) -> str:
    """One line on an error raised by absl, ml_collections or the config file `path`."""
    if isinstance(error, (AttributeError, KeyError)):
        message = unknown_setting(error, argv)
        if message:
            return message
    if isinstance(error, flags.UnrecognizedFlagError):
        return _text(error) + _meant_setting(error.flagname, argv)
    line = _line_of(error, path)
    text = _text(error)
    from_config = line or "Traceback (most recent call last)" in str(error)
    if isinstance(error, (flags.Error, TypeError, ValueError, OSError)) and not from_config:
        return _wrong_type(text) or text
    if line:
        return f"--config={path}, line {line}: {type(error).__name__}: {text}"
    if from_config:  # the text names the type of the error
        return f"--config={path}: {text}"
    return f"--config={path}: {type(error).__name__}: {text}"


def _wrong_type(text: str) -> str:
    """absl's message about a value that Python cannot convert, in plain words; else empty."""
    for reason, kind in _CONVERSIONS.items():
        match = re.fullmatch(rf"flag (--[^=]+)=(.*): {re.escape(reason)}.*", text)
        if match:
            return f"{match[1]}={match[2]!r}: give {kind}"
    return ""


def _meant_setting(name: str, argv: list[str]) -> str:
    """A hint if the unknown flag `name` is a setting that lacks its --config; else empty."""
    section, rest = _walk(_config_of(argv), name.split("."))
    if rest or section is None:
        return ""
    given = [arg.lstrip("-") for arg in joined(argv[1:], re.escape(name))]
    value = next((arg for arg in given if arg.startswith(f"{name}=")), f"{name}=VALUE")
    return f"; did you mean --config.{value}?"


def _config_of(argv: list[str]) -> Any:
    """The config that --config gives, without overrides; None if it cannot be read."""
    try:
        parser = flags.FLAGS["config"].parser
        return parser.parse(_last_value(argv, "config"))
    except Exception:  # for a hint only
        return None


def _walk(config: Any, names: list[str]) -> tuple[Any, list[str]]:
    """The innermost value of a config that exists along `names`, and the names that remain."""
    while names and isinstance(config, ConfigDict) and names[0] in config:
        config, names = config[names[0]], names[1:]
    return config, names


def _line_of(error: Exception, path: Path | None) -> int | None:
    """The line of the config file `path` that raised an error; None if it came from elsewhere."""
    if path is None:
        return None
    for cause in (error, error.__cause__, error.__context__):
        if cause is None:
            continue
        for frame in reversed(traceback.extract_tb(cause.__traceback__)):
            if Path(frame.filename) == path.absolute():
                return frame.lineno
    return None


def _text(error: Exception) -> str:
    """The message of an error, without the traceback that ml_collections puts into it."""
    text = str(error)
    if len(error.args) > 1 and not isinstance(error, OSError):
        text = ": ".join(map(str, error.args))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if "Traceback (most recent call last)" in text else " ".join(lines)


def with_config_path(argv: list[str]) -> tuple[list[str], Path]:
    """Moves --config to the front and replaces its name ("swav:cifar10") by the path of the file.

    Returns:
        the new argument list, and the path.

    Raises:
        SettingError: --config is missing or given twice, or the file does not exist.
    """
    argv = joined(argv, "config")
    given = [arg for arg in argv[1:] if re.match("--?config=", arg)]
    others = [arg for arg in argv[1:] if arg not in given]
    if len(given) > 1:
        raise SettingError(f"--config is given twice: {' and '.join(given)}; leave one out")
    value = given[0].partition("=")[2] if given else ""
    for arg in others if not given else ():
        if arg.partition(":")[0] in config_files.available():
            raise SettingError(f"unexpected {arg!r}; did you mean --config={arg}?")
    name, colon, variant = value.partition(":")
    path = config_files.find(name)
    config_files.check(path)
    return [argv[0], f"--config={path}{colon}{variant}", *others], path


def with_base(argv: list[str]) -> list[str]:
    """Repeats the NAME of --config.base=NAME in the variant, FILE:VARIANT+NAME.

    The config file needs the base when it builds the config.
    """
    argv = joined(argv, r"config(\.base)?")
    positions = [i for i, arg in enumerate(argv) if re.match("--?config=", arg)]
    bases = [arg.partition("=")[2] for arg in argv if re.match(r"--?config\.base=", arg)]
    if not (positions and bases):
        return argv
    last = positions[-1]
    path, _, variant = argv[last].partition(":")
    variant = variant.partition("+")[0] or "digits"
    return [*argv[:last], f"{path}:{variant}+{bases[-1]}", *argv[last + 1 :]]


def joined(argv: Iterable[str], names: str) -> list[str]:
    """Joins "--NAME VALUE" to "--NAME=VALUE" for the flags that match the pattern `names`."""
    args = iter(argv)
    return [
        f"{arg}={next(args, '')}" if re.fullmatch(f"--?({names})", arg) else arg for arg in args
    ]


def with_run(argv: list[str]) -> list[str]:
    """Adds a --config with the settings of the run in --workdir, or those for --weights.

    --data.NAME becomes --config.data.NAME. The evaluators are those of --evals if the command has
    that flag, else those of the run.

    Raises:
        SettingError: neither --workdir nor --weights, or both; a --config; or a flag of the other.
    """
    argv = joined(with_data(argv), "workdir|weights|evals|config")
    workdir = _last_value(argv, "workdir")
    weights = _last_value(argv, "weights")
    if not workdir and not weights:
        takes_weights = "weights" in flags.FLAGS
        also = ", or a weight file with --weights" if takes_weights else ""
        raise SettingError(f"--workdir is missing; name a run folder{also}")
    check_source(argv, workdir, weights)
    if any(re.match("--?config=", arg) for arg in argv):
        raise SettingError("--config: this command takes the settings of the run; leave it out")
    evals = _last_value(argv, "evals")
    return [argv[0], f"--config={RUN_CONFIG}:{workdir}::{evals}", *argv[1:]]


def with_data(argv: Iterable[str]) -> list[str]:
    """The arguments with --data.NAME by its full name, --config.data.NAME."""
    return [re.sub(r"^--?data\.", "--config.data.", arg) for arg in argv]


def check_source(argv: Sequence[str], run: str, weights: str) -> None:
    """Checks that the flags name one encoder, and say only what is not on its record.

    Args:
        argv: the command line, with "--NAME VALUE" of `run` and `weights` joined.
        run: a run folder; empty if none is given.
        weights: a weight file; empty if none is given.

    Raises:
        SettingError: a run and a file, or a flag of the one with the other.
    """
    if run and weights:
        raise SettingError(
            f"a run ({run}) and --weights={weights} are two encoders; leave one of them out"
        )
    other = ("checkpoint",) if weights else OF_WEIGHTS
    for arg in argv[1:]:
        name = arg.partition("=")[0].lstrip("-")
        if arg.startswith("-") and name in other:
            reason = "a weight file has no checkpoints" if weights else "a run has it on record"
            raise SettingError(f"--{name}: {reason}; leave it out")


def _last_value(argv: list[str], name: str) -> str:
    """The value of a flag; the last one counts, as in absl."""
    values = [arg.partition("=")[2] for arg in argv if re.match(f"--?{name}=", arg)]
    return values[-1] if values else ""


def unknown_setting(error: Exception, argv: list[str]) -> str:
    """Names the flag with an unknown setting, with ml_collections' suggestion; else empty."""
    message = str(error.args[0]) if error.args else ""
    names = [arg.partition("=")[0].lstrip("-") for arg in argv[1:]]
    names = [name for name in names if name.startswith("config.")]
    settings = [name for name in names if name.rpartition(".")[2] in message]
    unknown_section = message.partition("\n")[0].strip("'\"")
    sections = [name for name in names if unknown_section in name.split(".")[1:]]
    if not (settings or sections):
        return ""
    suggestion = re.search(r'Did you mean "(\w+)"', message)
    name = (settings or sections)[0]
    hint = f"; did you mean {suggestion[1]!r}?" if suggestion else _siblings(name, argv)
    return f"--{name} is not a setting{hint}"


def _siblings(name: str, argv: list[str]) -> str:
    """A list of the settings of the section that lacks `name`; empty if there are too many."""
    names = name.split(".")[1:]
    section, rest = _walk(_config_of(argv), names)
    path = ".".join(names[: len(names) - len(rest)])
    if not path or not rest or not isinstance(section, ConfigDict):
        return ""
    if not 0 < len(section) <= _LISTED:
        return ""
    return f"; {path} has {', '.join(sorted(section))}"


def config_name() -> tuple[str, str, dict[str, Any]]:
    """Stem of the config file, variant, and the overrides given on the command line."""
    flag = flags.FLAGS["config"]
    path, _, variant = config_flags.get_config_filename(flag).partition(":")
    return Path(path).stem, variant, config_flags.get_override_values(flag)


def overrides(section: str) -> dict[str, Any]:
    """The command-line overrides of one section, by name within the section."""
    return {
        name.partition(".")[2]: value
        for name, value in config_name()[2].items()
        if name.startswith(f"{section}.")
    }


def check_overrides(takes: Sequence[str]) -> None:
    """Rejects settings of --config that a command on a run or a weight file does not follow.

    Args:
        takes: the settings that it follows, by full name, or sections ("data.").

    Raises:
        SettingError: another one is given.
    """
    for name in config_name()[2]:
        if not name.startswith(tuple(takes)):
            follows = " and ".join(part.rstrip(".") for part in takes)
            only = f"only {follows} can be set here; " if takes else ""
            raise SettingError(
                f"--config.{name}: {only}a trained encoder keeps its settings; leave it out"
            )


def fail(error: Exception | str, code: int) -> NoReturn:
    """Prints an error as one line on standard error, and exits."""
    line = " ".join(str(error).split())
    print(f"error: {line}", file=sys.stderr)
    sys.exit(code)
