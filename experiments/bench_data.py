"""How fast images arrive from a folder or from tfds: cached, or decoded on the fly.

    python experiments/bench_data.py --config=configs/swav.py:cifar10 --config.data.name=folder \
        --config.data.dir=DIR [--config.data.size=128] [--workers=0,1,2] [--batches=20] [--rounds=3]
    python experiments/bench_data.py --config=configs/swav.py:imagenet --config.data.dir=DIR \
        --centre=256

The sources take turns in each round; prints medians and ratios to the first source. `--centre=256`
adds sources of central squares of 256 pixels (`data.keep=centre`), and these are the first. For
each source:

    opens     seconds until the data set is open; for the cache on a second opening, already decoded
    first     seconds until the first batch arrives, starting worker processes included
    reads     images/s of batches alone, from the files to the devices
    trains    images/s of the config's training step on them
    waits     share of that time during which the devices waited for images

Batches read ahead while another source was timed are consumed first and not counted.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict

from ssl_jax import train
from ssl_jax.build import build, fresh_state
from ssl_jax.ops.mesh import make_mesh
from ssl_jax.runtime import command, compilation
from ssl_jax.runtime.sharding import state_shardings
from ssl_jax.settings import command_line
from ssl_jax.training.batches import Batches

WORKERS = flags.DEFINE_list(
    "workers", ["0", "1", "2"], "Worker processes of the stream; 0 uses threads."
)
BATCHES = flags.DEFINE_integer("batches", 20, "Batches timed per round.", lower_bound=1)
ROUNDS = flags.DEFINE_integer("rounds", 3, "Rounds to take the medians over.", lower_bound=1)
CENTRE = flags.DEFINE_integer(
    "centre", 0, "Side of central squares to compare with; 0: none.", lower_bound=0
)


class Source:
    """One way to read a config's data set, with the training step to run on it."""

    def __init__(
        self,
        config: ConfigDict,
        mesh: jax.sharding.Mesh,
        key: jax.Array,
        store: str,
        workers: int = 0,
        centre: int = 0,
    ) -> None:
        self.workers = workers
        self.step = 0
        self.metrics = None
        config = config.copy_and_resolve_references()
        config.data.update(store=store, workers=workers)
        if centre:
            config.data.update(keep="centre", size=centre)
        config.resident_gb = 0.0
        config.evals = {}
        build(config)
        began = time.perf_counter()
        self.plan = build(config)
        self.opens = time.perf_counter() - began
        self.batches = Batches(
            self.plan.dataset.train.images,
            mesh,
            key,
            batch_size=self.plan.batch_size,
            resident=False,
            workers=workers,
        )
        began = time.perf_counter()
        self.batch()
        self.first = time.perf_counter() - began
        shardings = state_shardings(mesh, self.plan.shapes)
        self.key = key
        self.state = fresh_state(self.plan, key, shardings)
        self.step_fn = train.jit_step(mesh, shardings)
        self.train()

    def batch(self) -> tuple[jax.Array, jax.Array]:
        """The next batch."""
        running = self.metrics and self.metrics["loss"]
        batch = self.batches.batch(self.step, running)
        self.step += 1
        return batch

    def read(self) -> None:
        """Reads one batch, without training."""
        self.metrics = None
        jax.block_until_ready(self.batch())

    def train(self) -> None:
        """Takes one step; waits for the previous one, as the training loop does."""
        previous = self.metrics
        images, index = self.batch()
        stage = self.plan.stages[0]
        self.state, self.metrics = self.step_fn(stage, self.state, images, index, self.key)
        jax.block_until_ready(previous)

    def time(self, work: Callable[[], Any]) -> tuple[float, float]:
        """Images per second of `work`, and the share of the time the devices waited for images."""
        for _ in range(4 + 4 * self.workers):
            work()
        jax.block_until_ready(self.metrics)
        self.batches.waited = 0.0
        began = time.perf_counter()
        for _ in range(BATCHES.value):
            work()
        jax.block_until_ready(self.metrics)
        seconds = time.perf_counter() - began
        return BATCHES.value * self.plan.batch_size / seconds, self.batches.waited / seconds


def main() -> None:
    compilation.enable_cache()
    mesh = make_mesh()
    key = jax.random.key(0)
    with jax.set_mesh(mesh):
        config = command_line.CONFIG.value
        sources = {}
        for centre in (CENTRE.value, 0) if CENTRE.value else (0,):
            name = "centre, " if centre else ""
            sources[f"{name}cache"] = Source(config, mesh, key, "cache", 0, centre)
            for workers in WORKERS.value:
                source = Source(config, mesh, key, "stream", int(workers), centre)
                sources[f"{name}stream, {workers} workers"] = source
        times = {name: [] for name in sources}
        for _ in range(ROUNDS.value):
            for name, source in sources.items():
                reads, _ = source.time(source.read)
                times[name].append((reads, *source.time(source.train)))
    report(sources, times)


def report(sources: Mapping[str, Source], times: Mapping[str, Sequence[tuple[float, ...]]]) -> None:
    """Prints the table of what was measured in each round, and ends the sources."""
    plan = sources["cache"].plan
    count, height, width = plan.dataset.train.images.shape[:3]
    device = f"{len(jax.devices())} x {jax.devices()[0].device_kind}"
    print(f"{device}, {count:,} images of {height} x {width}, batch {plan.batch_size}")
    header = f"{'':<26} {'opens':>6} {'first':>6} {'reads':>8} {'ratio':>6}"
    print(f"{header} {'trains':>8} {'ratio':>6} {'waits':>6}")
    medians = {
        name: [statistics.median(values) for values in zip(*rounds)]
        for name, rounds in times.items()
    }
    base = next(iter(medians.values()))
    for name, (reads, trains, waits) in medians.items():
        source = sources[name]
        source.batches.close()
        columns = f"{source.opens:6.1f} {source.first:6.1f} {reads:8,.0f} {reads / base[0]:6.2f}"
        print(f"{name:<26} {columns} {trains:8,.1f} {trains / base[1]:6.2f} {waits:6.1%}")


if __name__ == "__main__":
    command.start(main)
