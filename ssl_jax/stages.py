"""Stages: what holds until which step. From the sections method, positives, augment and optim to objects."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import optax

from ssl_jax import interface
from ssl_jax.data.augment import View
from ssl_jax.interface import RunFacts
from ssl_jax.models.layers import Head
from ssl_jax.models.network import Network
from ssl_jax.optim.from_settings import optimiser_of, schedule_of
from ssl_jax.optim.settings import GroupSettings, OptimSettings
from ssl_jax.positives.boundary import Boundary
from ssl_jax.settings.resolve import SettingError, choose, convert, fill, located, section, unknown
from ssl_jax.settings.sections import names_beside, setting_names

_OVERRIDDEN = ("method", "positives", "augment", "optim")  # sections that a stage may override


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """What a step needs to know: static to `jit`, so each stage is traced once.

    It holds for the steps before `until`. `resident`: the whole training set lies on the device; otherwise each
    step is given its own images.
    """

    until: int
    method: Any
    tx: optax.GradientTransformation
    schedule: Callable
    views: tuple[View, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resident: bool = True


def stages(settings: Mapping, facts: RunFacts, *, mean, std, resident: bool = True) -> tuple[Stage, ...]:
    """The stages of a run in order; the last is the config without overrides.

    Args:
        settings: all settings of the run.
        facts: of the run; `RunFacts()` while nobody knows them, which leaves only ranges to check.
        mean, std: channel statistics of the data.
        resident: whether the training images lie on the devices.

    Raises:
        SettingError: the first setting that cannot be used.
    """
    early = _early_stages(settings, facts)
    shared = dict(mean=mean, std=std, resident=resident)
    last_facts = dataclasses.replace(facts, first_step=early[-1][0] if early else 0)
    last = Stage(facts.total_steps, **_parts(settings, last_facts), **shared)
    made = []
    first_step = 0
    for until, name, sections in early:
        try:
            parts = _parts(sections, dataclasses.replace(facts, first_step=first_step))
        except SettingError as error:  # of an override: the settings without overrides are in order
            raise SettingError(f"stages.{name}.{error}") from error
        made.append(Stage(until, **parts, **shared))
        first_step = until
    return (*(stage for stage in made if stage.until), last)


def _early_stages(settings: Mapping, facts: RunFacts) -> list[tuple[int, str, Mapping]]:
    """(until step, name, all settings) of each stage but the last, in order."""
    found = []
    for name, overrides in sorted(settings["stages"].items()):
        epoch = section(overrides, f"stages.{name}").get("until_epoch", 0)
        epoch = convert(epoch, float, f"stages.{name}.until_epoch")
        until = round(epoch * facts.steps_per_epoch)
        if not 0 <= epoch < settings["epochs"] or 0 < facts.total_steps <= until:
            raise SettingError(
                f"stages.{name}.until_epoch={epoch}: inside the {settings['epochs']} epochs; 0 leaves it out"
            )
        merged = _overridden(settings, overrides, f"stages.{name}")
        if epoch:
            found.append((until, name, merged))
    return sorted(found, key=lambda stage: stage[0])


def _overridden(settings: Mapping, overrides: Mapping, setting: str) -> dict:
    """All settings of a stage."""
    merged = dict(settings)
    for name, override in overrides.items():
        if name == "until_epoch":
            continue
        if name not in _OVERRIDDEN:
            raise SettingError(unknown(f"{setting}.{name}", name, ["until_epoch", *_OVERRIDDEN]))
        override = section(override, f"{setting}.{name}")
        if "name" in override:
            convert(override["name"], str, f"{setting}.{name}.name")
        renamed = override.get("name", merged[name].get("name")) != merged[name].get("name")
        replaced = renamed and name in ("method", "positives")
        merged[name] = dict(override) if replaced else _merged(merged[name], override)
    return merged


def _merged(values: Mapping, override: Mapping) -> dict:
    """`values` with those of `override`, section by section."""
    merged = dict(values)
    for name, value in override.items():
        both = isinstance(value, Mapping) and isinstance(values.get(name), Mapping)
        merged[name] = _merged(values[name], value) if both else value
    return merged


def views_of(augment: Mapping) -> tuple[View, ...]:
    """The groups of views in the section `augment`, larger first, groups of one size by name."""
    views = [(name, fill(View, group, f"augment.{name}")) for name, group in augment.items()]
    if not views:
        raise SettingError("augment is empty: name at least one group of views")
    return tuple(view for _, view in sorted(views, key=lambda item: (-item[1].size, item[0])))


def _parts(settings: Mapping, facts: RunFacts) -> dict[str, Any]:
    """Views, schedule, optimiser and method of a stage, by their names in `Stage`."""
    optim = {name: value for name, value in settings["optim"].items() if name != "groups"}
    optim = fill(OptimSettings, optim, "optim")
    groups = section(settings["optim"].get("groups", {}), "optim.groups")
    groups = {name: fill(GroupSettings, group, f"optim.groups.{name}") for name, group in sorted(groups.items())}
    lengths = dict(steps_per_epoch=facts.steps_per_epoch, batch_size=settings["batch_size"])
    schedule = schedule_of(optim, epochs=settings["epochs"], **lengths)
    return dict(
        views=views_of(settings["augment"]),
        schedule=schedule,
        tx=optimiser_of(optim, groups, schedule, **lengths),
        method=_method(settings, facts),
    )


def part(package: str, name: str, setting: str, contract: type) -> type:
    """The class of this name, see `resolve.choose`; a SettingError where it does not keep to its `contract`."""
    cls = choose(package, name, setting, contract.__name__)
    if wrong := interface.unlike_contract(cls, contract):
        raise SettingError(f"{setting}={name!r}: {wrong}")
    return cls


def filled(cls: type, values: Mapping, setting: str, facts: RunFacts, **given):
    """A part from its section, see `fill`, with `facts`; checked against them once the data were read.

    Raises:
        SettingError: as `fill`, or for settings that do not fit the run.
    """
    made = fill(cls, values, setting, facts=facts, **given)
    if facts.examples:
        _checked(made.check, setting, facts)
    return made


def _checked(check: Callable, setting: str, *arguments) -> None:
    """Calls a part's `check`; what it refuses is a SettingError."""
    try:
        check(*arguments)
    except ValueError as error:
        raise SettingError(located(error, setting, type(check.__self__))) from error


def _method(settings: Mapping, facts: RunFacts):
    backbone = _backbone(settings["model"])
    groups = convert(settings["model"]["bn_groups"], int, "model.bn_groups")
    if groups < 1 or settings["batch_size"] % groups:
        raise SettingError(f"model.bn_groups={groups} does not divide batch_size={settings['batch_size']}")
    momentum = convert(settings["model"]["bn_momentum"], float, "model.bn_momentum")
    head = fill(Head, settings["head"], "head", name=None, parent=None, bn_groups=groups, bn_momentum=momentum)
    name = convert(settings["method"]["name"], str, "method.name")
    cls = part("ssl_jax.methods", name, "method.name", interface.Method)
    positives = _positives(settings["positives"], facts)
    takes_positives = "positives" in {field.name for field in dataclasses.fields(cls)}
    if settings["positives"]["name"] != "instance" and not takes_positives:
        raise SettingError(
            f"positives.name={settings['positives']['name']!r} has no published meaning for {name}; use 'instance'"
        )
    network = Network(backbone, head)
    _checked(positives.check_config, "positives", settings["batch_size"], settings["epochs"])
    made = filled(cls, settings["method"], "method", facts, network=network, positives=positives)
    _checked(made.check_config, "method", settings["batch_size"], settings["epochs"])
    return made


def _backbone(settings: Mapping):
    """The backbone that the section `model` names; settings that only other backbones have are ignored."""
    name = convert(settings["name"], str, "model.name")
    cls = choose("ssl_jax.models", name, "model.name", "Backbone")
    own = setting_names(cls)
    values = {name: value for name, value in settings.items() if name in own}
    if "conv_init" in own:  # every Flax module has a function `init`
        values["conv_init"] = convert(settings["init"], str, "model.init")
    return fill(cls, values, "model", name=None, parent=None)


def _positives(settings: Mapping, facts: RunFacts):
    """The positives of a run; settings that only the library's other kinds have are ignored."""
    name = convert(settings.get("name", ""), str, "positives.name")
    cls = part("ssl_jax.positives", name, "positives.name", interface.Positives)
    ignored = {"boundary", *names_beside(cls, "ssl_jax.positives", "Positives")}
    values = {name: value for name, value in settings.items() if name not in ignored}
    nested = {}
    if "boundary" in setting_names(cls):
        nested["boundary"] = filled(Boundary, settings.get("boundary", {}), "positives.boundary", facts)
    return filled(cls, values, "positives", facts, **nested)
