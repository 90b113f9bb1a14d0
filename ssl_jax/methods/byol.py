"""BYOL, Bootstrap Your Own Latent (Grill et al. 2020, arXiv 2006.07733)."""

import dataclasses
from typing import Any

import jax
from flax import struct

from ssl_jax import interface
from ssl_jax.interface import Aux, RunFacts
from ssl_jax.methods.common import collapse, target_network
from ssl_jax.methods.common.target_network import TargetNetwork
from ssl_jax.models.layers import Head
from ssl_jax.models.network import Network
from ssl_jax.ops.losses import neighbour_cosine
from ssl_jax.ops.vectors import unit
from ssl_jax.positives.instance import Instance
from ssl_jax.settings import ranges

MOVES = ("after", "before")
SCHEDULES = ("cosine", "constant")


class BYOLState(struct.PyTreeNode):
    """The target network."""

    target: TargetNetwork


@dataclasses.dataclass(frozen=True)
class BYOL(interface.Method):
    """The online network predicts what a slowly moving target network makes of another view; both directions.

    Each view is a BatchNorm batch of its own, in both networks; the target's running statistics come from its own
    forward passes (parameters are averaged, statistics are not). With `positives` other than "instance" the prediction
    goes to the targets of the image's neighbours (CoNR, eq. 14).

    Attributes:
        network: filled by `train.build`; the head is the projector; `head.output_bias` is the predictor's, too.
        positives: which targets of the batch an image predicts; the target's features decide.
        predictor: widths of the predictor's hidden layers.
        predictor_std: of its normal weights at the start; 0 for torch's uniform start.
        loss_scale: the loss is this times minus the cosine, the mean of both directions: 2 in CoNR's base (ProPos), 4
            for the sum of both as in the paper's code, up to a constant.
        momentum: of the target, at the start.
        momentum_schedule: "cosine" raises it to 1 over the run, "constant".
        moves: the target moves "after" the optimiser's step, as published, or "before" it, toward the parameters that
            the loss was computed with, as in CoNR's released code.
        fresh_target: the target starts at random weights of its own, as in the paper's code, not as a copy.
        shuffle: the target's batch is shuffled (for `model.bn_groups` above 1).
    """

    network: Network
    positives: Any = Instance()
    predictor: tuple[int, ...] = (4096,)
    predictor_std: float = 0.0
    loss_scale: float = 2.0
    momentum: float = 0.996
    momentum_schedule: str = "cosine"
    moves: str = "after"
    fresh_target: bool = False
    shuffle: bool = False
    facts: RunFacts = RunFacts()

    def __post_init__(self):
        if not 0 <= self.momentum <= 1:
            raise ValueError(f"momentum={self.momentum}: between 0 and 1")
        if self.moves not in MOVES:
            raise ValueError(f"moves={self.moves!r}: choose {' or '.join(MOVES)}")
        if self.momentum_schedule not in SCHEDULES:
            raise ValueError(f"momentum_schedule={self.momentum_schedule!r}: choose {' or '.join(SCHEDULES)}")
        ranges.positive(loss_scale=self.loss_scale)
        ranges.not_negative(predictor_std=self.predictor_std)
        ranges.count(1, ranges.WIDEST, predictor=self.predictor)
        ranges.at_most(100, predictor=self.predictor)
        self._predictor()

    def _predictor(self):
        head = self.network.head
        norm = dict(bn_groups=head.bn_groups, bn_momentum=head.bn_momentum)
        return Head(head.dim, self.predictor, output_bias=head.output_bias, std=self.predictor_std, **norm)

    def init(self, key, batch):
        """Online network, predictor and target."""
        target_network.two_views("BYOL", batch)
        network_key, predictor_key, target_key = jax.random.split(key, 3)
        make = lambda key: self.network.init(key, batch.views, train=False)
        online = make(network_key)
        other = make(target_key) if self.fresh_target else online
        z = jax.numpy.zeros((1, self.network.head.dim))
        predictor = self._predictor().init(predictor_key, z, train=False)
        params = {"network": online["params"], "predictor": predictor["params"]}
        batch_stats = {"network": online["batch_stats"], "predictor": predictor.get("batch_stats", {})}
        # Copies: donated arrays must not stand twice in the state.
        target = jax.tree.map(jax.numpy.copy, TargetNetwork(other["params"], other["batch_stats"]))
        return params, batch_stats, BYOLState(target)

    def loss(self, state, batch, key):
        """Minus the cosine of each prediction with its positives' targets, both directions."""
        params, stats, target = state.params, state.batch_stats, state.method.target
        z, network_stats = target_network.project(self.network, params["network"], stats["network"], batch.views)
        p, predictor_stats = target_network.predict(self._predictor(), params["predictor"], stats["predictor"], z)
        shuffle = key if self.shuffle else None
        keys, target_stats = target_network.project(  # the second view first, as released
            self.network, target.params, target.batch_stats, batch.views[::-1], shuffle=shuffle
        )
        loss = 0.0
        for prediction, k in zip(p, jax.lax.stop_gradient(keys)):
            chosen = self.positives.select(state.positives, unit(k), batch.index, state.step)
            loss = loss + 0.5 * self.loss_scale * neighbour_cosine(prediction, k, chosen)
        found = target_network.metrics(self.positives, state.positives, chosen, keys[0])
        moved = self._follow(target.params, params["network"], state.step + 1) if self.moves == "before" else ()
        new = {"network": network_stats, "predictor": predictor_stats}
        return loss, Aux(new, (target_stats, moved), jax.lax.stop_gradient(found))

    def _follow(self, target, online, step):
        total = self.facts.total_steps
        momentum = target_network.momentum_at(step, total, self.momentum, self.momentum_schedule)
        return target_network.follow(target, online, momentum)

    def post_step(self, state, aux, batch):
        """The target follows; its running statistics are those of this step's passes."""
        stats, params = aux.carry
        if self.moves == "after":
            params = self._follow(state.method.target.params, state.params["network"], state.step)
        return state.replace(method=BYOLState(TargetNetwork(params, stats)))

    def diagnose(self, metrics):
        """Targets that are all the same, or fall into few clusters."""
        return collapse.warning(
            metrics, "a lower optim.learning_rate, method.momentum nearer to 1, a larger batch_size"
        )

    def features(self, state, images, names):
        """The online network's features; `embedding` is the target's projection, which clustering and filter read."""
        return target_network.features(self.network, state, state.method.target, images, names)


Method = BYOL
