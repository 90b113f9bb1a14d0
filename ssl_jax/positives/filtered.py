"""What positives that pass through CoNR's boundary filter share."""

import jax.numpy as jnp

from ssl_jax import interface
from ssl_jax.interface import PositiveSet, RunFacts


class Filtered(interface.Positives):
    """Positives that pass through a filter, `boundary`: what it keeps is all that they keep."""

    def check(self, facts: RunFacts) -> None:
        """Raises ValueError where the boundary filter does not fit the run."""
        self.boundary.check(facts)

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
