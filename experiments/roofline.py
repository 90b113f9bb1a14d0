"""What bounds a training step: its counted operations and bytes, and the machine's measured rates.

    python experiments/roofline.py --config=configs/swav.py:cifar10 --config.model.width=16 \
        --config.batch_size=64
    python experiments/roofline.py --config=configs/swav.py:cifar10 \
        --config.model.dtype=bfloat16 --peak=989 --stream=4800    # an H200's data sheet

For each part of the step (those of bench_step.py): operations and bytes as XLA counts them in the
compiled program, their ratio, and the bound, which is the longer of their times at the machine's
rates. The rates are those of a large matrix product and of reading and writing an array larger than
any cache, each the best of several in the same run.

`by hand` is counted only from the shapes of a residual network's layers:

    operations  2 H W C_in C_out k^2 for each convolution and image, and as many for each of its two
                gradients, except that of the image; 2 C_in C_out for a linear layer; forward only
                for a target network
    numbers     forward: a convolution reads x and writes y, BatchNorm reads y for its sums and
                again to write the next x; backward: that gradient and y are read twice, y's
                gradient is written, then read with the kernel and with x to write x's: 3 |x| + 11
                |y|, or |x| + 4 |y| forward only; all else is neglected

With --peak (TFLOP/s) and --stream (GB/s), from a data sheet, nothing is compiled or measured: only
the bound is computed.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

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
from ssl_jax.settings import automatic, command_line
from ssl_jax.stages import views_of

PEAK = flags.DEFINE_float("peak", 0.0, "TFLOP/s from a data sheet; 0 measures this machine's.")
STREAM = flags.DEFINE_float("stream", 0.0, "GB/s from a data sheet.")

SHOWN = ("augment", "forward", "target", "gradient", "method", "optimiser", "step")

PartCost = tuple[float, float, float]  # operations, bytes, seconds


def layers(depth: int, width: int, stem: str, size: int) -> Iterator[tuple[int, int, int]]:
    """Counts of each convolution of a residual network, forward, for one image.

    Yields:
        Numbers in, numbers out, and operations.
    """

    def convolution(
        inside: int, channels_in: int, channels: int, kernel: int, stride: int
    ) -> tuple[int, tuple[int, int, int]]:
        outside = -(-inside // stride)
        counts = (
            inside**2 * channels_in,
            outside**2 * channels,
            2 * outside**2 * channels_in * channels * kernel**2,
        )
        return outside, counts

    kernel, stride = (3, 1) if stem == "cifar" else (7, 2)
    size, first = convolution(size, 3, width, kernel, stride)
    yield first
    if stem == "imagenet":  # max pooling
        size = -(-size // 2)
    channels = width
    for stage, blocks in enumerate(STAGES[depth]):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            inside = size
            channels_in = channels
            for features, kernel, step in convolutions(width * 2**stage, stride, depth >= 50):
                size, counts = convolution(size, channels, features, kernel, step)
                yield counts
                channels = features
            if stride > 1 or channels_in != channels:
                yield convolution(inside, channels_in, channels, 1, stride)[1]


def passes(method: ConfigDict) -> tuple[float, int | float]:
    """The share of views through the network that learns, and through the one that follows it."""
    if method.name == "moco" and not method.get("symmetric", False):
        return 0.5, 0.5
    return 1, int(method.name in ("moco", "byol"))


def by_hand(config: ConfigDict) -> tuple[float, float]:
    """Operations and bytes of a whole step of `config`, counted from the layers' shapes."""
    model = config.model
    width = 2 if model.dtype == "bfloat16" else 4  # bytes per number
    operations = numbers = images = 0
    online, target = passes(config.method)
    for view in views_of(config.augment):
        network = list(layers(model.depth, model.width, model.stem, view.size))
        first, *rest = network
        count = config.batch_size * view.count
        images += count
        operations += online * count * (2 * first[2] + 3 * sum(layer[2] for layer in rest))
        trained = sum(3 * inside + 11 * outside for inside, outside, _ in network)
        numbers += online * count * trained
        operations += target * count * sum(layer[2] for layer in network)
        forward = sum(inside + 4 * outside for inside, outside, _ in network)
        numbers += target * count * forward

    def linear(*widths: int) -> int:
        return 2 * sum(a * b for a, b in zip(widths, widths[1:]))

    channels = model.width * (8 if model.depth < 50 else 32)
    dim = config.head.dim
    operations += images * (3 * online + target) * linear(channels, *config.head.hidden, dim)
    if "predictor" in config.method:
        operations += images * online * 3 * linear(dim, *config.method.predictor, dim)
    operations += images * 3 * linear(dim, config.method.get("prototypes", 0))
    return operations, width * numbers


def best(function: Callable[..., Any], *args: Any) -> float:
    """Seconds of the fastest of seven calls, after one that compiles."""
    times = []
    for _ in range(8):
        began = time.perf_counter()
        jax.block_until_ready(function(*args))
        times.append(time.perf_counter() - began)
    return min(times[1:])


def machine(dtype: str) -> tuple[float, float]:
    """Operations per second of a matrix product of `dtype`, and bytes per second of a copy."""
    size, length = (3072, 2**26) if jax.default_backend() == "cpu" else (16384, 2**30)
    matrix = jnp.ones((size, size), dtype)
    array = jnp.ones(length, jnp.float32)
    peak = 2 * size**3 / best(jax.jit(jnp.matmul), matrix, matrix)
    stream = 2 * array.nbytes / best(jax.jit(lambda x: x + 1.0), array)
    return peak, stream


def row(
    name: str,
    operations: float,
    size: float,
    peak: float,
    stream: float,
    seconds: float | None = None,
) -> str:
    """A line of the table: the bound, and how close the measured time comes to it."""
    bound = max(operations / peak, size / stream)
    kind = "operations" if operations / peak > size / stream else "bytes"
    counts = f"{operations / 1e9:9.1f} {size / 1e6:9.0f} {operations / size:8.1f}"
    line = f"{name:<10} {counts} {1e3 * bound:9.2f} {kind:<11}"
    if not seconds:
        return line
    return line + f"{1e3 * seconds:9.2f} {bound / seconds:7.0%}"


def report(
    config: ConfigDict, peak: float, stream: float, parts: Mapping[str, PartCost]
) -> Iterator[str]:
    """Lines of the table; `parts` maps names to (operations, bytes, seconds)."""
    rates = f"peak {peak / 1e9:,.0f} GFLOP/s, {stream / 1e9:,.1f} GB/s"
    yield f"{rates}: balanced at {peak / stream:,.1f} operations per byte"
    counts = f"{'part':<10} {'GFLOP':>9} {'MB':>9} {'FLOP/B':>8}"
    yield f"{counts} {'bound, ms':>9} {'by':<11}{'ms':>9} {'reached':>7}"
    for name, (operations, size, seconds) in parts.items():
        yield row(name, operations, size, peak, stream, seconds)
    operations, size = by_hand(config)
    yield row("by hand", operations, size, peak, stream, parts["step"][2] if parts else None)
    bound = max(operations / peak, size / stream)
    yield f"at most {config.batch_size / bound:,.0f} images/s by this count"


def measured(config: ConfigDict) -> dict[str, PartCost]:
    """Operations, bytes and median seconds of each part, by name."""
    with tempfile.TemporaryDirectory() as folder:
        plan = plan_of(config, Path(folder), EXAMPLES.value)
    key = jax.random.key(0)
    stage = plan.stages[-1]
    state = jax.jit(lambda k: train.init_state(plan, stage, k))(key)
    images = jax.tree.map(jnp.asarray, plan.dataset.train.images)
    index = jnp.arange(plan.batch_size, dtype=jnp.int32)
    compiled, _, seconds = measure(parts_of(plan, state, images, index, key), RUNS.value)
    parts = {}
    for name in SHOWN:
        if name in compiled:
            cost = compiled[name].cost_analysis() or {}
            operations = cost.get("flops", np.nan)
            parts[name] = (operations, cost.get("bytes accessed", np.nan), seconds[name])
    return parts


def main() -> None:
    settings, _ = automatic.resolved(completed(command_line.CONFIG.value), automatic.MANY)
    config = ConfigDict(settings)
    views = " + ".join(f"{v.count}x{v.size}" for v in views_of(config.augment))
    model = config.model
    from_data_sheet = PEAK.value and STREAM.value
    if bool(PEAK.value) != bool(STREAM.value):
        command_line.fail("give --peak and --stream together", 2)
    if model.name != "resnet":
        command_line.fail(f"model.name={model.name!r}: only a resnet can be counted", 2)
    network = f"ResNet-{model.depth} width {model.width}, {model.dtype}"
    run = f"{config.method.name}, {network}, {views}, batch {config.batch_size}"
    if from_data_sheet:
        print(f"computed from a data sheet: {run}")
        parts = {}
        peak = 1e12 * PEAK.value
        stream = 1e9 * STREAM.value
    else:
        print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}: {run}")
        parts = measured(config)
        peak, stream = machine(model.dtype)
    print("\n".join(report(config, peak, stream, parts)))


if __name__ == "__main__":
    command.start(main)
