"""What CoNR's k-means costs before each epoch: ten new starts, as released, or one warm start.

    python experiments/bench_kmeans.py [--rows=60000] [--dim=256] [--clusters=10] [--repeats=3]

Clusters unit rows around `clusters` directions; the warm start is the solution with noise, in place
of the last epoch's centroids. Seconds are medians of turns, after one call that compiles; ratios
are within one run.
"""

import argparse
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp

from ssl_jax.ops.kmeans import KMeans, kmeans
from ssl_jax.ops.vectors import unit


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (
        ("rows", 60_000),
        ("dim", 256),
        ("clusters", 10),
        ("iterations", 300),
        ("repeats", 3),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    keys = jax.random.split(jax.random.key(0), 4)
    directions = jax.random.normal(keys[0], (args.clusters, args.dim))
    noise = jax.random.normal(keys[1], (args.rows, args.dim))
    points = unit(0.35 * directions[jnp.arange(args.rows) % args.clusters] + noise)

    def cluster(**start: Any) -> KMeans:
        return kmeans(keys[2], points, args.clusters, iterations=args.iterations, **start)

    solution = cluster(restarts=10).centroids
    start = solution + 0.02 * jax.random.normal(keys[3], solution.shape)
    ways = {
        "ten new starts": lambda: cluster(restarts=10),
        "warm start": lambda: cluster(init=start),
    }
    seconds = {name: [] for name in ways}
    for turn in range(args.repeats + 1):
        for name, run in ways.items():
            began = time.perf_counter()
            jax.block_until_ready(run())
            if turn:  # the first compiles
                seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    device = jax.devices()[0].device_kind
    print(f"{args.rows:,} rows of {args.dim}, {args.clusters} clusters, {device}")
    for name, median in medians.items():
        print(f"{name:<16} {median:8.3f} s  {median / medians['warm start']:6.1f}")


if __name__ == "__main__":
    main()
