"""What CoNR's k-means costs before an epoch: ten new starts, as released, beside one start from the last centroids.

    python experiments/bench_kmeans.py [--rows=60000] [--dim=256] [--clusters=10] [--repeats=3]

On unit rows around so many directions; the warm start is the solution with noise. Seconds are medians of turns, after
a call that compiles; the ratio is of one run.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp

from ssl_jax.ops.kmeans import kmeans
from ssl_jax.ops.vectors import unit


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rows", 60_000), ("dim", 256), ("clusters", 10), ("iterations", 300), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    keys = jax.random.split(jax.random.key(0), 4)
    directions = jax.random.normal(keys[0], (args.clusters, args.dim))
    noise = jax.random.normal(keys[1], (args.rows, args.dim))
    points = unit(0.35 * directions[jnp.arange(args.rows) % args.clusters] + noise)
    settings = dict(iterations=args.iterations)
    solution = kmeans(keys[2], points, args.clusters, restarts=10, **settings).centroids
    start = solution + 0.02 * jax.random.normal(keys[3], solution.shape)
    ways = {
        "ten new starts": lambda: kmeans(keys[2], points, args.clusters, restarts=10, **settings),
        "warm start": lambda: kmeans(keys[2], points, args.clusters, init=start, **settings),
    }
    seconds = {name: [] for name in ways}
    for turn in range(args.repeats + 1):
        for name, run in ways.items():
            began = time.perf_counter()
            jax.block_until_ready(run())
            if turn:  # the first compiles
                seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{args.rows:,} rows of {args.dim}, {args.clusters} clusters, {jax.devices()[0].device_kind}")
    for name, median in medians.items():
        print(f"{name:<16} {median:8.3f} s  {median / medians['warm start']:6.1f}")


if __name__ == "__main__":
    main()
