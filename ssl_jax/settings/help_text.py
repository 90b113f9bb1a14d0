"""What --help prints: what the command does, its flags, the configs and where settings are listed."""

import inspect
import textwrap
from pathlib import Path

from absl import flags

from ssl_jax.settings import config_files

_FOREIGN = ("absl", "ml_collections", "grain", "tensorflow", "jax", "etils", "orbax")
_INDENT, _WIDTH = 26, 100


def help_text(docstring: str | None, takes_config: bool) -> str:
    """The text of --help.

    Args:
        docstring: of the command's module.
        takes_config: whether the command takes any config, and not only that of a run.
    """
    rows = [(_usage(flag), _meaning(flag)) for flag in _own_flags()]
    listed = Path(__file__).with_name("defaults.py")
    settings = f"Any setting, as in --config.epochs=20; {listed} names the class that explains each section."
    if takes_config:
        rows.insert(0, ("--config=NAME[:VARIANT]", "One of the configs below, or the path of a file of your own."))
        rows.insert(1, ("--config.SETTING=VALUE", settings))
    parts = [inspect.cleandoc(docstring or ""), "flags:\n" + "\n".join(_row(*row) for row in rows)]
    if takes_config:
        parts.append("configs and their variants, the default first:\n" + "\n".join(_configs()))
    return "\n\n".join(parts)


def _own_flags():
    """The flags that the command defines, in their order."""
    by_module = flags.FLAGS.flags_by_module_dict()
    own = [flag for module, found in by_module.items() if not module.startswith(_FOREIGN) for flag in found]
    return [flag for flag in own if flag.name != "config"]


def _usage(flag):
    if flag.boolean:
        return f"--[no]{flag.name}"
    return f"--{flag.name}={flag.name.upper()}"


def _meaning(flag):
    default = flag.default_as_str or "''"
    shown = flag.default not in (None, "", 0, -1, False)
    return f"{flag.help} (default {default.strip(chr(39))})" if shown else flag.help


def _row(usage, meaning):
    lines = textwrap.wrap(meaning, _WIDTH - _INDENT, break_long_words=False, break_on_hyphens=False)
    first = f"  {usage:<{_INDENT - 3}} "
    if len(first) > _INDENT:
        return "\n".join([first.rstrip(), *(" " * _INDENT + line for line in lines)])
    return "\n".join([first + lines[0], *(" " * _INDENT + line for line in lines[1:])])


def _configs():
    for name, path in config_files.available().items():
        yield _row(name, " ".join(config_files.variants(path)) or "-")
