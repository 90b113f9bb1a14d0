"""BYOL, Bootstrap Your Own Latent (Grill et al. 2020, arXiv 2006.07733)."""

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
from ssl_jax.models.layers import Head
from ssl_jax.models.network import Network
from ssl_jax.ops.losses import neighbour_cosine
from ssl_jax.ops.types import Count, Numbers
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
    """The online network predicts a slowly moving target network's projection of the other view.

    Both views are predicted. Each view is its own BatchNorm batch in both networks; the target's
    running statistics come from its forward passes (parameters are averaged, statistics are not).
    With `positives` other than "instance" the prediction goes to the targets of the image's
    neighbours (CoNR, eq. 14).

    Attributes:
        network: set by `train.build`; the head is the projector; `head.output_bias` also applies to
            the predictor.
        positives: which targets of the batch an image predicts; chosen by the target's features.
        predictor: widths of the predictor's hidden layers.
        predictor_std: standard deviation of the predictor's normal initial weights; 0 for torch's
            uniform initialisation.
        loss_scale: factor of minus the cosine, averaged over both directions: 2 in CoNR's base
            (ProPos), 4 for the sum of both as in the paper's code, up to a constant.
        momentum: share of the old target that stays at each step, at the start of the run.
        momentum_schedule: "cosine", which raises `momentum` to 1 over the run, or "constant".
        moves: the target moves "after" the optimiser's step, as published, or "before" it, toward
            the parameters that the loss was computed with, as in CoNR's released code.
        fresh_target: initialise the target independently, as in the paper's code, instead of as a
            copy of the online network.
        shuffle: shuffle the target's batch (for `model.bn_groups` above 1).
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
            raise ValueError(
                f"momentum_schedule={self.momentum_schedule!r}: choose {' or '.join(SCHEDULES)}"
            )
        ranges.positive(loss_scale=self.loss_scale)
        ranges.not_negative(predictor_std=self.predictor_std)
        ranges.count(1, ranges.WIDEST, predictor=self.predictor)
        ranges.at_most(100, predictor=self.predictor)
        self._predictor()

    def _predictor(self) -> Head:
        head = self.network.head
        return Head(
            dim=head.dim,
            hidden=self.predictor,
            output_bias=head.output_bias,
            std=self.predictor_std,
            bn_groups=head.bn_groups,
            bn_momentum=head.bn_momentum,
        )

    def init(
        self, key: PRNGKeyArray, batch: Batch
    ) -> tuple[dict[str, Any], dict[str, Any], BYOLState]:
        """Online network, predictor and target."""
        target_network.two_views("BYOL", batch)
        network_key, predictor_key, target_key = jax.random.split(key, 3)
        online = self.network.init(network_key, batch.views, train=False)
        target = online
        if self.fresh_target:
            target = self.network.init(target_key, batch.views, train=False)
        z = jnp.zeros((1, self.network.head.dim))
        predictor = self._predictor().init(predictor_key, z, train=False)
        params = {"network": online["params"], "predictor": predictor["params"]}
        batch_stats = {
            "network": online["batch_stats"],
            "predictor": predictor.get("batch_stats", {}),
        }
        # Copies: a donated array must not occur twice in the state.
        copies = jax.tree.map(jnp.copy, TargetNetwork(target["params"], target["batch_stats"]))
        return params, batch_stats, BYOLState(copies)

    def loss(
        self, state: TrainState, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], Aux]:
        """Minus the cosine of predictions with their positives' targets, in both directions."""
        params = state.params
        stats = state.batch_stats
        target = state.method.target
        z, network_stats = target_network.project(
            self.network, params["network"], stats["network"], batch.views
        )
        p, predictor_stats = target_network.predict(
            self._predictor(), params["predictor"], stats["predictor"], z
        )
        keys, target_stats = target_network.project(
            self.network,
            target.params,
            target.batch_stats,
            batch.views[::-1],  # the second view first, as released
            shuffle=key if self.shuffle else None,
        )
        loss = jnp.zeros(())
        selected = []
        for prediction, k in zip(p, jax.lax.stop_gradient(keys)):
            chosen = self.positives.select(state.positives, unit(k), batch.index, state.step)
            loss = loss + 0.5 * self.loss_scale * neighbour_cosine(prediction, k, chosen)
            selected.append(chosen)
        metrics = target_network.metrics(self.positives, state.positives, selected[-1], keys[0])
        moved = ()
        if self.moves == "before":
            moved = self._follow(target.params, params["network"], state.step + 1)
        batch_stats = {"network": network_stats, "predictor": predictor_stats}
        return loss, Aux(batch_stats, (target_stats, moved), jax.lax.stop_gradient(metrics))

    def _follow(self, target: Any, online: Any, step: Count) -> Any:
        total = self.facts.total_steps
        momentum = target_network.momentum_at(step, total, self.momentum, self.momentum_schedule)
        return target_network.follow(target, online, momentum)

    def post_step(self, state: TrainState, aux: Aux, batch: Batch) -> TrainState:
        """Moves the target; its running statistics are those of this step's forward passes."""
        stats, params = aux.carry
        if self.moves == "after":
            params = self._follow(state.method.target.params, state.params["network"], state.step)
        return state.replace(method=BYOLState(TargetNetwork(params, stats)))

    def diagnose(self, metrics: Mapping[str, float]) -> str | None:
        """Warns of targets that are all the same, or fall into few clusters."""
        return collapse.warning(
            metrics, "a lower optim.learning_rate, method.momentum nearer to 1, a larger batch_size"
        )

    def features(
        self, state: TrainState, images: Float[Numbers, "B H W C"], names: tuple[str, ...]
    ) -> dict[str, Float[Array, "B ..."]]:
        """The online network's features, except `embedding`, which is the target's projection.

        Clustering and the boundary filter read `embedding`.
        """
        return target_network.features(self.network, state, state.method.target, images, names)


Method = BYOL
