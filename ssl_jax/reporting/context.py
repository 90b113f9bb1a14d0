"""Euclidean against contextual neighbours within batches, for a report (CoNR, figures 1b and 5)."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import figures
from ssl_jax.evaluation.purity import Purity
from ssl_jax.figures.neighbours import matches
from ssl_jax.ops.neighbours import contextual_features
from ssl_jax.ops.vectors import dot, unit
from ssl_jax.reporting.features import Features
from ssl_jax.reporting.pictures import QUERIES, Picture, most_confident, picture
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


def in_context(x: Features) -> Picture:
    """Euclidean against contextual neighbours of some images in a batch (CoNR, figures 1b, 5)."""
    neighbourhoods = compared(x.points, x.settings)
    euclidean, contextual = (
        matches(neighbourhoods.rows, index, x.labels)
        for index in neighbourhoods.neighbours.values()
    )
    chosen, how = choose_differences(
        euclidean, contextual, neighbourhoods, x.labels[neighbourhoods.rows]
    )
    kinds = neighbourhoods.neighbours
    shown = np.concatenate(
        [neighbourhoods.rows[chosen, None], *(i[chosen] for i in kinds.values())], 1
    )
    drawn, places = np.unique(shown, return_inverse=True)
    places = places.reshape(shown.shape)
    k = euclidean.shape[1]
    figure = figures.neighbour_comparison(
        [x.picture(row) for row in drawn],
        places[:, 0],
        {kind: places[:, 1 + i * k : 1 + (i + 1) * k] for i, kind in enumerate(kinds)},
        {kind: distance[chosen] for kind, distance in neighbourhoods.distances.items()},
        labels=x.labels[drawn],
        names=x.names,
    )
    share = ""
    if not np.isnan(euclidean).all():
        share = (
            f" Over all {len(neighbourhoods.rows):,} images of these batches, "
            f"{np.nanmean(euclidean):.1%} of the Euclidean and {np.nanmean(contextual):.1%} of the "
            "contextual neighbours are of an image's class."
        )
    graph = ", ".join(f"{name}={value:g}" for name, value in neighbourhoods.settings.items())
    alt = (
        f"{len(chosen)} training images, each with its {k} nearest in a batch by Euclidean "
        f"distance and in context"
    )
    caption = (
        f"The {k} nearest of an image in its batch of {neighbourhoods.batch}, by Euclidean "
        f"distance of unit embeddings (the order of cosines) and in context ({graph}), with "
        f"distances (CoNR, figures 1b and 5): {how}.{share}"
    )
    return picture(figure, alt, caption, "png")


def choose_differences(
    euclidean: np.ndarray, contextual: np.ndarray, neighbourhoods: Compared, labels: np.ndarray
) -> tuple[np.ndarray, str]:
    """Chooses images whose neighbours context improves most, and those where it does harm.

    Args:
        euclidean, contextual: [M, k] whether a neighbour has the image's class: 1, 0, or nan.
        neighbourhoods: the neighbours; without classes, images whose two neighbourhoods have the
            least in common are chosen.
        labels: [M] classes; images of different classes are preferred.

    Returns:
        indices of the images, and how they were chosen.
    """
    shares = []
    for right in (euclidean, contextual):
        known = ~np.isnan(right)
        share = np.nansum(right, axis=1) / np.maximum(known.sum(axis=1), 1)
        shares.append(np.where(known.any(axis=1), share, np.nan))
    gain = shares[1] - shares[0]
    if np.isnan(gain).all():
        first, second = neighbourhoods.neighbours.values()
        common = (first[:, :, None] == second[:, None, :]).any(axis=2).mean(axis=1)
        rows = np.argsort(common, kind="stable")[: 2 * QUERIES]
        return rows, "those whose two neighbourhoods have the least in common"
    better = most_confident(gain > 0, gain, labels)[:QUERIES]
    worse = most_confident(gain < 0, -gain, labels)[:QUERIES]
    if not len(better) and not len(worse):
        spread = np.linspace(0, len(gain) - 1, min(2 * QUERIES, len(gain))).astype(int)
        return spread, "evenly spaced, as both are right equally often for every image"
    parts = [
        f"{'the one' if len(rows) == 1 else f'the {len(rows)}'} that context {verb} most"
        for rows, verb in ((better, "improves"), (worse, "harms"))
        if len(rows)
    ]
    parts += [
        f"none that context {verb}"
        for rows, verb in ((better, "improves"), (worse, "harms"))
        if not len(rows)
    ]
    return np.concatenate([better, worse]), f"{'; '.join(parts)}, of different classes if possible"


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
