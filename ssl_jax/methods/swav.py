"""SwAV: unsupervised learning by contrasting cluster assignments (Caron et al. 2020, arXiv 2006.09882)."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import struct

from ssl_jax import interface
from ssl_jax.interface import Aux, RunFacts
from ssl_jax.methods.common import collapse, features
from ssl_jax.models.network import Network
from ssl_jax.ops.collapse import code_entropy, spread, usage
from ssl_jax.ops.losses import swapped_prediction
from ssl_jax.ops.memory import push_queue
from ssl_jax.ops.sinkhorn import sinkhorn
from ssl_jax.ops.vectors import dot, unit
from ssl_jax.settings import ranges


class SwAVState(struct.PyTreeNode):
    """`queue` [A, Q, D]: each assignment view's newest embeddings, newest first, zeros until filled; or None."""

    queue: jax.Array | None


@dataclasses.dataclass(frozen=True)
class SwAV(interface.Method):
    """Views predict each other's codes: soft, balanced assignments to learned prototypes.

    Prototypes lie at unit length before every forward pass, frozen or not: `init` and `post_step` put
    them there, outside the gradient, so the optimiser's own update is what the released code does. How
    long they stay frozen is a rule of the optimiser (`config.optim.groups`).

    The queue holds each assignment view's embeddings from before the update, starts to fill at
    `queue_starts_epoch`, and takes part in the codes only once its last row is filled. Its scores are
    recomputed with the current prototypes at every step.

    Attributes:
        network: filled by `train.build`.
        prototypes: K; about ten per expected class. 0 takes ten per class, at least 128 (few
            collapse easily), and 512 where classes are unknown; see `clusters`.
        temperature: of the softmax over prototypes.
        epsilon: of Sinkhorn-Knopp; 0.03 against collapse.
        sinkhorn_iterations: rounds of normalisation.
        assign: the views that codes are computed from.
        hard: codes as one-hot arg max instead of soft.
        queue_length: Q, a multiple of the batch size; 0 for none.
        queue_starts_epoch: when the queue begins to fill (it should be when the loss already falls).
        joint_views: views of one size share a BatchNorm batch, as in the paper; otherwise each view is normalised as a
            batch of its own, and running statistics are updated view by view, as in lightly.
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
        if not self.temperature > 0 or not self.epsilon > 0:
            raise ValueError(f"temperature={self.temperature} and epsilon={self.epsilon} must be above 0")
        ranges.positive(temperature=self.temperature, epsilon=self.epsilon)
        ranges.count(0, 100, sinkhorn_iterations=self.sinkhorn_iterations)
        ranges.count(0, queue_length=self.queue_length)
        ranges.count(0, ranges.INT32, assign=self.assign)
        ranges.between(0, ranges.EPOCHS, queue_starts_epoch=self.queue_starts_epoch)
        if not self.assign or len(set(self.assign)) != len(self.assign):
            raise ValueError(f"assign={self.assign}: give different view numbers, such as (0, 1)")

    def check_config(self, batch_size: int, epochs: int) -> None:
        """The queue is filled by whole batches."""
        if self.queue_length % batch_size:
            way_out = max(self.queue_length // batch_size, 1) * batch_size
            raise ValueError(
                f"queue_length={self.queue_length} is not a multiple of batch_size={batch_size}; try {way_out}"
            )

    def check(self, facts: RunFacts) -> None:
        """Raises ValueError for too many prototypes, or a queue that is not filled in time."""
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
        """K of this run: `prototypes`, or what stands for 0 there, at most one for each image."""
        if self.prototypes:
            return self.prototypes
        usual = max(10 * self.facts.classes, 128) if self.facts.classes else 512
        return min(usual, self.facts.examples)

    @property
    def _queue_starts(self) -> int:
        return round(self.queue_starts_epoch * self.facts.steps_per_epoch)

    def init(self, key, batch):
        """Network and unit prototypes; an empty queue."""
        views = len(batch.views)
        if views < 2 or not all(0 <= a < views for a in self.assign):
            raise ValueError(f"assign={self.assign} does not fit the {views} views of config.augment")
        network_key, prototype_key = jax.random.split(key)
        variables = self.network.init(network_key, batch.views, train=False)
        dim = jax.eval_shape(lambda: self.network.apply(variables, batch.views, train=False)).shape[-1]
        rows = jax.random.uniform(prototype_key, (self.clusters, dim), minval=-1.0)
        params = {"network": variables["params"], "prototypes": unit(rows)}
        queue = jnp.zeros((len(self.assign), self.queue_length, dim)) if self.queue_length else None
        return params, variables["batch_stats"], SwAVState(queue)

    def loss(self, state, batch, key):
        """Swapped prediction, and the signs of collapse; the metric `queue` is 1 when the queue took part."""
        variables = {"params": state.params["network"], "batch_stats": state.batch_stats}
        how = dict(train=True, separate=not self.joint_views, mutable="batch_stats")
        embedding, updated = self.network.apply(variables, batch.views, **how)
        scores = dot(embedding, state.params["prototypes"])
        own = scores[jnp.asarray(self.assign)]
        codes, used = self._codes(*jax.lax.stop_gradient((own, state.params["prototypes"])), state.method.queue)
        loss = swapped_prediction(scores, codes, assign=self.assign, temperature=self.temperature)
        carry = jax.lax.stop_gradient(embedding[jnp.asarray(self.assign)])
        metrics = {
            "loss_over_ln_k": jax.lax.stop_gradient(loss) / math.log(self.clusters),
            "code_entropy": code_entropy(codes),
            "prototypes_used": usage(codes),
            "spread": spread(carry),
        }
        return loss, Aux(updated["batch_stats"], carry, metrics | ({"queue": used} if self.queue_length else {}))

    def _codes(self, scores, prototypes, queue):
        """Codes [A, B, K] of the assignment views, over the queue as well where it is full; 1. where it was."""
        batch = scores.shape[1]

        def assignment(scores):
            codes = sinkhorn(scores, epsilon=self.epsilon, iterations=self.sinkhorn_iterations)[-batch:]
            return jax.nn.one_hot(codes.argmax(1), self.clusters) if self.hard else codes

        alone = lambda: jnp.stack([assignment(s) for s in scores])
        if queue is None:
            return alone(), None
        both = lambda: jnp.stack([assignment(jnp.concatenate([dot(q, prototypes), s])) for q, s in zip(queue, scores)])
        full = jnp.any(queue[:, -1] != 0)
        return jax.lax.cond(full, both, alone), full.astype(jnp.float32)

    def post_step(self, state, aux, batch):
        """Prototypes back to unit length; this step's embeddings into the queue, once it has started."""
        params = state.params | {"prototypes": unit(state.params["prototypes"])}
        state = state.replace(params=params)
        if not self.queue_length:
            return state
        started = state.step > self._queue_starts
        queue = jnp.where(started, jax.vmap(push_queue)(state.method.queue, aux.carry), state.method.queue)
        return state.replace(method=SwAVState(queue))

    def diagnose(self, metrics):
        """A loss at ln K (every image gets every code alike), or embeddings that are all the same."""
        sign = collapse.same_embeddings(metrics)
        if metrics["loss_over_ln_k"] > 0.99:
            chance = math.log(self.clusters)
            sign = f"the loss sits at ln K = {chance:.3f}, where codes tell nothing apart"
        if not sign:
            return None
        sharper = 0.03 if self.epsilon > 0.03 else 0.6 * self.epsilon
        later = ", a later or shorter queue (method.queue_starts_epoch, method.queue_length)"
        return collapse.sentence(
            sign,
            f"one at a time: method.epsilon={sharper:.2g}, prototypes frozen for longer "
            "(optim.groups.prototypes.frozen_epochs), another optim.learning_rate, softer colours or larger crops in "
            "augment, fewer small views, method.hard=True, head.batch_norm=False"
            + (later if self.queue_length else ""),
        )

    def features(self, state, images, names):
        """The network's features, and `scores` [B, K]: cosines with the prototypes."""
        found = features.of_network(self.network, state.params["network"], state.batch_stats, images)
        found["scores"] = dot(found["embedding"], state.params["prototypes"])
        return {name: found[name] for name in names}


Method = SwAV
