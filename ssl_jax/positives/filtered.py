"""Shared by all positives that pass through CoNR's boundary filter."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ssl_jax import interface
from ssl_jax.interface import Embed, PositiveSet, RunFacts
from ssl_jax.ops.types import Count, Numbers
from ssl_jax.positives.boundary import Boundary


class Filtered(interface.Positives):
    """Positives that pass through the filter `boundary`; their only state is the filter's."""

    boundary: Boundary

    def check(self, facts: RunFacts) -> None:
        """Raises ValueError where the boundary filter does not fit the run."""
        self.boundary.check(facts)

    def init(self, key: PRNGKeyArray, examples: int, dim: int) -> Any:
        """The boundary filter's clusters."""
        return self.boundary.init(dim)

    def metrics(self, pos_state: Any, chosen: PositiveSet) -> Mapping[str, jax.Array]:
        """Share of the examples kept, and of the clusters in use."""
        values = {"kept": jnp.mean(jnp.any(chosen.weight > 0, axis=1), dtype=jnp.float32)}
        if self.boundary.active:
            values["clusters_used"] = pos_state.used
        return values

    def refresh_at(self, step: int) -> bool:
        """When the boundary filter clusters."""
        return self.boundary.refresh_at(step)

    def refresh(
        self, pos_state: Any, embed: Embed, key: PRNGKeyArray
    ) -> tuple[Any, Mapping[str, Any]]:
        """New clusters for the boundary filter."""
        return self.boundary.refresh(pos_state, embed, key)

    def _filtered(
        self,
        rows: Int[Array, "B P"],
        pos_state: Any,
        keys: Float[Numbers, "B D"],
        index: Int[Numbers, " B"],
        step: Count,
    ) -> PositiveSet:
        """The positives `rows` [B, P], equally weighted; none for examples that are left out."""
        kept = self.boundary.kept(pos_state, keys, index, step)
        weight = jnp.broadcast_to(kept[:, None].astype(jnp.float32), rows.shape)
        return PositiveSet(rows, weight, len(index) if self.boundary.count_left_out else None)
