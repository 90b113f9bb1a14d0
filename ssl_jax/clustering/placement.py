"""The cluster of each image, and how images are placed into clusters that exist."""

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.clustering import density
from ssl_jax.clustering.saved import Sample, SavedClusters
from ssl_jax.ops.neighbours import nearest
from ssl_jax.ops.vectors import unit
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import counted

OUTLIER = -1  # in place of a cluster


@dataclasses.dataclass(frozen=True, eq=False)
class ClusterAssignment:
    """The cluster of each image, and how typical the image is of it.

    Attributes:
        labels: [N] int32 cluster of each image; -1 for outliers, which only "hdbscan" has.
        similarity: [N] cosine similarity to the cluster's centroid; of outliers to the nearest.
        margin: [N] `similarity` minus the highest cosine similarity to another centroid; small
            between two clusters. Below 0 if another centroid is nearer, which only "hdbscan" has.
        centroids: [K, D] unit rows; some clusters may be empty.
        kind: "own", "kmeans" or "hdbscan".
        settings: how the clusters were made, as JSON.
        names: K names of the clusters, "" for one without; or none at all.
        sample: of "hdbscan".
    """

    labels: np.ndarray
    similarity: np.ndarray
    margin: np.ndarray
    centroids: np.ndarray
    kind: str = "kmeans"
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    names: tuple[str, ...] = ()
    sample: Sample | None = None

    def __repr__(self) -> str:
        """One line, without the arrays."""
        images = counted(len(self.labels), "image")
        outliers = f", {counted(self.outliers, 'outlier')}" if self.outliers else ""
        clusters = counted(len(self.centroids), "cluster")
        return f"ClusterAssignment({images} in {clusters}{outliers})"

    @cached_property
    def sizes(self) -> np.ndarray:
        """[K] images in each cluster; outliers are in none."""
        return self._sizes[1:]

    @property
    def outliers(self) -> int:
        """Number of outliers."""
        return int(self._sizes[0])

    @property
    def perplexity(self) -> float:
        """exp(entropy of the sizes): the number of equally large clusters that would be as even.

        0 if all images are outliers.
        """
        sizes = self.sizes[self.sizes > 0]
        if not len(sizes):
            return 0.0
        share = sizes / sizes.sum()
        return float(np.exp(-np.sum(share * np.log(share))))

    @cached_property
    def ranks(self) -> np.ndarray:
        """[N] rank of each image within its cluster, or among the outliers; 1 is most typical."""
        ranks = np.empty(len(self.labels), np.int64)
        starts = np.cumsum(self._sizes) - self._sizes
        positions = np.arange(len(self.labels))
        ranks[self._order] = positions - starts[self.labels[self._order] + 1] + 1
        return ranks

    def members(self, cluster: int) -> np.ndarray:
        """Indices of a cluster's images, most typical first; of outliers for cluster -1.

        Raises:
            IndexError: there is no such cluster.
        """
        if not OUTLIER <= cluster < len(self.centroids):
            raise IndexError(f"cluster {cluster} of {len(self.centroids)}")
        end = np.cumsum(self._sizes)[cluster + 1]
        return self._order[end - self._sizes[cluster + 1] : end]

    @cached_property
    def _sizes(self) -> np.ndarray:
        """[1 + K] number of outliers, then of images in each cluster."""
        return np.bincount(np.asarray(self.labels) + 1, minlength=len(self.centroids) + 1)

    @cached_property
    def _order(self) -> np.ndarray:
        """[N] indices of all images, by cluster, then by decreasing similarity, then in order."""
        return np.lexsort((np.arange(len(self.labels)), -self.similarity, self.labels))


def to_saved(features: np.ndarray | jax.Array, use: SavedClusters) -> ClusterAssignment:
    """Assigns features [N, D], N >= 1, to clusters made before.

    Raises:
        SettingError: the clusters are of features of another size.
    """
    points = unit(features)
    if points.shape[1] != use.centroids.shape[1]:
        raise SettingError(
            f"use: the clusters are of {use.centroids.shape[1]} features, the encoder has "
            f"{points.shape[1]}; the file is damaged, make the clusters again"
        )
    if use.sample:
        clusters = to_sample(points, use.centroids, use.sample)
    else:
        clusters = to_centroids(points, use.centroids)
    return dataclasses.replace(clusters, kind=use.kind, settings=use.settings, names=use.names)


def to_sample(
    points: np.ndarray | jax.Array, centroids: np.ndarray, sample: Sample
) -> ClusterAssignment:
    """Assigns unit `points` [N, D] to the dense regions of a sample, or to none of them."""
    nearby = to_centroids(points, centroids)
    labels = density.labels_of(points, sample)
    of_own = jnp.sum(jnp.asarray(points) * centroids[np.maximum(labels, 0)], axis=1)
    best = nearby.similarity
    second = best - nearby.margin
    others = np.where(labels == nearby.labels, second, best)
    similarity = np.where(labels == OUTLIER, best, np.asarray(of_own))
    margin = similarity - np.where(labels == OUTLIER, second, others)
    return dataclasses.replace(
        nearby, labels=labels, similarity=similarity, margin=margin, kind="hdbscan", sample=sample
    )


def to_centroids(
    points: np.ndarray | jax.Array, centroids: np.ndarray | jax.Array
) -> ClusterAssignment:
    """Assigns unit `points` [N, D] to the nearest of `centroids` [K, D], K >= 2, by cosine."""
    centroids = unit(jnp.asarray(centroids))
    similarity, index = jax.jit(nearest, static_argnums=2)(points, centroids, 2)
    similarity = np.asarray(similarity)
    return ClusterAssignment(
        labels=np.asarray(index)[:, 0],
        similarity=similarity[:, 0],
        margin=similarity[:, 0] - similarity[:, 1],
        centroids=np.asarray(centroids),
    )
