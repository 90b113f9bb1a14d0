"""Stages: what holds until which step. From the sections method, positives, augment and optim to objects."""

import dataclasses
from collections.abc import Callable
from typing import Any

import optax
from ml_collections import ConfigDict

from ssl_jax import interface, optim
from ssl_jax.data.augment import View
from ssl_jax.interface import RunFacts
from ssl_jax.models.layers import Head
from ssl_jax.models.network import Network
from ssl_jax.optim import schedules
from ssl_jax.positives.boundary import Boundary
from ssl_jax.settings import defaults, ranges
from ssl_jax.settings.resolve import (
    SettingError,
    available,
    choose,
    complete,
    convert,
    fill,
    in_section,
    section,
    unknown,
)


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


def stages(config, dataset, facts: RunFacts) -> tuple[Stage, ...]:
    """The stages of `config` in order; the last is the config without overrides.

    Args:
        config: a complete config.
        dataset: gives the channel statistics.
        facts: of the run; those that nobody knows yet, `RunFacts()`, leave only ranges to check.
    """
    found = []
    first = 0
    for until, own in _stage_configs(config, facts):
        found.append(_stage(own, until, dataset, dataclasses.replace(facts, first_step=first)))
        first = until
    return tuple(stage for stage in found if stage.until)


def _stage_configs(config, facts: RunFacts):
    """(until step, whole config) of each stage; the last is the config itself, until the end."""
    allowed = ("method", "positives", "augment", "optim")
    stages = []
    for name, stage in config.stages.items():
        epoch = convert(section(stage, f"stages.{name}").get("until_epoch", 0), float, f"stages.{name}.until_epoch")
        until = round(epoch * facts.steps_per_epoch)
        if not 0 <= epoch < config.epochs or 0 < facts.total_steps <= until:
            raise SettingError(f"stages.{name}.until_epoch={epoch}: inside the {config.epochs} epochs; 0 leaves it out")
        merged = config.copy_and_resolve_references().unlock()
        for part in stage:
            if part not in (*allowed, "until_epoch"):
                raise SettingError(unknown(f"stages.{name}.{part}", part, ["until_epoch", *allowed]))
        for part in allowed:
            override = section(stage.get(part, ConfigDict()), f"stages.{name}.{part}")
            if "name" in override:
                convert(override.name, str, f"stages.{name}.{part}.name")
            renamed = override.get("name", merged[part].get("name")) != merged[part].get("name")
            replaced = renamed and part in ("method", "positives")
            merged[part] = override if replaced else _merge(merged[part], override)
        complete(merged.optim, defaults.get_config().optim, f"stages.{name}.optim")
        if epoch:
            stages.append((until, merged))
    return [*sorted(stages, key=lambda stage: stage[0]), (facts.total_steps, config)]


def _merge(part, override):
    part = part.copy_and_resolve_references().unlock()
    for key, value in override.items():
        both = isinstance(value, ConfigDict) and isinstance(part.get(key), ConfigDict)
        with part.ignore_type():
            part[key] = _merge(part[key], value) if both else value
    return part


def views_of(config) -> tuple[View, ...]:
    """The groups of views in `config.augment`, larger first, groups of one size by name."""
    views = [(n, fill(View, group, f"augment.{n}")) for n, group in config.augment.items()]
    if not views:
        raise SettingError("augment is empty: name at least one group of views")
    return tuple(v for _, v in sorted(views, key=lambda item: (-item[1].size, item[0])))


def _stage(config, until, dataset, facts: RunFacts) -> Stage:
    views = views_of(config)
    _check_optim(config.optim)
    schedule = _schedule(config, facts.steps_per_epoch)
    tx = _optimiser(config, schedule, facts.steps_per_epoch)
    resident = dataset.resident(config.resident_gb)
    return Stage(until, _method(config, facts), tx, schedule, views, dataset.mean, dataset.std, resident)


def part(package: str, name: str, setting: str, contract: type) -> type:
    """The class of this name, see `resolve.choose`; a SettingError where it does not keep to its `contract`."""
    cls = choose(package, name, setting, contract.__name__)
    if wrong := interface.unlike_contract(cls, contract):
        raise SettingError(f"{setting}={name!r}: {wrong}")
    return cls


def filled(cls, values, setting: str, facts: RunFacts, **given):
    """A part from its section, see `fill`, with `facts`; checked once the data were read.

    Raises:
        SettingError: as `fill`, or for settings that do not fit the run.
    """
    made = fill(cls, values, setting, facts=facts, **given)
    if facts.examples:  # there is no run without
        try:
            made.check(facts)
        except ValueError as error:
            raise SettingError(f"{setting}: {error}") from error
    return made


def _method(config, facts: RunFacts):
    backbone = _backbone(config.model)
    groups = convert(config.model.get("bn_groups", 1), int, "model.bn_groups")
    batch_size = config.batch_size
    if groups < 1 or batch_size % groups:
        raise SettingError(f"model.bn_groups={groups} does not divide batch_size={batch_size}")
    momentum = convert(config.model.get("bn_momentum", 0.1), float, "model.bn_momentum")
    given = dict(name=None, parent=None, bn_groups=groups, bn_momentum=momentum)
    network = Network(backbone, fill(Head, config.head, "head", **given))
    name = convert(config.method.name, str, "method.name")
    cls = part("ssl_jax.methods", name, "method.name", interface.Method)
    kind = convert(config.positives.get("name", ""), str, "positives.name")
    positive = _positive(
        part("ssl_jax.positives", kind, "positives.name", interface.Positives), config.positives, facts
    )
    if kind != "instance" and "positives" not in {f.name for f in dataclasses.fields(cls)}:
        raise SettingError(f"positives.name={kind!r} has no published meaning for {config.method.name}; use 'instance'")
    return filled(cls, config.method, "method", facts, network=network, positives=positive)


def _backbone(settings):
    """The backbone that is named. Of the settings that every config has, those that it lacks do not count."""
    name = convert(settings.get("name", ""), str, "model.name")
    cls = choose("ssl_jax.models", name, "model.name", "Backbone")
    fields = {f.name for f in dataclasses.fields(cls)}
    others = {*defaults.get_config().model} - fields
    values = {k: v for k, v in settings.items() if k not in others}
    if "conv_init" in fields and "init" in settings:  # every Flax module has a function `init`
        values["conv_init"] = convert(settings["init"], str, "model.init")
    return fill(cls, values, "model", name=None, parent=None)


def _positive(kind, settings, facts: RunFacts):
    """Positives of the class `kind`; settings of the other kinds may stand beside its own, and do not count."""
    names = lambda cls: {f.name for f in dataclasses.fields(cls)}
    others = set().union(*map(names, available("ssl_jax.positives", "Positives").values())) - names(kind)
    own = {k: v for k, v in settings.items() if k not in others | {"boundary"}}
    nested = {}
    if "boundary" in names(kind):
        boundary = settings.get("boundary", {})
        nested["boundary"] = filled(Boundary, boundary, "positives.boundary", facts)
    return filled(kind, own, "positives", facts, **nested)


def _check_optim(settings):
    """Raises a SettingError for numbers of `config.optim` that no optimiser and no schedule takes."""
    own, schedule = settings.to_dict(), settings.schedule.to_dict()
    some = lambda values, *names: {name: values[name] for name in names}
    with in_section("optim"):
        ranges.not_negative(**some(own, "learning_rate", "weight_decay"))
        ranges.below_one(**some(own, "momentum", "b1", "b2"))
        ranges.positive(trust=settings.trust)
    rates = some(schedule, "start", "final", "factor")
    epochs = some(schedule, "warmup_epochs", "cosine_epochs")
    at = convert(schedule["at_epochs"], tuple[float, ...], "optim.schedule.at_epochs")
    with in_section("optim.schedule"):
        ranges.not_negative(**rates)
        ranges.between(0, ranges.EPOCHS, **epochs, at_epochs=at)
        ranges.at_most(ranges.MANY, at_epochs=at)


def _steps(epochs, per_epoch) -> int:
    """A point of time in steps, which are counted in 32 bits; runs are shorter, so none reaches what lies beyond."""
    return min(round(epochs * per_epoch), ranges.INT32)


def rate_scale(settings, batch_size: int) -> float:
    """What the rates of `config.optim` are multiplied by: linear in the batch size where a base is given."""
    if settings.base_batch_size < 0:
        raise SettingError(f"optim.base_batch_size={settings.base_batch_size}: at least 0 (0: rates as given)")
    with in_section("optim"):
        ranges.count(0, base_batch_size=settings.base_batch_size)
    return batch_size / settings.base_batch_size if settings.base_batch_size else 1.0


def _schedule(config, per_epoch: int):
    settings, epochs = config.optim, config.epochs
    repeats = settings.schedule.repeats
    if repeats < 1 or epochs % repeats:
        raise SettingError(f"optim.schedule.repeats={repeats} does not divide epochs={epochs}")
    epochs //= repeats
    once = _one_schedule(settings, epochs, per_epoch, rate_scale(settings, config.batch_size))
    return schedules.repeated(once, epochs * per_epoch) if repeats > 1 else once


def _one_schedule(settings, epochs: int, per_epoch: int, scale: float):
    schedule = settings.schedule
    total = epochs * per_epoch
    rate, start, final = (scale * r for r in (settings.learning_rate, schedule.start, schedule.final))
    if schedule.name == "warmup_cosine":
        warmup = round(schedule.warmup_epochs * per_epoch)
        if not 0 <= schedule.warmup_epochs <= epochs:
            raise SettingError(
                f"optim.schedule.warmup_epochs={schedule.warmup_epochs}: within the run's epochs, "
                f"{epochs:g}; a shorter run needs a shorter warm-up"
            )
        return schedules.warmup_cosine(rate, total, warmup_steps=warmup, start=start, final=final)
    if schedule.name == "line_cosine":
        warmup, length = (round(e * per_epoch) for e in (schedule.warmup_epochs, schedule.cosine_epochs))
        if not 0 <= schedule.warmup_epochs <= epochs or length < 0:
            raise SettingError(
                f"optim.schedule.warmup_epochs={schedule.warmup_epochs}, cosine_epochs={schedule.cosine_epochs}: the "
                "first within the run's epochs, the second at least 0"
            )
        return schedules.line_cosine(rate, total, warmup_steps=warmup, cosine_steps=length, final=final)
    if schedule.name == "drops":
        at = tuple(_steps(e, per_epoch) for e in schedule.at_epochs)
        return schedules.drops(rate, total, at_steps=at, factor=schedule.factor)
    if schedule.name == "constant":
        return schedules.constant(rate, total)
    raise SettingError(
        f"optim.schedule.name={schedule.name!r} is not known; choose one of: constant, drops, line_cosine, "
        "warmup_cosine"
    )


@dataclasses.dataclass(frozen=True)
class _GroupSettings:
    """`optim.Group` as configs give it, in epochs, but for the name."""

    pattern: str
    factor: float = 1.0
    fixed_rate: bool = False
    weight_decay: float = -1.0
    frozen_epochs: float = 0.0

    def __post_init__(self):
        ranges.not_negative(factor=self.factor)
        ranges.between(0, ranges.EPOCHS, frozen_epochs=self.frozen_epochs)
        if self.weight_decay != -1 and not 0 <= self.weight_decay <= ranges.FLOAT32:
            raise ValueError(f"weight_decay={self.weight_decay}: at least 0, or -1 for the optimiser's own")


def _group(values, setting: str, steps_per_epoch: int) -> optim.Group:
    """A group of parameters; its `name` is an optimiser's, which `fill` leaves out as it does every section's."""
    own = fill(_GroupSettings, values, setting)
    name = convert(values.get("name", ""), str, f"{setting}.name")
    frozen = _steps(own.frozen_epochs, steps_per_epoch)
    return optim.Group(own.pattern, name, own.factor, own.fixed_rate, own.weight_decay, frozen)


def _optimiser(config, schedule, per_epoch: int):
    settings = config.optim
    sections = section(settings.groups, "optim.groups")
    own = {k: settings[k] for direction in optim.DIRECTIONS.values() for k in direction.__kwdefaults__}
    try:
        return optim.build(
            settings.name,
            schedule,
            weight_decay=settings.weight_decay,
            groups=tuple(_group(g, f"optim.groups.{n}", per_epoch) for n, g in sections.items()),
            peak=settings.learning_rate * rate_scale(settings, config.batch_size),
            **own,
        )
    except ValueError as error:
        raise SettingError(f"optim: {error}") from error
