"""Toy positives in one file, as a user would add them."""

import dataclasses

import jax.numpy as jnp

from ssl_jax import interface
from ssl_jax.interface import PositiveSet, RunFacts


@dataclasses.dataclass(frozen=True)
class SameSign(interface.Positives):
    """Rows of the batch whose first embedding number had the same sign at the last refresh."""

    facts: RunFacts = RunFacts()

    def init(self, key, examples, dim):
        return jnp.zeros(examples, bool)

    def select(self, pos_state, keys, index, step):
        sign = pos_state[index]
        rows = jnp.broadcast_to(
            jnp.arange(len(index), dtype=jnp.int32)[None], (len(index), len(index))
        )
        return PositiveSet(rows, (sign[:, None] == sign[None]).astype(jnp.float32))

    def refresh_at(self, step):
        return step % self.facts.steps_per_epoch == 0

    def refresh(self, pos_state, embed, key):
        sign = embed("embedding")[:, 0] > 0
        return sign, {"positive": sign.mean()}


Positives = SameSign
