"""Instance Discrimination (Wu et al. 2018, arXiv 1805.01978): full softmax, NCE, or sampled softmax."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from ssl_jax import interface
from ssl_jax.interface import Aux, RunFacts, laid_out
from ssl_jax.methods.common import collapse, features, memory_bank
from ssl_jax.models.network import Network
from ssl_jax.ops.collapse import spread
from ssl_jax.ops.memory import init_bank, update_bank
from ssl_jax.ops.mesh import ROWS, padded_rows


class InstanceState(struct.PyTreeNode):
    """The memory bank, and what NCE's probabilities are divided by.

    `bank` [N padded, D]: row i is the moving average of image i's embedding; use `bank[:N]`. `normaliser`: scalar Z of
    NCE, 0 until it is estimated; None for other objectives.
    """

    bank: jax.Array = laid_out(ROWS)
    normaliser: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class InstanceDiscrimination(interface.Method):
    """Each image is a class of its own; a memory bank stands for the class weights.

    The loss reads the bank as it was before the step; `post_step` then moves the batch's rows. Rows of
    images not yet seen keep their random start. As released: the bank starts uniform, with rows of
    expected length one (the paper speaks of random unit vectors), and the proximal term of the paper's
    eq. 9 is absent, the bank's momentum doing its work. Unlike it, the last partial batch of an epoch is
    left out.

    Attributes:
        network: filled by `train.build`; the head's output is the embedding.
        objective: "softmax", over the whole bank (eq. 2); "nce", noise-contrastive estimation (eq. 4 to 7); "sampled",
            the softmax over the own row and the noise (the authors' later model).
        samples: noise rows an image, drawn anew at each step; for "nce" and "sampled".
        normaliser: Z of "nce"; 0 estimates it on the first batch. Either way it stays.
        temperature: of the softmax over the bank; 0.1 for CIFAR, 0.07 for ImageNet.
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
        settings = dict(temperature=self.temperature, momentum=self.momentum, normaliser=self.normaliser)
        memory_bank.check(self.objective, self.samples, **settings)

    def check(self, facts: RunFacts) -> None:
        """Raises ValueError for more noise rows than there are images."""
        memory_bank.check_samples(self.objective, self.samples, facts.examples)

    def init(self, key, batch):
        """Network and bank."""
        if len(batch.views) != 1:
            raise ValueError(f"instance discrimination takes one view of an image, not {len(batch.views)}")
        network_key, bank_key = jax.random.split(key)
        variables = self.network.init(network_key, batch.views, train=False)
        dim = jax.eval_shape(lambda: self.network.apply(variables, batch.views, train=False)).shape[-1]
        bank = init_bank(bank_key, padded_rows(self.facts.examples), dim)
        normaliser = jnp.float32(self.normaliser) if self.objective == "nce" else None
        return {"network": variables["params"]}, variables["batch_stats"], InstanceState(bank, normaliser)

    def loss(self, state, batch, key):
        """The own row recognised among all rows, or among noise."""
        variables = {"params": state.params["network"], "batch_stats": state.batch_stats}
        embedding, updated = self.network.apply(variables, batch.views, train=True, mutable="batch_stats")
        bank = state.method.bank[: self.facts.examples]
        loss, normaliser = memory_bank.instance_loss(
            self.objective,
            embedding[0],
            bank,
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

    def _chance(self):
        settings = dict(temperature=self.temperature, samples=self.samples)
        dim = self.network.head.dim
        return memory_bank.at_chance(self.objective, self.facts.examples, dim, **settings)

    def post_step(self, state, aux, batch):
        """The batch's rows of the bank move toward this step's embeddings."""
        embedded, normaliser = aux.carry
        bank = update_bank(state.method.bank, batch.index, embedded, momentum=self.momentum)
        return state.replace(method=InstanceState(bank, normaliser))

    def diagnose(self, metrics):
        """Embeddings that are all the same."""
        return collapse.warning(
            metrics,
            "a lower optim.learning_rate or optim.weight_decay, and see with ssl_jax.preview that views tell images "
            "apart",
        )

    def features(self, state, images, names):
        """The network's features."""
        return features.chosen(self.network, state.params["network"], state.batch_stats, images, names)


Method = InstanceDiscrimination
