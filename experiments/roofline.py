"""What bounds a training step: its operations and bytes, counted, beside what the machine can do, measured.

    python experiments/roofline.py --config=configs/swav.py:cifar10 --config.model.width=16 --config.batch_size=64
    python experiments/roofline.py --config=configs/swav.py:cifar10 --config.model.dtype=bfloat16 \
        --peak=989 --stream=4800                                   # an H200's data sheet

For each part of the step (those of bench_step.py): operations and bytes as XLA counts them in the compiled program,
their quotient, and the least time that the slower of the two takes at the machine's peak: the rate of a large matrix
product, and of reading and writing an array larger than any cache, both the best of several in the same run.

`by hand` is counted from the shapes of a residual network's layers alone:

    operations  2 H W C_in C_out k^2 for each convolution and image, and as many for each of its two gradients, but not
                for the image's; 2 C_in C_out for a linear layer; a target network forward only
    numbers     forward: a convolution reads x and writes y, BatchNorm reads y for its sums and once more to write the
                next x; backward: the gradient of that and y are read twice, y's gradient written, and read with the
                kernel and with x to write x's: 3 |x| + 11 |y|, or |x| + 4 |y| forward only; all else is left out

With --peak (TFLOP/s) and --stream (GB/s), from a data sheet, nothing is compiled or measured: the bound is computed.
"""

import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from bench_step import EXAMPLES, RUNS, measure, parts_of, plan_of
from ml_collections import ConfigDict

from ssl_jax import train
from ssl_jax.build import completed
from ssl_jax.models.resnet import STAGES, convolutions
from ssl_jax.runtime import command
from ssl_jax.settings import command_line
from ssl_jax.stages import views_of

PEAK = flags.DEFINE_float("peak", 0.0, "TFLOP/s of a data sheet; 0 measures this machine's.")
STREAM = flags.DEFINE_float("stream", 0.0, "GB/s of a data sheet.")

SHOWN = ("augment", "forward", "target", "gradient", "method", "optimiser", "step")


def layers(depth, width, stem, size):
    """(numbers in, numbers out, operations) of each convolution of a residual network for one image, forward."""

    def convolution(inside, channels_in, channels, kernel, stride):
        outside = -(-inside // stride)
        counts = inside**2 * channels_in, outside**2 * channels, 2 * outside**2 * channels_in * channels * kernel**2
        return outside, counts

    size, first = convolution(size, 3, width, *((3, 1) if stem == "cifar" else (7, 2)))
    yield first
    size, channels = -(-size // 2) if stem == "imagenet" else size, width
    for stage, blocks in enumerate(STAGES[depth]):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            inside, channels_in = size, channels
            for features, kernel, step in convolutions(width * 2**stage, stride, depth >= 50):
                size, counts = convolution(size, channels, features, kernel, step)
                yield counts
                channels = features
            if stride > 1 or channels_in != channels:
                yield convolution(inside, channels_in, channels, 1, stride)[1]


def passes(method):
    """Which share of the views goes through the network that learns, and through one that follows it."""
    if method.name == "moco" and not method.get("symmetric", False):
        return 0.5, 0.5
    return 1, int(method.name in ("moco", "byol"))


def by_hand(config):
    """Operations and bytes of a whole step of `config`."""
    model, width = config.model, 2 if config.model.dtype == "bfloat16" else 4
    operations = numbers = images = 0
    online, target = passes(config.method)
    for view in views_of(config.augment):
        first, *rest = layers(model.depth, model.width, model.stem, view.size)
        count = config.batch_size * view.count
        images += count
        operations += online * count * (2 * first[2] + 3 * sum(layer[2] for layer in rest))
        numbers += online * count * sum(3 * inside + 11 * outside for inside, outside, _ in (first, *rest))
        operations += target * count * sum(layer[2] for layer in (first, *rest))
        numbers += target * count * sum(inside + 4 * outside for inside, outside, _ in (first, *rest))
    linear = lambda *widths: 2 * sum(a * b for a, b in zip(widths, widths[1:]))
    channels, dim = model.width * (8 if model.depth < 50 else 32), config.head.dim
    operations += images * (3 * online + target) * linear(channels, *config.head.hidden, dim)
    if "predictor" in config.method:
        operations += images * online * 3 * linear(dim, *config.method.predictor, dim)
    operations += images * 3 * linear(dim, config.method.get("prototypes", 0))
    return operations, width * numbers


def best(function, *args):
    """Seconds of the fastest of seven calls, after one that compiles."""
    taken = []
    for _ in range(8):
        began = time.perf_counter()
        jax.block_until_ready(function(*args))
        taken.append(time.perf_counter() - began)
    return min(taken[1:])


def machine(dtype):
    """Operations and bytes a second: a square matrix product of `dtype`, and one array written from another."""
    size, long = (3072, 2**26) if jax.default_backend() == "cpu" else (16384, 2**30)
    a, x = jnp.ones((size, size), dtype), jnp.ones(long, jnp.float32)
    return 2 * size**3 / best(jax.jit(jnp.matmul), a, a), 2 * x.nbytes / best(jax.jit(lambda x: x + 1.0), x)


def row(name, operations, size, peak, stream, seconds=None):
    """A line of the table: the bound, and what share of it was reached."""
    bound = max(operations / peak, size / stream)
    kind = "operations" if operations / peak > size / stream else "bytes"
    line = (
        f"{name:<10} {operations / 1e9:9.1f} {size / 1e6:9.0f} {operations / size:8.1f} {1e3 * bound:9.2f} {kind:<11}"
    )
    return line + (f"{1e3 * seconds:9.2f} {bound / seconds:7.0%}" if seconds else "")


def report(config, peak, stream, parts):
    """Lines of the table; `parts` as name -> (operations, bytes, seconds)."""
    yield f"peak {peak / 1e9:,.0f} GFLOP/s, {stream / 1e9:,.1f} GB/s: even at {peak / stream:,.1f} operations a byte"
    yield f"{'part':<10} {'GFLOP':>9} {'MB':>9} {'FLOP/B':>8} {'bound, ms':>9} {'by':<11}{'ms':>9} {'reached':>7}"
    for name, (operations, size, seconds) in parts.items():
        yield row(name, operations, size, peak, stream, seconds)
    operations, size = by_hand(config)
    yield row("by hand", operations, size, peak, stream, parts["step"][2] if parts else None)
    bound = max(operations / peak, size / stream)
    yield f"at most {config.batch_size / bound:,.0f} images/s by this count"


def measured(config):
    """Operations, bytes and median seconds of each part, by name."""
    with tempfile.TemporaryDirectory() as folder:
        plan = plan_of(config, Path(folder), EXAMPLES.value)
    key, stage = jax.random.key(0), plan.stages[-1]
    state = jax.jit(lambda k: train.init_state(plan, stage, k))(key)
    images, index = jnp.asarray(plan.dataset.train.images), jnp.arange(plan.batch_size, dtype=jnp.int32)
    compiled, _, seconds = measure(parts_of(plan, state, images, index, key), RUNS.value)
    found = {}
    for name in SHOWN:
        if name in compiled:
            cost = compiled[name].cost_analysis() or {}
            found[name] = cost.get("flops", np.nan), cost.get("bytes accessed", np.nan), seconds[name]
    return found


def main():
    config = ConfigDict(completed(command_line.CONFIG.value))
    views = " + ".join(f"{v.count}x{v.size}" for v in views_of(config.augment))
    model, given = config.model, PEAK.value and STREAM.value
    if bool(PEAK.value) != bool(STREAM.value):
        command_line.fail("--peak and --stream go together", 2)
    if model.name != "resnet":
        command_line.fail(f"model.name={model.name!r}: this counts the layers of a resnet", 2)
    where = "computed, from a data sheet" if given else f"{jax.devices()[0].device_kind}, jax {jax.__version__}"
    print(f"{where}: {config.method.name}, ResNet-{model.depth} width {model.width}, {model.dtype}, {views}, ", end="")
    print(f"batch {config.batch_size}")
    parts = {} if given else measured(config)
    rates = (1e12 * PEAK.value, 1e9 * STREAM.value) if given else machine(model.dtype)
    print("\n".join(report(config, *rates, parts)))


if __name__ == "__main__":
    command.start(main)
