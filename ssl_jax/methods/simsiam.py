"""SimSiam (Chen & He 2021, arXiv 2011.10566)."""

import dataclasses
from typing import Any

import jax

from ssl_jax import interface
from ssl_jax.interface import Aux
from ssl_jax.methods.common import collapse, features, target_network
from ssl_jax.models.layers import Head
from ssl_jax.models.network import Network
from ssl_jax.ops.losses import neighbour_cosine
from ssl_jax.ops.vectors import unit
from ssl_jax.positives.instance import Instance
from ssl_jax.settings import ranges


@dataclasses.dataclass(frozen=True)
class SimSiam(interface.Method):
    """One network, a predictor, and a stop-gradient: each view's prediction goes to the other view's projection.

    The published projector has three layers (`head.hidden` of two) and two on CIFAR, no biases before BatchNorm, and a
    BatchNorm on its output that has nothing to learn (`head.output_norm="plain"`); its last layer's bias, frozen in the
    authors' code and taken out again by that BatchNorm, is absent here. The predictor's rate is off the schedule: give
    `optim.groups` a group with `fixed_rate`. With `positives` other than "instance" the prediction goes to the
    projections of the image's neighbours (CoNR, eq. 16).

    Attributes:
        network: filled by `train.build`; the head is the projector.
        positives: which projections of the batch an image predicts.
        predictor: widths of the predictor's hidden layers.
        joint_views: both views in one BatchNorm batch (ProPos's runs) instead of one after the other.
    """

    network: Network
    positives: Any = Instance()
    predictor: tuple[int, ...] = (512,)
    joint_views: bool = False

    def _predictor(self):
        head = self.network.head
        return Head(head.dim, self.predictor, bias=False, bn_groups=head.bn_groups, bn_momentum=head.bn_momentum)

    def __post_init__(self):
        ranges.count(1, ranges.WIDEST, predictor=self.predictor)
        ranges.at_most(100, predictor=self.predictor)
        self._predictor()

    def init(self, key, batch):
        """Network and predictor."""
        target_network.two_views("SimSiam", batch)
        network_key, predictor_key = jax.random.split(key)
        network = self.network.init(network_key, batch.views, train=False)
        z = jax.numpy.zeros((1, self.network.head.dim))
        predictor = self._predictor().init(predictor_key, z, train=False)
        params = {"network": network["params"], "predictor": predictor["params"]}
        return params, {"network": network["batch_stats"], "predictor": predictor.get("batch_stats", {})}, ()

    def loss(self, state, batch, key):
        """Minus the cosine of each prediction with its positives' projections, the mean of both directions (eq. 2)."""
        params, stats, joint = state.params, state.batch_stats, dict(joint=self.joint_views)
        z, network_stats = target_network.project(
            self.network, params["network"], stats["network"], batch.views, **joint
        )
        p, predictor_stats = target_network.predict(
            self._predictor(), params["predictor"], stats["predictor"], z, **joint
        )
        loss, keys = 0.0, jax.lax.stop_gradient(z[::-1])
        for prediction, k in zip(p, keys):
            chosen = self.positives.select(state.positives, unit(k), batch.index, state.step)
            loss = loss + 0.5 * neighbour_cosine(prediction, k, chosen)
        found = target_network.metrics(self.positives, state.positives, chosen, keys[0])
        return loss, Aux({"network": network_stats, "predictor": predictor_stats}, (), found)

    def post_step(self, state, aux, batch):
        """Nothing moves but the parameters."""
        return state

    def diagnose(self, metrics):
        """Projections that are all the same, or fall into few clusters."""
        return collapse.warning(
            metrics, "another optim.learning_rate, softer colours or larger crops in augment, a larger batch_size"
        )

    def features(self, state, images, names):
        """The network's features."""
        return features.chosen(self.network, state.params["network"], state.batch_stats["network"], images, names)


Method = SimSiam
