"""Sections of a config, made from the dataclasses that they fill: every default stands once, in its class."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from ssl_jax.settings.resolve import SettingError, available, section, unknown

_GIVEN = ("network", "positives", "facts", "parent")  # fields that a run fills in itself


def settings_of(cls: type, *, without: tuple[str, ...] = (), **changes) -> dict[str, Any]:
    """The settings of a dataclass at their defaults, except for `changes`.

    Args:
        cls: a dataclass; a field that is a dataclass itself becomes a section of its own.
        without: fields that are not settings here.
        **changes: settings by name; those of a nested section as a mapping.

    Returns:
        a dict for a section of the config; fields without a default appear only if they are in `changes`.

    Raises:
        SettingError: `cls` has no setting of one of these names.
    """
    return complete(changes, cls, cls.__name__, without=without)


def complete(values: Mapping, cls: type, setting: str, *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """A section of a config, with the settings that it lacks at the defaults of the dataclass that it fills.

    Args:
        values: the section; an entry `name` is kept, since it says which class is meant.
        cls: the dataclass.
        setting: where the section stands, for messages, such as "method".
        without: fields that are not settings here.

    Raises:
        SettingError: the dataclass has no such setting.
    """
    defaults = {name: field for name, field in _settings(cls).items() if name not in without}
    whole = {"name": values["name"]} if "name" in values else {}
    for name in values:
        if name not in defaults and name != "name":
            raise SettingError(unknown(f"{setting}.{name}", name, list(defaults)))
    for name, (kind, default) in defaults.items():
        if dataclasses.is_dataclass(kind):
            inner = dataclasses.asdict(default) if default is not dataclasses.MISSING else {}
            given = section(values.get(name, {}), f"{setting}.{name}")
            whole[name] = complete({**_only(inner, kind), **given}, kind, f"{setting}.{name}")
        elif name in values:
            whole[name] = values[name]
        elif default is not dataclasses.MISSING:
            whole[name] = default
    return whole


def setting_names(cls: type) -> list[str]:
    """The names of the fields of a dataclass that a config may set."""
    return list(_settings(cls))


def names_beside(cls: type, package: str, attribute: str) -> set[str]:
    """Names of settings that other parts in a package of the library have, and `cls` lacks."""
    others = {name for other in available(package, attribute).values() for name in setting_names(other)}
    return others - set(setting_names(cls))


def _settings(cls: type) -> dict[str, tuple[Any, Any]]:
    """Type and default of each field of a dataclass that is a setting."""
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    flax_module = "parent" in fields  # its `name` is a part of the path to its parameters
    given = (*_GIVEN, "name") if flax_module else _GIVEN
    return {name: (hints[name], field.default) for name, field in fields.items() if name not in given}


def _only(values: Mapping, cls: type) -> dict[str, Any]:
    """Those of `values` that are settings of a dataclass."""
    return {name: values[name] for name in _settings(cls) if name in values}
