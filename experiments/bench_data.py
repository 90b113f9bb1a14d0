"""How fast images come from a folder or from tfds: out of the cache, and decoded as they are wanted.

    python experiments/bench_data.py --config=configs/swav.py:cifar10 --config.data.name=folder \
        --config.data.dir=DIR [--config.data.size=128] [--workers=0,1,2] [--batches=20] [--rounds=3]

Each source in turn, round by round; medians, and ratios to the cache. Of each source

    opens     seconds until its data set is there: with the cache the second time, when all is decoded
    first     seconds until the first batch is there: worker processes start
    reads     images/s of batches alone, from the files to the devices
    trains    images/s of the config's training step on them
    waits     share of that time in which the devices had nothing to do because images were not there

Batches that were read ahead while another source was timed are taken, but not counted.
"""

import statistics
import time

import jax
from absl import flags

from ssl_jax import train
from ssl_jax.build import build, fresh_state
from ssl_jax.ops.mesh import make_mesh
from ssl_jax.runtime import command, compilation
from ssl_jax.runtime.sharding import state_shardings
from ssl_jax.settings import command_line
from ssl_jax.training.batches import Batches

WORKERS = flags.DEFINE_list("workers", ["0", "1", "2"], "Worker processes of the stream; 0 is threads.")
BATCHES = flags.DEFINE_integer("batches", 20, "Batches that are timed, a round.", lower_bound=1)
ROUNDS = flags.DEFINE_integer("rounds", 3, "Of which the medians are taken.", lower_bound=1)


class Source:
    """One way to read the data set of a config, with a run's step on it."""

    def __init__(self, config, mesh, key, store, workers=0):
        self.workers, self.step, self.metrics = workers, 0, None
        config = config.copy_and_resolve_references()
        config.data.update(store=store, workers=workers)
        config.resident_gb, config.evals = 0.0, {}
        build(config)
        began = time.perf_counter()
        self.plan = build(config)
        self.opens = time.perf_counter() - began
        how = dict(batch_size=self.plan.batch_size, resident=False, workers=workers)
        self.batches = Batches(self.plan.dataset.train.images, mesh, key, **how)
        began = time.perf_counter()
        self.batch()
        self.first = time.perf_counter() - began
        shardings = state_shardings(mesh, self.plan.shapes)
        self.key, self.state = key, fresh_state(self.plan, key, shardings)
        self.step_fn = train.jit_step(mesh, shardings)
        self.train()

    def batch(self):
        running = self.metrics and self.metrics["loss"]
        found = self.batches.batch(self.step, running)
        self.step += 1
        return found

    def read(self):
        self.metrics = None
        jax.block_until_ready(self.batch())

    def train(self):
        """One step; waits for the one before, as the training loop does."""
        before, found = self.metrics, self.batch()
        self.state, self.metrics = self.step_fn(self.plan.stages[0], self.state, *found, self.key)
        jax.block_until_ready(before)

    def time(self, work) -> tuple[float, float]:
        """Images a second, and the share of the time that devices waited for images."""
        for _ in range(4 + 4 * self.workers):
            work()
        jax.block_until_ready(self.metrics)
        self.batches.waited, began = 0.0, time.perf_counter()
        for _ in range(BATCHES.value):
            work()
        jax.block_until_ready(self.metrics)
        seconds = time.perf_counter() - began
        return BATCHES.value * self.plan.batch_size / seconds, self.batches.waited / seconds


def main():
    compilation.enable_cache()
    mesh, key = make_mesh(), jax.random.key(0)
    with jax.set_mesh(mesh):
        ways = {"cache": ("cache",)} | {f"stream, {n} workers": ("stream", int(n)) for n in WORKERS.value}
        sources = {name: Source(command_line.CONFIG.value, mesh, key, *way) for name, way in ways.items()}
        found = {name: [] for name in sources}
        for _ in range(ROUNDS.value):
            for name, source in sources.items():
                found[name].append((source.time(source.read)[0], *source.time(source.train)))
    plan = sources["cache"].plan
    shape, device = plan.dataset.train.images.shape, jax.devices()[0].device_kind
    print(f"{len(jax.devices())} x {device}, {shape[0]:,} images of {shape[1]} x {shape[2]}, batch {plan.batch_size}")
    print(f"{'':<18} {'opens':>6} {'first':>6} {'reads':>8} {'ratio':>6} {'trains':>8} {'ratio':>6} {'waits':>6}")
    medians = {name: [statistics.median(values) for values in zip(*rounds)] for name, rounds in found.items()}
    base = medians["cache"]
    for name, (reads, trains, waits) in medians.items():
        source = sources[name]
        source.batches.close()
        print(
            f"{name:<18} {source.opens:6.1f} {source.first:6.1f} {reads:8,.0f} {reads / base[0]:6.2f} "
            f"{trains:8,.0f} {trains / base[1]:6.2f} {waits:6.1%}"
        )


if __name__ == "__main__":
    command.start(main)
