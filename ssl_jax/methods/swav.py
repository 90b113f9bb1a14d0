"""SwAV: contrasting cluster assignments (Caron et al. 2020, arXiv 2006.09882)."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, PRNGKeyArray

from ssl_jax import interface
from ssl_jax.interface import Aux, Batch, RunFacts, TrainState
from ssl_jax.methods.common import collapse, features
from ssl_jax.models.network import Network
from ssl_jax.ops.collapse import code_entropy, spread, usage
from ssl_jax.ops.losses import swapped_prediction
from ssl_jax.ops.memory import push_queue
from ssl_jax.ops.sinkhorn import sinkhorn
from ssl_jax.ops.types import Numbers
from ssl_jax.ops.vectors import dot, unit
from ssl_jax.settings import ranges


class SwAVState(struct.PyTreeNode):
    """The queue, or None without one.

    `queue` [A, Q, D]: embeddings of each assignment view, newest first, zeros until filled.
    """

    queue: jax.Array | None


@dataclasses.dataclass(frozen=True)
class SwAV(interface.Method):
    """Views predict each other's codes: soft, balanced assignments to learned prototypes.

    Prototypes have unit length before every forward pass, frozen or not: `init` and `post_step`
    normalise them outside the gradient, so the optimiser's update is the released code's. How long
    they stay frozen is set in `config.optim.groups`.

    The queue holds each assignment view's embeddings from before the update. It starts to fill at
    `queue_starts_epoch` and contributes to the codes only once its last row is filled. Its scores
    are recomputed with the current prototypes at every step. It may be longer than the data set: it
    only helps to balance the codes of the batch, and an image in it is never a negative.

    Attributes:
        network: set by `train.build`.
        prototypes: number of prototypes, K; about ten per expected class. 0 takes ten per class, at
            least 128 (few collapse easily), and 512 if the classes are unknown; see `clusters`.
        temperature: temperature of the softmax over prototypes.
        epsilon: entropy regularisation of Sinkhorn-Knopp; 0.03 against collapse.
        sinkhorn_iterations: rounds of Sinkhorn-Knopp's normalisation.
        assign: the views that codes are computed from.
        hard: one-hot codes (arg max) instead of soft ones.
        queue_length: number of past embeddings in the queue, Q, a multiple of the batch size; 0 for
            no queue.
        queue_starts_epoch: epoch at which the queue begins to fill (the loss should be falling by
            then).
        joint_views: views of one size share a BatchNorm batch, as in the paper; otherwise each view
            is its own batch, and running statistics are updated view by view, as in lightly.
    """

    network: Network
    prototypes: int = 0
    temperature: float = 0.1
    epsilon: float = 0.05
    sinkhorn_iterations: int = 3
    assign: tuple[int, ...] = (0, 1)
    hard: bool = False
    queue_length: int = 0
    queue_starts_epoch: float = 15.0
    joint_views: bool = True
    facts: RunFacts = RunFacts()

    def __post_init__(self):
        ranges.count(0, prototypes=self.prototypes)
        ranges.positive(temperature=self.temperature, epsilon=self.epsilon)
        ranges.count(0, 100, sinkhorn_iterations=self.sinkhorn_iterations)
        ranges.count(0, queue_length=self.queue_length)
        ranges.count(0, ranges.INT32, assign=self.assign)
        ranges.between(0, ranges.EPOCHS, queue_starts_epoch=self.queue_starts_epoch)
        if not self.assign or len(set(self.assign)) != len(self.assign):
            raise ValueError(f"assign={self.assign}: give different view numbers, such as (0, 1)")

    def check_config(self, batch_size: int, epochs: int) -> None:
        """Raises ValueError if the queue is not a multiple of the batch size."""
        if self.queue_length % batch_size:
            nearest = max(self.queue_length // batch_size, 1) * batch_size
            raise ValueError(
                f"queue_length={self.queue_length} is not a multiple of batch_size={batch_size}; "
                f"try {nearest}"
            )

    def check(self, facts: RunFacts) -> None:
        """Raises ValueError for too many prototypes, or a queue that fills after the run's end."""
        if not 2 <= self.clusters <= facts.examples:
            images = f"the {facts.examples} training images"
            raise ValueError(f"prototypes={self.clusters}: between 2 and {images}")
        length = self.queue_length
        first_used = self._queue_starts + length // facts.batch_size
        if length and facts.total_steps and first_used >= facts.total_steps:
            first = f"{first_used / facts.steps_per_epoch:.4g}"
            last = f"{facts.total_steps / facts.steps_per_epoch:.4g}"
            raise ValueError(
                f"queue_starts_epoch={self.queue_starts_epoch}: a queue of {length} would first be "
                f"used after {first} of {last} epochs; start it earlier or set queue_length=0"
            )

    @property
    def clusters(self) -> int:
        """K of this run: `prototypes`, or its default for 0, at most one per image."""
        if self.prototypes:
            return self.prototypes
        usual = max(10 * self.facts.classes, 128) if self.facts.classes else 512
        return min(usual, self.facts.examples)

    @property
    def _queue_starts(self) -> int:
        return round(self.queue_starts_epoch * self.facts.steps_per_epoch)

    def init(self, key: PRNGKeyArray, batch: Batch) -> tuple[dict[str, Any], Any, SwAVState]:
        """Network and unit prototypes; an empty queue."""
        views = len(batch.views)
        if views < 2 or not all(0 <= a < views for a in self.assign):
            raise ValueError(
                f"assign={self.assign} does not fit the {views} views of config.augment"
            )
        network_key, prototype_key = jax.random.split(key)
        variables = self.network.init(network_key, batch.views, train=False)
        embedding = jax.eval_shape(lambda: self.network.apply(variables, batch.views, train=False))
        dim = embedding.shape[-1]
        prototypes = jax.random.uniform(prototype_key, (self.clusters, dim), minval=-1.0)
        params = {"network": variables["params"], "prototypes": unit(prototypes)}
        queue = jnp.zeros((len(self.assign), self.queue_length, dim)) if self.queue_length else None
        return params, variables["batch_stats"], SwAVState(queue)

    def loss(
        self, state: TrainState, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], Aux]:
        """Swapped prediction, with metrics of collapse; `queue` is 1 if the queue was used."""
        embedding, updated = self.network.apply(
            {"params": state.params["network"], "batch_stats": state.batch_stats},
            batch.views,
            train=True,
            separate=not self.joint_views,
            mutable="batch_stats",
        )
        prototypes = state.params["prototypes"]
        scores = dot(embedding, prototypes)
        assign = jnp.asarray(self.assign)
        assigned, fixed = jax.lax.stop_gradient((scores[assign], prototypes))
        codes, queue_used = self._codes(assigned, fixed, state.method.queue)
        loss = swapped_prediction(scores, codes, assign=self.assign, temperature=self.temperature)
        carry = jax.lax.stop_gradient(embedding[assign])
        metrics = {
            "loss_over_ln_k": jax.lax.stop_gradient(loss) / math.log(self.clusters),
            "code_entropy": code_entropy(codes),
            "prototypes_used": usage(codes),
            "spread": spread(carry),
        }
        if queue_used is not None:
            metrics["queue"] = queue_used
        return loss, Aux(updated["batch_stats"], carry, metrics)

    def _codes(
        self,
        scores: Float[Array, "A B K"],
        prototypes: Float[Array, "K D"],
        queue: Float[Array, "A Q D"] | None,
    ) -> tuple[Float[Array, "A B K"], Float[Array, ""] | None]:
        """Codes of the assignment views, and whether the queue was full and used (1. or 0.)."""
        batch = scores.shape[1]

        def assignment(scores):
            codes = sinkhorn(scores, epsilon=self.epsilon, iterations=self.sinkhorn_iterations)
            codes = codes[-batch:]
            return jax.nn.one_hot(codes.argmax(1), self.clusters) if self.hard else codes

        def without_queue():
            return jnp.stack([assignment(s) for s in scores])

        if queue is None:
            return without_queue(), None

        def with_queue():
            return jnp.stack(
                [
                    assignment(jnp.concatenate([dot(q, prototypes), s]))
                    for q, s in zip(queue, scores)
                ]
            )

        full = jnp.any(queue[:, -1] != 0)
        return jax.lax.cond(full, with_queue, without_queue), full.astype(jnp.float32)

    def post_step(self, state: TrainState, aux: Aux, batch: Batch) -> TrainState:
        """Normalises the prototypes, and fills the queue with this step's embeddings once due."""
        params = state.params | {"prototypes": unit(state.params["prototypes"])}
        state = state.replace(params=params)
        if not self.queue_length:
            return state
        started = state.step > self._queue_starts
        pushed = jax.vmap(push_queue)(state.method.queue, aux.carry)
        queue = jnp.where(started, pushed, state.method.queue)
        return state.replace(method=SwAVState(queue))

    def diagnose(self, metrics: Mapping[str, float]) -> str | None:
        """Warns of a loss stuck at ln K (all images share one code), or of equal embeddings."""
        sign = collapse.same_embeddings(metrics)
        if metrics["loss_over_ln_k"] > 0.99:
            chance = math.log(self.clusters)
            sign = f"the loss sits at ln K = {chance:.3f}, where codes carry no information"
        if not sign:
            return None
        sharper = 0.03 if self.epsilon > 0.03 else 0.6 * self.epsilon
        remedies = (
            f"one at a time: method.epsilon={sharper:.2g}, prototypes frozen for longer "
            "(optim.groups.prototypes.frozen_epochs), another optim.learning_rate, weaker colour "
            "jitter or larger crops in augment, fewer small views, method.hard=True, "
            "head.batch_norm=False"
        )
        if self.queue_length:
            remedies += (
                ", a later or shorter queue (method.queue_starts_epoch, method.queue_length)"
            )
        return collapse.sentence(sign, remedies)

    def features(
        self, state: TrainState, images: Float[Numbers, "B H W C"], names: tuple[str, ...]
    ) -> dict[str, Float[Array, "B ..."]]:
        """The network's features, and `scores` [B, K]: cosines with the prototypes."""
        available = features.of_network(
            self.network, state.params["network"], state.batch_stats, images
        )
        available["scores"] = dot(available["embedding"], state.params["prototypes"])
        return {name: available[name] for name in names}


Method = SwAV
