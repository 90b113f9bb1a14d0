"""MoCo v2, Momentum Contrast (He et al. 2020, arXiv 1911.05722; Chen et al. 2020, arXiv 2003.04297)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from ssl_jax import interface
from ssl_jax.interface import Aux
from ssl_jax.methods.common import collapse, target_network
from ssl_jax.methods.common.target_network import TargetNetwork
from ssl_jax.models.network import Network
from ssl_jax.ops.losses import neighbour_info_nce
from ssl_jax.ops.memory import push_queue
from ssl_jax.ops.vectors import unit
from ssl_jax.positives.instance import Instance
from ssl_jax.settings import ranges


class MoCoState(struct.PyTreeNode):
    """The key network, and the queue [Q, D] of past keys, unit rows, newest first."""

    target: TargetNetwork
    queue: jax.Array


@dataclasses.dataclass(frozen=True)
class MoCo(interface.Method):
    """Each image's query finds its key among a queue of past keys.

    The key network follows after each step, so keys are made by what the released code makes them by (it moves the key
    network at the start of a step, which differs in no step but the first, where both are equal). The queue starts with
    random unit rows, so the loss rises first. With `model.bn_groups` above 1 and `shuffle`, one device behaves like
    several: a query and its key as a rule have BatchNorm statistics of different images, which could else tell them
    apart from the queue. With `positives` other than "instance" the keys of the image's neighbours are positives, too
    (CoNR, eq. 17).

    Attributes:
        network: filled by `train.build`; MoCo v2's head is one hidden layer without BatchNorm.
        positives: which keys of the batch a query finds.
        queue_length: Q, at least the keys of a step.
        temperature: of the softmax; 0.2 for v2, 0.07 for v1, 0.1 on CIFAR.
        momentum: of the key network.
        shuffle: shuffle the keys' batch before the key network, and back.
        symmetric: both views are queries; the loss is the sum, and both views' keys enter the queue.
        denominator: of the softmax with several positives, "each" or "own": see `losses.neighbour_info_nce`.
    """

    network: Network
    positives: Any = Instance()
    queue_length: int = 65536
    temperature: float = 0.2
    momentum: float = 0.999
    shuffle: bool = True
    symmetric: bool = False
    denominator: str = "each"

    def __post_init__(self):
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature} must be above 0")
        ranges.positive(temperature=self.temperature)
        ranges.count(1, queue_length=self.queue_length)
        if not 0 <= self.momentum <= 1:
            raise ValueError(f"momentum={self.momentum}: between 0 and 1")
        if self.denominator not in ("each", "own"):
            raise ValueError(f"denominator={self.denominator!r}: choose each or own")

    def check_config(self, batch_size: int, epochs: int) -> None:
        """Raises ValueError for a queue that whole steps do not fill."""
        entering = batch_size * (2 if self.symmetric else 1)
        if self.queue_length % entering:
            keys = f"the {entering} keys of a step"
            raise ValueError(f"queue_length={self.queue_length}: a multiple of {keys}")

    def init(self, key, batch):
        """Query network, its copy for keys, and a random queue."""
        target_network.two_views("MoCo", batch)
        network_key, queue_key = jax.random.split(key)
        online = self.network.init(network_key, batch.views, train=False)
        # Copies: donated arrays must not stand twice in the state.
        target = jax.tree.map(jnp.copy, TargetNetwork(online["params"], online["batch_stats"]))
        queue = unit(jax.random.normal(queue_key, (self.queue_length, self.network.head.dim)))
        return {"network": online["params"]}, {"network": online["batch_stats"]}, MoCoState(target, queue)

    def loss(self, state, batch, key):
        """The positives' keys against the queue as it was before this step."""
        own, params, stats = state.method, state.params["network"], state.batch_stats["network"]
        shuffle = key if self.shuffle and self.network.head.bn_groups > 1 else None
        pairs = (batch.views, batch.views[::-1])[: 2 if self.symmetric else 1]
        queries, stats = target_network.project(self.network, params, stats, tuple(first for first, _ in pairs))
        keys, target_stats = target_network.project(
            self.network, own.target.params, own.target.batch_stats, tuple(k for _, k in pairs), shuffle=shuffle
        )
        loss, keys = 0.0, jax.lax.stop_gradient(unit(keys))
        settings = dict(temperature=self.temperature, denominator=self.denominator)
        for query, k in zip(queries, keys):
            chosen = self.positives.select(state.positives, k, batch.index, state.step)
            loss = loss + neighbour_info_nce(query, k, own.queue, chosen, **settings)
        found = target_network.metrics(self.positives, state.positives, chosen, keys[0])
        entering = keys[::-1].reshape(-1, keys.shape[-1])
        return loss, Aux({"network": stats}, (target_stats, entering), found)

    def post_step(self, state, aux, batch):
        """The key network follows, and this step's keys enter the queue."""
        stats, keys = aux.carry
        params = target_network.follow(state.method.target.params, state.params["network"], self.momentum)
        return state.replace(method=MoCoState(TargetNetwork(params, stats), push_queue(state.method.queue, keys)))

    def diagnose(self, metrics):
        """Keys that are all the same, or fall into few clusters."""
        return collapse.warning(
            metrics, "a lower optim.learning_rate, method.momentum nearer to 1, a longer method.queue_length"
        )

    def features(self, state, images, names):
        """The query network's features, its embedding as `query`; `embedding` is the key network's.

        Clustering and the boundary filter use `embedding`; the authors' CIFAR demonstration scores `query`.
        """
        return target_network.features(self.network, state, state.method.target, images, names)


Method = MoCo
