"""From settings to objects: one-line errors, modules found by name, dataclasses filled from sections."""

import contextlib
import dataclasses
import difflib
import importlib
import pkgutil
import re
import sys
import typing
from collections.abc import Mapping

from ml_collections import ConfigDict

from ssl_jax.settings.ranges import FLOAT32


class SettingError(Exception):
    """A setting, file or folder that cannot be used. The message is one line and names the way out.

    Not a ValueError on purpose: ml_collections wraps those that a config file raises in a traceback.
    """


def choose(package: str, name: str, setting: str, attribute: str):
    """`attribute` of the module `name` in `package`, or of any module by its dotted name; there is no registry.

    Args:
        package: of the parts that come with ssl_jax, such as "ssl_jax.methods".
        name: of a module there; or, with a dot in it, of a module of the user's ("my_package.my_method").
        setting: that gave the name, for messages.
        attribute: what the module is to end with, such as "Method".

    Raises:
        SettingError: no such module (lists those that exist), or one without the attribute.
    """
    if "." in str(name):
        return _foreign(name, setting, attribute)
    modules = _module_names(package)
    module = importlib.import_module(f"{package}.{name}") if name in modules else None
    if module and attribute in vars(module):
        return getattr(module, attribute)
    raise SettingError(
        f"{setting}={name!r} is not known; choose one of: {', '.join(sorted(available(package, attribute)))}; or give "
        "a module of your own by its dotted name, such as my_package.my_module"
    )


def _foreign(name: str, setting: str, attribute: str):
    """`attribute` of a module that does not come with ssl_jax."""
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if name == missing or name.startswith(f"{missing}."):
            parent, _, last = missing.rpartition(".")
            if parent and parent in sys.modules:
                way_out = f"{parent} has no module {last!r}; give a module, not its file or class"
            else:
                way_out = f"there is no module {missing!r}; start where it lies, or install its package"
            raise SettingError(f"{setting}={name!r}: {way_out}") from error
        raise SettingError(f"{setting}={name!r}: it imports {missing!r}, which is not installed") from error
    except (TypeError, ValueError) as error:  # "a..b", ".a"
        raise SettingError(f"{setting}={name!r} is not the name of a module ({error})") from error
    if attribute not in vars(module):
        raise SettingError(f"{setting}={name!r}: {module.__file__} has no {attribute}; end it with {attribute} = ...")
    return getattr(module, attribute)


def available(package: str, attribute: str) -> dict[str, type]:
    """`attribute` of each module in `package` that has it, by the module's name."""
    modules = {name: importlib.import_module(f"{package}.{name}") for name in _module_names(package)}
    return {name: getattr(module, attribute) for name, module in modules.items() if hasattr(module, attribute)}


def _module_names(package):
    return [module.name for module in pkgutil.iter_modules(importlib.import_module(package).__path__)]


def fill(cls, values, setting: str, **given):
    """`cls(**values, **given)` for a dataclass, after checking names and types.

    Args:
        cls: a dataclass; a field that is a dataclass itself is filled from a section of its own.
        values: section of the config, field name to value; `name` is left out where the class has no such field.
        setting: where the section stands, for messages, such as "method"; empty for the top level.
        given: fields that the caller knows (the network, say); those the class lacks are dropped.

    Raises:
        SettingError: an unknown name (with the nearest one), a wrong type, or a value the class refuses.
    """
    values = section(values, setting)
    hints = typing.get_type_hints(cls)
    fields = {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init}
    settable = [f for f in fields if f not in given]
    arguments = {}
    for key, value in values.items():
        if key not in settable:
            if key == "name":
                continue
            raise SettingError(unknown(whole_name(setting, key), key, settable))
        name = whole_name(setting, key)
        if dataclasses.is_dataclass(fields[key]):
            arguments[key] = fill(fields[key], value, name)
        else:
            arguments[key] = convert(value, fields[key], name)
    arguments.update({k: v for k, v in given.items() if k in fields})
    try:
        return cls(**arguments)
    except (TypeError, ValueError) as error:
        raise SettingError(located(error, setting, cls)) from error


def whole_name(setting: str, key: str) -> str:
    """The name of a setting in a section; that of the top level is empty."""
    return f"{setting}.{key}" if setting else key


def located(error: Exception, setting: str, cls: type) -> str:
    """What a dataclass says of one of its fields, with the whole name of the setting as a flag would give it."""
    text = str(error)
    key = re.match(r"\w*", text)[0]
    fields = {field.name for field in dataclasses.fields(cls)}
    if key in fields and text[len(key) :].startswith(("=", "[")):
        return whole_name(setting, text)
    return f"{setting}: {text}" if setting else text


@contextlib.contextmanager
def in_section(setting: str):
    """A ValueError about a field of the section `setting` becomes a SettingError with the field's whole name."""
    try:
        yield
    except ValueError as error:
        raise SettingError(f"{setting}.{error}" if setting else str(error)) from error


def unknown(setting: str, name: str, known) -> str:
    """A message for an unknown `name`: the nearest known one, or all of them."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"choose one of: {', '.join(sorted(known))}"
    return f"{setting} is not a setting; {hint}"


def convert(value, hint, setting: str):
    """`value` as the annotation `hint` wants it: lists become tuples, whole numbers pass as floats.

    Raises:
        SettingError: another type, a number that is not finite in float32, or a whole number beyond 64 bits.
    """
    if isinstance(value, list):
        value = tuple(value)
    kind = typing.get_origin(hint) or hint
    whole = isinstance(value, int) and not isinstance(value, bool)
    if kind in (int, float) and whole and not -(2**63) <= value < 2**63:
        raise SettingError(f"{setting}={shown(value)}: whole numbers have at most 64 bits")
    if kind is float and whole:
        return float(value)
    if kind is float and isinstance(value, float) and not abs(value) <= FLOAT32:
        raise SettingError(f"{setting}={value!r}: give a finite number, at most 3.4e38")
    fits = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    if kind in (int, float, bool, str, tuple) and not fits:
        name = kind.__name__ if kind is hint else str(hint)
        raise SettingError(f"{setting}={shown(value)} has the wrong type; it takes {name}")
    if kind is tuple and kind is not hint:
        return tuple(convert(v, typing.get_args(hint)[0], f"{setting}[{i}]") for i, v in enumerate(value))
    return value


def section(value, setting: str):
    """`value`, if it is a section of settings and not a single one.

    Raises:
        SettingError: it is not.
    """
    if not isinstance(value, Mapping | ConfigDict):
        raise SettingError(f"{setting}={shown(value)} is a section: give its settings, as in {setting}.NAME=VALUE")
    return value


def shown(value) -> str:
    """`value` as messages show it: on one line, and not at length."""
    if isinstance(value, int) and value.bit_length() > 256:  # Python writes no number of thousands of digits
        return f"a number of {value.bit_length():,} bits"
    text = " ".join(repr(value.to_dict() if isinstance(value, ConfigDict) else value).split())
    return text if len(text) <= 100 else f"{text[:97]}..."
