"""Positives: which rows of a batch attract each other."""

import dataclasses

import jax
import jax.numpy as jnp

from ssl_jax.boundary import Boundary
from ssl_jax.interface import PositiveSet
from ssl_jax.ops.neighbours import contextual_neighbours
from ssl_jax.ops.vectors import dot


@dataclasses.dataclass(frozen=True)
class Instance:
    """Each example is its own and only positive: exactly the base method."""

    def init(self, key, examples, dim):
        """No state."""
        return ()

    def select(self, pos_state, keys, index, step) -> PositiveSet:
        """Row i for row i, weight one."""
        rows = jnp.arange(len(index), dtype=jnp.int32)[:, None]
        return PositiveSet(rows, jnp.ones(rows.shape))

    def metrics(self, pos_state, chosen):
        """None."""
        return {}

    def refresh_at(self, step) -> bool:
        """Never."""
        return False

    def refresh(self, pos_state, embed, key):
        """Nothing to refresh."""
        return pos_state, {}


class _Filtered:
    """Positives that pass through a filter, `boundary`: what it keeps is all that they keep."""

    def init(self, key, examples, dim):
        """The boundary filter's clusters."""
        return self.boundary.init(dim)

    def metrics(self, pos_state, chosen):
        """Share of the examples that stay, and of the clusters in use."""
        found = {"kept": jnp.mean(jnp.any(chosen.weight > 0, axis=1), dtype=jnp.float32)}
        return found | ({"clusters_used": pos_state.used} if self.boundary.active else {})

    def refresh_at(self, step) -> bool:
        """When the boundary filter clusters."""
        return self.boundary.refresh_at(step)

    def refresh(self, pos_state, embed, key):
        """New clusters for the boundary filter."""
        return self.boundary.refresh(pos_state, embed, key)

    def _through(self, rows, pos_state, keys, index, step):
        """The positives `rows` [B, k], of equal weight; none for examples that the filter leaves out."""
        kept = self.boundary.kept(pos_state, keys, index, step)
        weight = jnp.broadcast_to(kept[:, None].astype(jnp.float32), rows.shape)
        return PositiveSet(rows, weight, len(index) if self.boundary.count_left_out else None)


@dataclasses.dataclass(frozen=True)
class Neighbours(_Filtered):
    """The k nearest target features of the batch, by cosine: CoNR's local neighbourhood (LN).

    Attributes:
        k: the example itself counted (it comes first).
        boundary: who is left out; from the section `positives.boundary`.
    """

    k: int = 10
    boundary: Boundary = Boundary(keep=1.0)
    batch_size: int = 0

    def __post_init__(self):
        if not 1 <= self.k < self.batch_size:
            raise ValueError(f"k={self.k}: at least 1 and below batch_size={self.batch_size}")

    def select(self, pos_state, keys, index, step) -> PositiveSet:
        """The k nearest, of equal weight."""
        rows = jax.lax.top_k(dot(keys, keys), self.k)[1]
        return self._through(rows, pos_state, keys, index, step)


@dataclasses.dataclass(frozen=True)
class Contextual(_Filtered):
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
    batch_size: int = 0

    def __post_init__(self):
        for name in ("k", "k1"):
            if not 1 <= getattr(self, name) < self.batch_size:
                raise ValueError(f"{name}={getattr(self, name)}: at least 1 and below batch_size={self.batch_size}")
        if not 2 <= self.k2 <= self.k1:
            raise ValueError(f"k2={self.k2}: between 2 and k1={self.k1}")
        if self.layers < 1 or not self.alpha >= 0:
            raise ValueError(f"layers={self.layers} is at least 1, alpha={self.alpha} at least 0")

    def select(self, pos_state, keys, index, step) -> PositiveSet:
        """The k nearest by context, of equal weight."""
        settings = dict(k1=self.k1, k2=self.k2, alpha=self.alpha, layers=self.layers)
        return self._through(contextual_neighbours(keys, self.k, **settings), pos_state, keys, index, step)


KINDS = {"instance": Instance, "neighbours": Neighbours, "contextual": Contextual}
