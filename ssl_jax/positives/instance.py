"""The base methods' positives: each example and itself."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Float, Int

from ssl_jax import interface
from ssl_jax.interface import PositiveSet
from ssl_jax.ops.types import Count, Numbers


@dataclasses.dataclass(frozen=True)
class Instance(interface.Positives):
    """Each example is its own only positive: exactly the base method."""

    def select(
        self,
        pos_state: Any,
        keys: Float[Numbers, "B D"],
        index: Int[Numbers, " B"],
        step: Count,
    ) -> PositiveSet:
        """Row i for row i, weight one."""
        rows = jnp.arange(len(index), dtype=jnp.int32)[:, None]
        return PositiveSet(rows, jnp.ones(rows.shape))


Positives = Instance
