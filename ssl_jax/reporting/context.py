"""Euclidean against contextual neighbours within batches, for a report (CoNR, figures 1b and 5)."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.evaluation.purity import Purity
from ssl_jax.ops.neighbours import contextual_features
from ssl_jax.ops.vectors import dot, unit
from ssl_jax.settings.resolve import SettingError

NEIGHBOURS = 10  # of an image, as in the paper's figure 5
BATCH = 256  # as in the paper
_BATCHES = 8
_SETTINGS = ("k1", "k2", "alpha", "layers")
KINDS = ("Euclidean", "in context")


@dataclasses.dataclass(frozen=True)
class Compared:
    """Neighbours of images within their batches, of two kinds.

    Attributes:
        rows: [M] the images, rows of all points.
        neighbours: {kind: [M, k]}, rows of all points, nearest first, without the image itself.
        distances: {kind: [M, k]}: between unit embeddings, or between unit contexts.
        batch: images in a batch.
        settings: k1, k2, alpha and layers of `contextual_features`.
    """

    rows: np.ndarray
    neighbours: dict[str, np.ndarray]
    distances: dict[str, np.ndarray]
    batch: int
    settings: dict[str, Any]


def compared(points: np.ndarray, settings: Mapping[str, Any], seed: int = 0) -> Compared:
    """The neighbours of all images of some batches, by Euclidean distance and in context.

    Args:
        points: [N, D] unit embeddings.
        settings: of a run; see `context_settings`.
        seed: draws the batches.

    Raises:
        SettingError: too few points for the graph.
    """
    graph = context_settings(settings)
    batch = min(BATCH, len(points))
    k = min(NEIGHBOURS, batch - 1)
    if graph["k1"] > batch or k < 1:
        raise SettingError(
            f"neighbours in context need at least k1={graph['k1']} training images; there are "
            f"{len(points)}"
        )
    order = np.random.default_rng(seed).permutation(len(points))
    count = min(len(points) // batch, _BATCHES)
    neighbours = {kind: [] for kind in KINDS}
    distances = {kind: [] for kind in KINDS}
    for rows in order[: count * batch].reshape(count, batch):
        results = _nearest(jnp.asarray(points[rows]), k=k, **graph)
        for kind, (distance, index) in zip(KINDS, results):
            neighbours[kind].append(rows[np.asarray(index)])
            distances[kind].append(np.asarray(distance))
    return Compared(
        rows=order[: count * batch],
        neighbours={kind: np.concatenate(parts) for kind, parts in neighbours.items()},
        distances={kind: np.concatenate(parts) for kind, parts in distances.items()},
        batch=batch,
        settings=graph,
    )


def context_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """k1, k2, alpha and layers: those a run of CoNR trains with, else those of `evals.purity`."""
    source = settings["positives"]
    if source["name"] != "contextual":
        source = settings["evals"].get("purity", {})
    return {name: source.get(name, getattr(Purity, name)) for name in _SETTINGS}


@partial(jax.jit, static_argnames=("k", *_SETTINGS))
def _nearest(
    points: jax.Array, *, k: int, k1: int, k2: int, alpha: float, layers: int
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """Distance and index [B, k] of the nearest other rows, Euclidean and in context."""
    points = unit(points)
    context = contextual_features(points, k1=k1, k2=k2, alpha=alpha, layers=layers)
    return _others(points, k), _others(context, k)


def _others(x: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """Distance and index [B, k] of the nearest other rows; order by distance is that by cosine."""
    similarity = jnp.where(jnp.eye(len(x), dtype=bool), -jnp.inf, dot(x, x))
    nearest, index = jax.lax.top_k(similarity, k)
    return jnp.sqrt(jnp.maximum(2.0 - 2.0 * nearest, 0.0)), index
