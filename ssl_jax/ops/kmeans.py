"""k-means on the device: greedy k-means++ starts, restarts, and refilled empty clusters."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num, PRNGKeyArray

from ssl_jax.ops.mesh import over_rows, sum_over_rows
from ssl_jax.ops.types import Numbers
from ssl_jax.ops.vectors import dot, unit


class KMeans(NamedTuple):
    """Centroids [K, D] (plain means, not unit length), labels [N] int32 and the scalar inertia."""

    centroids: jax.Array
    labels: jax.Array
    inertia: jax.Array


# Centroids, labels, and the sum of each cluster's points.
_Clustering = tuple[Float[Array, "K D"], Int[Array, " N"], Float[Array, "K D"]]


@partial(jax.jit, static_argnames=("clusters", "iterations", "restarts", "metric", "chunk"))
def kmeans(
    key: PRNGKeyArray,
    points: Num[Numbers, "N D"],
    clusters: int,
    *,
    iterations: int,
    restarts: int = 1,
    metric: str = "cosine",
    init: Num[Numbers, "K D"] | None = None,
    chunk: int = 2**20,
) -> KMeans:
    """Lloyd's algorithm from greedy k-means++ starts; the restart with the smallest inertia wins.

    Args:
        key: random key of the starts.
        points: [N, D]; for `cosine` first scaled to unit length.
        clusters: K, at most N.
        iterations: maximum number of Lloyd iterations, fewer once the centroids stop moving; one
            final assignment follows.
        restarts: independent starts.
        metric: "cosine" assigns by cosine to the centroid and sums 1 - cosine; "euclidean" assigns
            by distance and sums distances (not squared). The centroid is the plain mean of its
            members in both.
        init: [K, D] initial centroids instead of k-means++ (one restart).
        chunk: points compared with the centroids at a time.

    Returns:
        KMeans. An empty cluster takes the point farthest from its own centroid.

    Raises:
        ValueError: more clusters than points, or an unknown metric.
    """
    if clusters > len(points):
        raise ValueError(f"{clusters} clusters for {len(points)} points")
    if metric not in ("cosine", "euclidean"):
        raise ValueError(f"metric {metric!r}: choose cosine or euclidean")
    points = unit(points) if metric == "cosine" else jnp.asarray(points, jnp.float32)

    def run(key: PRNGKeyArray) -> KMeans:
        if init is None:
            start = _plus_plus(key, points, clusters)
        else:
            start = jnp.asarray(init, jnp.float32)
        update = partial(_lloyd, points, metric=metric, chunk=chunk)
        centroids = _converge(update, len(points), start, iterations)
        labels, cost = _assign(points, centroids, metric, chunk)
        return KMeans(centroids, labels, jnp.sum(cost))

    runs = jax.lax.map(run, jax.random.split(key, restarts))
    best = jnp.argmin(runs.inertia)
    return jax.tree.map(lambda a: a[best], runs)


def _converge(
    update: Callable[..., _Clustering], points: int, centroids: Float[Array, "K D"], iterations: int
) -> Float[Array, "K D"]:
    """The centroids [K, D] after `iterations` updates, or once they stop moving.

    Args:
        update: from (centroids, labels, sums) to the next.
        points: N.
        centroids: [K, D] initial centroids.
        iterations: maximum.
    """

    def unfinished(carry: tuple[Any, _Clustering, Any]) -> Any:
        iteration, _, moved = carry
        return (iteration < iterations) & moved

    def step(carry: tuple[Any, _Clustering, Any]) -> tuple[Any, _Clustering, Any]:
        iteration, last, _ = carry
        new = update(*last)
        return iteration + 1, new, jnp.any(new[0] != last[0])

    no_label = jnp.full(points, len(centroids), jnp.int32)  # so the first step moves every point
    start = (centroids, no_label, jnp.zeros_like(centroids))
    return jax.lax.while_loop(unfinished, step, (0, start, True))[1][0]


@partial(jax.jit, static_argnames=("metric", "chunk"))
def nearest_centroid(
    points: Float[Numbers, "N D"],
    centroids: Float[Numbers, "K D"],
    *,
    metric: str = "cosine",
    chunk: int = 2**20,
) -> Int[Array, " N"]:
    """Labels [N] int32: the nearest centroid [K, D] of each of `points` [N, D]; see `kmeans`."""
    return _assign(jnp.asarray(points), jnp.asarray(centroids), metric, chunk)[0]


def random_rows(
    key: PRNGKeyArray, points: Float[Numbers, "N D"], count: int
) -> Float[Numbers, "count D"]:
    """`count` different random rows of `points` [N, D], the published Local Aggregation's start."""
    return points[jax.random.permutation(key, len(points))[:count]]


def _assign(
    points: Float[Array, "N D"], centroids: Float[Array, "K D"], metric: str, chunk: int
) -> tuple[Int[Array, " N"], Float[Array, " N"]]:
    """Labels [N] of the nearest centroids and costs [N]: 1 - cosine, or the distance.

    Each device computes its own rows.
    """
    return over_rows(partial(_assign_rows, metric=metric, chunk=chunk), points, centroids)


def _assign_rows(
    points: Float[Array, "N D"], centroids: Float[Array, "K D"], metric: str, chunk: int
) -> tuple[Int[Array, " N"], Float[Array, " N"]]:
    # Tables are [K, N], which is faster on a CPU than [N, K].
    def block(x: Float[Array, "n D"]) -> tuple[Int[Array, " n"], Float[Array, " n"]]:
        if metric == "cosine":
            score = dot(unit(centroids), x)
            return jnp.argmax(score, axis=0), 1.0 - jnp.max(score, axis=0)
        half = dot(centroids, x) - 0.5 * jnp.sum(centroids**2, axis=1)[:, None]
        square = jnp.sum(x * x, axis=1) - 2.0 * jnp.max(half, axis=0)
        return jnp.argmax(half, axis=0), jnp.sqrt(jnp.maximum(square, 0.0))

    count = len(points)
    table = 2**24 if jax.default_backend() == "cpu" else 2**26  # 64 MB suit a CPU; at most 256 MB
    parts = -(-count // max(1, min(chunk, table // len(centroids))))
    chunk = -(-count // parts)
    if count == chunk:
        labels, cost = block(points)
    else:
        blocks = jnp.pad(points, ((0, -count % chunk), (0, 0))).reshape(-1, chunk, points.shape[1])
        labels, cost = (a.reshape(-1)[:count] for a in jax.lax.map(block, blocks))
    return labels.astype(jnp.int32), cost


def _lloyd(
    points: Float[Array, "N D"],
    centroids: Float[Array, "K D"],
    labels: Int[Array, " N"],
    sums: Float[Array, "K D"],
    *,
    metric: str,
    chunk: int,
) -> _Clustering:
    """One assignment and one mean; empty clusters move to the farthest points.

    Args:
        points: [N, D].
        centroids: [K, D].
        labels: [N] of the previous iteration.
        sums: [K, D] of the points with these labels.

    Returns:
        new centroids, their `labels`, and the `sums` of those.
    """
    last = labels
    labels, _ = _assign(points, centroids, metric, chunk)
    clusters = len(centroids)
    sums = _updated_sums(points, last, labels, sums)
    count = jax.ops.segment_sum(jnp.ones(len(points)), labels, clusters)

    def refill(means: Float[Array, "K D"]) -> Float[Array, "K D"]:
        _, cost = _assign(points, centroids, metric, chunk)  # recomputed, as it is rarely needed
        empty = count == 0
        farthest = jax.lax.top_k(cost, clusters)[1]
        return jnp.where(empty[:, None], points[farthest[jnp.cumsum(empty) - 1]], means)

    means = sums / jnp.maximum(count, 1.0)[:, None]
    return jax.lax.cond(jnp.any(count == 0), refill, lambda m: m, means), labels, sums


def _updated_sums(
    points: Float[Array, "N D"],
    last: Int[Array, " N"],
    labels: Int[Array, " N"],
    sums: Float[Array, "K D"],
) -> Float[Array, "K D"]:
    """Sums [K, D] of each cluster's points, from the `sums` of the `last` labels.

    Reads only the points that changed cluster if these are at most an eighth; else sums all.
    """
    clusters = len(sums)
    limit = len(points) // 8

    def change(
        rows: tuple[Float[Array, "n D"], Int[Array, " n"], Int[Array, " n"]],
    ) -> Float[Array, "K D"]:
        points, last, labels = rows
        count = len(points)
        at = jnp.nonzero(last != labels, size=min(limit, count), fill_value=count)[0]
        moved = points.at[at].get(mode="fill", fill_value=0.0)
        came = labels.at[at].get(mode="fill", fill_value=clusters)
        went = last.at[at].get(mode="fill", fill_value=clusters)
        gain = jax.ops.segment_sum(moved, came, clusters)
        return gain - jax.ops.segment_sum(moved, went, clusters)

    def update() -> Float[Array, "K D"]:
        return sums + sum_over_rows(change, (points, last, labels))

    def recompute() -> Float[Array, "K D"]:
        return jax.ops.segment_sum(points, labels, clusters)

    return jax.lax.cond(jnp.sum(last != labels) <= limit, update, recompute)


def _plus_plus(
    key: PRNGKeyArray, points: Float[Array, "N D"], clusters: int
) -> Float[Array, "K D"]:
    """Greedy k-means++ (Arthur & Vassilvitskii 2007): best of a few draws by squared distance."""
    trials = 2 + int(math.log(clusters))
    square = jnp.sum(points * points, axis=1)

    def distance(candidates: Float[Array, "T D"]) -> Float[Array, "T N"]:
        to = jnp.sum(candidates**2, axis=1)[:, None] + square[None] - 2.0 * dot(candidates, points)
        return jnp.maximum(to, 0.0)

    def add(
        i: Any, carry: tuple[Float[Array, "K D"], Float[Array, " N"]]
    ) -> tuple[Float[Array, "K D"], Float[Array, " N"]]:
        centroids, nearest = carry
        mass = jnp.cumsum(nearest)
        uniform = jax.random.uniform(jax.random.fold_in(key, i), (trials,))
        draws = jnp.searchsorted(mass, mass[-1] * uniform)
        candidates = points[jnp.minimum(draws, len(points) - 1)]
        reduced = jnp.minimum(nearest[None], distance(candidates))
        best = jnp.argmin(jnp.sum(reduced, axis=1))
        return centroids.at[i].set(candidates[best]), reduced[best]

    first = points[jax.random.randint(jax.random.fold_in(key, 0), (), 0, len(points))]
    centroids = jnp.zeros((clusters, points.shape[1])).at[0].set(first)
    return jax.lax.fori_loop(1, clusters, add, (centroids, distance(first[None])[0]))[0]
