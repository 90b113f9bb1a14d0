"""From one config to the parts of a run, everything checked before any long work."""

import dataclasses
import inspect
import traceback
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from ml_collections.config_dict import RequiredValueError

from ssl_jax import interface
from ssl_jax.data import datasets
from ssl_jax.data.rng import INIT, key_for
from ssl_jax.interface import Batch, RunFacts, TrainState
from ssl_jax.ops.mesh import make_mesh
from ssl_jax.positives.instance import Instance
from ssl_jax.runtime.sharding import bytes_per_device, device_memory
from ssl_jax.settings import defaults, ranges
from ssl_jax.settings.resolve import (
    SettingError,
    complete,
    convert,
    in_section,
    section,
    shown,
    unknown,
)
from ssl_jax.stages import Stage, filled, part, stages, views_of


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """All parts of a run. `stages` in order; `evaluators` by name; `notes` to the user; `shapes` of the train state."""

    config: ConfigDict
    dataset: datasets.Dataset
    stages: tuple[Stage, ...]
    evaluators: dict[str, Any]
    batch_size: int
    steps_per_epoch: int
    total_steps: int
    notes: tuple[str, ...] = ()
    shapes: TrainState | None = None

    def stage_at(self, step: int) -> Stage:
        """The stage of the step that `step` steps came before (the last one at the end)."""
        return next((s for s in self.stages if step < s.until), self.stages[-1])

    def due(self, step: int, every_epochs: int) -> bool:
        """Is `step` the end of the run, or of every so many epochs?"""
        every = every_epochs * self.steps_per_epoch
        return step == self.total_steps or every > 0 and step > 0 and step % every == 0


def build(config: ConfigDict, dataset: datasets.Dataset | None = None) -> Plan:
    """Data, methods, optimisers and evaluators of `config`; of another `dataset` than the config's where one is given.

    Raises:
        SettingError: one line on the first setting or file that cannot be used.
    """
    config, trains = completed(config), dataset is None
    dataset = dataset or load_data(config)
    facts = _facts(config, dataset)
    parts, evaluators, notes = stages(config, dataset, facts), {}, dataset.notes
    if dataset.classes and (dataset.test.labels >= 0).any():
        evaluators = evaluators_of(config, dataset)
    elif config.evals:
        lacking = "no labelled test images" if dataset.classes else "no labels"
        notes += (f"{lacking}, so no scores ({', '.join(config.evals)}); watch the loss and train/spread",)
    counts = (facts.batch_size, facts.steps_per_epoch, facts.total_steps)
    plan = Plan(config, dataset, parts, evaluators, *counts, notes)
    mesh = jax.sharding.get_mesh()
    mesh = make_mesh() if mesh.empty else mesh
    with jax.set_mesh(mesh):
        plan = dataclasses.replace(plan, shapes=_shapes(plan))
    _check_memory(mesh, plan, (dataset.train, dataset.test) if trains and parts[0].resident else ())
    check_features(plan)
    return plan


def load_data(config) -> datasets.Dataset:
    """The data set of a completed config, once all other settings are known to be in their ranges."""
    check(config)
    d, largest = config.data, views_of(config)[0].size
    dataset = datasets.load(d.name, **{k: v for k, v in d.items() if k != "name"})
    if d.name.startswith("tfds:") and dataset.train.images.shape[1] == d.size < largest:
        raise SettingError(f"data.size={d.size} is below the largest view, {largest} pixels; raise it")
    return dataset


def check(config) -> None:
    """Builds all parts of a completed config without its data, and so checks all ranges.

    Raises:
        SettingError: a setting that no data set could make valid.
    """
    d, largest = config.data, views_of(config)[0].size
    if d.name == "folder" and d.size < largest:
        raise SettingError(
            f"data.size={d.size} is below the largest view, {largest} pixels; raise it, or lower augment"
        )
    none = datasets.Images(np.zeros((0, 1, 1, 3), np.uint8), np.zeros(0, np.int32))
    stages(config, datasets.Dataset(none, none, (), d.mean, d.std), RunFacts())
    _evaluators(config, RunFacts())
    datasets.check(d.name, **{k: v for k, v in d.items() if k != "name"})


def _facts(config, dataset: datasets.Dataset) -> RunFacts:
    """What the parts of a run are told."""
    data = _facts_of_data(dataset)
    images, batch_size = data.examples, config.batch_size
    if not 0 < batch_size <= images:
        raise SettingError(f"batch_size={batch_size}: between 1 and the {images} training images")
    steps = images // batch_size
    if config.epochs * steps > ranges.INT32:
        raise SettingError(f"epochs={config.epochs}: total steps beyond 2**31, with {steps} an epoch")
    return dataclasses.replace(
        data,
        batch_size=batch_size,
        steps_per_epoch=steps,
        total_steps=config.epochs * steps,
        with_label=_with_label(dataset.train.labels),
    )


def _facts_of_data(dataset: datasets.Dataset) -> RunFacts:
    """What evaluators are told; images that joined from the test split count as unlabelled."""
    own = dataset.train.labels[: len(dataset.train) - dataset.joined]
    return RunFacts(
        examples=len(dataset.train),
        labelled=int((own >= 0).sum()),
        classes=len(dataset.classes),
    )


def _with_label(labels) -> bytes:
    """A bit for each of `labels` [N], whether there is one; empty where all have one, or none has."""
    known = np.asarray(labels) >= 0
    return b"" if known.all() or not known.any() else np.packbits(known).tobytes()


def completed(config: ConfigDict) -> ConfigDict:
    """A copy of `config` with every section there, names and types checked."""
    config, known = _resolved(config), defaults.get_config()
    for key in config:
        if key not in known:
            raise SettingError(unknown(key, key, list(known)))
    for key, default in known.items():
        if key not in config:
            config[key] = default
        elif isinstance(default, ConfigDict) != isinstance(config[key], ConfigDict):
            raise SettingError(f"{key}={shown(config[key])} has the wrong type")
        elif not isinstance(default, ConfigDict):
            convert(config[key], type(default), key)
    for name in ("data", "optim"):
        complete(config[name], known[name], name)
    with in_section(""):
        for key in ("epochs", "eval_epochs", "checkpoint_epochs"):
            ranges.count(1, ranges.EPOCHS, **{key: config[key]})
        ranges.count(1, batch_size=config.batch_size, log_steps=config.log_steps)
        ranges.between(0, ranges.EPOCHS, init_epoch=config.init_epoch)
        ranges.not_negative(resident_gb=config.resident_gb)
    if config.accumulate != 1:
        raise SettingError(
            f"accumulate={config.accumulate}: gradients are not accumulated, since losses over pairs "
            "or codes, and BatchNorm, see one whole batch, and several small ones are not a larger one; "
            "for memory use more devices, model.dtype=bfloat16, model.remat, or a queue "
            "(method.queue_length) where the method has one"
        )
    if not 0 <= config.keep_checkpoints <= ranges.INT32:
        raise SettingError(f"keep_checkpoints={config.keep_checkpoints}: at least 0 (0: all) and at most 2**31 - 1")
    if not 0 <= config.seed < 2**32:
        raise SettingError(f"seed={config.seed}: between 0 and {2**32 - 1}")
    if "name" not in config.method:
        raise SettingError("method.name is missing: name a file of ssl_jax/methods, or a module of your own with dots")
    convert(config.method.name, str, "method.name")
    if config.base and config.base != config.method.name:
        raise SettingError(
            f"base={config.base!r}, but method.name={config.method.name!r}; choose the base with the config"
        )
    key = config.best.split("/")[1:2]
    if config.evals and (not config.best.startswith("eval/") or key[0] not in config.evals):
        raise SettingError(
            f"best={config.best!r}: give a score as it is logged, such as eval/{next(iter(config.evals))}/..."
        )
    return config


def _resolved(config) -> ConfigDict:
    """A copy of `config` with values in place of references."""
    try:
        return ConfigDict(config).copy_and_resolve_references().unlock()
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


def evaluators_of(config, dataset: datasets.Dataset) -> dict[str, Any]:
    """The evaluators of `config` by name, for the images and classes of a data set."""
    return _evaluators(config, _facts_of_data(dataset))


def _evaluators(config, facts: RunFacts):
    evaluators = {}
    for key, settings in config.evals.items():
        name = convert(section(settings, f"evals.{key}").get("name", key), str, f"evals.{key}.name")
        cls = part("ssl_jax.evaluation", name, f"evals.{key}", interface.Evaluator)
        evaluators[key] = filled(cls, settings, f"evals.{key}", facts)
    return evaluators


def _where(error, method) -> str:
    """The line of a method's file that an error came through, where it was not raised there; else nothing."""
    own = inspect.getfile(type(method))
    frames = traceback.extract_tb(error.__traceback__)
    through = [frame.lineno for frame in frames if frame.filename == own]
    if not through or frames[-1].filename.startswith(str(Path(__file__).parent)) or frames[-1].filename == own:
        return ""
    return f" ({own}, line {through[-1]})"


def _shapes(plan) -> TrainState:
    """The train state as shapes. Stages must agree on it, or optimiser and checkpoints would not fit."""
    try:
        shapes = [jax.eval_shape(lambda k, s=s: init_state(plan, s, k), jax.random.key(0)) for s in plan.stages]
    except ValueError as error:
        raise SettingError(f"method: {error}{_where(error, plan.stages[-1].method)}") from error
    for stage, own in zip(plan.stages, shapes):
        if not isinstance(own.params, dict) or "network" not in own.params:
            raise SettingError(
                f"method: init of {type(stage.method).__name__} returns params without a 'network'; the network's own "
                "belong there, see ssl_jax/interface.py"
            )
    differ = lambda a, b: jax.tree.structure(a) != jax.tree.structure(b) or jax.tree.leaves(a) != jax.tree.leaves(b)
    if any(differ(stage, shapes[-1]) for stage in shapes):
        raise SettingError("stages: a stage changes the shape of the train state; it may change only how it moves")
    for stage in plan.stages:
        own = jax.eval_shape(lambda k, s=stage: _positives_state(plan, s, k), jax.random.key(0))
        if jax.tree.leaves(own) and differ(own, shapes[-1].positives):
            raise SettingError("stages: positives of two stages keep states of different shapes")
    return shapes[-1]


def _check_memory(mesh, plan, splits):
    """The train state, with the memory bank in it, fits the devices; and with it the `splits` that are to lie there."""
    taken, limit = bytes_per_device(mesh, plan.shapes), device_memory()
    state, images = sum(taken.values()), sum(split.images.nbytes for split in splits)
    if state + images <= limit:
        return
    largest, size = max(taken.items(), key=lambda item: item[1]), lambda number: f"{number / 1e9:,.1f} GB"
    if state <= limit:
        raise SettingError(
            f"the images take {size(images)} on each device, and the train state {size(state)}, of {size(limit)}; "
            f"lower resident_gb, which is {plan.config.resident_gb:g}: 0 leaves them on the host"
        )
    raise SettingError(
        f"the train state takes {size(sum(taken.values()))} on each of {mesh.size} devices, which have "
        f"{size(limit)} ({largest[0]} alone: {size(largest[1])}); use more devices, a smaller head.dim or model.width, "
        "or fewer images (data.limit)"
    )


def check_features(plan: Plan) -> None:
    """Evaluators read features that the network has, and what the method keeps.

    Raises:
        SettingError: names the first that is not there.
    """
    stage = plan.stages[-1]
    size, channels = stage.views[0].size, plan.dataset.train.images.shape[-1]
    images, method = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32), plan.config.method.name
    for key, evaluator in plan.evaluators.items():
        try:
            names = tuple(evaluator.needs)
            jax.eval_shape(lambda s, x, names=names: stage.method.features(s, x, names), plan.shapes, images)
        except KeyError as error:
            maps = f"a map (stage1 to stage5) that model.name={plan.config.model.name!r} has"
            named = "backbone, embedding, query (of methods with two networks)"
            choice = f"choose {named} or {maps}" if _chosen(evaluator) else "leave it out"
            raise SettingError(f"evals.{key}: {method} has no feature {error}; {choice}") from error
        for name in evaluator.reads:
            if name not in _fields(plan.shapes.method):
                raise SettingError(f"evals.{key} reads the method's {name}, and {method} keeps none")


def _chosen(evaluator):
    """Whether its features are a setting."""
    return bool({"feature", "features"} & _fields(evaluator))


def _fields(value) -> set[str]:
    return {f.name for f in dataclasses.fields(value)} if dataclasses.is_dataclass(value) else set()


def init_state(plan: Plan, stage: Stage, key) -> TrainState:
    """A fresh train state; pure."""
    channels = plan.dataset.train.images.shape[-1]
    sizes = [v.size for v in stage.views for _ in range(v.count)]
    views = tuple(jnp.zeros((1, size, size, channels)) for size in sizes)
    method_key, positives_key = jax.random.split(key)
    made = stage.method.init(method_key, Batch(views, np.zeros(1, np.int32)))
    if not isinstance(made, tuple) or len(made) != 3:
        raise ValueError(f"init of {type(stage.method).__name__} returns params, batch_stats and a method state")
    params, batch_stats, method = made
    # Stages whose positives keep nothing carry the state of those that do.
    states = [_positives_state(plan, s, positives_key) for s in plan.stages]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=stage.tx.init(params),
        method=method,
        positives=next((s for s in states if jax.tree.leaves(s)), ()),
    )


def fresh_state(plan: Plan, key, shardings=None) -> TrainState:
    """The state that a run with the random key `key` begins with, laid out as `shardings`."""
    # Many small random draws: on a CPU most of the time would go into optimising their code.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    make = lambda key: init_state(plan, plan.stages[0], key)
    return jax.jit(make, out_shardings=shardings, compiler_options=options)(key_for(key, INIT))


def _positives_state(plan, stage, key):
    chosen = stage.method.positives or Instance()
    return chosen.init(key, len(plan.dataset.train), plan.config.head.dim)
