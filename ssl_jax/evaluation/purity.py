"""Purity of neighbourhoods inside batches: how many neighbours share a class (CoNR, figure 2)?"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ssl_jax import interface
from ssl_jax.evaluation.clustering import labelled
from ssl_jax.interface import RunFacts, Split, TrainState, no_progress
from ssl_jax.ops.kmeans import kmeans
from ssl_jax.ops.neighbours import boundary_ratio, contextual_features, inside
from ssl_jax.ops.types import Count, Numbers
from ssl_jax.ops.vectors import dot, unit
from ssl_jax.settings import ranges


@dataclasses.dataclass(frozen=True)
class Purity(interface.Evaluator):
    """Share of an image's K nearest others in a batch that have its class, among labelled images.

    Yields `local_K` (neighbours by cosine) and `contextual_K` (by CoNR's context) for each K of
    `neighbours`, and `local_kept_K` and `contextual_kept_K` for the images well inside their
    clusters. Batches are drawn once.

    Attributes:
        neighbours: the values of K, the number of neighbours.
        batch_size: images per batch; an incomplete batch is dropped.
        batches: number of batches, at most; 0 for all.
        k1: neighbours in the graph, as in `positives.contextual`.
        k2: neighbours to propagate features over, as in `positives.contextual`.
        alpha: exponent of the edge weights, as in `positives.contextual`.
        layers: rounds of propagation, as in `positives.contextual`.
        keep: fraction of a batch that is kept: the images with the smallest boundary ratios.
        strict: keep one image fewer, as released.
        clusters: number of clusters of the k-means that the ratios refer to; 0 takes the number of
            classes.
        restarts: number of starts of that k-means.
        feature: the feature in which neighbours are searched.
        seed: seed of the batches and starts.
    """

    neighbours: tuple[int, ...] = (1, 10, 30)
    batch_size: int = 256
    batches: int = 8
    k1: int = 10
    k2: int = 2
    alpha: float = 2.0
    layers: int = 2
    keep: float = 0.8
    strict: bool = False
    clusters: int = 0
    restarts: int = 10
    feature: str = "embedding"
    seed: int = 0
    facts: RunFacts = RunFacts()

    def __post_init__(self):
        ranges.count(2, batch_size=self.batch_size)
        if (
            not self.neighbours
            or not 1 <= min(self.neighbours) <= max(self.neighbours) < self.batch_size
        ):
            raise ValueError(f"neighbours={self.neighbours}: numbers between 1 and batch_size - 1")
        if not 2 <= self.k2 <= self.k1:
            raise ValueError(f"k2={self.k2}: between 2 and k1={self.k1}")
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep={self.keep}: above 0 and at most 1")
        ranges.count(0, batches=self.batches, clusters=self.clusters)
        ranges.at_most(ranges.MANY, neighbours=self.neighbours)
        ranges.count(1, 100, layers=self.layers)
        ranges.between(0, 100, alpha=self.alpha)
        ranges.count(1, ranges.MANY, restarts=self.restarts)
        ranges.count(0, ranges.SEED, seed=self.seed)

    def check(self, facts: RunFacts) -> None:
        """Raises ValueError if there are too few images for the batches or clusters."""
        labelled_images = facts.labelled or facts.examples
        if self.batch_size > labelled_images:
            images = f"the {labelled_images} labelled training images"
            raise ValueError(f"batch_size={self.batch_size}: between 2 and {images}")
        # Not in `__post_init__`: if k1 follows `positives.k1`, the message of that one comes first.
        if self.k1 >= self.batch_size:
            raise ValueError(
                f"k1={self.k1} and k2={self.k2}: 2 <= k2 <= k1 < batch_size={self.batch_size}"
            )
        if not 2 <= (self.clusters or facts.classes) <= facts.examples:
            images = f"the {facts.examples} training images"
            raise ValueError(f"clusters={self.clusters}: between 2 and {images}")

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
        points = unit(points)
        order_key, start_key = jax.random.split(jax.random.key(self.seed))
        clusters = self.clusters or self.facts.classes
        clustering = kmeans(start_key, points, clusters, iterations=50, restarts=self.restarts)
        ratios = boundary_ratio(points, clustering.centroids, clustering.labels)
        order = np.asarray(jax.random.permutation(order_key, len(points)))
        whole = len(order) // self.batch_size * self.batch_size
        batches = order[:whole].reshape(-1, self.batch_size)
        yield from self.of_batches(points, labels, ratios, batches[: self.batches or None])

    def of_batches(
        self,
        points: Float[Array, "N D"],
        labels: Int[np.ndarray, " N"],
        ratios: Float[Numbers, " N"],
        batches: Int[np.ndarray, "n B"],
    ) -> Iterator[tuple[str, float]]:
        """Yields (name, purity).

        Args:
            points: [N, D] unit rows.
            labels: [N]; -1 means unlabelled.
            ratios: [N] boundary ratios.
            batches: [n, B] rows of n batches.
        """
        count = max(int(self.keep * self.batch_size), 1)
        kept = np.asarray(_inside(ratios[batches], count, strict=self.strict)).ravel()
        hits = {"local": [], "contextual": []}
        for rows in batches:
            batch_labels = labels[rows]
            neighbours = _neighbours(
                points[rows],
                k=max(self.neighbours),
                k1=self.k1,
                k2=self.k2,
                alpha=self.alpha,
                layers=self.layers,
            )
            for name, index in zip(hits, neighbours):
                neighbour_labels = batch_labels[np.asarray(index)]
                labelled_pair = (batch_labels[:, None] >= 0) & (neighbour_labels >= 0)
                same = neighbour_labels == batch_labels[:, None]
                hits[name].append(np.where(labelled_pair, same, np.nan))
        for name, parts in hits.items():
            table = np.concatenate(parts)
            for k in self.neighbours:
                yield f"{name}_{k}", float(np.nanmean(table[:, :k]))
                yield f"{name}_kept_{k}", float(np.nanmean(table[kept, :k]))


@partial(jax.jit, static_argnames="strict")
def _inside(ratios: Float[Numbers, "n B"], count: Count, *, strict: bool) -> Bool[Array, "n B"]:
    """`inside` of each row of `ratios`."""
    return jax.vmap(lambda row: inside(row, count, strict=strict))(ratios)


@partial(jax.jit, static_argnames=("k", "k1", "k2", "alpha", "layers"))
def _neighbours(
    x: Float[Array, "B D"], *, k: int, k1: int, k2: int, alpha: float, layers: int
) -> tuple[Int[Array, "B k"], Int[Array, "B k"]]:
    """The k nearest other rows of each unit row, by cosine and by context."""
    context = contextual_features(x, k1=k1, k2=k2, alpha=alpha, layers=layers)
    return _others(x, k), _others(context, k)


def _others(x: Float[Array, "B D"], k: int) -> Int[Array, "B k"]:
    """The k nearest other rows of each row, by inner product."""
    similarity = dot(x, x)
    return jax.lax.top_k(jnp.where(jnp.eye(len(x), dtype=bool), -jnp.inf, similarity), k)[1]


Evaluator = Purity
