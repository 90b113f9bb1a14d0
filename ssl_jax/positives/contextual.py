"""CoNR's contextually affinitive neighbourhood."""

import dataclasses

from ssl_jax.interface import PositiveSet
from ssl_jax.ops.neighbours import contextual_neighbours
from ssl_jax.positives.boundary import Boundary
from ssl_jax.positives.filtered import Filtered
from ssl_jax.settings import ranges


@dataclasses.dataclass(frozen=True)
class Contextual(Filtered):
    """The k nearest of the batch by context: CoNR's contextually affinitive neighbourhood (section 2.2).

    Two examples are near where the same examples are reciprocal neighbours of both; see
    `neighbours.contextual_features`. Computed from the target features of the whole batch, over all devices.

    Attributes:
        k: the example itself counted.
        k1: neighbours that make the graph, likewise; below the batch size.
        k2: neighbours that features are propagated over, likewise; 2 to k1.
        alpha: power of the similarities that weigh the edges.
        layers: of the propagation.
        boundary: who is left out; from the section `positives.boundary`.
    """

    k: int = 10
    k1: int = 10
    k2: int = 2
    alpha: float = 2.0
    layers: int = 2
    boundary: Boundary = Boundary(keep=1.0)

    def __post_init__(self):
        ranges.count(1, k=self.k, k1=self.k1)
        if not 2 <= self.k2 <= self.k1:
            raise ValueError(f"k2={self.k2}: between 2 and k1={self.k1}")
        ranges.count(1, 100, layers=self.layers)
        ranges.between(0, 100, alpha=self.alpha)

    def check_config(self, batch_size: int, epochs: int) -> None:
        """Raises ValueError for more neighbours than a batch has, or as `boundary` does."""
        for name, value in (("k", self.k), ("k1", self.k1)):
            if value >= batch_size:
                raise ValueError(f"{name}={value}: at least 1 and below batch_size={batch_size}")

    def select(self, pos_state, keys, index, step) -> PositiveSet:
        """The k nearest by context, of equal weight."""
        settings = dict(k1=self.k1, k2=self.k2, alpha=self.alpha, layers=self.layers)
        return self._through(contextual_neighbours(keys, self.k, **settings), pos_state, keys, index, step)


Positives = Contextual
