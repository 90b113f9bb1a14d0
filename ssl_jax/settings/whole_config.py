"""A config with every setting in it, as plain dicts: what a run reads, and what its config.json keeps."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import RequiredValueError

from ssl_jax.data.augment import View
from ssl_jax.data.source import Source
from ssl_jax.models.layers import Head
from ssl_jax.optim.settings import GroupSettings, OptimSettings
from ssl_jax.settings import defaults
from ssl_jax.settings.resolve import SettingError, choose, convert, fill, section, unknown
from ssl_jax.settings.run_settings import RunSettings
from ssl_jax.settings.sections import complete, names_beside, setting_names

SECTIONS = ("data", "augment", "model", "head", "method", "positives", "optim", "stages", "evals")


def completed(config: ConfigDict | Mapping) -> dict[str, Any]:
    """All settings of a config as plain dicts, references resolved, names checked, and the ranges of the top level.

    Raises:
        SettingError: one line on the first setting that cannot be used.
    """
    settings = with_defaults(_resolved(config))
    run = run_settings(settings)
    convert(settings["method"]["name"], str, "method.name")
    if run.base and run.base != settings["method"]["name"]:
        raise SettingError(
            f"base={run.base!r}, but method.name={settings['method']['name']!r}; choose the base with the config"
        )
    evals = settings["evals"]
    if evals and (not run.best.startswith("eval/") or run.best.split("/")[1] not in evals):
        raise SettingError(f"best={run.best!r}: give a score as it is logged, such as eval/{next(iter(evals))}/...")
    return settings


def run_settings(settings: Mapping) -> RunSettings:
    """The top level of complete settings."""
    return fill(RunSettings, {name: value for name, value in settings.items() if name not in SECTIONS}, "")


def with_defaults(config: Mapping, *, parts_may_be_missing: bool = False) -> dict[str, Any]:
    """The settings of a config, with those that it lacks at the defaults of the dataclasses that they fill.

    Args:
        config: plain values and sections; evaluators are those that it names, the usual ones where it
            has no section `evals`.
        parts_may_be_missing: leave the settings of a user's own method, positives, evaluator or
            backbone as they are where its module is not to be found.

    Raises:
        SettingError: a name that is no setting, a single value in the place of a section, no method,
            or a part that is not there.
    """
    known = [*setting_names(RunSettings), *SECTIONS]
    for name in config:
        if name not in known:
            raise SettingError(unknown(name, name, known))
    parts = {name: section(config[name], name) for name in SECTIONS if name in config}
    if "name" not in parts.get("method", {}):
        raise SettingError("method.name is missing: name a file of ssl_jax/methods, or a module of your own with dots")
    finder = _Finder(parts_may_be_missing)
    whole = complete({k: v for k, v in config.items() if k not in SECTIONS}, RunSettings, "")
    whole["data"] = complete(parts.get("data", {}), Source, "data")
    whole["augment"] = _each(parts.get("augment", {}), View, "augment")
    whole["model"] = _model(parts.get("model", {}), finder)
    whole["head"] = complete(parts.get("head", {}), Head, "head", without=defaults.FROM_MODEL)
    whole["method"] = finder.complete(parts["method"], "method", "ssl_jax.methods", "Method")
    whole["positives"] = _positives(parts.get("positives", {}), finder)
    whole["optim"] = complete_optim(parts.get("optim", {}))
    whole["stages"] = dict(sorted(parts.get("stages", {}).items()))
    whole["evals"] = _evaluators(parts.get("evals"), finder)
    return whole


def complete_optim(values: Mapping, setting: str = "optim") -> dict[str, Any]:
    """The section `optim` with all its settings, those of its schedule and its groups included."""
    groups = section(values.get("groups", {}), f"{setting}.groups")
    others = {name: value for name, value in values.items() if name != "groups"}
    whole = complete(others, OptimSettings, setting)
    return whole | {"groups": _each(groups, GroupSettings, f"{setting}.groups")}


def _each(sections: Mapping, cls: type, setting: str) -> dict[str, Any]:
    """Sections by name that fill one class."""
    return {
        name: complete(section(values, f"{setting}.{name}"), cls, f"{setting}.{name}")
        for name, values in sorted(sections.items())
    }


class _Finder:
    """Completes sections that say by `name` which class they fill."""

    def __init__(self, may_be_missing: bool):
        self._may_be_missing = may_be_missing

    def class_of(self, name: Any, setting: str, package: str, attribute: str) -> type | None:
        """The class of a part; None where it is none that has settings, or a user's own, which may be missing, and is.

        `stages.part` refuses what does not keep to its contract.
        """
        convert(name, str, setting)
        try:
            cls = choose(package, name, setting, attribute)
        except SettingError:
            if self._may_be_missing and "." in name:
                return None
            raise
        return cls if dataclasses.is_dataclass(cls) and isinstance(cls, type) else None

    def complete(self, values: Mapping, setting: str, package: str, attribute: str, name: str = "") -> dict[str, Any]:
        """A section with all settings of its class; `name` is the class's where the section gives none."""
        where = f"{setting}.name" if "name" in values else setting
        cls = self.class_of(values.get("name", name), where, package, attribute)
        return dict(values) if cls is None else complete(values, cls, setting)


def _model(values: Mapping, finder: _Finder) -> dict[str, Any]:
    """The section `model`: the settings of the backbone, and those of the library's others, which it ignores."""
    name, shared = values.get("name", "resnet"), defaults.shared_model_settings()
    cls = finder.class_of(name, "model.name", "ssl_jax.models", "Backbone")
    whole = shared | (defaults.model_settings(cls) if cls else {})
    for key in values:
        if cls and key not in whole and key != "name":
            raise SettingError(unknown(f"model.{key}", key, list(whole)))
    return {"name": name} | whole | dict(values)


def _positives(values: Mapping, finder: _Finder) -> dict[str, Any]:
    """The section `positives`; settings of the library's other kinds may stand beside those of its own."""
    package, attribute = "ssl_jax.positives", "Positives"
    values = {"name": "instance"} | dict(values)
    cls = finder.class_of(values["name"], "positives.name", package, attribute)
    if cls is None:
        return values
    ignored = names_beside(cls, package, attribute)
    beside = {name: value for name, value in values.items() if name in ignored}
    own = {name: value for name, value in values.items() if name not in beside}
    return complete(own, cls, "positives") | beside


def _evaluators(sections: Mapping | None, finder: _Finder) -> dict[str, Any]:
    """The section `evals`: a section's own name is the evaluator's where it gives no other."""
    if sections is None:
        sections = {name: {} for name in defaults.EVALUATORS}
    return {
        key: finder.complete(section(values, f"evals.{key}"), f"evals.{key}", "ssl_jax.evaluation", "Evaluator", key)
        for key, values in sorted(sections.items())
    }


def _resolved(config: ConfigDict | Mapping) -> dict[str, Any]:
    """`config` as plain dicts, with values in place of references."""
    try:
        return ConfigDict(config).copy_and_resolve_references().to_dict()
    except (ArithmeticError, TypeError, ValueError, RequiredValueError) as error:
        name = _first_unresolved(config, defaults.get_config())
        reason = " ".join(str(error).split())
        raise SettingError(f"{name} follows another setting whose value does not fit: {reason}") from error


def _first_unresolved(config, known, prefix="") -> str:
    """The first setting whose reference cannot be resolved.

    Raises:
        SettingError: names a setting of a wrong type that it may follow.
    """
    for key in config:
        try:
            value = config[key]
        except (ArithmeticError, TypeError, ValueError, RequiredValueError):
            return prefix + key
        if isinstance(value, ConfigDict):
            if name := _first_unresolved(value, known.get(key, {}), f"{prefix}{key}."):
                return name
        elif key in known and not isinstance(known[key], ConfigDict):
            convert(value, type(known[key]), prefix + key)
    return ""
