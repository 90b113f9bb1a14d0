"""SimSiam (Chen & He 2021, arXiv 2011.10566)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ssl_jax import interface
from ssl_jax.interface import Aux, Batch, TrainState
from ssl_jax.methods.common import collapse, features, target_network
from ssl_jax.models.layers import Head
from ssl_jax.models.network import Network
from ssl_jax.ops.losses import neighbour_cosine
from ssl_jax.ops.types import Numbers
from ssl_jax.ops.vectors import unit
from ssl_jax.positives.instance import Instance
from ssl_jax.settings import ranges


@dataclasses.dataclass(frozen=True)
class SimSiam(interface.Method):
    """One network with a predictor: each view predicts the other's projection, without gradient.

    The published projector has three layers (`head.hidden` of two) and two on CIFAR, no biases
    before BatchNorm, and a BatchNorm without parameters on its output (`head.output_norm="plain"`).
    The bias of its last layer, frozen in the authors' code and cancelled by that BatchNorm, is
    absent here. The predictor's learning rate does not follow the schedule: give `optim.groups` a
    group with `fixed_rate`. With `positives` other than "instance" the prediction goes to the
    projections of the image's neighbours (CoNR, eq. 16).

    Attributes:
        network: set by `train.build`; the head is the projector.
        positives: which projections of the batch an image predicts.
        predictor: widths of the predictor's hidden layers.
        joint_views: put both views in one BatchNorm batch (ProPos's runs) instead of one after the
            other.
    """

    network: Network
    positives: Any = Instance()
    predictor: tuple[int, ...] = (512,)
    joint_views: bool = False

    def _predictor(self) -> Head:
        head = self.network.head
        return Head(
            head.dim,
            self.predictor,
            bias=False,
            bn_groups=head.bn_groups,
            bn_momentum=head.bn_momentum,
        )

    def __post_init__(self):
        ranges.count(1, ranges.WIDEST, predictor=self.predictor)
        ranges.at_most(100, predictor=self.predictor)
        self._predictor()

    def init(
        self, key: PRNGKeyArray, batch: Batch
    ) -> tuple[dict[str, Any], dict[str, Any], tuple[()]]:
        """Network and predictor."""
        target_network.two_views("SimSiam", batch)
        network_key, predictor_key = jax.random.split(key)
        network = self.network.init(network_key, batch.views, train=False)
        z = jnp.zeros((1, self.network.head.dim))
        predictor = self._predictor().init(predictor_key, z, train=False)
        params = {"network": network["params"], "predictor": predictor["params"]}
        batch_stats = {
            "network": network["batch_stats"],
            "predictor": predictor.get("batch_stats", {}),
        }
        return params, batch_stats, ()

    def loss(
        self, state: TrainState, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], Aux]:
        """Minus the cosine of predictions and positives, mean of both directions (eq. 2)."""
        params = state.params
        stats = state.batch_stats
        z, network_stats = target_network.project(
            self.network,
            params["network"],
            stats["network"],
            batch.views,
            joint=self.joint_views,
        )
        p, predictor_stats = target_network.predict(
            self._predictor(),
            params["predictor"],
            stats["predictor"],
            z,
            joint=self.joint_views,
        )
        keys = jax.lax.stop_gradient(z[::-1])
        loss = jnp.zeros(())
        selected = []
        for prediction, k in zip(p, keys):
            chosen = self.positives.select(state.positives, unit(k), batch.index, state.step)
            loss = loss + 0.5 * neighbour_cosine(prediction, k, chosen)
            selected.append(chosen)
        metrics = target_network.metrics(self.positives, state.positives, selected[-1], keys[0])
        return loss, Aux({"network": network_stats, "predictor": predictor_stats}, (), metrics)

    def post_step(self, state: TrainState, aux: Aux, batch: Batch) -> TrainState:
        """Returns `state` unchanged: only the optimiser moves parameters."""
        return state

    def diagnose(self, metrics: Mapping[str, float]) -> str | None:
        """Warns of projections that are all the same, or fall into few clusters."""
        return collapse.warning(
            metrics,
            "another optim.learning_rate, weaker colour jitter or larger crops in augment, a "
            "larger batch_size",
        )

    def features(
        self, state: TrainState, images: Float[Numbers, "B H W C"], names: tuple[str, ...]
    ) -> dict[str, Float[Array, "B ..."]]:
        """The network's features."""
        return features.chosen(
            self.network, state.params["network"], state.batch_stats["network"], images, names
        )


Method = SimSiam
