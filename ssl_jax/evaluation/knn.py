"""Weighted k-nearest-neighbour classification (Wu et al. 2018, section 3.4)."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp

from ssl_jax import interface
from ssl_jax.evaluation import metrics
from ssl_jax.interface import RunFacts, no_progress
from ssl_jax.ops.neighbours import nearest
from ssl_jax.ops.vectors import unit
from ssl_jax.settings import ranges


@partial(jax.jit, static_argnames=("k", "classes"))
def weighted_knn(train, train_labels, test, *, k: int = 200, temperature: float = 0.1, classes: int):
    """Votes of the k nearest training rows, each weighing exp(cosine / temperature), not normalised.

    Args:
        train: [N, D] unit rows.
        train_labels: [N] int; -1 has no vote.
        test: [M, D] unit rows.
        k: neighbours, at most N.
        temperature: of the weights.
        classes: C.

    Returns:
        scores [M, C].
    """
    similarity, index = nearest(test, train, k)
    labels = train_labels[index]
    labels = jnp.where(labels < 0, classes, labels)  # beyond the last column: no vote
    rows = jnp.broadcast_to(jnp.arange(len(test))[:, None], labels.shape)
    return jnp.zeros((len(test), classes)).at[rows, labels].add(jnp.exp(similarity / temperature), mode="drop")


def check_source(source: str, feature: str) -> None:
    """Raises ValueError if `source` is unknown or does not provide `feature`."""
    if source not in ("recomputed", "bank"):
        raise ValueError(f"source={source!r}: choose recomputed or bank")
    if source == "bank" and feature != "embedding":
        raise ValueError(f"feature={feature!r}: the bank holds embeddings; set feature='embedding'")


def labelled_points(train, state, feature: str, source: str):
    """Unit rows [n, D] and labels [n] of those training images that have a label; see `KNN.source`."""
    labels = jnp.asarray(train.labels)
    points = state.method.bank[: len(labels)] if source == "bank" else unit(train.features[feature])
    known = labels >= 0
    return (points, labels) if known.all() else (points[known], labels[known])


@dataclasses.dataclass(frozen=True)
class KNN(interface.Evaluator):
    """Top-1 of the test split by the labelled images of the training split.

    Training images are represented by the encoder's current features of the clean images, or by their rows of the
    method's live memory bank, averages over views of earlier steps, as Wu et al. 2018 and their followers report.

    Attributes:
        k: neighbours; all labelled images where they are fewer.
        temperature: of the weights.
        feature: the feature in which neighbours are searched.
        source: of the training images' features: "recomputed", or "bank", which holds embeddings alone.
    """

    k: int = 20
    temperature: float = 0.1
    feature: str = "embedding"
    source: str = "recomputed"
    facts: RunFacts = RunFacts()

    def __post_init__(self):
        ranges.positive(temperature=self.temperature)
        ranges.count(1, k=self.k)
        check_source(self.source, self.feature)

    def check(self, facts: RunFacts) -> None:
        """Raises ValueError for more neighbours than there are images."""
        if self.k > max(facts.examples, 1):
            raise ValueError(f"k={self.k}: between 1 and the {facts.examples} training images")

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
        rows, k = (points, labels, unit(test.features[self.feature])), min(self.k, len(labels))
        settings = dict(k=k, temperature=self.temperature, classes=self.facts.classes)
        scores = weighted_knn(*rows, **settings)
        yield "top1", metrics.accuracy(test.labels, scores.argmax(1))


Evaluator = KNN
