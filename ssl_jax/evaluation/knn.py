"""Weighted k-nearest-neighbour classification (Wu et al. 2018, section 3.4)."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ssl_jax import interface
from ssl_jax.evaluation import metrics
from ssl_jax.interface import RunFacts, Split, TrainState, no_progress
from ssl_jax.ops.neighbours import nearest
from ssl_jax.ops.types import Numbers, Scalar
from ssl_jax.ops.vectors import unit
from ssl_jax.settings import ranges


@partial(jax.jit, static_argnames=("k", "classes"))
def weighted_knn(
    train: Float[Numbers, "N D"],
    train_labels: Int[Numbers, " N"],
    test: Float[Numbers, "M D"],
    *,
    k: int = 200,
    temperature: Scalar = 0.1,
    classes: int,
) -> Float[Array, "M C"]:
    """Votes of the k nearest training rows, with weights exp(cosine / temperature), not normalised.

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
    labels = jnp.asarray(train_labels)[index]
    labels = jnp.where(labels < 0, classes, labels)  # beyond the last column: no vote
    rows = jnp.broadcast_to(jnp.arange(len(test))[:, None], labels.shape)
    votes = jnp.exp(similarity / temperature)
    return jnp.zeros((len(test), classes)).at[rows, labels].add(votes, mode="drop")


def check_source(source: str, feature: str) -> None:
    """Checks where the training images' features come from.

    Raises:
        ValueError: `source` is unknown or does not provide `feature`.
    """
    if source not in ("recomputed", "bank"):
        raise ValueError(f"source={source!r}: choose recomputed or bank")
    if source == "bank" and feature != "embedding":
        raise ValueError(f"feature={feature!r}: the bank holds embeddings; set feature='embedding'")


def labelled_points(
    train: Split, state: TrainState | None, feature: str, source: str
) -> tuple[Float[Array, "n D"], Int[Array, " n"]]:
    """Unit rows and labels of the labelled training images; for `source` see `KNN`."""
    labels = jnp.asarray(train.labels)
    if source == "bank":
        assert state is not None
        points = state.method.bank[: len(labels)]
    else:
        points = unit(train.features[feature])
    keep = labels >= 0
    return (points, labels) if keep.all() else (points[keep], labels[keep])


@dataclasses.dataclass(frozen=True)
class KNN(interface.Evaluator):
    """Top-1 on the test split, with the labelled images of the training split as neighbours.

    Training images are represented by the encoder's current features of the clean images, or by
    their rows of the method's live memory bank, averages over views of earlier steps, as Wu et al.
    2018 and their followers report.

    Attributes:
        k: number of neighbours; all labelled images if there are fewer.
        temperature: temperature of the neighbours' weights, exp(cosine / temperature).
        feature: the feature in which neighbours are searched.
        source: where the training images' features come from: "recomputed", or "bank", which holds
            only embeddings.
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
        """Raises ValueError if there are fewer images than neighbours."""
        if self.k > max(facts.examples, 1):
            raise ValueError(f"k={self.k}: between 1 and the {facts.examples} training images")

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.feature,)

    @property
    def reads(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return ("bank",) if self.source == "bank" else ()

    def run(
        self,
        splits: Mapping[str, Split],
        state: TrainState | None,
        report: Callable[[str], None] = no_progress,
    ) -> Iterator[tuple[str, float]]:
        if self.source == "bank" and state is None:  # raw pixels have no bank
            return
        test = splits["test"]
        points, labels = labelled_points(splits["train"], state, self.feature, self.source)
        scores = weighted_knn(
            points,
            labels,
            unit(test.features[self.feature]),
            k=min(self.k, len(labels)),
            temperature=self.temperature,
            classes=self.facts.classes,
        )
        yield "top1", metrics.accuracy(test.labels, scores.argmax(1))


Evaluator = KNN
