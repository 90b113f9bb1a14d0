"""k-means on features, scored against labels that the clustering never saw."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ssl_jax import interface
from ssl_jax.evaluation import metrics
from ssl_jax.interface import RunFacts, Split, TrainState, no_progress
from ssl_jax.ops.kmeans import kmeans
from ssl_jax.settings import ranges


def labelled(split: Split, feature: str) -> tuple[Float[Array, "n D"], Int[np.ndarray, " n"]]:
    """The feature and the labels of a split's labelled images."""
    points = jnp.asarray(split.features[feature])
    labels = np.asarray(split.labels)
    keep = labels >= 0
    return (points, labels) if keep.all() else (points[np.flatnonzero(keep)], labels[keep])


@dataclasses.dataclass(frozen=True)
class Clustering(interface.Evaluator):
    """Hungarian accuracy, NMI and ARI of k-means on the features of all labelled images trained on.

    Images without a label (STL-10's) are not clustered, as published.

    Attributes:
        clusters: number of clusters, K; 0 takes the number of classes.
        restarts: number of independent starts; the tightest wins (a single start is noisy).
        iterations: iterations of Lloyd's algorithm.
        metric: distance to the centroids: "cosine" or "euclidean".
        feature: the feature to cluster.
        seed: seed of the starts.
    """

    clusters: int = 0
    restarts: int = 10
    iterations: int = 50
    metric: str = "cosine"
    feature: str = "embedding"
    seed: int = 0
    facts: RunFacts = RunFacts()

    def __post_init__(self):
        if self.metric not in ("cosine", "euclidean"):
            raise ValueError(f"metric={self.metric!r}: choose cosine or euclidean")
        ranges.count(1, ranges.MANY, restarts=self.restarts)
        ranges.count(1, 10**6, iterations=self.iterations)
        ranges.count(0, clusters=self.clusters)
        ranges.count(0, ranges.SEED, seed=self.seed)

    def check(self, facts: RunFacts) -> None:
        """Raises ValueError unless there are at least two clusters and at most one per image."""
        clusters = self.clusters or facts.classes
        if not 2 <= clusters <= facts.examples:
            images = f"the {facts.examples} training images"
            raise ValueError(f"clusters={clusters}: between 2 and {images}")

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.feature,)

    def run(
        self,
        splits: Mapping[str, Split],
        state: TrainState | None,
        report: Callable[[str], None] = no_progress,
    ) -> Iterator[tuple[str, float]]:
        points, labels = labelled(splits["trained"], self.feature)
        clusters = kmeans(
            jax.random.key(self.seed),
            points,
            self.clusters or self.facts.classes,
            iterations=self.iterations,
            restarts=self.restarts,
            metric=self.metric,
        ).labels
        yield "acc", metrics.clustering_accuracy(labels, clusters)
        yield "nmi", metrics.normalized_mutual_info(labels, clusters)
        yield "ari", metrics.adjusted_rand_index(labels, clusters)


Evaluator = Clustering
