"""CoNR's boundary filter: samples near the boundary of their cluster are left out, fewer of them epoch by epoch."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ssl_jax.interface import RunFacts
from ssl_jax.ops.collapse import evenness
from ssl_jax.ops.kmeans import kmeans, nearest_centroid
from ssl_jax.ops.neighbours import boundary_ratio, inside
from ssl_jax.settings import ranges

_STUCK = 1.005  # times the inertia of new starts: above it a warm start is not kept


class Clusters(struct.PyTreeNode):
    """Clusters of the training set: centroids [K, D], labels [N] int32, and `used`; see `collapse.evenness`."""

    centroids: jax.Array
    labels: jax.Array
    used: jax.Array


@dataclasses.dataclass(frozen=True)
class Boundary:
    """Of each batch, the fraction with the smallest boundary ratios stays (CoNR, section 2.3).

    Clusters are those of cosine k-means on the embeddings of clean images, before the stage's first step and before
    each later epoch. A sample's ratio is its distance to its cluster's centroid (un-normalised, as released) over that
    to the nearest other one, both of the target feature that the loss uses. A sample that is left out remains a
    neighbour of others. Where some images have labels and others have none (STL-10), those with labels are clustered,
    as in ProPos, and the others belong to the nearest cluster; the labels' values are not used.

    Attributes:
        keep: fr(t0), the fraction that stays in the first epochs; 1 leaves nobody out, and nothing is clustered.
        relax: the fraction rises in a line to 1 (eq. 12); the n-th epoch of the stage, from 1, uses fr(n).
        relax_epochs: epochs until it is 1; 0: until the end of the run (eq. 12). Released: 50 of 200.
        strict: as released, the sample at the cut is left out, too: one fewer, also at a fraction of 1.
        count_left_out: as released, the loss divides by all samples of the batch, so that it shrinks with the fraction.
        clusters: K; 0 takes the number of classes.
        start: of the k-means before each epoch but the first: "fresh", `restarts` new starts of which the tightest
            wins, as released; "warm", from the centroids as they are, which keeps the clusters' numbers, unless
            `restarts` new starts are tighter by more than half a percent (logged as `fresh_start`); "unchecked", from
            the centroids as they are, which may stick after a strong drift, without a look at new starts.
        restarts: new k-means starts.
        iterations: of k-means, at most, each time.
        cluster_unlabelled: cluster images without labels, too, where others have some.
    """

    keep: float = 0.8
    relax: bool = True
    relax_epochs: float = 0.0
    strict: bool = False
    count_left_out: bool = False
    clusters: int = 0
    start: str = "warm"
    restarts: int = 10
    iterations: int = 50
    cluster_unlabelled: bool = False
    facts: RunFacts = RunFacts()

    def __post_init__(self):
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep={self.keep}: above 0 and at most 1 (1: nobody is left out)")
        ranges.between(0, ranges.EPOCHS, relax_epochs=self.relax_epochs)
        ranges.count(0, clusters=self.clusters)
        ranges.count(1, ranges.MANY, restarts=self.restarts)
        ranges.count(1, 10**6, iterations=self.iterations)
        if self.start not in ("fresh", "warm", "unchecked"):
            raise ValueError(f"start={self.start!r}: choose fresh, warm or unchecked")

    def check(self, facts: RunFacts) -> None:
        """Raises ValueError where relaxation outlasts the run, or clusters do not fit it."""
        if facts.first_step + self.relax_epochs * facts.steps_per_epoch > facts.total_steps:
            raise ValueError(f"relax_epochs={self.relax_epochs}: at least 0, and within the stage")
        if not self.active:
            return
        clusters = self.clusters or facts.classes
        bits = np.frombuffer(b"" if self.cluster_unlabelled else facts.with_label, np.uint8)
        if len(bits) and clusters > (labelled := int(np.unpackbits(bits).sum())):
            raise ValueError(
                f"clusters={clusters}: between 2 and the {labelled} labelled training images that "
                "are clustered, or set cluster_unlabelled=True"
            )
        if not 2 <= clusters <= facts.examples:
            raise ValueError(
                f"clusters={clusters}: between 2 and the {facts.examples} training images"
                + ("" if self.clusters else "; the data has no classes, so give their number")
            )

    @property
    def active(self) -> bool:
        """Whether anybody may be left out."""
        return self.keep < 1

    @property
    def _clusters(self):
        return self.clusters or self.facts.classes

    def fraction(self, epoch: int) -> float:
        """fr in the n-th epoch of the stage, from 1."""
        run = self.facts
        length = self.relax_epochs or (run.total_steps - run.first_step) / run.steps_per_epoch
        return min(1.0, self.keep + (1.0 - self.keep) * epoch / length) if self.relax else self.keep

    def counts(self) -> np.ndarray:
        """Samples of a batch that stay, for each epoch of the stage; exact, so not computed on the device."""
        run = self.facts
        epochs = math.ceil((run.total_steps - run.first_step) / run.steps_per_epoch)
        stay = [int(self.fraction(n) * run.batch_size) for n in range(1, max(epochs, 1) + 1)]
        return np.maximum(np.array(stay, np.int32), 1)

    def init(self, dim: int):
        """No clusters yet; `()` where nobody is left out."""
        if not self.active:
            return ()
        labels = jnp.zeros(self.facts.examples, jnp.int32)
        return Clusters(jnp.zeros((self._clusters, dim)), labels, jnp.ones(()))

    def kept(self, clusters, keys, index, step):
        """[B] bool: which of the examples `index`, with target features `keys` [B, D], stay at `step`."""
        if not self.active:
            return jnp.ones(len(index), bool)
        ratio = boundary_ratio(keys, clusters.centroids, clusters.labels[index])
        epoch = (step - self.facts.first_step) // self.facts.steps_per_epoch
        counts = self.counts()
        return inside(ratio, jnp.asarray(counts)[jnp.clip(epoch, 0, len(counts) - 1)], strict=self.strict)

    def refresh_at(self, step: int) -> bool:
        """Before the first step of the stage, and before each later epoch."""
        return self.active and (step - self.facts.first_step) % self.facts.steps_per_epoch == 0

    def refresh(self, clusters, embed, key):
        """Clusters of the embeddings; see `start`."""
        points = embed("embedding")
        chosen = self._chosen(points)
        first = not bool(jnp.any(clusters.centroids))
        found, values = self._cluster(key, chosen, None if first else clusters.centroids)
        labels = found.labels if chosen is points else nearest_centroid(points, found.centroids)
        sizes = jnp.bincount(found.labels, length=self._clusters)
        used = evenness(sizes)
        values |= {"clusters_used": used, "cluster_size_min": sizes.min(), "cluster_size_max": sizes.max()}
        if not first:
            values["moved"] = jnp.mean(labels != clusters.labels)
        return Clusters(found.centroids, labels, used), values

    def _chosen(self, points):
        """The rows of `points` that are clustered."""
        with_label = self.facts.with_label
        if self.cluster_unlabelled or not with_label:
            return points
        bits = np.unpackbits(np.frombuffer(with_label, np.uint8), count=len(points))
        return points[np.flatnonzero(bits)]

    def _cluster(self, key, points, centroids):
        """A `KMeans` from `centroids` [K, D] or, where there are none, from new starts; and what to log of it."""
        settings = dict(iterations=self.iterations)
        if centroids is None or self.start == "fresh":
            return kmeans(key, points, self._clusters, restarts=self.restarts, **settings), {}
        warm = kmeans(key, points, self._clusters, init=centroids, **settings)
        if self.start == "unchecked":
            return warm, {}
        fresh = kmeans(key, points, self._clusters, restarts=self.restarts, **settings)
        stuck = bool(warm.inertia > _STUCK * fresh.inertia)
        return (fresh if stuck else warm), {"fresh_start": jnp.float32(stuck)}
