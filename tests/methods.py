"""The three unlike methods that the contract is proved on, at a size that compiles in seconds."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from ssl_jax import optim
from ssl_jax.build import Stage
from ssl_jax.data.augment import View
from ssl_jax.interface import Aux, Batch, TrainState
from ssl_jax.methods.instance import InstanceDiscrimination
from ssl_jax.methods.swav import SwAV
from ssl_jax.models.layers import BatchNorm, Conv, Head
from ssl_jax.models.network import Network
from ssl_jax.ops.vectors import dot, unit
from ssl_jax.positives import Instance

EXAMPLES, BATCH, STEPS_PER_EPOCH = 70, 8, 8
IMAGES = np.random.default_rng(0).integers(0, 256, (EXAMPLES, 8, 8, 3), dtype=np.uint8)


class TinyBackbone(nn.Module):
    """One convolution with BatchNorm, pooled."""

    width: int = 8

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.relu(BatchNorm(name="bn")(Conv(self.width, 3, 2, name="conv")(x), train=train))
        return {"stage1": x, "backbone": x.mean((1, 2))}


class TargetState(struct.PyTreeNode):
    """Target network by moving average, and the centre that a refresh computes."""

    params: Any
    batch_stats: Any
    centre: jax.Array


@dataclasses.dataclass(frozen=True)
class MovingTarget:
    """A toy: predict the target network's embedding of each positive, pushed off the bank's centre."""

    network: Network
    positives: Any = Instance()
    momentum: float = 0.9
    examples: int = EXAMPLES
    steps_per_epoch: int = STEPS_PER_EPOCH

    def init(self, key, batch):
        variables = self.network.init(key, batch.views, train=False)
        dim = jax.eval_shape(lambda: self.network.apply(variables, batch.views, train=False)).shape[-1]
        params, batch_stats = variables["params"], variables["batch_stats"]
        return params, batch_stats, TargetState(jax.tree.map(jnp.copy, params), batch_stats, jnp.zeros((1, dim)))

    def loss(self, state, batch, key):
        first, second = batch.views
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        z, online = self.network.apply(variables, (first,), train=True, mutable="batch_stats")
        variables = {"params": state.method.params, "batch_stats": state.method.batch_stats}
        target, updated = self.network.apply(variables, (second,), train=True, mutable="batch_stats")
        target = jax.lax.stop_gradient(unit(target[0] - jnp.broadcast_to(state.method.centre, target[0].shape)))
        chosen = self.positives.select(state.positives, target, batch.index, state.step)
        similarity = jnp.take_along_axis(dot(z[0], target), chosen.rows, axis=1)
        loss = -jnp.mean(jnp.sum(similarity * chosen.weight, 1) / jnp.sum(chosen.weight, 1))
        return loss, Aux(online["batch_stats"], updated["batch_stats"], {"similarity": -loss})

    def post_step(self, state, aux, batch):
        params = optax.incremental_update(state.params, state.method.params, 1 - self.momentum)
        return state.replace(method=state.method.replace(params=params, batch_stats=aux.carry))

    def refresh_at(self, step):
        return step % self.steps_per_epoch == 0

    def refresh(self, state, embed, key):
        centre = embed("embedding").mean(0, keepdims=True)
        return state.replace(method=state.method.replace(centre=centre)), {"centre": jnp.linalg.norm(centre)}

    def features(self, state, images, names):
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        features = self.network.apply(variables, images, method=Network.features)
        return {name: features[name] for name in names}


Method = MovingTarget


def network():
    return Network(TinyBackbone(), Head(6, (10,)))


def stage(name, tx=None) -> Stage:
    """A stage of the method `name`, with two views of 8 pixels (SwAV: and two of 6)."""
    run = dict(examples=EXAMPLES, batch_size=BATCH, steps_per_epoch=STEPS_PER_EPOCH)
    view = View(size=8, count=2)
    views, method = {
        "swav": (
            (view, View(size=6, count=2, scale=(0.2, 0.5))),
            SwAV(network(), prototypes=12, queue_length=16, queue_starts_epoch=0.25, **run),
        ),
        "instance": ((dataclasses.replace(view, count=1),), InstanceDiscrimination(network(), examples=EXAMPLES)),
        "target": ((view,), MovingTarget(network())),
    }[name]
    schedule = lambda step: jnp.full((), 0.05)
    tx = tx or optim.build("sgd", schedule, weight_decay=1e-4)
    return Stage(10_000, method, tx, schedule, views, (0.5,) * 3, (0.25,) * 3)


def fresh_state(stage, key) -> TrainState:
    sizes = [v.size for v in stage.views for _ in range(v.count)]
    batch = Batch(tuple(jnp.zeros((1, s, s, 3)) for s in sizes), jnp.zeros(1, jnp.int32))
    params, batch_stats, method = stage.method.init(key, batch)
    return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, stage.tx.init(params), method, ())
