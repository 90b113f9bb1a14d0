"""CoNR's local neighbourhood: the nearest of the batch."""

import dataclasses
from typing import Any

import jax
from jaxtyping import Float, Int

from ssl_jax.interface import PositiveSet
from ssl_jax.ops.types import Count, Numbers
from ssl_jax.ops.vectors import dot
from ssl_jax.positives.boundary import Boundary
from ssl_jax.positives.filtered import Filtered
from ssl_jax.settings import ranges


@dataclasses.dataclass(frozen=True)
class Neighbours(Filtered):
    """The k nearest target features of the batch, by cosine: CoNR's local neighbourhood (LN).

    Attributes:
        k: number of neighbours, including the example itself (it comes first).
        boundary: which examples are left out; from the section `positives.boundary`.
    """

    k: int = 10
    boundary: Boundary = Boundary(keep=1.0)

    def __post_init__(self) -> None:
        ranges.count(1, k=self.k)

    def check_config(self, batch_size: int, epochs: int) -> None:
        """Raises ValueError unless the batch has more than k examples."""
        if self.k >= batch_size:
            raise ValueError(f"k={self.k}: at least 1 and below batch_size={batch_size}")

    def select(
        self,
        pos_state: Any,
        keys: Float[Numbers, "B D"],
        index: Int[Numbers, " B"],
        step: Count,
    ) -> PositiveSet:
        """The k nearest, equally weighted."""
        rows = jax.lax.top_k(dot(keys, keys), self.k)[1]
        return self._filtered(rows, pos_state, keys, index, step)


Positives = Neighbours
