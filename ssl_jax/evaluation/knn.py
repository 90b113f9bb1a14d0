"""Weighted k-nearest-neighbour classification (Wu et al. 2018, section 3.4)."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp

from ssl_jax.evaluation import metrics
from ssl_jax.ops.neighbours import nearest
from ssl_jax.ops.vectors import unit


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


@dataclasses.dataclass(frozen=True)
class KNN:
    """Top-1 of the test split by the labelled images of the training split.

    Attributes:
        k: neighbours; all labelled images where they are fewer.
        temperature: of the weights.
        feature: what images are near by.
    """

    k: int = 200
    temperature: float = 0.1
    feature: str = "embedding"
    classes: int = 0
    examples: int = 0

    def __post_init__(self):
        if not 1 <= self.k <= max(self.examples, 1):
            raise ValueError(f"k={self.k}: between 1 and the {self.examples} training images")
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature} must be above 0")

    @property
    def needs(self):
        return (self.feature,)

    def run(self, splits, state):
        train, test = splits["train"], splits["test"]
        labels, points = jnp.asarray(train.labels), unit(train.features[self.feature])
        if not (known := labels >= 0).all():
            labels, points = labels[known], points[known]
        rows, k = (points, labels, unit(test.features[self.feature])), min(self.k, len(labels))
        scores = weighted_knn(*rows, k=k, temperature=self.temperature, classes=self.classes)
        yield "top1", metrics.accuracy(test.labels, scores.argmax(1))


Evaluator = KNN
