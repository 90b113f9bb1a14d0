"""Dense regions as clusters, and all else as outliers: HDBSCAN (Campello et al. 2013)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.clustering.saved import Sample
from ssl_jax.ops.neighbours import nearest
from ssl_jax.ops.vectors import unit

MOST_ROWS = 10_000  # that HDBSCAN itself sees; its time grows with their square
NEIGHBOURS = 5  # that make a row dense, and whose distance is its radius
FEWEST = 10  # images
_ROUNDING = 1e-5  # of a cosine in float32


def settings_for(images: int) -> dict[str, int]:
    """The settings for a number of images, as JSON.

    A cluster has at least one in a hundred of the rows that HDBSCAN sees, and at least five.
    """
    rows = min(images, MOST_ROWS)
    return dict(rows=rows, min_cluster_size=max(5, rows // 100), min_samples=NEIGHBOURS)


def dense_regions(points: np.ndarray | jax.Array, seed: int = 0) -> tuple[np.ndarray, Sample]:
    """Clusters of unit `points` [N, D] by HDBSCAN, of at most `MOST_ROWS` random rows.

    The radius of a row is the cosine distance of its fifth neighbour among these rows.

    Args:
        points: [N, D], N >= `FEWEST`.
        seed: of the choice of rows.

    Returns:
        the clusters' centroids [K, D], unit rows, and the sample that `labels_of` needs.

    Raises:
        ValueError: fewer than two dense regions.
    """
    from sklearn.cluster import HDBSCAN

    settings = settings_for(len(points))
    rows = np.asarray(points)
    if settings["rows"] < len(rows):
        chosen = np.random.default_rng(seed).choice(len(rows), settings["rows"], replace=False)
        rows = rows[np.sort(chosen)]
    options: dict[str, Any] = {name: settings[name] for name in ("min_cluster_size", "min_samples")}
    options["copy"] = True
    clustering: Any = HDBSCAN(**options)
    labels = clustering.fit_predict(rows).astype(np.int32)
    count = labels.max() + 1
    if count < 2:
        raise ValueError(
            f"by='hdbscan': no two groups of {settings['min_cluster_size']} or more images are "
            "denser than the rest; choose kmeans, with a number of clusters"
        )
    sums = jax.ops.segment_sum(jnp.asarray(rows[labels >= 0]), labels[labels >= 0], count)
    similarity, _ = jax.jit(nearest, static_argnums=2)(rows, rows, NEIGHBOURS + 1)
    radius = 1 - np.asarray(similarity)[:, -1]
    return np.asarray(unit(sums)), Sample(rows, labels, np.maximum(radius, 0))


def labels_of(points: np.ndarray | jax.Array, sample: Sample) -> np.ndarray:
    """The cluster [N] int32 of each of the unit `points` [N, D]; -1 for outliers.

    A point belongs to the cluster of its nearest sampled row if it is within the row's radius.
    """
    similarity, index = jax.jit(nearest, static_argnums=2)(points, sample.rows, 1)
    distance = 1 - np.asarray(similarity)[:, 0]
    index = np.asarray(index)[:, 0]
    within = distance <= sample.radius[index] + _ROUNDING
    return np.where(within, sample.labels[index], -1).astype(np.int32)
