"""Images into clusters: by a method's own prototypes, or by k-means on the embedding.

encoder = ssl_jax.load_encoder("runs/swav")
found = clusters.assign(encoder, images)
images[found.labels == 3]
"""

import dataclasses
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.ops.kmeans import kmeans
from ssl_jax.ops.neighbours import nearest
from ssl_jax.ops.vectors import unit

ITERATIONS = 100


@dataclasses.dataclass(frozen=True, eq=False)
class ClusterAssignment:
    """Which cluster each image is in, and how typical it is of it.

    Attributes:
        labels: [N] int32.
        similarity: [N] cosine with the own centroid.
        margin: [N] by how much that is above the cosine with the next centroid: small between two clusters.
        centroids: [K, D] unit rows; some may be nobody's.
    """

    labels: np.ndarray
    similarity: np.ndarray
    margin: np.ndarray
    centroids: np.ndarray

    @cached_property
    def sizes(self) -> np.ndarray:
        """[K] images in each cluster."""
        return np.bincount(self.labels, minlength=len(self.centroids))

    @property
    def perplexity(self) -> float:
        """exp(entropy of the sizes): as many clusters of one size would be as even as these."""
        share = self.sizes[self.sizes > 0] / len(self.labels)
        return float(np.exp(-np.sum(share * np.log(share))))

    @cached_property
    def ranks(self) -> np.ndarray:
        """[N] from 1, the most typical image of each cluster, on."""
        order, ranks = self._order, np.empty(len(self.labels), np.int64)
        starts = np.cumsum(self.sizes) - self.sizes
        ranks[order] = np.arange(len(order)) - starts[self.labels[order]] + 1
        return ranks

    def members(self, cluster: int) -> np.ndarray:
        """Rows of a cluster's images, the most typical first."""
        end = np.cumsum(self.sizes)[cluster]
        return self._order[end - self.sizes[cluster] : end]

    @cached_property
    def _order(self):
        """All rows, cluster by cluster, by falling similarity; equal ones in their order."""
        return np.lexsort((np.arange(len(self.labels)), -self.similarity, self.labels))


def assign(encoder, images, *, clusters: int = 0, by: str = "", restarts: int = 10, seed: int = 0) -> ClusterAssignment:
    """Clusters of images [N, H, W, C] uint8, of any size.

    Args:
        encoder: of `ssl_jax.load_encoder`.
        images: what is assigned.
        clusters: K of k-means.
        by: "own": each image goes to the prototype that it scores highest with, without Sinkhorn-Knopp, as SwAV's
            authors assign images; "kmeans": on the embeddings of these images; "": own where there are prototypes and
            `clusters` is 0, else kmeans.
        restarts: starts of k-means, the tightest wins.
        seed: of the starts.

    Raises:
        ValueError: no prototypes, no number of clusters or one that does not fit, no such images.
    """
    by = choice(encoder, clusters, by)
    check(by, clusters, len(images))
    return of_features(encoder, encoder(images, encoder.clustered), by, clusters, restarts=restarts, seed=seed)


def choice(encoder, clusters: int, by: str) -> str:
    """ "own" or "kmeans"; see `assign`.

    Raises:
        ValueError: neither, own without prototypes, or own and a number of clusters.
    """
    if by not in ("", "own", "kmeans"):
        raise ValueError(f"by={by!r}: choose own or kmeans")
    has_own = encoder.prototypes is not None
    if by == "own" and not has_own:
        raise ValueError("by='own': this encoder has no prototypes; choose kmeans, with a number of clusters")
    if by == "own" and clusters:
        raise ValueError(
            f"clusters={clusters}: the encoder's own are {len(encoder.prototypes)}; leave clusters out or choose kmeans"
        )
    return by or ("own" if has_own and not clusters else "kmeans")


def check(by: str, clusters: int, images: int) -> None:
    """Raises ValueError where there is nothing to assign, or k-means has no fitting number of clusters."""
    if not images:
        raise ValueError("there are no images")
    if by == "kmeans" and not clusters:
        raise ValueError("clusters=0: k-means needs a number of clusters")
    if by == "kmeans" and not 2 <= clusters <= images:
        raise ValueError(f"clusters={clusters}: between 2 and the {images:,} images")


def of_features(
    encoder, features, by: str, clusters: int = 0, *, restarts: int = 10, seed: int = 0
) -> ClusterAssignment:
    """`assign` of features [N, D] that are there already; nothing is checked."""
    points = unit(features)
    if by == "own":
        return to_centroids(points, encoder.prototypes)
    settings = dict(iterations=ITERATIONS, restarts=restarts, metric="cosine")
    return to_centroids(points, kmeans(jax.random.key(seed), points, clusters, **settings).centroids)


def to_centroids(points, centroids) -> ClusterAssignment:
    """Unit `points` [N, D], each at the nearest of `centroids` [K, D], K at least 2, by cosine."""
    centroids = unit(jnp.asarray(centroids))
    similarity, index = (np.asarray(x) for x in jax.jit(nearest, static_argnums=2)(points, centroids, 2))
    return ClusterAssignment(index[:, 0], similarity[:, 0], similarity[:, 0] - similarity[:, 1], np.asarray(centroids))
