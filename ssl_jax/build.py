"""From one config to the parts of a run, everything checked before any long work."""

import dataclasses
import inspect
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ssl_jax import interface
from ssl_jax.data import datasets
from ssl_jax.data.rng import INIT, key_for
from ssl_jax.data.source import Source
from ssl_jax.interface import Batch, RunFacts, TrainState
from ssl_jax.ops.mesh import make_mesh
from ssl_jax.positives.instance import Instance
from ssl_jax.runtime.sharding import bytes_per_device, device_memory
from ssl_jax.settings import ranges
from ssl_jax.settings.resolve import SettingError, convert, fill, section
from ssl_jax.settings.run_settings import RunSettings
from ssl_jax.settings.whole_config import completed, run_settings
from ssl_jax.stages import Stage, filled, part, stages, views_of


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """All parts of a run.

    Attributes:
        settings: of the top level of the config.
        source: of the data.
        record: all settings as plain dicts, as config.json keeps them.
        dataset: the images.
        facts: numbers that follow from the data and the length of the run.
        stages: in order.
        evaluators: by name; none where nothing can be scored.
        notes: sentences for the user.
        shapes: of the train state.
    """

    settings: RunSettings
    source: Source
    record: Mapping[str, Any]
    dataset: datasets.Dataset
    facts: RunFacts
    stages: tuple[Stage, ...]
    evaluators: dict[str, Any]
    notes: tuple[str, ...] = ()
    shapes: TrainState | None = None

    @property
    def batch_size(self) -> int:
        """Images a step, over all devices."""
        return self.facts.batch_size

    @property
    def steps_per_epoch(self) -> int:
        """Full batches of an epoch."""
        return self.facts.steps_per_epoch

    @property
    def total_steps(self) -> int:
        """Of the whole run."""
        return self.facts.total_steps

    def stage_at(self, step: int) -> Stage:
        """The stage of the step that `step` steps came before (the last one at the end)."""
        return next((s for s in self.stages if step < s.until), self.stages[-1])

    def due(self, step: int, every_epochs: int) -> bool:
        """Is `step` the end of the run, or of every so many epochs?"""
        every = every_epochs * self.steps_per_epoch
        return step == self.total_steps or every > 0 and step > 0 and step % every == 0


def build(config: ConfigDict | Mapping, dataset: datasets.Dataset | None = None) -> Plan:
    """Data, methods, optimisers and evaluators of a config; of another `dataset` than the config's where one is given.

    Raises:
        SettingError: one line on the first setting or file that cannot be used.
    """
    settings, trains = completed(config), dataset is None
    run, source = run_settings(settings), fill(Source, settings["data"], "data")
    dataset = dataset or load_data(settings)
    facts = _facts(run, dataset)
    resident = dataset.resident(run.resident_gb)
    parts = stages(settings, facts, mean=dataset.mean, std=dataset.std, resident=resident)
    evaluators, notes = {}, dataset.notes
    if dataset.classes and (dataset.test.labels >= 0).any():
        evaluators = evaluators_of(settings["evals"], dataset)
    elif settings["evals"]:
        lacking = "no labelled test images" if dataset.classes else "no labels"
        notes += (f"{lacking}, so no scores ({', '.join(settings['evals'])}); watch the loss and train/spread",)
    plan = Plan(run, source, settings, dataset, facts, parts, evaluators, notes)
    mesh = jax.sharding.get_mesh()
    mesh = make_mesh() if mesh.empty else mesh
    with jax.set_mesh(mesh):
        plan = dataclasses.replace(plan, shapes=_shapes(plan))
    _check_memory(mesh, plan, (dataset.train, dataset.test) if trains and parts[0].resident else ())
    check_features(plan)
    return plan


def load_data(settings: Mapping) -> datasets.Dataset:
    """The data set of complete settings, once all other settings are known to be in their ranges."""
    check(settings)
    source, largest = fill(Source, settings["data"], "data"), views_of(settings["augment"])[0].size
    dataset = datasets.load_from(source)
    if source.name.startswith("tfds:") and dataset.train.images.shape[1] == source.size < largest:
        raise SettingError(f"data.size={source.size} is below the largest view, {largest} pixels; raise it")
    return dataset


def check(settings: Mapping) -> None:
    """Builds all parts of complete settings without reading the data, which checks the range of every setting.

    Raises:
        SettingError: a setting that no data set could make valid.
    """
    source, largest = fill(Source, settings["data"], "data"), views_of(settings["augment"])[0].size
    if source.name == "folder" and source.size < largest:
        raise SettingError(
            f"data.size={source.size} is below the largest view, {largest} pixels; raise it, or lower augment"
        )
    stages(settings, RunFacts(), mean=source.mean, std=source.std)
    _evaluators(settings["evals"], RunFacts())
    datasets.check(source)


def _facts(run: RunSettings, dataset: datasets.Dataset) -> RunFacts:
    """What the parts of a run are told."""
    data = _facts_of_data(dataset)
    if run.batch_size > data.examples:
        raise SettingError(f"batch_size={run.batch_size}: between 1 and the {data.examples} training images")
    steps = data.examples // run.batch_size
    if run.epochs * steps > ranges.INT32:
        raise SettingError(f"epochs={run.epochs}: total steps beyond 2**31, with {steps} an epoch")
    return dataclasses.replace(
        data,
        batch_size=run.batch_size,
        steps_per_epoch=steps,
        total_steps=run.epochs * steps,
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


def evaluators_of(evals: Mapping, dataset: datasets.Dataset) -> dict[str, Any]:
    """The evaluators of the section `evals` by name, for the images and classes of a data set."""
    return _evaluators(evals, _facts_of_data(dataset))


def _evaluators(evals: Mapping, facts: RunFacts) -> dict[str, Any]:
    evaluators = {}
    for key, settings in evals.items():
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
            f"lower resident_gb, which is {plan.settings.resident_gb:g}: 0 leaves them on the host"
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
    images, method = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32), plan.record["method"]["name"]
    for key, evaluator in plan.evaluators.items():
        try:
            names = tuple(evaluator.needs)
            jax.eval_shape(lambda s, x, names=names: stage.method.features(s, x, names), plan.shapes, images)
        except KeyError as error:
            maps = f"a map (stage1 to stage5) that model.name={plan.record['model']['name']!r} has"
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
    return chosen.init(key, len(plan.dataset.train), plan.record["head"]["dim"])
