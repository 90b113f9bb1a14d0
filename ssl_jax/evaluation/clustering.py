"""k-means on features, scored against labels that the clustering never saw."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import interface
from ssl_jax.evaluation import metrics
from ssl_jax.interface import RunFacts, no_progress
from ssl_jax.ops.kmeans import kmeans
from ssl_jax.settings import ranges


def labelled(split, feature: str):
    """The feature [n, D] and labels [n] of those images of a split that have a label."""
    points, labels = jnp.asarray(split.features[feature]), np.asarray(split.labels)
    known = labels >= 0
    return (points, labels) if known.all() else (points[np.flatnonzero(known)], labels[known])


@dataclasses.dataclass(frozen=True)
class Clustering(interface.Evaluator):
    """Hungarian accuracy, NMI and ARI of k-means with restarts on the features of all labelled images trained on.

    Images without a label (STL-10's) are not clustered, as published.

    Attributes:
        clusters: K; 0 takes the number of classes.
        restarts: independent starts, the tightest wins (a single start is noisy).
        iterations: of Lloyd's algorithm.
        metric: "cosine" or "euclidean".
        feature: what is clustered.
        seed: of the starts.
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
        """Raises ValueError for more clusters than images, or a single one."""
        clusters = self.clusters or facts.classes
        if not 2 <= clusters <= facts.examples:
            images = f"the {facts.examples} training images"
            raise ValueError(f"clusters={clusters}: between 2 and {images}")

    @property
    def needs(self):
        return (self.feature,)

    def run(self, splits, state, report=no_progress):
        points, labels = labelled(splits["trained"], self.feature)
        found = kmeans(
            jax.random.key(self.seed),
            points,
            self.clusters or self.facts.classes,
            iterations=self.iterations,
            restarts=self.restarts,
            metric=self.metric,
        ).labels
        yield "acc", metrics.clustering_accuracy(labels, found)
        yield "nmi", metrics.normalized_mutual_info(labels, found)
        yield "ari", metrics.adjusted_rand_index(labels, found)


Evaluator = Clustering
