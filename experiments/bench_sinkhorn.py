"""Time of Sinkhorn-Knopp on one device: ours, the plain form and the log-domain form.

    python experiments/bench_sinkhorn.py [--runs=50]

Prints medians in milliseconds, ratios to ours, and the largest difference from float64 on the same
scores.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.ops.sinkhorn import sinkhorn

EPSILON = 0.05
ITERATIONS = 3


def plain(scores: jax.Array) -> jax.Array:
    """Codes [B, K] of scores [B, K], scaling exponentials in turn, as in the released code."""
    q = jnp.exp(scores / EPSILON)
    q = q / q.sum()
    for _ in range(ITERATIONS):
        q = q / q.sum(0, keepdims=True) / q.shape[1]
        q = q / q.sum(1, keepdims=True) / q.shape[0]
    return q * len(q)


def log_domain(scores: jax.Array) -> jax.Array:
    """The same in logarithms, which stays finite for any scores."""
    q = scores / EPSILON
    for _ in range(ITERATIONS):
        q = q - jax.nn.logsumexp(q, axis=0, keepdims=True)
        q = q - jax.nn.logsumexp(q, axis=1, keepdims=True)
    return jnp.exp(q)


def exact(scores: np.ndarray) -> np.ndarray:
    """The plain form in float64."""
    q = np.exp(np.float64(scores) / EPSILON)
    for _ in range(ITERATIONS):
        q /= q.sum(0, keepdims=True)
        q /= q.sum(1, keepdims=True)
    return q


def milliseconds(
    functions: Mapping[str, Callable[[jax.Array], jax.Array]], scores: jax.Array, runs: int
) -> dict[str, float]:
    """Median time of each function; they take turns, so a busy machine slows all alike."""
    compiled = {name: jax.jit(f) for name, f in functions.items()}
    times = {name: [] for name in compiled}
    for run in range(runs + 2):
        for name, f in compiled.items():
            began = time.perf_counter()
            f(scores).block_until_ready()
            if run >= 2:
                times[name].append(1e3 * (time.perf_counter() - began))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
            case = f"{batch}x{prototypes}{label}"
            print(f"{case:>16} {name:>12} {times[name]:8.2f} {ratio:7.2f} {error:9.1e}")


if __name__ == "__main__":
    main()
