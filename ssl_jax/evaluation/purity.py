"""How many neighbours are of one's class? The purity of neighbourhoods inside batches (CoNR, figure 2)."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import interface
from ssl_jax.evaluation.clustering import labelled
from ssl_jax.interface import RunFacts, no_progress
from ssl_jax.ops.kmeans import kmeans
from ssl_jax.ops.neighbours import boundary_ratio, contextual_features, inside
from ssl_jax.ops.vectors import dot, unit
from ssl_jax.settings import ranges


@dataclasses.dataclass(frozen=True)
class Purity(interface.Evaluator):
    """Share of the K nearest images of a batch, the image itself left out, that are of its class; labelled images only.

    Yields `local_K` (by cosine), `contextual_K` (by CoNR's context), and of the images inside their clusters alone
    `local_kept_K` and `contextual_kept_K`, for each of `neighbours`. Batches are drawn once and for all.

    Attributes:
        neighbours: the Ks.
        batch_size: images a batch; an incomplete one is left out.
        batches: of these, at most; 0 for all.
        k1, k2, alpha, layers: of the context.
        keep: fraction of a batch that stays, those with the smallest boundary ratios.
        strict: as released, one fewer.
        clusters: of the k-means that the ratios refer to; 0 takes the number of classes.
        restarts: its starts.
        feature: what images are near by.
        seed: of the batches and starts.
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
        if not self.neighbours or not 1 <= min(self.neighbours) <= max(self.neighbours) < self.batch_size:
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
        """Raises ValueError for batches or clusters that there are too few images for."""
        labelled_images = facts.labelled or facts.examples
        if self.batch_size > labelled_images:
            images = f"the {labelled_images} labelled training images"
            raise ValueError(f"batch_size={self.batch_size}: between 2 and {images}")
        # Not in `__post_init__`: where k1 follows `positives.k1`, that one's message comes first.
        if self.k1 >= self.batch_size:
            own = f"k1={self.k1} and k2={self.k2}"
            raise ValueError(f"{own}: 2 <= k2 <= k1 < batch_size={self.batch_size}")
        if not 2 <= (self.clusters or facts.classes) <= facts.examples:
            images = f"the {facts.examples} training images"
            raise ValueError(f"clusters={self.clusters}: between 2 and {images}")

    @property
    def needs(self):
        return (self.feature,)

    def run(self, splits, state, report=no_progress):
        points, labels = labelled(splits["trained"], self.feature)
        points = unit(points)
        order_key, start_key = jax.random.split(jax.random.key(self.seed))
        clusters = self.clusters or self.facts.classes
        found = kmeans(start_key, points, clusters, iterations=50, restarts=self.restarts)
        ratios = boundary_ratio(points, found.centroids, found.labels)
        order = np.asarray(jax.random.permutation(order_key, len(points)))
        batches = order[: len(order) // self.batch_size * self.batch_size].reshape(-1, self.batch_size)
        yield from self.of_batches(points, labels, ratios, batches[: self.batches or None])

    def of_batches(self, points, labels, ratios, batches):
        """(name, purity) of the rows `batches` [n, B] of unit `points` with `labels` and boundary `ratios`."""
        settings = dict(k=max(self.neighbours), k1=self.k1, k2=self.k2, alpha=self.alpha, layers=self.layers)
        most = max(int(self.keep * self.batch_size), 1)
        hits = {name: [] for name in ("local", "contextual")}
        kept = np.asarray(_inside(ratios[batches], most, strict=self.strict)).ravel()
        for rows in batches:
            own = labels[rows]
            for name, index in zip(hits, _neighbours(points[rows], **settings)):
                theirs = own[np.asarray(index)]
                known = (own[:, None] >= 0) & (theirs >= 0)
                hits[name].append(np.where(known, theirs == own[:, None], np.nan))
        for name, parts in hits.items():
            table = np.concatenate(parts)
            for k in self.neighbours:
                yield f"{name}_{k}", float(np.nanmean(table[:, :k]))
                yield f"{name}_kept_{k}", float(np.nanmean(table[kept, :k]))


@partial(jax.jit, static_argnames="strict")
def _inside(ratios, count, *, strict):
    """[n, B] bool: `inside` of each row of `ratios` [n, B]."""
    return jax.vmap(lambda row: inside(row, count, strict=strict))(ratios)


@partial(jax.jit, static_argnames=("k", "k1", "k2", "alpha", "layers"))
def _neighbours(x, *, k, k1, k2, alpha, layers):
    """Two of [B, k]: the rows nearest to each row of unit `x` [B, D], by cosine and in context."""
    return _others(x, k), _others(contextual_features(x, k1=k1, k2=k2, alpha=alpha, layers=layers), k)


def _others(x, k):
    """[B, k]: the rows nearest to each row of `x` [B, D] by inner product, itself left out."""
    similarity = dot(x, x)
    return jax.lax.top_k(jnp.where(jnp.eye(len(x), dtype=bool), -jnp.inf, similarity), k)[1]


Evaluator = Purity
