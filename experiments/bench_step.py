"""Where the time of a training step goes, for any config on any device.

    python experiments/bench_step.py --config=configs/swav.py:cifar10 --config.model.width=16 \
        --config.batch_size=64
    python experiments/bench_step.py --config=configs/swav.py:cifar10 \
        --config.model.dtype=bfloat16 [--profile=DIR]

Needs no data: images are random, in the shape of digits or CIFAR, else of `data.size`; those of
recipes that read pictures are whole ones of 375x500, unless `data.keep=centre`. Each part is
compiled on its own, and the parts take turns; times are medians. The parts add up to more than the
whole step, which fuses and overlaps them:

    augment     drawing the views
    forward     backbone and head in training mode
    method      loss, codes and all else computed from the embeddings, and the method's state update
    backward    gradient of all that, less the forward pass
    target      the target network's forward pass, if there is one
    optimiser   from gradients to new parameters

For recipes of whole pictures, `centre` is the same drawing from central squares of 256 pixels, as
ImageNet's recipes stored before. It is compared with `whole`, which is `augment` once more, so that
both follow a short part; `shares` says what they take of a step, the rest of which is `without`.

Where positives are other images (CoNR), `base` is the step without them, `overhead` their cost (the
difference of two long times: mind its scatter), `positives` the time to choose them, compiled on
its own, and `refresh` the boundary filter's clustering before each epoch, for this many images.

FLOP are XLA's count for the step before compilation, over all devices. `without` is the step on
views drawn once.
"""

import dataclasses
import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from ml_collections import ConfigDict

from ssl_jax import train
from ssl_jax.build import Plan, build, completed
from ssl_jax.data import datasets
from ssl_jax.data.augment import draw_views
from ssl_jax.data.source import Images
from ssl_jax.data.whole import WholePictures
from ssl_jax.interface import Batch, TrainState
from ssl_jax.models.network import Network
from ssl_jax.ops.mesh import make_mesh
from ssl_jax.ops.vectors import unit
from ssl_jax.positives.instance import Instance
from ssl_jax.runtime import command
from ssl_jax.runtime.compilation import convolution_options
from ssl_jax.runtime.sharding import batch_sharding, replicated, state_shardings
from ssl_jax.settings import automatic, command_line
from ssl_jax.stages import Stage
from ssl_jax.training.refresh import refresh

RUNS = flags.DEFINE_integer(
    "runs", 10, "Timed runs of each part, after two warm-up runs.", lower_bound=1
)
EXAMPLES = flags.DEFINE_integer(
    "examples", 0, "Images of the made-up data set; default: what the method needs."
)
PROFILE = flags.DEFINE_string(
    "profile", None, "Folder for a trace of five steps (TensorBoard, Perfetto)."
)

SHAPES = {"digits": (8, 1), "cifar10": (32, 3), "cifar100": (32, 3)}
CENTRE = 256  # side of central squares to compare whole pictures with
TRACED = 5  # steps in a profiler's trace
# Settings that need at least as many images.
NEEDED = ("prototypes", "queue_length", "background", "clusters", "samples")

# Each part of a step: a function and its arguments.
Parts = Mapping[str, tuple[Callable[..., Any], tuple[Any, ...]]]


def plan_of(config: ConfigDict, folder: Path, examples: int = 0) -> Plan:
    """The parts of a run of `config` on random images in the shape of its data set.

    Args:
        config: the config of the run.
        folder: where the images are written.
        examples: how many images; 0 for what the method needs.
    """
    config = ConfigDict(automatic.resolved(completed(config), automatic.MANY)[0])
    pictures = datasets.makes_squares(config.data.name) and config.data.keep == "whole"
    size, channels = SHAPES.get(config.data.name, (config.data.size, 3))
    needed = max(2 * config.batch_size, *(config.method.get(name, 0) for name in NEEDED))
    count = examples or needed
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, size, size, channels), dtype=np.uint8)
    labels = np.arange(count) % 10
    test = dict(test_images=images[:10], test_labels=labels[:10])
    np.savez(folder / "noise.npz", images=images, labels=labels, **test)
    config.data.update(
        name="array", dir=str(folder / "noise.npz"), limit=0, labels="fine", mean=(), std=()
    )
    config.data.store = "cache"
    config.evals = {}
    return _as_pictures(build(config)) if pictures else build(config)


def _as_pictures(plan: Plan) -> Plan:
    """The same run on whole pictures of 375x500, a half of them upright, as of a folder."""
    train = plan.dataset.train
    sizes = np.resize(np.array([(375, 500), (500, 375)], np.float32), (len(train), 2))
    pictures = Images(WholePictures(train.images, sizes), train.labels)
    return dataclasses.replace(plan, dataset=dataclasses.replace(plan.dataset, train=pictures))


class _StepParts:
    """Each part of a stage's training step as a function of its own."""

    def __init__(self, stage: Stage, state: TrainState, key: jax.Array) -> None:
        self.stage = stage
        self.method = stage.method
        self.key = key
        # These methods run each view on its own and keep batch statistics by network.
        self.two_networks = "predictor" in state.params or hasattr(state.method, "target")

    def draw(self, images: jax.Array, index: jax.Array, key: jax.Array) -> tuple[jax.Array, ...]:
        stage = self.stage
        return draw_views(key, images[index], stage.views, stage.mean, stage.std)

    def forward(self, state: TrainState, views: tuple[jax.Array, ...]) -> Any:
        return self._apply(state.params["network"], self._stats(state), views)

    def target(self, state: TrainState, views: tuple[jax.Array, ...]) -> Any:
        target = state.method.target
        return self._apply(target.params, target.batch_stats, views)

    def gradient(self, state: TrainState, views: tuple[jax.Array, ...], index: jax.Array) -> Any:
        def loss(params):
            return self.method.loss(state.replace(params=params), Batch(views, index), self.key)

        return jax.value_and_grad(loss, has_aux=True)(state.params)

    def method_alone(
        self,
        state: TrainState,
        views: tuple[jax.Array, ...],
        index: jax.Array,
        embedding: jax.Array,
    ) -> Any:
        """The loss on given embeddings, and what follows the optimiser."""
        network = _FixedNetwork(embedding, self._stats(state), self.method.network.head)
        method = dataclasses.replace(self.method, network=network)
        batch = Batch(views, index)
        value, aux = method.loss(state, batch, self.key)
        return value, self.method.post_step(state.replace(step=state.step + 1), aux, batch)

    def choose(self, state: TrainState, index: jax.Array, embedding: jax.Array) -> list[Any]:
        select = self.method.positives.select
        return [select(state.positives, unit(keys), index, state.step) for keys in embedding]

    def update(self, grads: Any, state: TrainState) -> tuple[Any, Any]:
        updates, opt_state = self.stage.tx.update(grads, state.opt_state, state.params)
        return optax.apply_updates(state.params, updates), opt_state

    def without(
        self, state: TrainState, views: tuple[jax.Array, ...], index: jax.Array, key: jax.Array
    ) -> TrainState:
        """The whole step on ready views."""
        (_, aux), grads = self.gradient(state, views, index)
        params, opt_state = self.update(grads, state)
        state = state.replace(
            step=state.step + 1, params=params, opt_state=opt_state, batch_stats=aux.batch_stats
        )
        return self.method.post_step(state, aux, Batch(views, index))

    def _apply(self, params: Any, batch_stats: Any, views: tuple[jax.Array, ...]) -> Any:
        if not getattr(self.method, "symmetric", True):
            views = views[:1]
        variables = {"params": params, "batch_stats": batch_stats}
        apart = dict(separate=True, method=Network.project) if self.two_networks else {}
        return self.method.network.apply(
            variables, views, train=True, mutable="batch_stats", **apart
        )

    def _stats(self, state: TrainState) -> Any:
        return state.batch_stats["network"] if self.two_networks else state.batch_stats


def parts_of(
    plan: Plan, state: TrainState, images: jax.Array, index: jax.Array, key: jax.Array
) -> Parts:
    """Each part of the last stage's step alone, and the step itself, by name."""
    stage = plan.stages[-1]
    step = _StepParts(stage, state, key)
    views = jax.jit(step.draw)(images, index, key)
    grads = jax.jit(step.gradient)(state, views, index)[1]
    embedding = jax.jit(step.forward)(state, views)[0]
    parts = {}
    if hasattr(state.method, "target"):
        parts["target"] = (step.target, (state, views))
    if not isinstance(getattr(stage.method, "positives", None), Instance | None):
        method = dataclasses.replace(stage.method, positives=Instance())
        base = functools.partial(train.train_step, dataclasses.replace(stage, method=method))
        parts["base"] = (base, (state, images, index, key))
        parts["positives"] = (step.choose, (state, index, embedding))
    draws = {"augment": (step.draw, (images, index, key))}
    if isinstance(images, WholePictures):
        draws["centre"] = (step.draw, (images.pixels[:, :CENTRE, :CENTRE], index, key))
        draws["whole"] = draws["augment"]  # again: like `centre`, after a draw
    return parts | {
        "step": (functools.partial(train.train_step, stage), (state, images, index, key)),
        "without": (step.without, (state, views, index, key)),
        **draws,
        "forward": (step.forward, (state, views)),
        "gradient": (step.gradient, (state, views, index)),
        "method": (step.method_alone, (state, views, index, embedding)),
        "optimiser": (step.update, (grads, state)),
    }


class _FixedNetwork:
    """Stands in for a network whose embeddings are known."""

    def __init__(self, embedding: jax.Array, batch_stats: Any, head: Any) -> None:
        self._embedding = embedding
        self._batch_stats = batch_stats
        self.head = head

    def apply(self, variables: Any, views: tuple[jax.Array, ...], **_: Any) -> Any:
        return self._embedding[: len(views)], {"batch_stats": self._batch_stats}


def measure(parts: Parts, runs: int) -> tuple[dict[str, Any], float, dict[str, float]]:
    """Times the compiled parts in turns, so that a busy machine slows all alike.

    Returns:
        The compiled parts by name, the step's operations, and median seconds of each part.
    """
    options = convolution_options()
    compiled = {name: jax.jit(f).lower(*args).compile(options) for name, (f, args) in parts.items()}
    times = {name: [] for name in parts}
    for run in range(runs + 2):
        for name, (_, args) in parts.items():
            began = time.perf_counter()
            jax.block_until_ready(compiled[name](*args))
            if run >= 2:
                times[name].append(time.perf_counter() - began)
    f, args = parts["step"]
    flops = (jax.jit(f).lower(*args).cost_analysis() or {}).get("flops", float("nan"))
    return compiled, flops, {name: statistics.median(values) for name, values in times.items()}


def report(
    plan: Plan, compiled: Mapping[str, Any], flops: float, seconds: Mapping[str, float]
) -> Iterator[str]:
    """Lines of the table."""
    batch = plan.batch_size
    whole = seconds["step"]
    yield f"{'part':<10} {'ms':>9} {'of step':>8}"
    for name, part in shown_parts(seconds).items():
        yield f"{name:<10} {1e3 * part:9.2f} {part / whole:8.1%}"
    rate = f"{batch / whole:,.0f} images/s, {flops / whole / 1e9:,.1f} GFLOP/s"
    yield f"{'step':<10} {1e3 * whole:9.2f} {rate}"
    without = seconds["without"]
    rate = f"{batch / without:,.0f} images/s without augmentation"
    yield f"{'without':<10} {1e3 * without:9.2f} {rate}"
    if "centre" in seconds:
        now = seconds["whole"]
        before = seconds["centre"]
        shares = f"{now / (without + now):.1%} instead of {before / (without + before):.1%}"
        yield f"{'centre':<10} {1e3 * before:9.2f}"
        yield f"{'whole':<10} {1e3 * now:9.2f} {now / before:.2f} times as long"
        yield f"{'shares':<10} {'':9} {shares}"
    if "base" in seconds:
        base = seconds["base"]
        yield f"{'base':<10} {1e3 * base:9.2f} {batch / base:,.0f} images/s"
        for name, cost in (("overhead", whole - base), ("positives", seconds["positives"])):
            yield f"{name:<10} {1e3 * cost:9.2f} {cost / base:8.2%} of the base's step"
    memory = compiled["step"].memory_analysis()
    if memory:
        arguments = memory.argument_size_in_bytes / 1e6
        temporary = memory.temp_size_in_bytes / 1e6
        yield f"memory     arguments {arguments:,.0f} MB, temporary {temporary:,.0f} MB"
    peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    if peak:
        yield f"           peak on the device {peak / 1e6:,.0f} MB"


def shown_parts(seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds of the parts of the table, in its order."""
    names = ("augment", "forward", "target", "method", "optimiser")
    parts = {name: seconds[name] for name in names if name in seconds}
    forward = seconds["forward"] + seconds.get("target", 0.0) + parts["method"]
    parts["backward"] = max(seconds["gradient"] - forward, 0.0)
    return parts


def refresh_time(
    plan: Plan, state: TrainState, images: jax.Array, shardings: TrainState, key: jax.Array
) -> float | None:
    """Seconds of a warm-started refresh of the positives, or None if they keep no state."""
    if not jax.tree.leaves(state.positives):
        return None
    for _ in range(3):
        began = time.perf_counter()
        step = plan.stages[-2].until if len(plan.stages) > 1 else 0
        state, _ = refresh(plan.stages[-1], state, images, shardings, step, key)
        jax.block_until_ready(state)
    return time.perf_counter() - began


def placed(
    plan: Plan, mesh: jax.sharding.Mesh, key: jax.Array
) -> tuple[TrainState, jax.Array, jax.Array, TrainState]:
    """Places a run on the devices of `mesh`.

    Returns:
        The initial state, all images, the index of one batch, and the state's shardings.
    """
    shardings = state_shardings(mesh, plan.shapes)
    make = jax.jit(lambda k: train.init_state(plan, plan.stages[-1], k), out_shardings=shardings)
    images = jax.device_put(plan.dataset.train.images, replicated(mesh))
    index = jax.device_put(jnp.arange(plan.batch_size, dtype=jnp.int32), batch_sharding(mesh))
    return make(key), images, index, shardings


class LoopStep:
    """The training step as the loop jits it, compiled once.

    Each call donates the state that the previous one returned.
    """

    def __init__(
        self,
        plan: Plan,
        state: TrainState,
        images: jax.Array,
        index: jax.Array,
        key: jax.Array,
        shardings: TrainState,
        mesh: jax.sharding.Mesh,
    ) -> None:
        self.state = state
        self._inputs = (images, index, key)
        lowered = train.jit_step(mesh, shardings).lower(plan.stages[-1], state, images, index, key)
        self.flops = (lowered.cost_analysis() or {}).get("flops", float("nan"))
        self.compiled = lowered.compile()

    def __call__(self) -> jax.Array:
        """Takes one step; returns its loss [] without waiting for it."""
        self.state, metrics = self.compiled(self.state, *self._inputs)
        return metrics["loss"]


def trace(folder: str, step: LoopStep) -> None:
    """Writes a profiler's trace of `TRACED` calls of `step` to `folder`, after one warm-up call."""
    jax.block_until_ready(step())
    with jax.profiler.trace(folder):
        jax.block_until_ready([step() for _ in range(TRACED)])


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        plan = plan_of(command_line.CONFIG.value, Path(folder), EXAMPLES.value)
    mesh = make_mesh()
    key = jax.random.key(0)
    with jax.set_mesh(mesh):
        state, images, index, shardings = placed(plan, mesh, key)
        measured = measure(parts_of(plan, state, images, index, key), RUNS.value)
        refreshed = refresh_time(plan, state, images, shardings, key)
        device = f"{len(jax.devices())} x {jax.devices()[0].device_kind}"
        views = " + ".join(f"{view.count}x{view.size}" for view in plan.stages[-1].views)
        model = ConfigDict(plan.record["model"])
        network = f"{model.name}{model.depth} width {model.width} {model.dtype}"
        print(f"{device}, jax {jax.__version__}, medians of {RUNS.value} runs")
        print(f"{network}, batch {plan.batch_size}, views {views}")
        print("\n".join(report(plan, *measured)))
        if refreshed:
            print(f"{'refresh':<10} {1e3 * refreshed:9.2f} for {len(images):,} images")
        if PROFILE.value:
            trace(PROFILE.value, LoopStep(plan, state, images, index, key, shardings, mesh))
            print(f"trace of {TRACED} steps in {PROFILE.value}")


if __name__ == "__main__":
    command.start(main)
