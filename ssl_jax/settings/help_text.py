"""The text of --help: what the command does, its flags, and the configs."""

import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path

from absl import flags

from ssl_jax.settings import config_files

_FOREIGN = ("absl", "ml_collections", "grain", "tensorflow", "jax", "etils", "orbax")
_INDENT = 26  # column where the meaning of a flag starts
_WIDTH = 100


def help_text(docstring: str | None, takes_config: bool) -> str:
    """The text of --help.

    Args:
        docstring: of the command's module.
        takes_config: whether the command takes any config; otherwise it takes that of a run.
    """
    entries = [(_usage(flag), _meaning(flag)) for flag in _project_flags()]
    if takes_config:
        file = Path(__file__).with_name("defaults.py")
        entries = [
            ("--config=NAME[:VARIANT]", "A config below, or the path of a config file."),
            (
                "--config.SETTING=VALUE",
                "Any setting, such as --config.epochs=20. docs/settings.md lists them all; "
                f"{file} names the class that explains each section.",
            ),
            *entries,
        ]
    listing = "\n".join(_entry(usage, meaning) for usage, meaning in entries)
    parts = [inspect.cleandoc(docstring or ""), f"flags:\n{listing}"]
    if takes_config:
        parts.append("configs and their variants, default first:\n" + "\n".join(_configs()))
    return "\n\n".join(parts)


def _project_flags() -> list[flags.Flag]:
    """The flags that the command's own modules define, in their order."""
    return [
        flag
        for module, module_flags in flags.FLAGS.flags_by_module_dict().items()
        if not module.startswith(_FOREIGN)
        for flag in module_flags
        if flag.name != "config"
    ]


def _usage(flag: flags.Flag) -> str:
    if flag.boolean:
        return f"--[no]{flag.name}"
    return f"--{flag.name}={flag.name.upper()}"


def _meaning(flag: flags.Flag) -> str:
    if flag.default in (None, "", 0, -1, False):
        return flag.help
    return f"{flag.help} (default {flag.default_as_str.strip(chr(39))})"


def _entry(usage: str, meaning: str) -> str:
    lines = textwrap.wrap(meaning, _WIDTH - _INDENT, break_long_words=False, break_on_hyphens=False)
    first = f"  {usage:<{_INDENT - 3}} "
    if len(first) > _INDENT:
        return "\n".join([first.rstrip(), *(" " * _INDENT + line for line in lines)])
    return "\n".join([first + lines[0], *(" " * _INDENT + line for line in lines[1:])])


def _configs() -> Iterator[str]:
    for name, path in config_files.available().items():
        yield _entry(name, " ".join(config_files.variants(path)) or "-")
