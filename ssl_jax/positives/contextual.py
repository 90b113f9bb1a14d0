"""CoNR's contextually affinitive neighbourhood."""

import dataclasses
from typing import Any

from jaxtyping import Float, Int

from ssl_jax.interface import PositiveSet
from ssl_jax.ops.neighbours import contextual_neighbours
from ssl_jax.ops.types import Count, Numbers
from ssl_jax.positives.boundary import Boundary
from ssl_jax.positives.filtered import Filtered
from ssl_jax.settings import ranges


@dataclasses.dataclass(frozen=True)
class Contextual(Filtered):
    """The k nearest by context: CoNR's contextually affinitive neighbourhood (section 2.2).

    Two examples are near if they share reciprocal neighbours; see `neighbours.contextual_features`.
    Computed from the target features of the whole batch, over all devices.

    Attributes:
        k: number of neighbours, including the example itself.
        k1: neighbours in the graph, including the example itself; below the batch size.
        k2: neighbours to propagate features over, including the example itself; 2 to k1.
        alpha: exponent of the edge weights, which are similarities.
        layers: rounds of propagation.
        boundary: which examples are left out; from the section `positives.boundary`.
    """

    k: int = 10
    k1: int = 10
    k2: int = 2
    alpha: float = 2.0
    layers: int = 2
    boundary: Boundary = Boundary(keep=1.0)

    def __post_init__(self) -> None:
        ranges.count(1, k=self.k, k1=self.k1)
        if not 2 <= self.k2 <= self.k1:
            raise ValueError(f"k2={self.k2}: between 2 and k1={self.k1}")
        ranges.count(1, 100, layers=self.layers)
        ranges.between(0, 100, alpha=self.alpha)

    def check_config(self, batch_size: int, epochs: int) -> None:
        """Raises ValueError unless the batch has more than k and k1 examples."""
        for name, value in (("k", self.k), ("k1", self.k1)):
            if value >= batch_size:
                raise ValueError(f"{name}={value}: at least 1 and below batch_size={batch_size}")

    def select(
        self,
        pos_state: Any,
        keys: Float[Numbers, "B D"],
        index: Int[Numbers, " B"],
        step: Count,
    ) -> PositiveSet:
        """The k nearest by context, equally weighted."""
        rows = contextual_neighbours(
            keys, self.k, k1=self.k1, k2=self.k2, alpha=self.alpha, layers=self.layers
        )
        return self._filtered(rows, pos_state, keys, index, step)


Positives = Contextual
