"""Where the time of a training step goes, for any config on any device.

    python experiments/bench_step.py --config=configs/swav.py:cifar10 --config.model.width=16 --config.batch_size=64
    python experiments/bench_step.py --config=configs/swav.py:cifar10 --config.model.dtype=bfloat16 [--profile=DIR]

Images are random, in the shape of digits or CIFAR, else of `data.size`, so no data is needed. Every part is a program
of its own, timed in turns with the others; medians. The parts add up to more than the whole step, which fuses and
overlaps them:

    augment     drawing the views
    forward     backbone and head, training mode
    method      loss, codes and whatever else the method computes of the embeddings, and its state's update
    backward    gradient of all that, less the forward pass
    target      the target network's forward pass, where there is one
    optimiser   from gradients to new parameters

Where positives are not the images themselves (CoNR), `base` is the step without them, `overhead` what they add (the
difference of two long times: look at its scatter), `positives` what choosing them takes in a program of its own, and
`refresh` what the boundary filter's clustering takes, once an epoch, for this many images.

FLOP are those that XLA counts in the step before it is compiled, over all devices. `without` is the step on views
drawn once.
"""

import dataclasses
import functools
import statistics
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from ml_collections import ConfigDict

from ssl_jax import train
from ssl_jax.build import build, completed
from ssl_jax.data.augment import draw_views
from ssl_jax.interface import Batch
from ssl_jax.models.network import Network
from ssl_jax.ops.mesh import make_mesh
from ssl_jax.ops.vectors import unit
from ssl_jax.positives.instance import Instance
from ssl_jax.runtime import command
from ssl_jax.runtime.compilation import convolution_options
from ssl_jax.runtime.sharding import batch_sharding, replicated, state_shardings
from ssl_jax.settings import command_line
from ssl_jax.training.refresh import refresh

RUNS = flags.DEFINE_integer("runs", 10, "Timed runs of each part, after two that are not.", lower_bound=1)
EXAMPLES = flags.DEFINE_integer("examples", 0, "Images of the made-up data set; default: what the method needs.")
PROFILE = flags.DEFINE_string("profile", None, "Folder for a trace of five steps (TensorBoard, Perfetto).")

SHAPES = {"digits": (8, 1), "cifar10": (32, 3), "cifar100": (32, 3)}

TRACED = 5  # steps in a profiler's trace

NEEDED = ("prototypes", "queue_length", "background", "clusters", "samples")  # settings that images must suffice for


def plan_of(config, folder, examples=0):
    """The parts of a run of `config` on so many random images (0: what it needs) in the shape of its data set."""
    config = ConfigDict(completed(config))
    size, channels = SHAPES.get(config.data.name, (config.data.size, 3))
    wanted = max(2 * config.batch_size, *(config.method.get(name, 0) for name in NEEDED))
    rng, count = np.random.default_rng(0), examples or wanted
    images = rng.integers(0, 256, (count, size, size, channels), dtype=np.uint8)
    labels = np.arange(count) % 10
    test = dict(test_images=images[:10], test_labels=labels[:10])
    np.savez(folder / "noise.npz", images=images, labels=labels, **test)
    config.data.update(name="array", dir=str(folder / "noise.npz"), limit=0, labels="fine", mean=(), std=())
    config.evals = {}
    return build(config)


def parts_of(plan, state, images, index, key):
    """Name -> (function, arguments): each part of the step alone, and the step itself."""
    stage = plan.stages[-1]
    method, tx = stage.method, stage.tx
    draw = lambda images, index, key: draw_views(key, images[index], stage.views, stage.mean, stage.std)
    views = jax.jit(draw)(images, index, key)

    two = "predictor" in state.params or hasattr(state.method, "target")  # views apart, statistics by network
    apart = dict(separate=True, method=Network.project) if two else {}
    of_network = lambda stats: stats["network"] if two else stats

    def forward(state, views):
        views = views if getattr(method, "symmetric", True) else views[:1]
        variables = {"params": state.params["network"], "batch_stats": of_network(state.batch_stats)}
        return method.network.apply(variables, views, train=True, mutable="batch_stats", **apart)

    def target(state, views):
        own = state.method.target
        views = views if getattr(method, "symmetric", True) else views[:1]
        variables = {"params": own.params, "batch_stats": own.batch_stats}
        return method.network.apply(variables, views, train=True, mutable="batch_stats", **apart)

    def loss(params, state, views, index):
        return method.loss(state.replace(params=params), Batch(views, index), key)

    def gradient(state, views, index):
        return jax.value_and_grad(loss, has_aux=True)(state.params, state, views, index)

    def method_alone(state, views, index, embedding):
        # The loss on embeddings as they are, and what follows the optimiser.
        given = _Given(embedding, of_network(state.batch_stats), method.network.head)
        with_network = dataclasses.replace(method, network=given)
        value, aux = with_network.loss(state, Batch(views, index), key)
        return value, method.post_step(state.replace(step=state.step + 1), aux, Batch(views, index))

    def choose(state, index, embedding):
        return [method.positives.select(state.positives, unit(k), index, state.step) for k in embedding]

    def update(grads, state):
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        return optax.apply_updates(state.params, updates), opt_state

    def without(state, views, index, key):
        (_, aux), grads = gradient(state, views, index)
        params, opt_state = update(grads, state)
        state = state.replace(step=state.step + 1, params=params, opt_state=opt_state, batch_stats=aux.batch_stats)
        return method.post_step(state, aux, Batch(views, index))

    grads = jax.jit(gradient)(state, views, index)[1]
    embedding = jax.jit(forward)(state, views)[0]
    more = {"target": (target, (state, views))} if hasattr(state.method, "target") else {}
    if type(getattr(method, "positives", Instance())) is not Instance:
        plain = dataclasses.replace(stage, method=dataclasses.replace(method, positives=Instance()))
        more["base"] = (functools.partial(train.train_step, plain), (state, images, index, key))
        more["positives"] = (choose, (state, index, embedding))
    return more | {
        "step": (functools.partial(train.train_step, stage), (state, images, index, key)),
        "without": (without, (state, views, index, key)),
        "augment": (draw, (images, index, key)),
        "forward": (forward, (state, views)),
        "gradient": (gradient, (state, views, index)),
        "method": (method_alone, (state, views, index, embedding)),
        "optimiser": (update, (grads, state)),
    }


class _Given:
    """Stands for a network whose embeddings are known."""

    def __init__(self, embedding, batch_stats, head):
        self._embedding, self._batch_stats, self.head = embedding, batch_stats, head

    def apply(self, variables, views, **_):
        return self._embedding[: len(views)], {"batch_stats": self._batch_stats}


def measure(parts, runs):
    """The compiled parts by name, the step's operations, and median seconds of each part.

    The parts take turns, so that a busy machine slows all alike.
    """
    options = convolution_options()
    compiled = {name: jax.jit(f).lower(*args).compile(options) for name, (f, args) in parts.items()}
    taken = {name: [] for name in parts}
    for run in range(runs + 2):
        for name, (_, args) in parts.items():
            began = time.perf_counter()
            jax.block_until_ready(compiled[name](*args))
            if run >= 2:
                taken[name].append(time.perf_counter() - began)
    f, args = parts["step"]
    flops = (jax.jit(f).lower(*args).cost_analysis() or {}).get("flops", float("nan"))
    return compiled, flops, {name: statistics.median(times) for name, times in taken.items()}


def report(plan, compiled, flops, seconds):
    """Lines of the table."""
    batch, whole = plan.batch_size, seconds["step"]
    rows = {name: seconds[name] for name in ("augment", "forward", "target", "method", "optimiser") if name in seconds}
    rest = seconds["forward"] + seconds.get("target", 0.0) + rows["method"]
    rows["backward"] = max(seconds["gradient"] - rest, 0.0)
    yield f"{'part':<10} {'ms':>9} {'of step':>8}"
    for name in rows:
        yield f"{name:<10} {1e3 * rows[name]:9.2f} {rows[name] / whole:8.1%}"
    yield f"{'step':<10} {1e3 * whole:9.2f} {batch / whole:,.0f} images/s, {flops / whole / 1e9:,.1f} GFLOP/s"
    without = seconds["without"]
    yield f"{'without':<10} {1e3 * without:9.2f} {batch / without:,.0f} images/s without augmentation"
    if "base" in seconds:
        yield f"{'base':<10} {1e3 * seconds['base']:9.2f} {batch / seconds['base']:,.0f} images/s"
        more = whole - seconds["base"]
        for name, time_of in (("overhead", more), ("positives", seconds["positives"])):
            yield f"{name:<10} {1e3 * time_of:9.2f} {time_of / seconds['base']:8.2%} of the base's step"
    memory = compiled["step"].memory_analysis()
    if memory:
        sizes = (memory.argument_size_in_bytes, memory.temp_size_in_bytes)
        yield "memory     arguments {:,.0f} MB, temporary {:,.0f} MB".format(*(s / 1e6 for s in sizes))
    peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    if peak:
        yield f"           peak on the device {peak / 1e6:,.0f} MB"


def refresh_time(plan, state, images, shardings, key):
    """Seconds of a later refresh of the positives (the second, warm-started one), or None where there are none."""
    if not jax.tree.leaves(state.positives):
        return None
    for _ in range(3):
        began = time.perf_counter()
        step = plan.stages[-2].until if len(plan.stages) > 1 else 0
        state, _ = refresh(plan.stages[-1], state, images, shardings, step, key)
        jax.block_until_ready(state)
    return time.perf_counter() - began


def placed(plan, mesh, key):
    """The first state, all images and the index of one batch, on the devices of `mesh`; and the state's shardings."""
    shardings = state_shardings(mesh, plan.shapes)
    make = jax.jit(lambda k: train.init_state(plan, plan.stages[-1], k), out_shardings=shardings)
    images = jax.device_put(plan.dataset.train.images, replicated(mesh))
    index = jax.device_put(jnp.arange(plan.batch_size, dtype=jnp.int32), batch_sharding(mesh))
    return make(key), images, index, shardings


class LoopStep:
    """The training step as the loop jits it, compiled once; each call donates the state that the last one returned."""

    def __init__(self, plan, state, images, index, key, shardings, mesh):
        self.state, self._given = state, (images, index, key)
        lowered = train.jit_step(mesh, shardings).lower(plan.stages[-1], state, images, index, key)
        self.flops = (lowered.cost_analysis() or {}).get("flops", float("nan"))
        self.compiled = lowered.compile()

    def __call__(self):
        """Takes one step; its loss [], not waited for."""
        self.state, metrics = self.compiled(self.state, *self._given)
        return metrics["loss"]


def trace(folder, step):
    """`TRACED` calls of `step`, after one that is not recorded, as a profiler's trace in `folder`."""
    jax.block_until_ready(step())
    with jax.profiler.trace(folder):
        jax.block_until_ready([step() for _ in range(TRACED)])


def main():
    with tempfile.TemporaryDirectory() as folder:
        plan = plan_of(command_line.CONFIG.value, Path(folder), EXAMPLES.value)
    mesh, key = make_mesh(), jax.random.key(0)
    with jax.set_mesh(mesh):
        state, images, index, shardings = placed(plan, mesh, key)
        measured = measure(parts_of(plan, state, images, index, key), RUNS.value)
        refreshed = refresh_time(plan, state, images, shardings, key)
        device, views = jax.devices()[0].device_kind, plan.stages[-1].views
        shown = " + ".join(f"{v.count}x{v.size}" for v in views)
        model = ConfigDict(plan.record["model"])
        print(f"{len(jax.devices())} x {device}, jax {jax.__version__}, medians of {RUNS.value} runs")
        print(f"{model.name}{model.depth} width {model.width} {model.dtype}, batch {plan.batch_size}, views {shown}")
        print("\n".join(report(plan, *measured)))
        if refreshed:
            print(f"{'refresh':<10} {1e3 * refreshed:9.2f} for {len(images):,} images")
        if PROFILE.value:
            trace(PROFILE.value, LoopStep(plan, state, images, index, key, shardings, mesh))
            print(f"trace of {TRACED} steps in {PROFILE.value}")


if __name__ == "__main__":
    command.start(main)
