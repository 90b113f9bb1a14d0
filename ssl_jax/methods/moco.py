"""MoCo v2, Momentum Contrast (He et al. 2020, arXiv 1911.05722; Chen et al. 2020, 2003.04297)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, PRNGKeyArray

from ssl_jax import interface
from ssl_jax.interface import Aux, Batch, RunFacts, TrainState
from ssl_jax.methods.common import collapse, target_network
from ssl_jax.methods.common.target_network import TargetNetwork
from ssl_jax.models.network import Network
from ssl_jax.ops.losses import neighbour_info_nce
from ssl_jax.ops.memory import push_queue
from ssl_jax.ops.types import Numbers
from ssl_jax.ops.vectors import unit
from ssl_jax.positives.instance import Instance
from ssl_jax.settings import ranges


class MoCoState(struct.PyTreeNode):
    """The key network, and the queue [Q, D] of past keys, unit rows, newest first."""

    target: TargetNetwork
    queue: jax.Array


@dataclasses.dataclass(frozen=True)
class MoCo(interface.Method):
    """Each image's query is matched with its key against a queue of past keys.

    The key network is updated after each step, so keys come from the same weights as in the
    released code (which updates it at the start of a step; only the first step differs, where both
    networks are equal). The queue starts with random unit rows, so the loss rises at first. With
    `model.bn_groups` above 1 and `shuffle`, one device behaves like several: a query and its key
    usually have BatchNorm statistics of different images; shared statistics could give the key
    away. With `positives` other than "instance" the keys of the image's neighbours are positives,
    too (CoNR, eq. 17).

    Attributes:
        network: set by `train.build`; MoCo v2's head has one hidden layer without BatchNorm.
        positives: which keys of the batch match a query.
        queue_length: number of keys in the queue, Q; a multiple of the keys of a step. It may hold
            keys of all images at most, or each would be its own negative; with few images, keys of
            a quarter of them are enough.
        temperature: temperature of the softmax; 0.2 for v2, 0.07 for v1, 0.1 on CIFAR.
        momentum: share of the old key network that stays at each step.
        shuffle: shuffle the batch before the key network and restore its order after it.
        symmetric: use both views as queries; the loss is the sum, and both views' keys enter the
            queue.
        denominator: denominator of the softmax with several positives, "each" or "own": see
            `losses.neighbour_info_nce`.
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
        ranges.positive(temperature=self.temperature)
        ranges.count(1, queue_length=self.queue_length)
        if not 0 <= self.momentum <= 1:
            raise ValueError(f"momentum={self.momentum}: between 0 and 1")
        if self.denominator not in ("each", "own"):
            raise ValueError(f"denominator={self.denominator!r}: choose each or own")

    def check_config(self, batch_size: int, epochs: int) -> None:
        """Raises ValueError if the keys of a step do not divide the queue."""
        entering = batch_size * (2 if self.symmetric else 1)
        if self.queue_length % entering:
            keys = f"the {entering} keys of a step"
            raise ValueError(f"queue_length={self.queue_length}: a multiple of {keys}")

    def check(self, facts: RunFacts) -> None:
        """Raises ValueError if the queue holds keys of more images than there are."""
        keys = 2 if self.symmetric else 1  # of an image at each step
        if self.queue_length > keys * facts.examples:
            step = max(keys * facts.batch_size, 1)
            longest = keys * facts.examples // step * step
            raise ValueError(
                f"queue_length={self.queue_length}: longer than the {facts.examples} training "
                f"images fill, so each would be its own negative; give at most {longest}"
            )

    def init(
        self, key: PRNGKeyArray, batch: Batch
    ) -> tuple[dict[str, Any], dict[str, Any], MoCoState]:
        """Query network, its copy for keys, and a random queue."""
        target_network.two_views("MoCo", batch)
        network_key, queue_key = jax.random.split(key)
        online = self.network.init(network_key, batch.views, train=False)
        # Copies: a donated array must not occur twice in the state.
        target = jax.tree.map(jnp.copy, TargetNetwork(online["params"], online["batch_stats"]))
        queue = unit(jax.random.normal(queue_key, (self.queue_length, self.network.head.dim)))
        params = {"network": online["params"]}
        batch_stats = {"network": online["batch_stats"]}
        return params, batch_stats, MoCoState(target, queue)

    def loss(
        self, state: TrainState, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], Aux]:
        """The positives' keys against the queue as it was before this step."""
        target = state.method.target
        directions = (batch.views, batch.views[::-1])[: 2 if self.symmetric else 1]
        queries, stats = target_network.project(
            self.network,
            state.params["network"],
            state.batch_stats["network"],
            tuple(first for first, _ in directions),
        )
        keys, target_stats = target_network.project(
            self.network,
            target.params,
            target.batch_stats,
            tuple(second for _, second in directions),
            shuffle=key if self.shuffle and self.network.head.bn_groups > 1 else None,
        )
        keys = jax.lax.stop_gradient(unit(keys))
        loss = jnp.zeros(())
        selected = []
        for query, k in zip(queries, keys):
            chosen = self.positives.select(state.positives, k, batch.index, state.step)
            loss = loss + neighbour_info_nce(
                query,
                k,
                state.method.queue,
                chosen,
                temperature=self.temperature,
                denominator=self.denominator,
            )
            selected.append(chosen)
        metrics = target_network.metrics(self.positives, state.positives, selected[-1], keys[0])
        entering = keys[::-1].reshape(-1, keys.shape[-1])
        return loss, Aux({"network": stats}, (target_stats, entering), metrics)

    def post_step(self, state: TrainState, aux: Aux, batch: Batch) -> TrainState:
        """Moves the key network, and puts this step's keys into the queue."""
        stats, keys = aux.carry
        params = target_network.follow(
            state.method.target.params, state.params["network"], self.momentum
        )
        queue = push_queue(state.method.queue, keys)
        return state.replace(method=MoCoState(TargetNetwork(params, stats), queue))

    def diagnose(self, metrics: Mapping[str, float]) -> str | None:
        """Warns of keys that are all the same, or fall into few clusters."""
        return collapse.warning(
            metrics,
            "a lower optim.learning_rate, method.momentum nearer to 1, a longer "
            "method.queue_length",
        )

    def features(
        self, state: TrainState, images: Float[Numbers, "B H W C"], names: tuple[str, ...]
    ) -> dict[str, Float[Array, "B ..."]]:
        """The query network's features, its embedding as `query`; `embedding` is the key network's.

        Clustering and the boundary filter use `embedding`; the authors' CIFAR demonstration scores
        `query`.
        """
        return target_network.features(self.network, state, state.method.target, images, names)


Method = MoCo
