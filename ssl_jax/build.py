"""From a config to the parts of a run, everything checked before any long work."""

import dataclasses
import inspect
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ssl_jax import interface
from ssl_jax.data import datasets, view_sizes
from ssl_jax.data.rng import INIT, key_for
from ssl_jax.data.source import Images, Source
from ssl_jax.interface import Batch, RunFacts, TrainState
from ssl_jax.ops.mesh import make_mesh
from ssl_jax.positives.instance import Instance
from ssl_jax.runtime.sharding import bytes_per_device, device_memory
from ssl_jax.settings import automatic, eval_settings, ranges
from ssl_jax.settings.automatic import ImageFacts
from ssl_jax.settings.resolve import SettingError, convert, fill, section
from ssl_jax.settings.run_settings import RunSettings
from ssl_jax.settings.whole_config import completed, run_settings
from ssl_jax.stages import Stage, filled, named_views, part, stages, views_of


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """All parts of a run.

    Attributes:
        settings: the top level of the config.
        source: the section `data`.
        record: all settings as plain dicts, as config.json keeps them.
        dataset: the images.
        facts: numbers that follow from the data and the length of the run.
        stages: in order.
        evaluators: by name; empty if the data have no labels to score with.
        notes: sentences for the user.
        shapes: the train state as shapes.
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
        """Images per step, over all devices."""
        return self.facts.batch_size

    @property
    def steps_per_epoch(self) -> int:
        """Full batches per epoch."""
        return self.facts.steps_per_epoch

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.facts.total_steps

    def stage_at(self, step: int) -> Stage:
        """The stage of step `step`, counted from 0; the last one at the end of the run."""
        return next((stage for stage in self.stages if step < stage.until), self.stages[-1])

    def due(self, step: int, every_epochs: int) -> bool:
        """Whether `step` ends the run, or an epoch that is a multiple of `every_epochs`."""
        every = every_epochs * self.steps_per_epoch
        return step == self.total_steps or every > 0 and step > 0 and step % every == 0


def build(
    config: ConfigDict | Mapping,
    dataset: datasets.Dataset | None = None,
    *,
    recorded: bool = False,
    check_data: Callable[[datasets.Dataset], None] | None = None,
) -> Plan:
    """Data, methods, optimisers and evaluators of a config.

    Args:
        config: as the files in `configs/` make it.
        dataset: use this instead of reading the config's data.
        recorded: the config is that of a run that exists, which may be older than some checks of
            settings against images.
        check_data: raises SettingError for images that the run must not be trained on; called
            before settings are compared with the images.

    Raises:
        SettingError: one line on the first setting or file that cannot be used.
    """
    settings = completed(config)
    trains = dataset is None
    dataset = dataset or load_data(settings, trains=not recorded)
    if check_data:
        check_data(dataset)
    settings, size_notes = fitted(settings, dataset, recorded=recorded)
    run = run_settings(settings)
    source = fill(Source, settings["data"], "data")
    facts = dataclasses.replace(_facts(run, dataset), recorded=recorded)
    resident = dataset.resident(run.resident_gb)
    parts = stages(settings, facts, mean=dataset.mean, std=dataset.std, resident=resident)
    if not recorded:
        _with_labels(settings).check_labels(dataset.train.labels)
    notes = dataset.notes + size_notes + _labels_note(parts, facts)
    evaluators = {}
    names = eval_settings.evaluators(settings["evals"])
    if dataset.classes and dataset.test.labelled.any():
        evaluators = evaluators_of(settings["evals"], dataset)
        unfit = unfit_for(evaluators, dataset)
        if unfit:
            evaluators = {key: x for key, x in evaluators.items() if key not in unfit}
            notes += (f"no scores by {several_classes_note(unfit)}; evals.svm scores them",)
    elif names:
        lacking = "no labelled test images" if dataset.classes else "no labels"
        notes += (f"{lacking}, so no scores ({', '.join(names)}); watch the loss and train/spread",)
    plan = Plan(
        settings=run,
        source=source,
        record=settings,
        dataset=dataset,
        facts=facts,
        stages=parts,
        evaluators=evaluators,
        notes=notes,
    )
    mesh = jax.sharding.get_mesh()
    mesh = make_mesh() if mesh.empty else mesh
    with jax.set_mesh(mesh):
        plan = dataclasses.replace(plan, shapes=_shapes(plan))
    resident_splits = (dataset.train, dataset.test) if trains and resident else ()
    _check_memory(mesh, plan, resident_splits)
    check_features(plan)
    return plan


def load_data(
    settings: Mapping[str, Any], *, trains: bool = False, **reader: Any
) -> datasets.Dataset:
    """Reads the data set of complete settings, after checking all other settings.

    Args:
        settings: complete settings.
        trains: a new run will be trained on the data, so the views must suit the images; known
            before they are decoded where that takes long.
        **reader: what the images are read for, see `restore.with_range`.

    Raises:
        SettingError: one line on the first setting or file that cannot be used.
    """
    check(settings)
    source = fill(Source, settings["data"], "data", **reader)
    if trains:
        source = _with_labels(settings)
    if trains and datasets.makes_squares(source.name):
        views = named_views(_with_many_images(settings)["augment"])
        view_sizes.check(views, source.size, settings)
    dataset = datasets.load_from(source)
    settings, _ = automatic.resolved(settings, _image_facts(dataset))
    largest = views_of(settings["augment"])[0].size
    if source.name.startswith("tfds:") and dataset.train.images.shape[1] == source.size < largest:
        raise SettingError(
            f"data.size={source.size} is below the largest view, {largest} pixels; raise it"
        )
    return dataset


def _with_labels(settings: Mapping[str, Any]) -> Source:
    """The section `data` of a run to be trained, which checks labels if the method needs them.

    Raises:
        SettingError: a method of the run needs labels, and these settings provide none, or those of
            test images.
    """
    names = [settings["method"]["name"]]
    for overrides in settings["stages"].values():
        names.append(overrides.get("method", {}).get("name", names[0]))
    methods = [part("ssl_jax.methods", name, "method.name", interface.Method) for name in names]
    labels_for = next((name for name, cls in zip(names, methods) if cls.needs_labels), "")
    return fill(Source, settings["data"], "data", labels_for=labels_for)


def _labels_note(parts: Sequence[Stage], facts: RunFacts) -> tuple[str, ...]:
    """A sentence on training images without labels, where the method needs these."""
    if facts.labelled == facts.examples or not any(stage.method.needs_labels for stage in parts):
        return ()
    labelled = f"{facts.labelled:,} of {facts.examples:,} training images"
    return (f"{labelled} have a label; the loss leaves the others out",)


def fitted(
    settings: Mapping[str, Any], dataset: datasets.Dataset, *, recorded: bool = False
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Complete settings for training on a data set: automatic ones are chosen, views checked.

    Args:
        settings: complete settings.
        dataset: the images.
        recorded: the settings are those of a run that exists; its views stay as they are.

    Returns:
        the settings, and sentences for the user.

    Raises:
        SettingError: the views are tiny beside the images, as those of a recipe for other data.
    """
    facts = _image_facts(dataset)
    chosen, note = automatic.resolved(settings, facts)
    notes = (note,) if note else ()
    if recorded:
        return chosen, notes
    channels = dataset.train.images.shape[-1]
    if channels not in (1, 3):
        notes += (
            f"images have {channels} channels, so changes of hue, saturation and grey are off",
        )
    views = named_views(chosen["augment"])
    notes += view_sizes.check(views, facts.side, chosen)
    return chosen, notes + view_sizes.note_on_space(views, dataset.train.images)


def _image_facts(dataset: datasets.Dataset) -> ImageFacts:
    """What automatic settings follow from."""
    shape = dataset.train.images.shape
    return ImageFacts(count=shape[0], classes=len(dataset.classes), side=min(shape[1:3]))


def check(settings: Mapping[str, Any]) -> None:
    """Checks the range of every setting, by building all parts without reading the data.

    Raises:
        SettingError: a setting that no data set could make valid.
    """
    source = fill(Source, settings["data"], "data")
    settings = _with_many_images(settings) | {"automatic": settings["automatic"]}
    largest = views_of(settings["augment"])[0].size
    if datasets.makes_squares(source.name) and source.size < largest:
        raise SettingError(
            f"data.size={source.size} is below the largest view, {largest} pixels; raise it, or "
            "lower the sizes in augment"
        )
    stages(settings, RunFacts(), mean=source.mean, std=source.std)
    _evaluators(settings["evals"], RunFacts())
    datasets.check(source)


def _with_many_images(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` as for a large data set, before the images are known."""
    data = settings["data"]
    side = data["size"] if datasets.makes_squares(data["name"]) else automatic.MANY.side
    return automatic.resolved(settings, dataclasses.replace(automatic.MANY, side=side))[0]


def _facts(run: RunSettings, dataset: datasets.Dataset) -> RunFacts:
    """The facts of a run, for its parts.

    Raises:
        SettingError: the batch is larger than the data, or the run too long.
    """
    data = _facts_of_data(dataset)
    if run.batch_size > data.examples:
        raise SettingError(
            f"batch_size={run.batch_size}, but there are only {data.examples} training images; "
            f"give --config.batch_size={data.examples} or less"
        )
    steps = data.examples // run.batch_size
    if run.epochs * steps > ranges.INT32:
        raise SettingError(
            f"epochs={run.epochs}: more than 2**31 steps in total, with {steps} per epoch"
        )
    return dataclasses.replace(
        data,
        batch_size=run.batch_size,
        steps_per_epoch=steps,
        total_steps=run.epochs * steps,
        with_label=_with_label(dataset.train.labels),
    )


def _facts_of_data(dataset: datasets.Dataset) -> RunFacts:
    """The facts for evaluators; images that joined from the test split count as unlabelled."""
    labelled = dataset.train.labelled[: len(dataset.train) - dataset.joined]
    return RunFacts(
        examples=len(dataset.train),
        labelled=int(labelled.sum()),
        classes=len(dataset.classes),
    )


def _with_label(labels: np.ndarray) -> bytes:
    """A bit per image, whether `labels` [N] has one; empty if all images or none have one."""
    labelled = np.asarray(labels) >= 0
    if labelled.all() or not labelled.any():
        return b""
    return np.packbits(labelled).tobytes()


def evaluators_of(evals: Mapping[str, Any], dataset: datasets.Dataset) -> dict[str, Any]:
    """The evaluators of the section `evals` by name, for the images and classes of a data set."""
    facts = dataclasses.replace(_facts_of_data(dataset), class_names=tuple(dataset.classes))
    return _evaluators(evals, facts)


def unfit_for(evaluators: Mapping[str, Any], dataset: datasets.Dataset) -> list[str]:
    """Names of the evaluators that cannot score images of several classes; none for other data."""
    if not dataset.several_classes:
        return []
    return [key for key, evaluator in evaluators.items() if not evaluator.takes_targets]


def several_classes_note(names: Sequence[str]) -> str:
    """The names of evaluators that cannot score a data set, and why."""
    need = "needs" if len(names) == 1 else "need"
    return (
        f"{', '.join(names)}, which {need} one label per image, while these may show several "
        "classes"
    )


def _evaluators(evals: Mapping[str, Any], facts: RunFacts) -> dict[str, Any]:
    evaluators = {}
    for key, settings in eval_settings.evaluators(evals).items():
        name = convert(section(settings, f"evals.{key}").get("name", key), str, f"evals.{key}.name")
        cls = part("ssl_jax.evaluation", name, f"evals.{key}", interface.Evaluator)
        evaluators[key] = filled(cls, settings, f"evals.{key}", facts)
    return evaluators


def _location(error: Exception, method: interface.Method) -> str:
    """The line of the method's file that called into the library raising `error`; else empty."""
    file = inspect.getfile(type(method))
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == file]
    raised_in = frames[-1].filename
    if not lines or raised_in == file or raised_in.startswith(str(Path(__file__).parent)):
        return ""
    return f" ({file}, line {lines[-1]})"


def _shapes(plan: Plan) -> TrainState:
    """The train state as shapes.

    Raises:
        SettingError: `init` of a method fails, or the stages do not agree on the state, so that
            optimiser and checkpoints would not fit.
    """
    key = jax.random.key(0)
    try:
        shapes = [jax.eval_shape(partial(init_state, plan, stage), key) for stage in plan.stages]
    except ValueError as error:
        location = _location(error, plan.stages[-1].method)
        raise SettingError(f"method: {error}{location}") from error
    for stage, state in zip(plan.stages, shapes):
        if not isinstance(state.params, dict) or "network" not in state.params:
            raise SettingError(
                f"method: init of {type(stage.method).__name__} returns params without a "
                "'network'; put the parameters of the network there, see ssl_jax/interface.py"
            )
    if any(_differ(state, shapes[-1]) for state in shapes):
        raise SettingError(
            "stages: a stage changes the shape of the train state; it may only change how the "
            "state is updated"
        )
    for stage in plan.stages:
        positives = jax.eval_shape(partial(_positives_state, plan, stage), key)
        if jax.tree.leaves(positives) and _differ(positives, shapes[-1].positives):
            raise SettingError("stages: positives of two stages keep states of different shapes")
    return shapes[-1]


def _differ(a: Any, b: Any) -> bool:
    """Whether two trees differ in structure or in the shape of a leaf."""
    return jax.tree.structure(a) != jax.tree.structure(b) or jax.tree.leaves(a) != jax.tree.leaves(
        b
    )


def _check_memory(mesh: Mesh, plan: Plan, splits: Sequence[Images]) -> None:
    """Checks that the train state, with its memory bank, and the resident `splits` fit a device.

    Raises:
        SettingError: they do not.
    """
    sizes = bytes_per_device(mesh, plan.shapes)
    limit = device_memory()
    state = sum(sizes.values())
    images = sum(split.images.nbytes for split in splits)
    if state + images <= limit:
        return
    if state <= limit:
        raise SettingError(
            f"the images take {_gigabytes(images)} on each device, and the train state "
            f"{_gigabytes(state)}, of {_gigabytes(limit)}; lower resident_gb "
            f"({plan.settings.resident_gb:g}; 0 keeps the images on the host)"
        )
    largest = max(sizes, key=sizes.get)
    raise SettingError(
        f"the train state takes {_gigabytes(state)} on each of {mesh.size} devices, which have "
        f"{_gigabytes(limit)} ({largest} alone: {_gigabytes(sizes[largest])}); use more devices, a "
        "smaller head.dim or model.width, or fewer images (data.limit)"
    )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"


def check_features(plan: Plan) -> None:
    """Checks that the method has all features and fields that the evaluators read.

    Raises:
        SettingError: names the first that is missing.
    """
    stage = plan.stages[-1]
    size = stage.views[0].size
    channels = plan.dataset.train.images.shape[-1]
    images = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    method = plan.record["method"]["name"]
    for key, evaluator in plan.evaluators.items():
        try:
            names = tuple(evaluator.needs)
            jax.eval_shape(
                lambda s, x, names=names: stage.method.features(s, x, names), plan.shapes, images
            )
        except KeyError as error:
            if _has_feature_setting(evaluator):
                way_out = (
                    "choose backbone, embedding, query (of methods with two networks) or a map "
                    f"(stage1 to stage5) that model.name={plan.record['model']['name']!r} has"
                )
            else:
                way_out = "omit this evaluator"
            raise SettingError(
                f"evals.{key}: {method} has no feature {error}; {way_out}"
            ) from error
        for name in evaluator.reads:
            if name not in _fields(plan.shapes.method):
                raise SettingError(f"evals.{key} reads the method's {name}, but {method} has none")


def _has_feature_setting(evaluator: interface.Evaluator) -> bool:
    """Whether the features that an evaluator reads are a setting."""
    return bool({"feature", "features"} & _fields(evaluator))


def _fields(value: Any) -> set[str]:
    if not dataclasses.is_dataclass(value):
        return set()
    return {field.name for field in dataclasses.fields(value)}


def init_state(plan: Plan, stage: Stage, key: jax.Array) -> TrainState:
    """A fresh train state; pure.

    Raises:
        ValueError: `init` of the method does not return three values, or fails.
    """
    channels = plan.dataset.train.images.shape[-1]
    sizes = [view.size for view in stage.views for _ in range(view.count)]
    views = tuple(jnp.zeros((1, size, size, channels)) for size in sizes)
    method_key, positives_key = jax.random.split(key)
    initial = stage.method.init(method_key, Batch(views, np.zeros(1, np.int32)))
    if not isinstance(initial, tuple) or len(initial) != 3:
        raise ValueError(
            f"init of {type(stage.method).__name__} must return params, batch_stats and a method "
            "state"
        )
    params, batch_stats, method = initial
    # Stages whose positives have no state carry the state of those that do.
    states = [_positives_state(plan, other, positives_key) for other in plan.stages]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=stage.tx.init(params),
        method=method,
        positives=next((state for state in states if jax.tree.leaves(state)), ()),
    )


def fresh_state(plan: Plan, key: jax.Array, shardings: Any = None) -> TrainState:
    """The state that a run with the random key `key` begins with, laid out as `shardings`."""
    # Many small random draws: on a CPU most of the time would go into optimising their code.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    init = jax.jit(
        partial(init_state, plan, plan.stages[0]),
        out_shardings=shardings,
        compiler_options=options,
    )
    return init(key_for(key, INIT))


def _positives_state(plan: Plan, stage: Stage, key: jax.Array) -> Any:
    positives = stage.method.positives or Instance()
    return positives.init(key, len(plan.dataset.train), plan.record["head"]["dim"])
