"""CoNR's boundary filter: leaves out samples near cluster boundaries, fewer with each epoch."""

import dataclasses
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ssl_jax.interface import Embed, RunFacts
from ssl_jax.ops.collapse import evenness
from ssl_jax.ops.kmeans import KMeans, kmeans, nearest_centroid
from ssl_jax.ops.neighbours import boundary_ratio, inside
from ssl_jax.ops.types import Count, Numbers
from ssl_jax.settings import ranges

_STUCK = 1.005  # a warm start is dropped above this multiple of the fresh starts' inertia


class Clusters(struct.PyTreeNode):
    """Clusters of the training set.

    Attributes:
        centroids: [K, D].
        labels: [N] int32.
        used: scalar; see `collapse.evenness`.
    """

    centroids: jax.Array
    labels: jax.Array
    used: jax.Array


@dataclasses.dataclass(frozen=True)
class Boundary:
    """Keeps the fraction of each batch with the smallest boundary ratios (CoNR, section 2.3).

    Cosine k-means clusters the embeddings of clean images before the stage's first step and before
    each later epoch. A sample's ratio is the distance of its target feature, as in the loss, to its
    cluster's centroid (not normalised, as released) over the distance to the nearest other
    centroid. Samples left out remain neighbours of others. Where only some images have labels
    (STL-10), k-means runs on these, as in ProPos, and the others join the nearest cluster; the
    values of the labels are never used.

    Attributes:
        keep: fraction of each batch kept in the first epochs, fr(t0); 1 keeps every sample and
            skips clustering.
        relax: raise `keep` linearly to 1 (eq. 12); epoch n of the stage, from 1, uses fr(n).
        relax_epochs: epochs until `keep` reaches 1; 0 until the end of the run (eq. 12). Released:
            50 of 200.
        strict: also leave out the sample at the cut, as released: one fewer, even at a fraction of
            1.
        count_left_out: divide the loss by all samples of the batch, as released, so that it shrinks
            with the fraction.
        clusters: number of k-means clusters, K; 0 for the number of classes.
        start: where k-means starts in all epochs but the first. "fresh": the tightest of `restarts`
            new starts, as released. "warm": from the current centroids, which keeps the clusters'
            numbers, unless the tightest of `restarts` new starts is tighter by more than half a
            percent (logged as `fresh_start`). "unchecked": from the current centroids without that
            comparison; may get stuck after a strong drift.
        restarts: number of new k-means starts.
        iterations: maximum number of k-means iterations each time.
        cluster_unlabelled: cluster all images, even where only some have labels.
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

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep={self.keep}: above 0 and at most 1 (1 keeps every sample)")
        ranges.between(0, ranges.EPOCHS, relax_epochs=self.relax_epochs)
        ranges.count(0, clusters=self.clusters)
        ranges.count(1, ranges.MANY, restarts=self.restarts)
        ranges.count(1, 10**6, iterations=self.iterations)
        if self.start not in ("fresh", "warm", "unchecked"):
            raise ValueError(f"start={self.start!r}: choose fresh, warm or unchecked")

    def check(self, facts: RunFacts) -> None:
        """Raises ValueError where relaxation outlasts the run, or for an impossible K."""
        if facts.first_step + self.relax_epochs * facts.steps_per_epoch > facts.total_steps:
            raise ValueError(f"relax_epochs={self.relax_epochs}: at least 0, and within the stage")
        if not self.active:
            return
        clusters = self.clusters or facts.classes
        if facts.with_label and not self.cluster_unlabelled:
            labelled = int(np.unpackbits(np.frombuffer(facts.with_label, np.uint8)).sum())
            if clusters > labelled:
                raise ValueError(
                    f"clusters={clusters}: between 2 and the {labelled} labelled training images "
                    "that are clustered, or set cluster_unlabelled=True"
                )
        if not 2 <= clusters <= facts.examples:
            no_classes = "; the data has no classes, so give their number"
            raise ValueError(
                f"clusters={clusters}: between 2 and the {facts.examples} training images"
                f"{'' if self.clusters else no_classes}"
            )

    @property
    def active(self) -> bool:
        """Whether samples may be left out."""
        return self.keep < 1

    @property
    def _clusters(self) -> int:
        return self.clusters or self.facts.classes

    def fraction(self, epoch: int) -> float:
        """fr of an epoch of the stage, counted from 1."""
        if not self.relax:
            return self.keep
        run = self.facts
        length = self.relax_epochs or (run.total_steps - run.first_step) / run.steps_per_epoch
        return min(1.0, self.keep + (1.0 - self.keep) * epoch / length)

    def counts(self) -> np.ndarray:
        """Samples kept per batch in each epoch of the stage; on the host, as they must be exact."""
        run = self.facts
        epochs = math.ceil((run.total_steps - run.first_step) / run.steps_per_epoch)
        kept = [int(self.fraction(n) * run.batch_size) for n in range(1, max(epochs, 1) + 1)]
        return np.maximum(np.array(kept, np.int32), 1)

    def init(self, dim: int) -> Clusters | tuple[()]:
        """All-zero clusters, not computed yet; `()` if inactive."""
        if not self.active:
            return ()
        labels = jnp.zeros(self.facts.examples, jnp.int32)
        return Clusters(jnp.zeros((self._clusters, dim)), labels, jnp.ones(()))

    def kept(
        self,
        clusters: Any,
        keys: Float[Numbers, "B D"],
        index: Int[Numbers, " B"],
        step: Count,
    ) -> Bool[Array, " B"]:
        """[B] bool: which examples are kept at `step`.

        Args:
            clusters: the `Clusters`; ignored if inactive.
            keys: [B, D] target features.
            index: [B] rows of the training set.
            step: of the run.
        """
        if not self.active:
            return jnp.ones(len(index), bool)
        ratio = boundary_ratio(keys, clusters.centroids, clusters.labels[index])
        epoch = (step - self.facts.first_step) // self.facts.steps_per_epoch
        counts = jnp.asarray(self.counts())
        count = counts[jnp.clip(epoch, 0, len(counts) - 1)]
        return inside(ratio, count, strict=self.strict)

    def refresh_at(self, step: int) -> bool:
        """Before the first step of the stage, and before each later epoch."""
        return self.active and (step - self.facts.first_step) % self.facts.steps_per_epoch == 0

    def refresh(
        self, clusters: Any, embed: Embed, key: PRNGKeyArray
    ) -> tuple[Any, dict[str, jax.Array]]:
        """Clusters of the embeddings, and metrics; see `start`. Nothing changes if inactive."""
        if not self.active:  # a warm start refreshes all positives
            return clusters, {}
        points = embed("embedding")
        clustered = self._clustered(points)
        first = not bool(jnp.any(clusters.centroids))
        clustering, values = self._cluster(key, clustered, None if first else clusters.centroids)
        if clustered is points:
            labels = clustering.labels
        else:
            labels = nearest_centroid(points, clustering.centroids)
        sizes = jnp.bincount(clustering.labels, length=self._clusters)
        used = evenness(sizes)
        values |= {
            "clusters_used": used,
            "cluster_size_min": sizes.min(),
            "cluster_size_max": sizes.max(),
        }
        if not first:
            values["moved"] = jnp.mean(labels != clusters.labels)
        return Clusters(clustering.centroids, labels, used), values

    def _clustered(self, points: Float[Array, "N D"]) -> Float[Array, "M D"]:
        """The rows of `points` that k-means runs on."""
        with_label = self.facts.with_label
        if self.cluster_unlabelled or not with_label:
            return points
        bits = np.unpackbits(np.frombuffer(with_label, np.uint8), count=len(points))
        return points[np.flatnonzero(bits)]

    def _cluster(
        self, key: PRNGKeyArray, points: Float[Array, "M D"], centroids: Float[Array, "K D"] | None
    ) -> tuple[KMeans, dict[str, jax.Array]]:
        """Clusters `points` [M, D] from `centroids` [K, D], or None for new starts; and metrics."""
        cluster = partial(kmeans, key, points, self._clusters, iterations=self.iterations)
        if centroids is None or self.start == "fresh":
            return cluster(restarts=self.restarts), {}
        warm = cluster(init=centroids)
        if self.start == "unchecked":
            return warm, {}
        fresh = cluster(restarts=self.restarts)
        stuck = bool(warm.inertia > _STUCK * fresh.inertia)
        return (fresh if stuck else warm), {"fresh_start": jnp.float32(stuck)}
