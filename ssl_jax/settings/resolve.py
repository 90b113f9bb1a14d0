"""From settings to objects: finds modules by name, fills dataclasses, explains errors in a line."""

import dataclasses
import difflib
import importlib
import pkgutil
import re
import sys
import typing
from collections.abc import Collection, Mapping
from typing import Any

from ml_collections import ConfigDict

from ssl_jax.settings.ranges import FLOAT32


class SettingError(Exception):
    """A setting, file or folder that cannot be used. The message is one line and names the way out.

    Deliberately not a ValueError: ml_collections wraps a ValueError from a config file in a
    traceback.
    """


def choose(package: str, name: str, setting: str, attribute: str) -> Any:
    """`attribute` of the module `name` in `package`, or of any module by its dotted name.

    There is no registry.

    Args:
        package: the parts that come with ssl_jax, such as "ssl_jax.methods".
        name: a module in `package`; or, with a dot in it, a module of the user's
            ("my_package.my_method").
        setting: the setting that gave the name, for messages.
        attribute: what the module ends with, such as "Method".

    Raises:
        SettingError: no such module (lists those that exist), or it lacks the attribute.
    """
    if "." in str(name):
        return _foreign(name, setting, attribute)
    modules = _module_names(package)
    module = importlib.import_module(f"{package}.{name}") if name in modules else None
    if module and attribute in vars(module):
        return getattr(module, attribute)
    choices = sorted(available(package, attribute))
    near = difflib.get_close_matches(str(name), choices, n=1)
    hint = (
        f"did you mean {near[0]!r}?"
        if near
        else "or give a module of your own by its dotted name, such as my_package.my_module"
    )
    raise SettingError(
        f"{setting}={name!r} is not known; choose one of: {', '.join(choices)}; {hint}"
    )


def _foreign(name: str, setting: str, attribute: str) -> Any:
    """`attribute` of a module that does not come with ssl_jax."""
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        reason = _import_failure(name, error.name or name)
        raise SettingError(f"{setting}={name!r}: {reason}") from error
    except (TypeError, ValueError) as error:  # "a..b", ".a"
        raise SettingError(f"{setting}={name!r} is not the name of a module ({error})") from error
    if attribute not in vars(module):
        file = module.__file__
        raise SettingError(
            f"{setting}={name!r}: {file} has no {attribute}; end it with {attribute} = ..."
        )
    return getattr(module, attribute)


def _import_failure(name: str, missing: str) -> str:
    """Why importing `name` failed: the module `missing` does not exist."""
    if name != missing and not name.startswith(f"{missing}."):
        return f"it imports {missing!r}, which is not installed"
    parent, _, last = missing.rpartition(".")
    if parent and parent in sys.modules:
        return f"{parent} has no module {last!r}; give a module, not its file or class"
    return f"there is no module {missing!r}; start in the folder that holds it, or install it"


def available(package: str, attribute: str) -> dict[str, type]:
    """`attribute` of each module in `package` that has it, by the module's name."""
    modules = {
        name: importlib.import_module(f"{package}.{name}") for name in _module_names(package)
    }
    return {
        name: getattr(module, attribute)
        for name, module in modules.items()
        if hasattr(module, attribute)
    }


def _module_names(package: str) -> list[str]:
    path = importlib.import_module(package).__path__
    return [module.name for module in pkgutil.iter_modules(path)]


def fill(cls: type, values: Mapping[str, Any] | ConfigDict, setting: str, **given: Any) -> Any:
    """`cls(**values, **given)` for a dataclass, after checking names and types.

    Args:
        cls: a dataclass; a field that is itself a dataclass is filled from a nested section.
        values: section of the config, field name to value; `name` is dropped if the class has no
            such field.
        setting: full name of the section, for messages, such as "method"; empty for the top level.
        given: fields that the caller provides, such as the network; dropped if the class lacks
            them.

    Raises:
        SettingError: an unknown name (suggests the nearest), a wrong type, or a value that the
            class refuses.
    """
    values = section(values, setting)
    hints = typing.get_type_hints(cls)
    fields = {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}
    settable = [name for name in fields if name not in given]
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
    arguments.update({name: value for name, value in given.items() if name in fields})
    try:
        return cls(**arguments)
    except (TypeError, ValueError) as error:
        raise SettingError(located(error, setting, cls)) from error


def whole_name(setting: str, key: str) -> str:
    """The full name of a setting in a section; the name of the top level is empty."""
    return f"{setting}.{key}" if setting else key


def located(error: Exception, setting: str, cls: type) -> str:
    """A dataclass's message about one of its fields, with the full name of the setting."""
    text = str(error)
    key = re.match(r"\w*", text)[0]
    fields = {field.name for field in dataclasses.fields(cls)}
    if key in fields and text[len(key) :].startswith(("=", "[")):
        return whole_name(setting, text)
    named = not setting or text.startswith(f"{setting}.")
    return text if named else f"{setting}: {text}"


def unknown(setting: str, name: str, known: Collection[str]) -> str:
    """A message for an unknown `name`: suggests the nearest of `known`, or lists them all."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"choose one of: {', '.join(sorted(known))}"
    return f"{setting} is not a setting; {hint}"


def convert(value: Any, hint: Any, setting: str) -> Any:
    """`value` in the type of the annotation `hint`: lists become tuples, integers become floats.

    Raises:
        SettingError: a wrong type, a float that is not finite in float32, or an integer beyond 64
            bits.
    """
    if isinstance(value, list):
        value = tuple(value)
    kind = typing.get_origin(hint) or hint
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if kind in (int, float) and is_integer and not -(2**63) <= value < 2**63:
        raise SettingError(f"{setting}={shown(value)}: whole numbers have at most 64 bits")
    if kind is float and is_integer:
        return float(value)
    if kind is float and isinstance(value, float) and not abs(value) <= FLOAT32:
        raise SettingError(f"{setting}={value!r}: give a finite number, at most 3.4e38")
    fits = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    if kind in (int, float, bool, str, tuple) and not fits:
        name = kind.__name__ if kind is hint else str(hint)
        raise SettingError(f"{setting}={shown(value)} has the wrong type; it takes {name}")
    if kind is tuple and kind is not hint:
        item_hint = typing.get_args(hint)[0]
        return tuple(convert(item, item_hint, f"{setting}[{i}]") for i, item in enumerate(value))
    return value


def section(value: Any, setting: str) -> Mapping[str, Any] | ConfigDict:
    """Returns `value` after checking that it is a section of settings, not a single value.

    Raises:
        SettingError: it is a single value.
    """
    if not isinstance(value, Mapping | ConfigDict):
        raise SettingError(
            f"{setting}={shown(value)} is a section: give its settings, as in {setting}.NAME=VALUE"
        )
    return value


def shown(value: Any) -> str:
    """`value` for a message: on one line, shortened if long."""
    if isinstance(value, int) and value.bit_length() > 256:  # Python may refuse to print it
        return f"a number of {value.bit_length():,} bits"
    text = " ".join(repr(value.to_dict() if isinstance(value, ConfigDict) else value).split())
    return text if len(text) <= 100 else f"{text[:97]}..."
