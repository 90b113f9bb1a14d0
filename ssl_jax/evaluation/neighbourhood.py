"""Do neighbours share a class? The consistency of neighbourhoods (Huang et al. 2019)."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from ssl_jax import interface
from ssl_jax.interface import RunFacts, no_progress
from ssl_jax.methods.anchor_neighbourhood import AnchorState
from ssl_jax.ops.neighbours import nearest
from ssl_jax.ops.vectors import unit
from ssl_jax.settings import ranges


@dataclasses.dataclass(frozen=True)
class Neighbourhood(interface.Evaluator):
    """Share of (image, neighbour) pairs of one class, labelled images only.

    Yields `all`: of every training image and its `k` nearest others by the embedding as it is now. And where the
    method keeps `neighbours` [N, k] and `is_anchor` [N], as Anchor Neighbourhood Discovery does, `anchors`: of this
    round's frozen neighbourhoods. In round 0 there are none, and no such score.

    Attributes:
        k: neighbours of `all`, the image itself not counted.
        feature: what they are nearest by.
    """

    k: int = 1
    feature: str = "embedding"

    def __post_init__(self):
        ranges.count(1, k=self.k)

    def check(self, facts: RunFacts) -> None:
        """Raises ValueError for more neighbours than there are other images."""
        others = facts.examples - 1
        if self.k > others:
            raise ValueError(f"k={self.k}: between 1 and the {others} other training images")

    @property
    def needs(self):
        return (self.feature,)

    def run(self, splits, state, report=no_progress):
        train = splits["trained"]
        labels, points = np.asarray(train.labels), unit(jnp.asarray(train.features[self.feature]))
        near = np.asarray(nearest(points, points, self.k + 1)[1])
        own = np.arange(len(labels))
        # The row itself is usually the first; with doubles it may stand anywhere, or beyond the last.
        others = np.stack([row[row != i][: self.k] for i, row in zip(own, near)])
        yield "all", consistency(labels, own, others)
        method = None if state is None else state.method
        if isinstance(method, AnchorState):
            anchors = np.flatnonzero(np.asarray(method.is_anchor)[: len(labels)])
            if len(anchors):
                yield "anchors", consistency(labels, anchors, np.asarray(method.neighbours)[anchors])


def consistency(labels, rows, neighbours) -> float:
    """Share of the pairs of `rows` [n] and `neighbours` [n, k] with one label; a label of -1 does not count."""
    own, theirs = labels[rows][:, None], labels[neighbours]
    known = (own >= 0) & (theirs >= 0)
    return float(((own == theirs) & known).sum() / max(known.sum(), 1))


Evaluator = Neighbourhood
