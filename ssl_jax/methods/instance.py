"""Instance Discrimination with the full non-parametric softmax (Wu et al. 2018, arXiv 1805.01978)."""

import dataclasses

import jax
from flax import struct

from ssl_jax.interface import Aux
from ssl_jax.models.network import Network
from ssl_jax.ops.collapse import COLLAPSED, spread
from ssl_jax.ops.losses import instance_nll
from ssl_jax.ops.memory import init_bank, update_bank
from ssl_jax.ops.mesh import padded_rows


class InstanceState(struct.PyTreeNode):
    """`bank` [N padded, D]: row i is the moving average of image i's embedding; use `bank[:N]`."""

    bank: jax.Array


@dataclasses.dataclass(frozen=True)
class InstanceDiscrimination:
    """Each image is a class of its own; a memory bank stands for the class weights.

    The loss reads the bank as it was before the step; `post_step` then moves the batch's rows. Rows of
    images not yet seen keep their random start. As released: the bank starts uniform, with rows of
    expected length one (the paper speaks of random unit vectors), and the proximal term of the paper's
    eq. 9 is absent, the bank's momentum doing its work. Unlike it, the last partial batch of an epoch is
    left out.

    Attributes:
        network: filled by `train.build`; the head's output is the embedding.
        temperature: of the softmax over the bank; 0.1 for CIFAR, 0.07 for ImageNet.
        momentum: share of the old row that stays in the bank.
    """

    network: Network
    temperature: float = 0.1
    momentum: float = 0.5
    examples: int = 0

    def __post_init__(self):
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature} must be above 0")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum={self.momentum} must be at least 0 and below 1")

    def init(self, key, batch):
        """Network and bank."""
        if len(batch.views) != 1:
            raise ValueError(f"instance discrimination takes one view of an image, not {len(batch.views)}")
        network_key, bank_key = jax.random.split(key)
        variables = self.network.init(network_key, batch.views, train=False)
        dim = jax.eval_shape(lambda: self.network.apply(variables, batch.views, train=False)).shape[-1]
        bank = init_bank(bank_key, padded_rows(self.examples), dim)
        return {"network": variables["params"]}, variables["batch_stats"], InstanceState(bank)

    def loss(self, state, batch, key):
        """Negative log probability of the own row among all rows."""
        variables = {"params": state.params["network"], "batch_stats": state.batch_stats}
        embedding, updated = self.network.apply(variables, batch.views, train=True, mutable="batch_stats")
        bank = state.method.bank[: self.examples]
        loss = instance_nll(embedding[0], bank, batch.index, temperature=self.temperature)
        carry = jax.lax.stop_gradient(embedding[0])
        return loss, Aux(updated["batch_stats"], carry, {"spread": spread(carry)})

    def post_step(self, state, aux, batch):
        """The batch's rows of the bank move toward this step's embeddings."""
        bank = update_bank(state.method.bank, batch.index, aux.carry, momentum=self.momentum)
        return state.replace(method=InstanceState(bank))

    def refresh_at(self, step):
        """Never."""
        return False

    def refresh(self, state, embed, key):
        """Nothing to refresh."""
        return state, {}

    def diagnose(self, metrics):
        """Embeddings that are all the same."""
        if metrics["spread"] > COLLAPSED:
            return None
        return (
            f"the embeddings have collapsed (spread {metrics['spread']:.3f} of 1). In a new folder try a lower "
            "optim.learning_rate or optim.weight_decay, and see with ssl_jax.data.preview that views tell images apart"
        )

    def features(self, state, images, names):
        """The network's features."""
        variables = {"params": state.params["network"], "batch_stats": state.batch_stats}
        features = self.network.apply(variables, images, method=Network.features)
        return {name: features[name] for name in names}


Method = InstanceDiscrimination
