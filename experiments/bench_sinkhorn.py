"""Time of Sinkhorn-Knopp, ours against the plain form and the log-domain form, in one run on one device.

    python experiments/bench_sinkhorn.py [--runs=50]

Prints medians in milliseconds, ratios to ours, and the largest difference from float64 on the same scores.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.ops.sinkhorn import sinkhorn

EPSILON, ITERATIONS = 0.05, 3


def plain(scores):
    """Exponentials scaled in turn, as the released code does it."""
    q = jnp.exp(scores / EPSILON)
    q = q / q.sum()
    for _ in range(ITERATIONS):
        q = q / q.sum(0, keepdims=True) / q.shape[1]
        q = q / q.sum(1, keepdims=True) / q.shape[0]
    return q * len(q)


def log_domain(scores):
    """The same on logarithms: finite everywhere."""
    q = scores / EPSILON
    for _ in range(ITERATIONS):
        q = q - jax.nn.logsumexp(q, axis=0, keepdims=True)
        q = q - jax.nn.logsumexp(q, axis=1, keepdims=True)
    return jnp.exp(q)


def exact(scores):
    """The plain form in float64."""
    q = np.exp(np.float64(scores) / EPSILON)
    for _ in range(ITERATIONS):
        q /= q.sum(0, keepdims=True)
        q /= q.sum(1, keepdims=True)
    return q


def milliseconds(functions, scores, runs):
    """Median time of each function; the functions take turns, so that a busy machine slows all alike."""
    compiled = {name: jax.jit(f) for name, f in functions.items()}
    taken = {name: [] for name in compiled}
    for run in range(runs + 2):
        for name, f in compiled.items():
            began = time.perf_counter()
            f(scores).block_until_ready()
            if run >= 2:
                taken[name].append(1e3 * (time.perf_counter() - began))
    return {name: statistics.median(times) for name, times in taken.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50)
    runs = parser.parse_args().runs
    functions = {"ours": sinkhorn, "plain": plain, "log-domain": log_domain}
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {runs} runs, epsilon {EPSILON}")
    print(f"{'scores':>16} {'form':>12} {'ms':>8} {'x ours':>7} {'error':>9}")
    for batch, prototypes, label in ((256, 3000, ""), (4096, 3000, ""), (256, 3000, " dead")):
        rng = np.random.default_rng(0)
        scores = rng.normal(0.0, 0.1, (batch, prototypes)).clip(-1, 1).astype(np.float32)
        if label:
            scores[:, 7] = -8.0  # a prototype far below the rest
        times = milliseconds(functions, jnp.asarray(scores), runs)
        for name, f in functions.items():
            error = np.abs(np.asarray(jax.jit(f)(scores)) - exact(scores)).max()
            ratio = times[name] / times["ours"]
            print(f"{f'{batch}x{prototypes}{label}':>16} {name:>12} {times[name]:8.2f} {ratio:7.2f} {error:9.1e}")


if __name__ == "__main__":
    main()
