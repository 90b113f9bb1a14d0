"""Images into clusters: by a method's own prototypes, or by k-means on the embeddings.

encoder = ssl_jax.load_encoder("runs/swav")
clusters = assignment.assign(encoder, images)
images[clusters.labels == 3]
"""

import dataclasses
import math
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.inference.pretrained import Encoder
from ssl_jax.ops.kmeans import kmeans
from ssl_jax.ops.neighbours import nearest
from ssl_jax.ops.vectors import unit

ITERATIONS = 100
FEWEST = 10  # clusters to look at, if nobody says how many
MOST = 20


@dataclasses.dataclass(frozen=True, eq=False)
class ClusterAssignment:
    """The cluster of each image, and how typical the image is of it.

    Attributes:
        labels: [N] int32 cluster of each image.
        similarity: [N] cosine similarity to the cluster's centroid.
        margin: [N] `similarity` minus the cosine similarity to the second nearest centroid; small
            between two clusters.
        centroids: [K, D] unit rows; some clusters may be empty.
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
        """exp(entropy of the sizes): the number of equally large clusters that would be as even."""
        share = self.sizes[self.sizes > 0] / len(self.labels)
        return float(np.exp(-np.sum(share * np.log(share))))

    @cached_property
    def ranks(self) -> np.ndarray:
        """[N] rank of each image within its cluster; 1 is the most typical."""
        ranks = np.empty(len(self.labels), np.int64)
        starts = np.cumsum(self.sizes) - self.sizes
        positions = np.arange(len(self.labels))
        ranks[self._order] = positions - starts[self.labels[self._order]] + 1
        return ranks

    def members(self, cluster: int) -> np.ndarray:
        """Indices of a cluster's images, most typical first."""
        end = np.cumsum(self.sizes)[cluster]
        return self._order[end - self.sizes[cluster] : end]

    @cached_property
    def _order(self) -> np.ndarray:
        """[N] indices of all images, by cluster, then by decreasing similarity, then in order."""
        return np.lexsort((np.arange(len(self.labels)), -self.similarity, self.labels))


def assign(
    encoder: Encoder,
    images: np.ndarray,
    *,
    clusters: int = 0,
    by: str = "",
    restarts: int = 10,
    seed: int = 0,
) -> ClusterAssignment:
    """Assigns images [N, H, W, C] uint8, of any size, to clusters.

    Args:
        encoder: from `ssl_jax.load_encoder`.
        images: the images to assign.
        clusters: K of k-means.
        by: "own": each image goes to the prototype with its highest score, without Sinkhorn-Knopp,
            as SwAV's authors assign images; "kmeans": k-means on the embeddings of these images;
            "": own if there are prototypes and `clusters` is 0, else kmeans.
        restarts: runs of k-means, of which the one with the lowest inertia counts.
        seed: seed of k-means.

    Raises:
        ValueError: the encoder has no prototypes, the number of clusters is missing or does not
            fit, or the images cannot be used.
    """
    by = choice(encoder, clusters, by)
    check(by, clusters, len(images))
    features = encoder(images, encoder.clustered)
    return of_features(encoder, features, by, clusters, restarts=restarts, seed=seed)


def choice(encoder: Encoder, clusters: int, by: str) -> str:
    """Resolves `by` to "own" or "kmeans"; see `assign`.

    Raises:
        ValueError: another value, "own" without prototypes, or "own" with a number of clusters.
    """
    if by not in ("", "own", "kmeans"):
        raise ValueError(f"by={by!r}: choose own or kmeans")
    has_prototypes = encoder.prototypes is not None
    if by == "own" and not has_prototypes:
        raise ValueError(
            "by='own': this encoder has no prototypes; choose kmeans, with a number of clusters"
        )
    if by == "own" and clusters:
        raise ValueError(
            f"clusters={clusters}: the encoder has {len(encoder.prototypes)} clusters of its own; "
            "leave clusters out or choose kmeans"
        )
    return by or ("own" if has_prototypes and not clusters else "kmeans")


def few_clusters(images: int) -> int:
    """A number of clusters to look at: 10 to 20, by the number of images; fewer below 20 images."""
    wanted = round(math.sqrt(images / 2))
    return max(2, min(max(wanted, FEWEST), MOST, images // 2))


def check(by: str, clusters: int, images: int) -> None:
    """Checks the numbers of images and clusters.

    Raises:
        ValueError: no images, or a number of clusters that k-means cannot make of them.
    """
    if not images:
        raise ValueError("there are no images")
    if by == "kmeans" and not clusters:
        raise ValueError("clusters=0: k-means needs a number of clusters")
    if by == "kmeans" and images == 1:
        raise ValueError(f"clusters={clusters}: there is only one image, k-means needs two")
    if by == "kmeans" and not 2 <= clusters <= images:
        raise ValueError(f"clusters={clusters}: between 2 and the {images:,} images")


def of_features(
    encoder: Encoder,
    features: np.ndarray | jax.Array,
    by: str,
    clusters: int = 0,
    *,
    restarts: int = 10,
    seed: int = 0,
) -> ClusterAssignment:
    """`assign` for precomputed features [N, D], without checks."""
    points = unit(features)
    if by == "own":
        return to_centroids(points, encoder.prototypes)
    clustering = kmeans(
        jax.random.key(seed),
        points,
        clusters,
        iterations=ITERATIONS,
        restarts=restarts,
        metric="cosine",
    )
    return to_centroids(points, clustering.centroids)


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
