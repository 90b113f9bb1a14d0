"""Stages: method, positives, views and optimiser, as objects, each until some step of the run."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import optax

from ssl_jax import interface
from ssl_jax.data.augment import View
from ssl_jax.interface import RunFacts
from ssl_jax.models.layers import Head
from ssl_jax.models.network import Network
from ssl_jax.optim.from_settings import optimiser_of, schedule_of
from ssl_jax.optim.settings import GroupSettings, OptimSettings
from ssl_jax.positives.boundary import Boundary
from ssl_jax.settings import eval_settings
from ssl_jax.settings.resolve import SettingError, choose, convert, fill, located, section, unknown
from ssl_jax.settings.sections import names_beside, setting_names

_OVERRIDDEN = ("method", "positives", "augment", "optim")  # sections that a stage may override


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """What a step needs to know: static to `jit`, so each stage is traced once.

    Attributes:
        until: the stage holds for the steps before this one.
        method: an `interface.Method`.
        tx: the optimiser.
        schedule: step -> learning rate.
        views: groups of views, larger first.
        mean: C channel means of the data, of pixels in 0..1.
        std: C channel standard deviations.
        resident: the whole training set is on the devices; else each step gets its own images.
        crop: what clean images show: the side of a central square, as a share of the short side;
            see `augment.clean`.
    """

    until: int
    method: interface.Method
    tx: optax.GradientTransformation
    schedule: Callable
    views: tuple[View, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resident: bool = True
    crop: float = 0.0


def stages(
    settings: Mapping[str, Any],
    facts: RunFacts,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    resident: bool = True,
) -> tuple[Stage, ...]:
    """The stages of a run, in order; the last is the config without overrides.

    Args:
        settings: all settings of the run.
        facts: of the run; `RunFacts()` before the data are read, when only ranges can be checked.
        mean: C channel means of the data.
        std: C channel standard deviations.
        resident: whether the training images are on the devices.

    Raises:
        SettingError: the first setting that cannot be used.
    """
    early = _early_stages(settings, facts)
    crop = eval_settings.shared(settings["evals"]).crop
    shared = dict(mean=mean, std=std, resident=resident, crop=crop)
    last_facts = dataclasses.replace(facts, first_step=early[-1][0] if early else 0)
    last = Stage(facts.total_steps, **_parts(settings, last_facts), **shared)
    result = []
    first_step = 0
    for until, name, sections in early:
        try:
            parts = _parts(sections, dataclasses.replace(facts, first_step=first_step))
        except SettingError as error:  # from an override: without them the settings are valid
            raise SettingError(f"stages.{name}.{error}") from error
        result.append(Stage(until, **parts, **shared))
        first_step = until
    return (*(stage for stage in result if stage.until), last)


def _early_stages(
    settings: Mapping[str, Any], facts: RunFacts
) -> list[tuple[int, str, dict[str, Any]]]:
    """(until step, name, all settings) of each stage but the last, in order."""
    early = []
    for name, overrides in sorted(settings["stages"].items()):
        epoch = section(overrides, f"stages.{name}").get("until_epoch", 0)
        epoch = convert(epoch, float, f"stages.{name}.until_epoch")
        until = round(epoch * facts.steps_per_epoch)
        if not 0 <= epoch < settings["epochs"]:
            raise SettingError(
                f"stages.{name}.until_epoch={epoch}: must lie within the {settings['epochs']} "
                "epochs; 0 skips the stage"
            )
        if 0 < facts.total_steps <= until:  # rounded up; the last stage needs a step
            until = facts.total_steps - 1
            if not until:
                raise SettingError(
                    f"stages.{name}.until_epoch={epoch}: the run has a single step, so it has no "
                    "room for two stages; raise epochs, or give 0 to skip the stage"
                )
        merged = _overridden(settings, overrides, f"stages.{name}")
        if epoch:
            early.append((until, name, merged))
    return sorted(early, key=lambda stage: stage[0])


def _overridden(
    settings: Mapping[str, Any], overrides: Mapping[str, Any], setting: str
) -> dict[str, Any]:
    """All settings of a stage, given those of the run and the stage's overrides."""
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


def _merged(values: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """`values` updated with `override`, section by section."""
    merged = dict(values)
    for name, value in override.items():
        if isinstance(value, Mapping) and isinstance(values.get(name), Mapping):
            merged[name] = _merged(values[name], value)
        else:
            merged[name] = value
    return merged


def views_of(augment: Mapping[str, Any]) -> tuple[View, ...]:
    """The groups of views in the section `augment`, larger first; equal sizes by name."""
    return tuple(named_views(augment).values())


def named_views(augment: Mapping[str, Any]) -> dict[str, View]:
    """`views_of` by the names of the groups, in the same order.

    Raises:
        SettingError: there are none, or a setting of one cannot be used.
    """
    views = [(name, fill(View, group, f"augment.{name}")) for name, group in augment.items()]
    if not views:
        raise SettingError("augment is empty: name at least one group of views")
    return dict(sorted(views, key=lambda item: (-item[1].size, item[0])))


def _parts(settings: Mapping[str, Any], facts: RunFacts) -> dict[str, Any]:
    """Views, schedule, optimiser and method of a stage, by their names in `Stage`."""
    top_level = {name: value for name, value in settings["optim"].items() if name != "groups"}
    optim = fill(OptimSettings, top_level, "optim")
    group_sections = section(settings["optim"].get("groups", {}), "optim.groups")
    groups = {
        name: fill(GroupSettings, group, f"optim.groups.{name}")
        for name, group in sorted(group_sections.items())
    }
    lengths = dict(steps_per_epoch=facts.steps_per_epoch, batch_size=settings["batch_size"])
    schedule = schedule_of(optim, epochs=settings["epochs"], **lengths)
    return dict(
        views=views_of(settings["augment"]),
        schedule=schedule,
        tx=optimiser_of(optim, groups, schedule, **lengths),
        method=_method(settings, facts),
    )


def part(package: str, name: str, setting: str, contract: type) -> type:
    """The class of this name, see `resolve.choose`.

    Raises:
        SettingError: there is none, or it does not implement `contract`.
    """
    cls = choose(package, name, setting, contract.__name__)
    if problem := interface.unlike_contract(cls, contract):
        raise SettingError(f"{setting}={name!r}: {problem}")
    return cls


def filled(
    cls: type, values: Mapping[str, Any], setting: str, facts: RunFacts, **given: Any
) -> Any:
    """A part filled from its section, see `fill`; checked against `facts` once the data are read.

    The settings of a run that exists are not checked again.

    Raises:
        SettingError: as `fill`, or for settings that do not fit the run.
    """
    instance = fill(cls, values, setting, facts=facts, **given)
    if facts.examples and not facts.recorded:
        _check(instance.check, setting, facts)
    return instance


def _check(check: Callable, setting: str, *arguments: Any) -> None:
    """Calls a part's `check`, and turns its ValueError into a SettingError."""
    try:
        check(*arguments)
    except ValueError as error:
        raise SettingError(located(error, setting, type(check.__self__))) from error


def _method(settings: Mapping[str, Any], facts: RunFacts) -> interface.Method:
    """The method of a stage, with its network and positives."""
    backbone = _backbone(settings["model"])
    groups = convert(settings["model"]["bn_groups"], int, "model.bn_groups")
    # With automatic settings the batch size, here a stand-in, is known once the data are read.
    batch_is_known = bool(facts.examples) or not settings["automatic"]
    if groups < 1 or (batch_is_known and settings["batch_size"] % groups):
        raise SettingError(
            f"model.bn_groups={groups} does not divide batch_size={settings['batch_size']}"
        )
    momentum = convert(settings["model"]["bn_momentum"], float, "model.bn_momentum")
    head = fill(
        Head,
        settings["head"],
        "head",
        name=None,
        parent=None,
        bn_groups=groups,
        bn_momentum=momentum,
    )
    name = convert(settings["method"]["name"], str, "method.name")
    cls = part("ssl_jax.methods", name, "method.name", interface.Method)
    positives = _positives(settings["positives"], facts)
    takes_positives = "positives" in {field.name for field in dataclasses.fields(cls)}
    if settings["positives"]["name"] != "instance" and not takes_positives:
        raise SettingError(
            f"positives.name={settings['positives']['name']!r} has no published meaning for "
            f"{name}; use 'instance'"
        )
    network = Network(backbone, head)
    lengths = (settings["batch_size"], settings["epochs"])
    if batch_is_known:
        _check(positives.check_config, "positives", *lengths)
    method = filled(cls, settings["method"], "method", facts, network=network, positives=positives)
    if batch_is_known:
        _check(method.check_config, "method", *lengths)
    return method


def _backbone(settings: Mapping[str, Any]) -> nn.Module:
    """The backbone of the section `model`; settings it lacks are ignored."""
    name = convert(settings["name"], str, "model.name")
    cls = choose("ssl_jax.models", name, "model.name", "Backbone")
    fields = setting_names(cls)
    values = {name: value for name, value in settings.items() if name in fields}
    if "conv_init" in fields:  # not `init`, which is a method of every Flax module
        values["conv_init"] = convert(settings["init"], str, "model.init")
    return fill(cls, values, "model", name=None, parent=None)


def _positives(settings: Mapping[str, Any], facts: RunFacts) -> interface.Positives:
    """The positives of a run; settings of the library's other kinds are ignored."""
    name = convert(settings.get("name", ""), str, "positives.name")
    cls = part("ssl_jax.positives", name, "positives.name", interface.Positives)
    ignored = {"boundary", *names_beside(cls, "ssl_jax.positives", "Positives")}
    values = {name: value for name, value in settings.items() if name not in ignored}
    nested = {}
    if "boundary" in setting_names(cls):
        nested["boundary"] = filled(
            Boundary, settings.get("boundary", {}), "positives.boundary", facts
        )
    return filled(cls, values, "positives", facts, **nested)
