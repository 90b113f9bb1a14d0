"""Consistency of neighbourhoods: do neighbours share a class (Huang et al. 2019)?"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from ssl_jax import interface
from ssl_jax.interface import RunFacts, Split, TrainState, no_progress
from ssl_jax.methods.anchor_neighbourhood import AnchorState
from ssl_jax.ops.neighbours import nearest
from ssl_jax.ops.types import Numbers
from ssl_jax.ops.vectors import unit
from ssl_jax.settings import ranges


@dataclasses.dataclass(frozen=True)
class Neighbourhood(interface.Evaluator):
    """Share of (image, neighbour) pairs that share a class, among labelled images.

    Yields `all`, for every training image and its `k` nearest others by the current embedding. If
    the method keeps `neighbours` [N, k] and `is_anchor` [N], as Anchor Neighbourhood Discovery
    does, also yields `anchors`, for this round's frozen neighbourhoods; round 0 has none, and no
    such score.

    Attributes:
        k: number of neighbours for the score `all`, the image itself not counted.
        feature: the feature in which neighbours are searched.
    """

    k: int = 1
    feature: str = "embedding"

    def __post_init__(self):
        ranges.count(1, k=self.k)

    def check(self, facts: RunFacts) -> None:
        """Raises ValueError if there are fewer other images than neighbours."""
        others = facts.examples - 1
        if self.k > others:
            raise ValueError(f"k={self.k}: between 1 and the {others} other training images")

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.feature,)

    def run(
        self,
        splits: Mapping[str, Split],
        state: TrainState | None,
        report: Callable[[str], None] = no_progress,
    ) -> Iterator[tuple[str, float]]:
        train = splits["trained"]
        labels = np.asarray(train.labels)
        points = unit(jnp.asarray(train.features[self.feature]))
        neighbours = np.asarray(nearest(points, points, self.k + 1)[1])
        images = np.arange(len(labels))
        # An image is usually its first neighbour; with duplicates it may be at any place or absent.
        others = np.stack([row[row != i][: self.k] for i, row in zip(images, neighbours)])
        yield "all", consistency(labels, images, others)
        method = None if state is None else state.method
        if isinstance(method, AnchorState):
            anchors = np.flatnonzero(np.asarray(method.is_anchor)[: len(labels)])
            if len(anchors):
                neighbours = np.asarray(method.neighbours)[anchors]
                yield "anchors", consistency(labels, anchors, neighbours)


def consistency(
    labels: Int[Numbers, " N"], rows: Int[Numbers, " n"], neighbours: Int[Numbers, "n k"]
) -> float:
    """Share of the pairs of `rows` and `neighbours` with equal labels; -1 means unlabelled."""
    row_labels = labels[rows][:, None]
    neighbour_labels = labels[neighbours]
    labelled = (row_labels >= 0) & (neighbour_labels >= 0)
    same = (row_labels == neighbour_labels) & labelled
    return float(same.sum() / max(labelled.sum(), 1))


Evaluator = Neighbourhood
