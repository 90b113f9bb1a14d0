"""Weighted kNN classification over a grid of k and temperatures, from one neighbour search."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ssl_jax import interface
from ssl_jax.evaluation import metrics
from ssl_jax.evaluation.knn import check_source, labelled_points
from ssl_jax.interface import RunFacts, Split, TrainState, no_progress
from ssl_jax.ops.neighbours import nearest
from ssl_jax.ops.types import Numbers, Scalar
from ssl_jax.ops.vectors import unit
from ssl_jax.settings import ranges


def grid_scores(
    train: Float[Numbers, "N D"],
    train_labels: Int[Numbers, " N"],
    test: Float[Numbers, "M D"],
    *,
    k: Sequence[int],
    temperature: Sequence[float],
    classes: int,
) -> Iterator[tuple[int, float, Float[Array, "M C"]]]:
    """The scores of `knn.weighted_knn` for several k and temperatures.

    Neighbours are searched once, for the largest k; the votes of each smaller k are part of the
    next one's sum.

    Args:
        train: [N, D] unit rows.
        train_labels: [N] int; -1 has no vote.
        test: [M, D] unit rows.
        k: numbers of neighbours, at most N.
        temperature: temperatures of the weights.
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
        scores = jnp.zeros((len(test), classes))
        start = 0
        for end in ks:
            scores = _add_votes(scores, similarity[:, start:end], labels[:, start:end], t)
            start = end
            yield end, t, scores


@jax.jit
def _add_votes(
    scores: Float[Array, "M C"],
    similarity: Float[Array, "M n"],
    labels: Int[Array, "M n"],
    temperature: Scalar,
) -> Float[Array, "M C"]:
    """`scores` plus the votes of n more neighbours."""
    labels = jnp.where(labels < 0, scores.shape[1], labels)  # beyond the last column: no vote
    rows = jnp.broadcast_to(jnp.arange(len(scores))[:, None], labels.shape)
    return scores.at[rows, labels].add(jnp.exp(similarity / temperature), mode="drop")


@dataclasses.dataclass(frozen=True)
class KNNGrid(interface.Evaluator):
    """Top-1 on the test split for every k and temperature, as `top1_k200_t0.1`.

    Neighbours are the labelled images of the training split, represented by the encoder's current
    features of the clean images, or by their rows of the method's live memory bank (Wu et al. 2018
    and their followers report the latter during training), which are averages over views of earlier
    steps.

    Attributes:
        k: numbers of neighbours.
        temperature: temperatures of the weights exp(cosine / temperature).
        feature: the feature in which neighbours are searched: "embedding", "backbone", ...
        source: where the training images' features come from: "recomputed", or "bank", which holds
            only embeddings.
    """

    k: tuple[int, ...] = (1, 10, 50, 200)
    temperature: tuple[float, ...] = (0.07, 0.1)
    feature: str = "embedding"
    source: str = "recomputed"
    facts: RunFacts = RunFacts()

    def __post_init__(self):
        if not self.k:
            raise ValueError("k=(): numbers between 1 and the number of labelled training images")
        if not self.temperature or not min(self.temperature) > 0:
            raise ValueError(f"temperature={self.temperature}: numbers above 0")
        ranges.positive(temperature=self.temperature)
        ranges.count(1, k=self.k)
        ranges.at_most(ranges.MANY, k=self.k, temperature=self.temperature)
        check_source(self.source, self.feature)

    def check(self, facts: RunFacts) -> None:
        """Raises ValueError if there are fewer labelled images than neighbours."""
        if max(self.k) > max(facts.labelled, 1):
            images = f"the {facts.labelled} labelled training images"
            raise ValueError(f"k={self.k}: numbers between 1 and {images}")

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
        grid = grid_scores(
            points,
            labels,
            unit(test.features[self.feature]),
            k=self.k,
            temperature=self.temperature,
            classes=self.facts.classes,
        )
        for k, t, scores in grid:
            yield f"top1_k{k}_t{t:g}", metrics.accuracy(test.labels, scores.argmax(1))


Evaluator = KNNGrid
