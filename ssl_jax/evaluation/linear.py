"""Online linear probe: a linear classifier on the current features, trained beside the method."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from ssl_jax import interface
from ssl_jax.evaluation import metrics
from ssl_jax.interface import RunFacts, Split, TrainState, no_progress
from ssl_jax.settings import ranges


@dataclasses.dataclass(frozen=True)
class Linear(interface.Evaluator):
    """Top-1 of a linear classifier that is fitted from scratch at each evaluation.

    It sees the detached features of clean training images, standardised by their mean and standard
    deviation, and their labels. No gradient reaches the encoder, and nothing is saved. Mini-batch
    Adam with a cosine schedule takes a fixed number of steps, so large sets cost no more than small
    ones.

    Attributes:
        feature: the feature to classify.
        steps: steps of the optimiser.
        batch_size: rows per step, drawn with replacement.
        learning_rate: learning rate at the start of the cosine.
        weight_decay: weight decay, decoupled.
        seed: seed of the batches.
    """

    feature: str = "backbone"
    steps: int = 1000
    batch_size: int = 512
    learning_rate: float = 0.01
    weight_decay: float = 1e-4
    seed: int = 0
    facts: RunFacts = RunFacts()

    def __post_init__(self):
        ranges.count(1, 10**7, steps=self.steps)
        ranges.count(1, 10**6, batch_size=self.batch_size)
        ranges.positive(learning_rate=self.learning_rate)
        ranges.not_negative(weight_decay=self.weight_decay)
        ranges.count(0, ranges.SEED, seed=self.seed)

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.feature,)

    def run(
        self,
        splits: Mapping[str, Split],
        state: TrainState | None,
        report: Callable[[str], None] = no_progress,
    ) -> Iterator[tuple[str, float]]:
        train = splits["train"]
        test = splits["test"]
        labelled = np.flatnonzero(np.asarray(train.labels) >= 0)
        x = jnp.asarray(train.features[self.feature])[labelled]
        mean = x.mean(0, keepdims=True)
        std = x.std(0, keepdims=True) + 1e-6
        weights = _fit(self, (x - mean) / std, jnp.asarray(train.labels)[labelled])
        scores = _scores(weights, (jnp.asarray(test.features[self.feature]) - mean) / std)
        yield "top1", metrics.accuracy(test.labels, scores.argmax(1))


def _scores(weights: Mapping[str, Array], x: Float[Array, "B D"]) -> Float[Array, "B C"]:
    return x @ weights["kernel"] + weights["bias"][None]


@partial(jax.jit, static_argnums=0)
def _fit(
    probe: Linear, x: Float[Array, "N D"], labels: Int[Array, " N"]
) -> dict[str, Float[Array, "..."]]:
    """`kernel` [D, C] and `bias` [C] for standardised features and their labels."""
    optimiser = optax.adamw(
        optax.cosine_decay_schedule(probe.learning_rate, probe.steps),
        weight_decay=probe.weight_decay,
    )
    classes = probe.facts.classes
    weights = {"kernel": jnp.zeros((x.shape[1], classes)), "bias": jnp.zeros(classes)}

    def loss(weights, rows):
        scores = _scores(weights, x[rows])
        return optax.softmax_cross_entropy_with_integer_labels(scores, labels[rows]).mean()

    def step(carry, i):
        weights, opt_state = carry
        key = jax.random.fold_in(jax.random.key(probe.seed), i)
        rows = jax.random.randint(key, (min(probe.batch_size, len(x)),), 0, len(x))
        updates, opt_state = optimiser.update(jax.grad(loss)(weights, rows), opt_state, weights)
        return (optax.apply_updates(weights, updates), opt_state), None

    start = (weights, optimiser.init(weights))
    (weights, _), _ = jax.lax.scan(step, start, jnp.arange(probe.steps))
    return cast(dict[str, Array], weights)


Evaluator = Linear
