"""A toy method in one file, as a user would add it, with a target network, positives, refreshes."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from ssl_jax import interface
from ssl_jax.interface import Aux, RunFacts, no_progress
from ssl_jax.models.network import Network
from ssl_jax.ops.vectors import dot, unit
from ssl_jax.positives.instance import Instance


class TargetState(struct.PyTreeNode):
    """Target network by moving average, and the centre that a refresh computes."""

    params: Any
    batch_stats: Any
    centre: jax.Array


@dataclasses.dataclass(frozen=True)
class MovingTarget(interface.Method):
    """A toy: predict the target's embedding of each positive, relative to the bank's centre."""

    network: Network
    positives: Any = Instance()
    momentum: float = 0.9
    facts: RunFacts = RunFacts()

    def init(self, key, batch):
        variables = self.network.init(key, batch.views, train=False)
        dim = jax.eval_shape(lambda: self.network.apply(variables, batch.views, train=False)).shape[
            -1
        ]
        params = variables["params"]
        batch_stats = variables["batch_stats"]
        return (
            {"network": params},
            batch_stats,
            TargetState(jax.tree.map(jnp.copy, params), batch_stats, jnp.zeros((1, dim))),
        )

    def loss(self, state, batch, key):
        first, second = batch.views
        variables = {"params": state.params["network"], "batch_stats": state.batch_stats}
        z, online = self.network.apply(variables, (first,), train=True, mutable="batch_stats")
        variables = {"params": state.method.params, "batch_stats": state.method.batch_stats}
        target, updated = self.network.apply(
            variables, (second,), train=True, mutable="batch_stats"
        )
        target = jax.lax.stop_gradient(
            unit(target[0] - jnp.broadcast_to(state.method.centre, target[0].shape))
        )
        chosen = self.positives.select(state.positives, target, batch.index, state.step)
        similarity = jnp.take_along_axis(dot(z[0], target), chosen.rows, axis=1)
        loss = -jnp.mean(jnp.sum(similarity * chosen.weight, 1) / jnp.sum(chosen.weight, 1))
        return loss, Aux(online["batch_stats"], updated["batch_stats"], {"similarity": -loss})

    def post_step(self, state, aux, batch):
        params = optax.incremental_update(
            state.params["network"], state.method.params, 1 - self.momentum
        )
        return state.replace(method=state.method.replace(params=params, batch_stats=aux.carry))

    def refresh_at(self, step):
        return step % self.facts.steps_per_epoch == 0

    def refresh(self, state, embed, key, report=no_progress):
        centre = embed("embedding").mean(0, keepdims=True)
        return state.replace(method=state.method.replace(centre=centre)), {
            "centre": jnp.linalg.norm(centre)
        }

    def features(self, state, images, names):
        variables = {"params": state.params["network"], "batch_stats": state.batch_stats}
        features = self.network.apply(variables, images, method=Network.features)
        return {name: features[name] for name in names}


Method = MovingTarget
