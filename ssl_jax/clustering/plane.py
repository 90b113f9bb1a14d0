"""Places of images in the plane: t-SNE of some, and of all others by the most similar of these."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.ops.neighbours import nearest
from ssl_jax.ops.vectors import unit

ROWS = 5_000  # images that t-SNE places, at most
_FEWEST = 5  # images for t-SNE
_PERPLEXITY = 30.0
_BESIDE = 3  # images that place another between them
_BLOCK = 4096
_SEED = 0


def places(features: Any, most: int = ROWS) -> np.ndarray:
    """Places float32 [N, 2] of N features, near each other where the features are similar.

    t-SNE (scikit-learn's, started from the principal components) by cosine. Of more than `most`
    rows a random choice is placed so. Each of the others lies between the three most similar of
    these, weighted by similarity. The axes have no unit. Fewer than five rows get their principal
    components.

    Args:
        features: [N, D].
        most: rows for t-SNE, which takes half a minute for 5,000.
    """
    points = np.asarray(unit(features), np.float32)
    rows = np.arange(len(points))
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(_SEED).choice(len(rows), most, replace=False))
    placed = _placed(points[rows])
    if len(rows) == len(points):
        return placed
    everything = np.empty((len(points), 2), np.float32)
    everything[rows] = placed
    others = np.setdiff1d(np.arange(len(points)), rows)
    for start in range(0, len(others), _BLOCK):
        block = others[start : start + _BLOCK]
        everything[block] = _between(points[block], points[rows], placed)
    return everything


def _placed(points: np.ndarray) -> np.ndarray:
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    if len(points) < _FEWEST or np.ptp(points, axis=0).max() < 1e-6:
        return _components(points)
    perplexity = min(_PERPLEXITY, (len(points) - 1) / 3)
    start: Any = _start(points)
    model = TSNE(2, perplexity=perplexity, init=start, random_state=_SEED)
    with threadpool_limits(1):  # more threads wait for each other on a busy machine
        return model.fit_transform(points).astype(np.float32)


def _start(points: np.ndarray) -> np.ndarray:
    """Where t-SNE starts: the principal components, with a standard deviation of 1e-4."""
    components = _components(points)
    return components / max(float(components[:, 0].std()), 1e-12) * 1e-4


def _components(points: np.ndarray) -> np.ndarray:
    """The first two principal components [N, 2]; 0 where there are none."""
    left, size, _ = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
    components = np.zeros((len(points), 2), np.float32)
    count = min(2, len(size))
    components[:, :count] = (left * size)[:, :count]
    # The sign of a component is arbitrary; its largest entry is made positive.
    largest = np.abs(components).argmax(axis=0)
    signs = np.sign(components[largest, np.arange(2)])
    return components * np.where(signs == 0, 1, signs)


def _between(points: np.ndarray, placed_points: np.ndarray, placed: np.ndarray) -> np.ndarray:
    """Places [n, 2] of unit rows between those of the most similar placed ones."""
    count = min(_BESIDE, len(placed_points))
    similarity, index = jax.jit(nearest, static_argnums=2)(
        jnp.asarray(points), jnp.asarray(placed_points), count
    )
    distance = np.maximum(1.0 - np.asarray(similarity), 1e-6)
    weight = 1.0 / distance
    weight /= weight.sum(axis=1, keepdims=True)
    return (weight[..., None] * placed[np.asarray(index)]).sum(axis=1)
