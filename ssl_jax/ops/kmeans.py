"""k-means on the device: greedy k-means++ starts, Lloyd iterations, restarts, empty clusters refilled."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ssl_jax.ops.mesh import over_rows, sum_over_rows
from ssl_jax.ops.vectors import dot, unit


class KMeans(NamedTuple):
    """Centroids [K, D] (plain means, not unit length), labels [N] int32 and the scalar inertia."""

    centroids: jax.Array
    labels: jax.Array
    inertia: jax.Array


@partial(jax.jit, static_argnames=("clusters", "iterations", "restarts", "metric", "chunk"))
def kmeans(key, points, clusters: int, *, iterations: int, restarts: int = 1, metric="cosine", init=None, chunk=2**20):
    """Lloyd's algorithm from greedy k-means++ starts; the restart with the smallest inertia wins.

    Args:
        key: random key of the starts.
        points: [N, D]; for `cosine` brought to unit length first.
        clusters: K, at most N.
        iterations: Lloyd iterations at most, fewer where centroids come to rest; then one last assignment.
        restarts: independent starts.
        metric: "cosine" assigns by cosine to the centroid and sums 1 - cosine; "euclidean" assigns by
            distance and sums distances (not squared). The centroid is the plain mean of its members in both.
        init: [K, D] starting centroids instead of k-means++ (one restart).
        chunk: points compared with the centroids at a time.

    Returns:
        KMeans. An empty cluster takes the point that is farthest from its own centroid.

    Raises:
        ValueError: more clusters than points, or an unknown metric.
    """
    if clusters > len(points):
        raise ValueError(f"{clusters} clusters for {len(points)} points")
    if metric not in ("cosine", "euclidean"):
        raise ValueError(f"metric {metric!r}: choose cosine or euclidean")
    points = unit(points) if metric == "cosine" else jnp.asarray(points, jnp.float32)

    def run(key):
        start = _plus_plus(key, points, clusters) if init is None else jnp.asarray(init, jnp.float32)
        centroids = _converge(lambda *last: _lloyd(points, *last, metric, chunk), len(points), start, iterations)
        labels, cost = _assign(points, centroids, metric, chunk)
        return KMeans(centroids, labels, jnp.sum(cost))

    runs = jax.lax.map(run, jax.random.split(key, restarts))
    best = jnp.argmin(runs.inertia)
    return jax.tree.map(lambda a: a[best], runs)


def _converge(update, rows, centroids, iterations):
    """`update(centroids, labels, sums)` applied so many times, or until the centroids rest; the centroids [K, D]."""

    def step(carry):
        i, last, _ = carry
        new = update(*last)
        return i + 1, new, jnp.any(new[0] != last[0])

    goes_on = lambda carry: (carry[0] < iterations) & carry[2]
    nowhere = jnp.full(rows, len(centroids), jnp.int32)  # all points move in the first step
    start = centroids, nowhere, jnp.zeros_like(centroids)
    return jax.lax.while_loop(goes_on, step, (0, start, True))[1][0]


@partial(jax.jit, static_argnames=("metric", "chunk"))
def nearest_centroid(points, centroids, *, metric="cosine", chunk=2**20):
    """Labels [N] int32: the centroid of [K, D] that is nearest to each of `points` [N, D]; see `kmeans`."""
    return _assign(points, centroids, metric, chunk)[0]


def random_rows(key, points, count: int):
    """`count` different rows of `points` [N, D], drawn at random: the start of the published Local Aggregation."""
    return points[jax.random.permutation(key, len(points))[:count]]


def _assign(points, centroids, metric, chunk):
    """Labels [N] and costs [N]: 1 - cosine, or the distance, to the nearest centroid; each device for its own rows."""
    return over_rows(lambda x, c: _assign_rows(x, c, metric, chunk), points, centroids)


def _assign_rows(points, centroids, metric, chunk):
    # Tables are [K, N]: on a CPU that is the faster way round.
    def block(x):
        if metric == "cosine":
            score = dot(unit(centroids), x)
            return jnp.argmax(score, axis=0), 1.0 - jnp.max(score, axis=0)
        half = dot(centroids, x) - 0.5 * jnp.sum(centroids**2, axis=1)[:, None]
        square = jnp.sum(x * x, axis=1) - 2.0 * jnp.max(half, axis=0)
        return jnp.argmax(half, axis=0), jnp.sqrt(jnp.maximum(square, 0.0))

    rows = len(points)
    table = 2**24 if jax.default_backend() == "cpu" else 2**26  # 64 MB suit a CPU; at most 256 MB
    parts = -(-rows // max(1, min(chunk, table // len(centroids))))
    chunk = -(-rows // parts)
    if rows == chunk:
        labels, cost = block(points)
    else:
        blocks = jnp.pad(points, ((0, -rows % chunk), (0, 0))).reshape(-1, chunk, points.shape[1])
        labels, cost = (a.reshape(-1)[:rows] for a in jax.lax.map(block, blocks))
    return labels.astype(jnp.int32), cost


def _lloyd(points, centroids, labels, sums, metric, chunk):
    """One assignment and one mean; empty clusters move to the farthest points. Centroids, labels and their sums."""
    last, (labels, _) = labels, _assign(points, centroids, metric, chunk)
    clusters = len(centroids)
    sums = _follow(points, last, labels, sums)
    count = jax.ops.segment_sum(jnp.ones(len(points)), labels, clusters)

    def refill(means):
        _, cost = _assign(points, centroids, metric, chunk)  # again: hardly ever needed
        empty = count == 0
        farthest = jax.lax.top_k(cost, clusters)[1]
        return jnp.where(empty[:, None], points[farthest[jnp.cumsum(empty) - 1]], means)

    means = sums / jnp.maximum(count, 1.0)[:, None]
    return jax.lax.cond(jnp.any(count == 0), refill, lambda m: m, means), labels, sums


def _follow(points, last, labels, sums):
    """The sums [K, D] of each cluster's points: those of the `last` labels, less what went and plus what came.

    Only the points that moved are read, where they are at most an eighth; else all are summed.
    """
    clusters, room = len(sums), len(points) // 8

    def change(rows):
        points, last, labels = rows
        at = jnp.nonzero(last != labels, size=min(room, len(points)), fill_value=len(points))[0]
        moved = points.at[at].get(mode="fill", fill_value=0.0)
        came, went = (x.at[at].get(mode="fill", fill_value=clusters) for x in (labels, last))
        return jax.ops.segment_sum(moved, came, clusters) - jax.ops.segment_sum(moved, went, clusters)

    moves = lambda: sums + sum_over_rows(change, (points, last, labels))
    afresh = lambda: jax.ops.segment_sum(points, labels, clusters)
    return jax.lax.cond(jnp.sum(last != labels) <= room, moves, afresh)


def _plus_plus(key, points, clusters):
    """Greedy k-means++ (Arthur & Vassilvitskii 2007): of a few draws by squared distance keep the best."""
    trials = 2 + int(math.log(clusters))
    square = jnp.sum(points * points, axis=1)

    def distance(candidates):
        to = jnp.sum(candidates**2, axis=1)[:, None] + square[None] - 2.0 * dot(candidates, points)
        return jnp.maximum(to, 0.0)

    def add(i, carry):
        centroids, nearest = carry
        mass = jnp.cumsum(nearest)
        draws = jnp.searchsorted(mass, mass[-1] * jax.random.uniform(jax.random.fold_in(key, i), (trials,)))
        candidates = points[jnp.minimum(draws, len(points) - 1)]
        reduced = jnp.minimum(nearest[None], distance(candidates))
        best = jnp.argmin(jnp.sum(reduced, axis=1))
        return centroids.at[i].set(candidates[best]), reduced[best]

    first = points[jax.random.randint(jax.random.fold_in(key, 0), (), 0, len(points))]
    centroids = jnp.zeros((clusters, points.shape[1])).at[0].set(first)
    return jax.lax.fori_loop(1, clusters, add, (centroids, distance(first[None])[0]))[0]
