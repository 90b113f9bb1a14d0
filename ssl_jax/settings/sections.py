"""Sections of a config, made from the dataclasses that they fill: each default is written once."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from ssl_jax.settings.resolve import SettingError, available, section, unknown

_GIVEN = (  # no settings
    "network",
    "positives",
    "facts",
    "parent",
    "of_run",
    "labels_for",
    "needs_range",
)


def settings_of(cls: type, *, without: tuple[str, ...] = (), **changes: Any) -> dict[str, Any]:
    """The settings of a dataclass at their defaults, updated by `changes`.

    Args:
        cls: a dataclass; a field that is itself a dataclass becomes a nested section.
        without: fields that are not settings here.
        **changes: settings by name; those of a nested section as a mapping.

    Returns:
        a dict for a section of the config; a field without a default is included only if it is in
        `changes`.

    Raises:
        SettingError: `cls` lacks one of these settings.
    """
    return complete(changes, cls, cls.__name__, without=without)


def complete(
    values: Mapping[str, Any], cls: type, setting: str, *, without: tuple[str, ...] = ()
) -> dict[str, Any]:
    """A section with missing settings at the defaults of the dataclass that it fills.

    Args:
        values: the section; an entry `name` is kept, since it selects the class.
        cls: the dataclass.
        setting: full name of the section, for messages, such as "method".
        without: fields that are not settings here.

    Raises:
        SettingError: the dataclass lacks one of these settings.
    """
    fields = {name: field for name, field in _settings(cls).items() if name not in without}
    for name in values:
        if name not in fields and name != "name":
            raise SettingError(unknown(f"{setting}.{name}", name, list(fields)))
    settings = {"name": values["name"]} if "name" in values else {}
    for name, (hint, default) in fields.items():
        if dataclasses.is_dataclass(hint):
            inner = dataclasses.asdict(default) if default is not dataclasses.MISSING else {}
            inner = {key: inner[key] for key in _settings(hint) if key in inner}
            changes = section(values.get(name, {}), f"{setting}.{name}")
            settings[name] = complete({**inner, **changes}, hint, f"{setting}.{name}")
        elif name in values:
            settings[name] = values[name]
        elif default is not dataclasses.MISSING:
            settings[name] = default
    return settings


def setting_names(cls: type) -> list[str]:
    """The names of the fields of a dataclass that a config may set."""
    return list(_settings(cls))


def names_beside(cls: type, package: str, attribute: str) -> set[str]:
    """Names of settings that other parts in a package of the library have, and `cls` lacks."""
    others = {
        name for other in available(package, attribute).values() for name in setting_names(other)
    }
    return others - set(setting_names(cls))


def _settings(cls: type) -> dict[str, tuple[Any, Any]]:
    """Type and default of each field of a dataclass that is a setting."""
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    is_flax_module = "parent" in fields  # its `name` is part of the path to its parameters
    given = (*_GIVEN, "name") if is_flax_module else _GIVEN
    return {
        name: (hints[name], field.default) for name, field in fields.items() if name not in given
    }
