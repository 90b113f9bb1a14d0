"""From one config to the parts of a run, everything checked before any long work."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from ssl_jax import defaults, optim, positives, schedules
from ssl_jax.data import datasets
from ssl_jax.data.augment import View
from ssl_jax.interface import Batch, TrainState
from ssl_jax.models.layers import Head
from ssl_jax.models.network import Network
from ssl_jax.settings import SettingError, choose, convert, fill, unknown


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """What a step needs to know: static to `jit`, so each stage is traced once.

    It holds for the steps before `until`.
    """

    until: int
    method: Any
    tx: optax.GradientTransformation
    schedule: Callable
    views: tuple[View, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """All parts of a run. `stages` in order; `evaluators` by name."""

    config: ConfigDict
    dataset: datasets.Dataset
    stages: tuple[Stage, ...]
    evaluators: dict[str, Any]
    batch_size: int
    steps_per_epoch: int
    total_steps: int

    def stage_at(self, step: int) -> Stage:
        """The stage of the step that `step` steps came before (the last one at the end)."""
        return next((s for s in self.stages if step < s.until), self.stages[-1])

    def due(self, step: int, every_epochs: int) -> bool:
        """Is `step` the end of the run, or of every so many epochs?"""
        every = every_epochs * self.steps_per_epoch
        return step == self.total_steps or every > 0 and step > 0 and step % every == 0


def build(config: ConfigDict) -> Plan:
    """Data, methods, optimisers and evaluators of `config`.

    Raises:
        SettingError: one line on the first setting or file that cannot be used.
    """
    config = ConfigDict(config).copy_and_resolve_references()
    _check_sections(config)
    d = config.data
    dataset = datasets.load(d.name, folder=d.dir, limit=d.limit, labels=d.labels)
    examples, batch_size = len(dataset.train), config.batch_size
    if not 0 < batch_size <= examples:
        raise SettingError(f"batch_size={batch_size}: between 1 and the {examples} training images")
    if batch_size % jax.device_count():
        raise SettingError(f"batch_size={batch_size} does not divide by the {jax.device_count()} devices")
    steps_per_epoch = examples // batch_size
    facts = dict(
        examples=examples,
        batch_size=batch_size,
        steps_per_epoch=steps_per_epoch,
        total_steps=config.epochs * steps_per_epoch,
        classes=len(dataset.classes),
    )
    stages = tuple(_stage(c, until, dataset, facts) for until, c in _stage_configs(config, facts))
    plan = Plan(config, dataset, stages, _evaluators(config, facts), batch_size, steps_per_epoch, facts["total_steps"])
    _check_states(plan)
    return plan


def _check_sections(config):
    known = defaults.get_config()
    for key in config:
        if key not in known:
            raise SettingError(unknown(key, key, list(known)))
    for key, default in known.items():
        if key not in config:
            config[key] = default
        elif isinstance(default, ConfigDict) != isinstance(config[key], ConfigDict):
            raise SettingError(f"{key}={config[key]!r} has the wrong type")
        elif not isinstance(default, ConfigDict):
            convert(config[key], type(default), key)
    for section in ("data", "optim"):
        _complete(config[section], known[section], section)
    for key in ("epochs", "eval_epochs", "checkpoint_epochs", "log_steps"):
        if config[key] < 1:
            raise SettingError(f"{key}={config[key]}: at least 1")
    if "name" not in config.method:
        raise SettingError("method.name is missing: name a file of ssl_jax/methods")


def _complete(section, default, name):
    """Checks names and types of a section against its defaults, and fills in what it lacks."""
    for key, value in section.items():
        if key not in default:
            raise SettingError(unknown(f"{name}.{key}", key, list(default)))
        if not isinstance(value, ConfigDict):
            convert(value, type(default[key]), f"{name}.{key}")
        elif key != "groups":
            _complete(value, default[key], f"{name}.{key}")
    for key, value in default.items():
        if key not in section:
            section[key] = value


def _stage_configs(config, facts):
    """(until step, whole config) of each stage; the last is the config itself, until the end."""
    allowed = ("method", "positives", "augment", "optim")
    for name, stage in sorted(config.stages.items(), key=lambda item: item[1].get("until_epoch", 0)):
        until = round(stage.get("until_epoch", 0) * facts["steps_per_epoch"])
        if not 0 < until < facts["total_steps"]:
            raise SettingError(
                f"stages.{name}.until_epoch={stage.get('until_epoch')}: inside the {config.epochs} epochs"
            )
        merged = config.copy_and_resolve_references().unlock()
        for section, override in stage.items():
            if section == "until_epoch":
                continue
            if section not in allowed:
                raise SettingError(unknown(f"stages.{name}.{section}", section, ["until_epoch", *allowed]))
            renamed = override.get("name", merged[section].get("name")) != merged[section].get("name")
            merged[section] = override if renamed else _merge(merged[section], override)
        yield until, merged
    yield facts["total_steps"], config


def _merge(section, override):
    section = section.copy_and_resolve_references().unlock()
    for key, value in override.items():
        both = isinstance(value, ConfigDict) and isinstance(section.get(key), ConfigDict)
        with section.ignore_type():
            section[key] = _merge(section[key], value) if both else value
    return section


def _stage(config, until, dataset, facts) -> Stage:
    views = [(n, fill(View, group, f"augment.{n}")) for n, group in config.augment.items()]
    if not views:
        raise SettingError("augment is empty: name at least one group of views")
    views = tuple(v for _, v in sorted(views, key=lambda item: (-item[1].size, item[0])))
    schedule = _schedule(config.optim, facts)
    tx = _optimiser(config.optim, schedule, facts)
    return Stage(until, _method(config, facts), tx, schedule, views, dataset.mean, dataset.std)


def _method(config, facts):
    model = choose("ssl_jax.models", config.model.get("name", ""), "model.name", "Backbone")
    backbone = fill(model, config.model, "model", name=None, parent=None)
    network = Network(backbone, fill(Head, config.head, "head", name=None, parent=None))
    cls = choose("ssl_jax.methods", config.method.name, "method.name", "Method")
    kind = config.positives.get("name", "")
    if kind not in positives.KINDS:
        raise SettingError(f"positives.name={kind!r} is not known; choose one of: {', '.join(positives.KINDS)}")
    positive = fill(positives.KINDS[kind], config.positives, "positives", **facts)
    if kind != "instance" and "positives" not in {f.name for f in dataclasses.fields(cls)}:
        raise SettingError(f"positives.name={kind!r} has no published meaning for {config.method.name}; use 'instance'")
    return fill(cls, config.method, "method", network=network, positives=positive, **facts)


def _schedule(section, facts):
    settings, per_epoch = section.schedule, facts["steps_per_epoch"]
    rate, total = section.learning_rate, facts["total_steps"]
    if settings.name == "warmup_cosine":
        warmup = round(settings.warmup_epochs * per_epoch)
        if not 0 <= warmup <= total:
            raise SettingError(f"optim.schedule.warmup_epochs={settings.warmup_epochs}: within the run's epochs")
        return schedules.warmup_cosine(rate, total, warmup_steps=warmup, start=settings.start, final=settings.final)
    if settings.name == "drops":
        at_steps = tuple(round(e * per_epoch) for e in settings.at_epochs)
        return schedules.drops(rate, total, at_steps=at_steps, factor=settings.factor)
    if settings.name == "constant":
        return schedules.constant(rate, total)
    raise SettingError(
        f"optim.schedule.name={settings.name!r} is not known; choose one of: constant, drops, warmup_cosine"
    )


def _optimiser(section, schedule, facts):
    groups = []
    for name, group in section.groups.items():
        group = dict(group)
        frozen = round(group.pop("frozen_epochs", 0) * facts["steps_per_epoch"])
        for key in group:
            if key not in optim.Group._fields or key == "frozen_steps":
                fields = [*optim.Group._fields[:-1], "frozen_epochs"]
                raise SettingError(unknown(f"optim.groups.{name}.{key}", key, fields))
        groups.append(optim.Group(**group, frozen_steps=frozen))
    takes = optim.DIRECTIONS.get(section.name)
    settings = {k: section[k] for k in (takes.__kwdefaults__ if takes else ())}
    return optim.build(
        section.name,
        schedule,
        weight_decay=section.weight_decay,
        groups=tuple(groups),
        peak=section.learning_rate,
        **settings,
    )


def _evaluators(config, facts):
    evaluators = {}
    for key, section in config.evals.items():
        cls = choose("ssl_jax.evaluation", section.get("name", key), f"evals.{key}", "Evaluator")
        evaluators[key] = fill(cls, section, f"evals.{key}", **{k: facts[k] for k in ("examples", "classes")})
    return evaluators


def _check_states(plan):
    """Every stage must keep the same state tree, or the optimiser and the checkpoints would not fit."""
    shapes = [state_shapes(plan, stage) for stage in plan.stages]
    for stage in shapes[:-1]:
        same = jax.tree.structure(stage) == jax.tree.structure(shapes[-1])
        if not same or jax.tree.leaves(stage) != jax.tree.leaves(shapes[-1]):
            raise SettingError("stages: a stage changes the shape of the train state; it may change only how it moves")


def state_shapes(plan: Plan, stage: Stage) -> TrainState:
    """The train state as shapes, without computing anything."""
    try:
        return jax.eval_shape(lambda key: init_state(plan, stage, key), jax.random.key(0))
    except ValueError as error:
        raise SettingError(f"method: {error}") from error


def init_state(plan: Plan, stage: Stage, key) -> TrainState:
    """A fresh train state; pure."""
    channels = plan.dataset.train.images.shape[-1]
    sizes = [v.size for v in stage.views for _ in range(v.count)]
    views = tuple(jnp.zeros((1, size, size, channels)) for size in sizes)
    params, batch_stats, method = stage.method.init(key, Batch(views, np.zeros(1, np.int32)))
    chosen = getattr(stage.method, "positives", positives.Instance())
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=stage.tx.init(params),
        method=method,
        positives=chosen.init(key, len(plan.dataset.train), plan.config.head.dim),
    )
