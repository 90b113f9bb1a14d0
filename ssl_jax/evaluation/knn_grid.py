"""Weighted k-nearest-neighbour classification over a grid of k and temperatures, from one pass over the neighbours."""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from ssl_jax import interface
from ssl_jax.evaluation import metrics
from ssl_jax.evaluation.knn import check_source, labelled_points
from ssl_jax.interface import RunFacts, no_progress
from ssl_jax.ops.neighbours import nearest
from ssl_jax.ops.vectors import unit
from ssl_jax.settings import ranges


def grid_scores(train, train_labels, test, *, k, temperature, classes: int) -> Iterator[tuple[int, float, jax.Array]]:
    """The scores of `knn.weighted_knn` for each of several k and temperatures.

    The neighbours are searched for once, for the largest k; each smaller k is a sum on the way to the next.

    Args:
        train: [N, D] unit rows.
        train_labels: [N] int; -1 has no vote.
        test: [M, D] unit rows.
        k: numbers of neighbours, at most N.
        temperature: of the weights.
        classes: C.

    Yields:
        k, temperature and scores [M, C].

    Raises:
        ValueError: a k larger than N.
    """
    ks = tuple(sorted(set(k)))
    similarity, index = nearest(test, train, ks[-1])
    labels = jnp.asarray(train_labels)[index]
    for t in temperature:
        scores, done = jnp.zeros((len(test), classes)), 0
        for end in ks:
            scores = _add_votes(scores, similarity[:, done:end], labels[:, done:end], t)
            done = end
            yield end, t, scores


@jax.jit
def _add_votes(scores, similarity, labels, temperature):
    """`scores` [M, C] with the votes of further neighbours, `similarity` and `labels` [M, n], added."""
    labels = jnp.where(labels < 0, scores.shape[1], labels)  # beyond the last column: no vote
    rows = jnp.broadcast_to(jnp.arange(len(scores))[:, None], labels.shape)
    return scores.at[rows, labels].add(jnp.exp(similarity / temperature), mode="drop")


@dataclasses.dataclass(frozen=True)
class KNNGrid(interface.Evaluator):
    """Top-1 of the test split for every k and temperature, as `top1_k200_t0.1`.

    Neighbours are the labelled images of the training split: by their features as the encoder gives them now, of clean
    images, or by their rows of the method's live memory bank (Wu et al. 2018 and their followers report the latter
    while training). The bank's rows are averages over views of earlier steps.

    Attributes:
        k: numbers of neighbours.
        temperature: of the weights exp(cosine / temperature).
        feature: "embedding", "backbone", ...
        source: of the training images' features: "recomputed", or "bank", which holds embeddings alone.
    """

    k: tuple[int, ...] = (1, 10, 50, 200)
    temperature: tuple[float, ...] = (0.07, 0.1)
    feature: str = "embedding"
    source: str = "recomputed"
    facts: RunFacts = RunFacts()

    def __post_init__(self):
        if not self.k:
            raise ValueError("k=(): numbers between 1 and that of the labelled training images")
        if not self.temperature or not min(self.temperature) > 0:
            raise ValueError(f"temperature={self.temperature}: numbers above 0")
        ranges.positive(temperature=self.temperature)
        ranges.count(1, k=self.k)
        ranges.at_most(ranges.MANY, k=self.k, temperature=self.temperature)
        check_source(self.source, self.feature)

    def check(self, facts: RunFacts) -> None:
        """Raises ValueError for more neighbours than there are labelled images."""
        if max(self.k) > max(facts.labelled, 1):
            images = f"the {facts.labelled} labelled training images"
            raise ValueError(f"k={self.k}: numbers between 1 and {images}")

    @property
    def needs(self):
        return (self.feature,)

    @property
    def reads(self):
        return ("bank",) if self.source == "bank" else ()

    def run(self, splits, state, report=no_progress):
        if self.source == "bank" and state is None:  # raw pixels have no bank
            return
        test = splits["test"]
        points, labels = labelled_points(splits["train"], state, self.feature, self.source)
        queries = unit(test.features[self.feature])
        settings = dict(k=self.k, temperature=self.temperature, classes=self.facts.classes)
        for k, t, scores in grid_scores(points, labels, queries, **settings):
            yield f"top1_k{k}_t{t:g}", metrics.accuracy(test.labels, scores.argmax(1))


Evaluator = KNNGrid
