"""Anchor Neighbourhood Discovery (Huang et al. 2019, ICML)."""

import dataclasses
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, PRNGKeyArray

from ssl_jax import interface
from ssl_jax.interface import Aux, Batch, Embed, RunFacts, TrainState, laid_out, no_progress
from ssl_jax.methods.common import collapse, features, memory_bank
from ssl_jax.models.network import Network
from ssl_jax.ops.collapse import spread
from ssl_jax.ops.losses import anchor_neighbourhood_nll
from ssl_jax.ops.memory import init_bank, update_bank
from ssl_jax.ops.mesh import ROWS, padded_rows
from ssl_jax.ops.neighbours import entropy_and_neighbours, lowest
from ssl_jax.ops.types import Numbers
from ssl_jax.settings import ranges


class AnchorState(struct.PyTreeNode):
    """The memory bank and the neighbourhoods of this round, padded; use the first N rows of each.

    `bank` [N padded, D] as in Instance Discrimination. `neighbours` [N padded, k] int32: the rows
    nearest to each row. `is_anchor` [N padded] bool: rows trained together with their neighbours;
    none in round 0.
    """

    bank: jax.Array = laid_out(ROWS)
    neighbours: jax.Array = laid_out(ROWS)
    is_anchor: jax.Array = laid_out(ROWS)


@dataclasses.dataclass(frozen=True)
class AnchorNeighbourhood(interface.Method):
    """Images with clear neighbourhoods, the anchors, share a class with their neighbours.

    Round 0 is Instance Discrimination. Before each of the `rounds` that follow, the entropy of
    every bank row's similarity distribution is computed; the rows of lowest entropy become anchors
    (r / rounds of all in round r), and the rows nearest to them at that time stay their neighbours
    for the whole round. All rounds take the same number of epochs; `optim.schedule.repeats`
    restarts the learning rate in each, while weights, bank, running statistics and momentum carry
    over, as released.

    Attributes:
        network: set by `train.build`; the head's output is the embedding.
        rounds: number of rounds after round 0, R.
        share: fraction of the images that each round adds to the anchors; 0 for 1 / rounds, which
            makes all images anchors in the last round.
        neighbours: number of an anchor's neighbours, k, the anchor itself not counted.
        curriculum: add anchors by rounds; False makes every image an anchor from round 1 on (the
            paper's ablation).
        temperature: temperature of the softmax over the bank, in loss and entropy.
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
        memory_bank.check(
            "softmax", 0, temperature=self.temperature, momentum=self.momentum, normaliser=0.0
        )
        if self.rounds < 1:
            raise ValueError(
                f"rounds={self.rounds}: at least 1 after round 0 (for round 0 alone use "
                "configs/instance.py)"
            )
        ranges.count(1, ranges.MANY, rounds=self.rounds)
        if not 0 <= self.share <= 1 or self._share * self.rounds > 1:
            raise ValueError(
                f"share={self.share}: of all images, for each of {self.rounds} rounds, so between "
                f"0 and {1 / self.rounds:g} (0 = {1 / self.rounds:g})"
            )
        ranges.count(1, neighbours=self.neighbours)

    def check_config(self, batch_size: int, epochs: int) -> None:
        """Raises ValueError if the rounds do not divide the epochs."""
        if epochs % (self.rounds + 1):
            near = max(round(epochs / (self.rounds + 1)), 1) * (self.rounds + 1)
            raise ValueError(
                f"rounds={self.rounds} and round 0 do not divide epochs={epochs}; try epochs={near}"
            )

    def check(self, facts: RunFacts) -> None:
        """Raises ValueError if there are fewer other images than neighbours."""
        if self.neighbours >= facts.examples:
            others = f"the {facts.examples - 1} other images"
            raise ValueError(f"neighbours={self.neighbours}: between 1 and {others}")

    @property
    def _share(self) -> Fraction:
        return Fraction(str(self.share)) if self.share else Fraction(1, self.rounds)

    def anchors(self, round_: int) -> int:
        """The exact number of anchors in a round: none in round 0."""
        share = self._share * round_ if self.curriculum else min(round_, 1)
        return int(self.facts.examples * share)

    def round_at(self, step: int) -> int:
        """The round after `step` steps."""
        total = self.facts.total_steps
        return step * (self.rounds + 1) // total if total else 0

    def init(self, key: PRNGKeyArray, batch: Batch) -> tuple[dict[str, Any], Any, AnchorState]:
        """Network and bank, without anchors."""
        if len(batch.views) != 1:
            raise ValueError(
                f"anchor neighbourhood discovery takes one view of an image, not {len(batch.views)}"
            )
        network_key, bank_key = jax.random.split(key)
        variables = self.network.init(network_key, batch.views, train=False)
        rows = padded_rows(self.facts.examples)
        state = AnchorState(
            bank=init_bank(bank_key, rows, self.network.head.dim),
            neighbours=jnp.zeros((rows, self.neighbours), jnp.int32),
            is_anchor=jnp.zeros(rows, bool),
        )
        return {"network": variables["params"]}, variables["batch_stats"], state

    def loss(
        self, state: TrainState, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], Aux]:
        """The joint loss of anchors and single images."""
        variables = {"params": state.params["network"], "batch_stats": state.batch_stats}
        embedding, updated = self.network.apply(
            variables, batch.views, train=True, mutable="batch_stats"
        )
        is_anchor = state.method.is_anchor[batch.index]
        loss = anchor_neighbourhood_nll(
            embedding[0],
            state.method.bank[: self.facts.examples],
            batch.index,
            state.method.neighbours[batch.index],
            is_anchor,
            temperature=self.temperature,
        )
        embedded = jax.lax.stop_gradient(embedding[0])
        metrics = {"spread": spread(embedded), "anchors": jnp.mean(is_anchor, dtype=jnp.float32)}
        return loss, Aux(updated["batch_stats"], embedded, metrics)

    def post_step(self, state: TrainState, aux: Aux, batch: Batch) -> TrainState:
        """Moves the bank rows of the batch toward this step's embeddings."""
        bank = update_bank(state.method.bank, batch.index, aux.carry, momentum=self.momentum)
        return state.replace(method=state.method.replace(bank=bank))

    def refresh_at(self, step: int) -> bool:
        """Before the first step of every round but round 0."""
        inside = 0 < step < self.facts.total_steps
        return inside and self.round_at(step) != self.round_at(step - 1)

    def refresh(
        self,
        state: TrainState,
        embed: Embed,
        key: PRNGKeyArray,
        report: Callable[[str], None] = no_progress,
    ) -> tuple[TrainState, dict[str, Any]]:
        """Finds the anchors and neighbours of the round that begins."""
        examples = self.facts.examples
        bank = state.method.bank
        round_ = self.round_at(int(state.step))
        count = self.anchors(round_)
        entropies, neighbours = _discover(
            bank, examples, k=self.neighbours, temperature=self.temperature
        )
        is_anchor = lowest(entropies, count)
        padding = (0, len(bank) - examples)
        method = AnchorState(
            bank=bank,
            neighbours=jnp.pad(neighbours, (padding, (0, 0))),
            is_anchor=jnp.pad(is_anchor, (padding,)),
        )
        rising = jnp.sort(entropies)
        values = {"round": round_, "anchors": count, "entropy_mean": jnp.mean(entropies)}
        for name, group in (("anchors", rising[:count]), ("instances", rising[count:])):
            if len(group):
                values |= {f"entropy_{name}_min": group[0], f"entropy_{name}_max": group[-1]}
        return state.replace(method=method), values

    def diagnose(self, metrics: Mapping[str, float]) -> str | None:
        """Warns of embeddings that are all the same."""
        return collapse.warning(
            metrics,
            "a lower optim.learning_rate, fewer method.neighbours, or a smaller method.share",
        )

    def features(
        self, state: TrainState, images: Float[Numbers, "B H W C"], names: tuple[str, ...]
    ) -> dict[str, Float[Array, "B ..."]]:
        """The network's features."""
        return features.chosen(
            self.network, state.params["network"], state.batch_stats, images, names
        )


def _discovered(bank: jax.Array, examples: int, k: int, temperature: float):
    return entropy_and_neighbours(bank[:examples], k=k, temperature=temperature)


_discover = jax.jit(_discovered, static_argnums=1, static_argnames=("k", "temperature"))

Method = AnchorNeighbourhood
