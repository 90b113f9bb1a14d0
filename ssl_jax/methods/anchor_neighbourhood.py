"""Anchor Neighbourhood Discovery (Huang et al. 2019, ICML)."""

import dataclasses
from fractions import Fraction

import jax
import jax.numpy as jnp
from flax import struct

from ssl_jax import interface
from ssl_jax.interface import Aux, RunFacts, laid_out, no_progress
from ssl_jax.methods.common import collapse, features, memory_bank
from ssl_jax.models.network import Network
from ssl_jax.ops.collapse import spread
from ssl_jax.ops.losses import anchor_neighbourhood_nll
from ssl_jax.ops.memory import init_bank, update_bank
from ssl_jax.ops.mesh import ROWS, padded_rows
from ssl_jax.ops.neighbours import entropy_and_neighbours, lowest
from ssl_jax.settings import ranges


class AnchorState(struct.PyTreeNode):
    """The memory bank, and this round's neighbourhoods; use the first N rows of each.

    `bank` [N padded, D], as Instance Discrimination's. `neighbours` [N padded, k] int32: rows near each row.
    `is_anchor` [N padded] bool: rows that are trained with their neighbours; none in round 0.
    """

    bank: jax.Array = laid_out(ROWS)
    neighbours: jax.Array = laid_out(ROWS)
    is_anchor: jax.Array = laid_out(ROWS)


@dataclasses.dataclass(frozen=True)
class AnchorNeighbourhood(interface.Method):
    """Images with clear neighbourhoods, the anchors, share their class with their neighbours; more of them each round.

    Round 0 is Instance Discrimination. Before each of the `rounds` that follow, the entropy of every bank row's
    similarity distribution is computed; the rows of lowest entropy become anchors (r / rounds of all in round r), and
    their nearest rows, of the bank as it is then, stay their neighbours for the round. All rounds take equally many
    epochs; `optim.schedule.repeats` starts the rate anew in each, while weights, bank, running statistics and momentum
    go on, as released.

    Attributes:
        network: filled by `train.build`; the head's output is the embedding.
        rounds: R, after round 0.
        share: of the images that become anchors with each round; 0 for 1 / rounds, so that in the last all are.
        neighbours: k of an anchor, itself not counted.
        curriculum: False makes every image an anchor from round 1 on (the paper's ablation).
        temperature: of the softmax over the bank, in loss and entropy.
        momentum: share of the old row that stays in the bank.
    """

    network: Network
    rounds: int = 4
    share: float = 0.0
    neighbours: int = 1
    curriculum: bool = True
    temperature: float = 0.1
    momentum: float = 0.5
    facts: RunFacts = RunFacts()

    def __post_init__(self):
        settings = dict(temperature=self.temperature, momentum=self.momentum, normaliser=0.0)
        memory_bank.check("softmax", 0, **settings)
        if self.rounds < 1:
            raise ValueError(f"rounds={self.rounds}: at least 1 after round 0 (without any: configs/instance.py)")
        ranges.count(1, ranges.MANY, rounds=self.rounds)
        if not 0 <= self.share <= 1 or self._share * self.rounds > 1:
            raise ValueError(
                f"share={self.share}: of all images, for each of {self.rounds} rounds, so between 0 and "
                f"{1 / self.rounds:g} (0 = {1 / self.rounds:g})"
            )
        ranges.count(1, neighbours=self.neighbours)

    def check_config(self, batch_size: int, epochs: int) -> None:
        """The rounds divide the epochs."""
        if epochs % (self.rounds + 1):
            near = max(round(epochs / (self.rounds + 1)), 1) * (self.rounds + 1)
            raise ValueError(f"rounds={self.rounds} and round 0 do not divide epochs={epochs}; try epochs={near}")

    def check(self, facts: RunFacts) -> None:
        """Raises ValueError for too many neighbours, or rounds that do not divide the epochs."""
        if self.neighbours >= facts.examples:
            others = f"the {facts.examples - 1} other images"
            raise ValueError(f"neighbours={self.neighbours}: between 1 and {others}")

    @property
    def _share(self) -> Fraction:
        return Fraction(str(self.share)) if self.share else Fraction(1, self.rounds)

    def anchors(self, round_: int) -> int:
        """Number of anchors in a round, exact: none in round 0."""
        part = self._share * round_ if self.curriculum else min(round_, 1)
        return int(self.facts.examples * part)

    def round_at(self, step: int) -> int:
        """The round of the step that `step` steps came before."""
        total = self.facts.total_steps
        return step * (self.rounds + 1) // total if total else 0

    def init(self, key, batch):
        """Network, bank, and no anchors."""
        if len(batch.views) != 1:
            raise ValueError(f"anchor neighbourhood discovery takes one view of an image, not {len(batch.views)}")
        network_key, bank_key = jax.random.split(key)
        variables = self.network.init(network_key, batch.views, train=False)
        rows = padded_rows(self.facts.examples)
        bank = init_bank(bank_key, rows, self.network.head.dim)
        nobody = AnchorState(bank, jnp.zeros((rows, self.neighbours), jnp.int32), jnp.zeros(rows, bool))
        return {"network": variables["params"]}, variables["batch_stats"], nobody

    def loss(self, state, batch, key):
        """The joint loss of anchors and single images."""
        variables = {"params": state.params["network"], "batch_stats": state.batch_stats}
        embedding, updated = self.network.apply(variables, batch.views, train=True, mutable="batch_stats")
        own, is_anchor = state.method, state.method.is_anchor[batch.index]
        loss = anchor_neighbourhood_nll(
            embedding[0],
            own.bank[: self.facts.examples],
            batch.index,
            own.neighbours[batch.index],
            is_anchor,
            temperature=self.temperature,
        )
        embedded = jax.lax.stop_gradient(embedding[0])
        metrics = {"spread": spread(embedded), "anchors": jnp.mean(is_anchor, dtype=jnp.float32)}
        return loss, Aux(updated["batch_stats"], embedded, metrics)

    def post_step(self, state, aux, batch):
        """The batch's rows of the bank move toward this step's embeddings."""
        bank = update_bank(state.method.bank, batch.index, aux.carry, momentum=self.momentum)
        return state.replace(method=state.method.replace(bank=bank))

    def refresh_at(self, step):
        """Before the first step of every round but round 0."""
        inside = 0 < step < self.facts.total_steps
        return inside and self.round_at(step) != self.round_at(step - 1)

    def refresh(self, state, embed, key, report=no_progress):
        """Neighbourhood discovery: anchors and neighbours of the round that begins."""
        round_ = self.round_at(int(state.step))
        bank, count = state.method.bank, self.anchors(round_)
        settings = dict(k=self.neighbours, temperature=self.temperature)
        entropies, neighbours = _discover(bank, self.facts.examples, **settings)
        is_anchor = lowest(entropies, count)
        padding = len(bank) - self.facts.examples
        pad = lambda x: jnp.pad(x, ((0, padding),) + ((0, 0),) * (x.ndim - 1))
        found = state.replace(method=AnchorState(bank, pad(neighbours), pad(is_anchor)))
        sorted_ = jnp.sort(entropies)
        values = {"round": round_, "anchors": count, "entropy_mean": jnp.mean(entropies)}
        for name, part in (("anchors", sorted_[:count]), ("instances", sorted_[count:])):
            if len(part):
                values |= {f"entropy_{name}_min": part[0], f"entropy_{name}_max": part[-1]}
        return found, values

    def diagnose(self, metrics):
        """Embeddings that are all the same."""
        return collapse.warning(
            metrics,
            "a lower optim.learning_rate, fewer method.neighbours, or a smaller method.share",
        )

    def features(self, state, images, names):
        """The network's features."""
        return features.chosen(self.network, state.params["network"], state.batch_stats, images, names)


def _discovered(bank, examples, k, temperature):
    return entropy_and_neighbours(bank[:examples], k=k, temperature=temperature)


_discover = jax.jit(_discovered, static_argnums=1, static_argnames=("k", "temperature"))

Method = AnchorNeighbourhood
