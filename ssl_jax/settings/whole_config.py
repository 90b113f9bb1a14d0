"""A config with every setting, as plain dicts: what a run reads and its config.json records."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import RequiredValueError

from ssl_jax.data.augment import View
from ssl_jax.data.source import Source
from ssl_jax.models.layers import Head
from ssl_jax.optim.settings import GroupSettings, OptimSettings
from ssl_jax.settings import defaults, eval_settings
from ssl_jax.settings.resolve import SettingError, choose, convert, fill, section, unknown
from ssl_jax.settings.run_settings import RunSettings
from ssl_jax.settings.sections import complete, names_beside, setting_names

SECTIONS = ("data", "augment", "model", "head", "method", "positives", "optim", "stages", "evals")


def completed(config: ConfigDict | Mapping) -> dict[str, Any]:
    """All settings of a config as plain dicts, with references resolved.

    Names are checked, and the values of the top level.

    Raises:
        SettingError: one line on the first setting that cannot be used.
    """
    settings = with_defaults(_resolved(config))
    run = run_settings(settings)
    method = convert(settings["method"]["name"], str, "method.name")
    if run.base and run.base != method:
        raise SettingError(
            f"base={run.base!r}, but method.name={method!r}; choose the base with the config"
        )
    names = list(eval_settings.evaluators(settings["evals"]))
    if names and (not run.best.startswith("eval/") or run.best.split("/")[1] not in names):
        raise SettingError(
            f"best={run.best!r}: give a score by its logged name, such as eval/{names[0]}/..."
        )
    return settings


def run_settings(settings: Mapping) -> RunSettings:
    """The top level of complete settings."""
    values = {name: value for name, value in settings.items() if name not in SECTIONS}
    return fill(RunSettings, values, "")


def with_defaults(config: Mapping, *, parts_may_be_missing: bool = False) -> dict[str, Any]:
    """The settings of a config, with missing ones at the defaults of their dataclasses.

    Args:
        config: plain values and sections; the default evaluators apply if it lacks `evals`.
        parts_may_be_missing: keep the section of a user's own method, positives, evaluator or
            backbone unchanged if its module cannot be imported.

    Raises:
        SettingError: an unknown name, a single value in place of a section, no method, or a part
            that does not exist.
    """
    names = [*setting_names(RunSettings), *SECTIONS]
    for name in config:
        if name not in names:
            raise SettingError(unknown(name, name, names))
    parts = {name: section(config[name], name) for name in SECTIONS if name in config}
    if "name" not in parts.get("method", {}):
        raise SettingError(
            "method.name is missing: name a file of ssl_jax/methods, or give a module of your own "
            "by its dotted name"
        )
    finder = _Finder(parts_may_be_missing)
    top_level = {name: value for name, value in config.items() if name not in SECTIONS}
    whole = complete(top_level, RunSettings, "")
    whole["data"] = complete(parts.get("data", {}), Source, "data")
    whole["augment"] = _each(parts.get("augment", {}), View, "augment")
    whole["model"] = _model(parts.get("model", {}), finder)
    whole["head"] = complete(parts.get("head", {}), Head, "head", without=defaults.FROM_MODEL)
    whole["method"] = finder.complete(parts["method"], "method", "ssl_jax.methods", "Method")
    whole["positives"] = _positives(parts.get("positives", {}), finder)
    whole["optim"] = complete_optim(parts.get("optim", {}))
    whole["stages"] = dict(sorted(parts.get("stages", {}).items()))
    whole["evals"] = _evals(parts.get("evals"), finder)
    return whole


def complete_optim(values: Mapping, setting: str = "optim") -> dict[str, Any]:
    """The section `optim` with all its settings, including those of its schedule and groups."""
    groups = section(values.get("groups", {}), f"{setting}.groups")
    others = {name: value for name, value in values.items() if name != "groups"}
    whole = complete(others, OptimSettings, setting)
    return whole | {"groups": _each(groups, GroupSettings, f"{setting}.groups")}


def _each(sections: Mapping, cls: type, setting: str) -> dict[str, Any]:
    """Completes the named sections of `setting`, which all fill the same class."""
    return {
        name: complete(section(values, f"{setting}.{name}"), cls, f"{setting}.{name}")
        for name, values in sorted(sections.items())
    }


class _Finder:
    """Completes sections whose class is selected by name."""

    def __init__(self, may_be_missing: bool):
        self._may_be_missing = may_be_missing

    def class_of(self, name: Any, setting: str, package: str, attribute: str) -> type | None:
        """The dataclass of a part; None if it is not a dataclass, or is a user's and missing.

        Whether the class fulfils its contract is checked later, by `stages.part`.
        """
        convert(name, str, setting)
        try:
            cls = choose(package, name, setting, attribute)
        except SettingError:
            if self._may_be_missing and "." in name:
                return None
            raise
        return cls if dataclasses.is_dataclass(cls) and isinstance(cls, type) else None

    def complete(
        self, values: Mapping, setting: str, package: str, attribute: str, name: str = ""
    ) -> dict[str, Any]:
        """A section with all settings of its class; `name` applies if the section has none."""
        where = f"{setting}.name" if "name" in values else setting
        cls = self.class_of(values.get("name", name), where, package, attribute)
        return dict(values) if cls is None else complete(values, cls, setting)


def _model(values: Mapping, finder: _Finder) -> dict[str, Any]:
    """The section `model`: settings of its backbone, and of the others, which it ignores."""
    name = values.get("name", "resnet")
    cls = finder.class_of(name, "model.name", "ssl_jax.models", "Backbone")
    whole = defaults.shared_model_settings() | (defaults.model_settings(cls) if cls else {})
    for key in values:
        if cls and key not in whole and key != "name":
            raise SettingError(unknown(f"model.{key}", key, list(whole)))
    return {"name": name} | whole | dict(values)


def _positives(values: Mapping, finder: _Finder) -> dict[str, Any]:
    """The section `positives`; settings that only other kinds have are kept, and ignored."""
    values = {"name": "instance"} | dict(values)
    cls = finder.class_of(values["name"], "positives.name", "ssl_jax.positives", "Positives")
    if cls is None:
        return values
    others = names_beside(cls, "ssl_jax.positives", "Positives")
    ignored = {name: value for name, value in values.items() if name in others}
    settings = {name: value for name, value in values.items() if name not in others}
    return complete(settings, cls, "positives") | ignored


def _evals(values: Mapping | None, finder: _Finder) -> dict[str, Any]:
    """The section `evals`: the key of each section selects its evaluator, unless it sets `name`."""
    if values is None:
        values = {name: {} for name in defaults.EVALUATORS}
    whole = dataclasses.asdict(eval_settings.shared(values))
    for key, settings in sorted(eval_settings.evaluators(values).items()):
        name = f"evals.{key}"
        whole[key] = finder.complete(
            section(settings, name), name, "ssl_jax.evaluation", "Evaluator", key
        )
    return whole


def _resolved(config: ConfigDict | Mapping) -> dict[str, Any]:
    """`config` as plain dicts, with references replaced by values."""
    try:
        return ConfigDict(config).copy_and_resolve_references().to_dict()
    except (ArithmeticError, TypeError, ValueError, RequiredValueError) as error:
        name = _first_unresolved(config, defaults.get_config())
        reason = " ".join(str(error).split())
        raise SettingError(
            f"{name} follows another setting whose value does not fit: {reason}"
        ) from error


def _first_unresolved(
    config: ConfigDict | Mapping, known: ConfigDict | Mapping, prefix: str = ""
) -> str:
    """The full name of the first setting whose reference cannot be resolved, or "".

    Raises:
        SettingError: a setting of `known` that precedes it has a wrong type, the likely cause.
    """
    for key in config:
        try:
            value = config[key]
        except (ArithmeticError, TypeError, ValueError, RequiredValueError):
            return prefix + key
        if isinstance(value, ConfigDict):
            name = _first_unresolved(value, known.get(key, {}), f"{prefix}{key}.")
            if name:
                return name
        elif key in known and not isinstance(known[key], ConfigDict):
            convert(value, type(known[key]), prefix + key)
    return ""
