"""Online linear probe: a linear classifier on features as they are now, trained beside the method."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssl_jax import interface
from ssl_jax.evaluation import metrics
from ssl_jax.interface import RunFacts, no_progress
from ssl_jax.settings import ranges


@dataclasses.dataclass(frozen=True)
class Linear(interface.Evaluator):
    """Top-1 of a linear classifier that is fitted anew at each evaluation.

    It sees the detached features of clean training images, standardised by their own mean and deviation,
    and their labels; nothing flows back, and nothing of it is saved. Mini-batch Adam with a cosine,
    always the same number of steps, so large sets cost no more than small ones.

    Attributes:
        feature: what is classified.
        steps: of the optimiser.
        batch_size: rows a step, drawn with replacement.
        learning_rate: at the start of the cosine.
        weight_decay: decoupled.
        seed: of the batches.
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
    def needs(self):
        return (self.feature,)

    def run(self, splits, state, report=no_progress):
        train, test = splits["train"], splits["test"]
        known = np.flatnonzero(np.asarray(train.labels) >= 0)
        x = jnp.asarray(train.features[self.feature])[known]
        mean, std = x.mean(0, keepdims=True), x.std(0, keepdims=True) + 1e-6
        weights = _fit(self, (x - mean) / std, jnp.asarray(train.labels)[known])
        scores = _scores(weights, (jnp.asarray(test.features[self.feature]) - mean) / std)
        yield "top1", metrics.accuracy(test.labels, scores.argmax(1))


def _scores(weights, x):
    return x @ weights["kernel"] + weights["bias"][None]


@partial(jax.jit, static_argnums=0)
def _fit(probe: Linear, x, labels):
    """Kernel [D, C] and bias [C] for standardised features x [N, D] and labels [N]."""
    optimiser = optax.adamw(
        optax.cosine_decay_schedule(probe.learning_rate, probe.steps), weight_decay=probe.weight_decay
    )
    classes = probe.facts.classes
    weights = {"kernel": jnp.zeros((x.shape[1], classes)), "bias": jnp.zeros(classes)}

    def loss(weights, rows):
        return optax.softmax_cross_entropy_with_integer_labels(_scores(weights, x[rows]), labels[rows]).mean()

    def step(carry, i):
        weights, opt_state = carry
        key = jax.random.fold_in(jax.random.key(probe.seed), i)
        rows = jax.random.randint(key, (min(probe.batch_size, len(x)),), 0, len(x))
        updates, opt_state = optimiser.update(jax.grad(loss)(weights, rows), opt_state, weights)
        return (optax.apply_updates(weights, updates), opt_state), None

    return jax.lax.scan(step, (weights, optimiser.init(weights)), jnp.arange(probe.steps))[0][0]


Evaluator = Linear
