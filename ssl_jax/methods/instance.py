"""Instance Discrimination (Wu et al. 2018, arXiv 1805.01978): softmax, NCE, sampled softmax."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, PRNGKeyArray

from ssl_jax import interface
from ssl_jax.interface import Aux, Batch, RunFacts, TrainState, laid_out
from ssl_jax.methods.common import collapse, features, memory_bank
from ssl_jax.models.network import Network
from ssl_jax.ops.collapse import spread
from ssl_jax.ops.memory import init_bank, update_bank
from ssl_jax.ops.mesh import ROWS, padded_rows
from ssl_jax.ops.types import Numbers


class InstanceState(struct.PyTreeNode):
    """The memory bank and NCE's normaliser.

    `bank` [N padded, D]: row i is the moving average of image i's embedding; use `bank[:N]`.
    `normaliser`: scalar Z of NCE, 0 until it is estimated; None for other objectives.
    """

    bank: jax.Array = laid_out(ROWS)
    normaliser: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class InstanceDiscrimination(interface.Method):
    """Each image is its own class; a memory bank takes the place of the class weights.

    The loss reads the bank as it was before the step; `post_step` then moves the batch's rows. Rows
    of images not yet seen keep their random start. As released, the bank starts uniform with rows
    of expected length one (the paper speaks of random unit vectors), and the proximal term of the
    paper's eq. 9 is absent: the bank's momentum does its work. Unlike in the released code, the
    last partial batch of an epoch is dropped.

    Attributes:
        network: set by `train.build`; the head's output is the embedding.
        objective: the loss: "softmax", over the whole bank (eq. 2); "nce", noise-contrastive
            estimation (eq. 4 to 7); "sampled", the softmax over the image's row and the noise rows
            (the authors' later model).
        samples: noise rows per image, drawn anew at each step; for "nce" and "sampled".
        normaliser: normalising constant Z of "nce"; 0 estimates it on the first batch. It stays
            fixed either way.
        temperature: temperature of the softmax over the bank; 0.1 for CIFAR, 0.07 for ImageNet.
        momentum: share of the old row that stays in the bank.
    """

    network: Network
    objective: str = "softmax"
    samples: int = 4096
    normaliser: float = 0.0
    temperature: float = 0.1
    momentum: float = 0.5
    facts: RunFacts = RunFacts()

    def __post_init__(self):
        memory_bank.check(
            self.objective,
            self.samples,
            temperature=self.temperature,
            momentum=self.momentum,
            normaliser=self.normaliser,
        )

    def check(self, facts: RunFacts) -> None:
        """Raises ValueError if there are fewer images than noise rows."""
        memory_bank.check_samples(self.objective, self.samples, facts.examples)

    def init(self, key: PRNGKeyArray, batch: Batch) -> tuple[dict[str, Any], Any, InstanceState]:
        """Network and bank."""
        if len(batch.views) != 1:
            raise ValueError(
                f"instance discrimination takes one view of an image, not {len(batch.views)}"
            )
        network_key, bank_key = jax.random.split(key)
        variables = self.network.init(network_key, batch.views, train=False)
        embedding = jax.eval_shape(lambda: self.network.apply(variables, batch.views, train=False))
        bank = init_bank(bank_key, padded_rows(self.facts.examples), embedding.shape[-1])
        normaliser = jnp.float32(self.normaliser) if self.objective == "nce" else None
        params = {"network": variables["params"]}
        return params, variables["batch_stats"], InstanceState(bank, normaliser)

    def loss(
        self, state: TrainState, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], Aux]:
        """Recognises each image's row of the bank among all rows, or among noise."""
        variables = {"params": state.params["network"], "batch_stats": state.batch_stats}
        embedding, updated = self.network.apply(
            variables, batch.views, train=True, mutable="batch_stats"
        )
        loss, normaliser = memory_bank.instance_loss(
            self.objective,
            embedding[0],
            state.method.bank[: self.facts.examples],
            batch.index,
            key,
            temperature=self.temperature,
            samples=self.samples,
            normaliser=state.method.normaliser,
        )
        embedded = jax.lax.stop_gradient(embedding[0])
        metrics = {"spread": spread(embedded)}
        if self.objective != "nce":
            metrics["loss_over_chance"] = loss / self._chance()
        return loss, Aux(updated["batch_stats"], (embedded, normaliser), metrics)

    def _chance(self) -> float:
        return memory_bank.at_chance(
            self.objective,
            self.facts.examples,
            self.network.head.dim,
            temperature=self.temperature,
            samples=self.samples,
        )

    def post_step(self, state: TrainState, aux: Aux, batch: Batch) -> TrainState:
        """Moves the bank rows of the batch toward this step's embeddings."""
        embedded, normaliser = aux.carry
        bank = update_bank(state.method.bank, batch.index, embedded, momentum=self.momentum)
        return state.replace(method=InstanceState(bank, normaliser))

    def diagnose(self, metrics: Mapping[str, float]) -> str | None:
        """Warns of embeddings that are all the same."""
        return collapse.warning(
            metrics,
            "a lower optim.learning_rate or optim.weight_decay, and check with ssl_jax.preview "
            "that images can be told apart by their views",
        )

    def features(
        self, state: TrainState, images: Float[Numbers, "B H W C"], names: tuple[str, ...]
    ) -> dict[str, Float[Array, "B ..."]]:
        """The network's features."""
        return features.chosen(
            self.network, state.params["network"], state.batch_stats, images, names
        )


Method = InstanceDiscrimination
