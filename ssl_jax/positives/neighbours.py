"""CoNR's local neighbourhood: the nearest of the batch."""

import dataclasses

import jax

from ssl_jax.interface import PositiveSet
from ssl_jax.ops.vectors import dot
from ssl_jax.positives.boundary import Boundary
from ssl_jax.positives.filtered import Filtered
from ssl_jax.settings import ranges


@dataclasses.dataclass(frozen=True)
class Neighbours(Filtered):
    """The k nearest target features of the batch, by cosine: CoNR's local neighbourhood (LN).

    Attributes:
        k: the example itself counted (it comes first).
        boundary: who is left out; from the section `positives.boundary`.
    """

    k: int = 10
    boundary: Boundary = Boundary(keep=1.0)

    def __post_init__(self):
        ranges.count(1, k=self.k)

    def check_config(self, batch_size: int, epochs: int) -> None:
        """Raises ValueError for more neighbours than a batch has, or as `boundary` does."""
        if self.k >= batch_size:
            raise ValueError(f"k={self.k}: at least 1 and below batch_size={batch_size}")

    def select(self, pos_state, keys, index, step) -> PositiveSet:
        """The k nearest, of equal weight."""
        rows = jax.lax.top_k(dot(keys, keys), self.k)[1]
        return self._through(rows, pos_state, keys, index, step)


Positives = Neighbours
