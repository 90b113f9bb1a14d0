"""Softmax regression for a whole grid of learning rates and weight decays at once, on features that stay in place."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssl_jax.interface import no_progress

_TOGETHER = 100  # steps of one call, between progress lines


class Data(NamedTuple):
    """Features `x` [N, D] and `labels` [N]; `mean` and `scale` [1, D] are taken out of each batch on its way.

    So there is no second copy of `x`, whatever the grid.
    """

    x: Any
    labels: Any
    mean: Any
    scale: Any

    def of(self, rows):
        """Standardised features [B, D] and labels [B] of some rows."""
        return (self.x[rows] - self.mean) / self.scale, self.labels[rows]


def standardised(x, labels) -> Data:
    """`x` [N, D] by its own mean and deviation; a feature that never changes has no weight."""
    x = jnp.asarray(x)
    return Data(x, jnp.asarray(labels), x.mean(0, keepdims=True), x.std(0, keepdims=True) + 1e-6)


class Weights(NamedTuple):
    """Classifiers of G cells of a grid: `kernel` [D, G, C] and `bias` [G, C]."""

    kernel: jax.Array
    bias: jax.Array

    def scores(self, x):
        """[B, G, C] for standardised features [B, D], as one matrix product."""
        features, cells, classes = self.kernel.shape
        return (x @ self.kernel.reshape(features, -1)).reshape(-1, cells, classes) + self.bias[None]


def fit(data: Data, rows, rates, decays, *, classes, steps, batch_size, seed, report=no_progress) -> Weights:
    """Minimises the mean cross-entropy plus decay / 2 times the squared kernel, for each cell of a grid.

    SGD with Nesterov's momentum of 0.9 from zero weights, the rate falling along half a cosine; epochs of mini-batches
    in random order, or the same full batch throughout where there are no more rows than that. The cells share the
    batches, and so one matrix product serves all. scikit-learn's `C` is 1 / (decay * rows).

    Args:
        data: features and labels.
        rows: [n] of `data` that are trained on.
        rates, decays: [G] of the cells.
        classes: C.
        steps: of the optimiser.
        batch_size: rows a step, at most.
        seed: of the order.
        report: takes a progress line now and then.
    """
    batches = _batches(np.asarray(rows), steps, batch_size, np.random.default_rng(seed))
    cells, features = len(rates), data.x.shape[1]
    weights = Weights(jnp.zeros((features, cells, classes)), jnp.zeros((cells, classes)))
    state = weights, _optimiser().init(weights)
    rates, decays = (jnp.asarray(x, jnp.float32) for x in (rates, decays))
    for first in range(0, steps, _TOGETHER):
        state = jax.block_until_ready(_advance(data, state, batches[first:][:_TOGETHER], first, steps, rates, decays))
        report(f"step {min(first + _TOGETHER, steps):,} of {steps:,}")
    return state[0]


def _batches(rows, steps, size, rng):
    """[steps, B] of `rows`."""
    if len(rows) <= size:
        return np.broadcast_to(rows, (steps, len(rows)))
    epochs = -(-steps * size // len(rows))
    return np.concatenate([rng.permutation(rows) for _ in range(epochs)])[: steps * size].reshape(steps, size)


def _optimiser():
    return optax.trace(0.9, nesterov=True)


@jax.jit
def _advance(data, state, batches, first, steps, rates, decays):
    """Weights and momentum after the steps first, first + 1, ... on `batches` [S, B]."""

    def loss(weights, rows):
        x, labels = data.of(rows)
        scores = weights.scores(x)
        labels = jnp.broadcast_to(labels[:, None], scores.shape[:2])
        error = optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean(0)
        return (error + 0.5 * decays * (weights.kernel**2).sum((0, 2))).sum()  # the sum keeps the cells apart

    def step(state, now):
        weights, momentum = state
        i, rows = now
        updates, momentum = _optimiser().update(jax.grad(loss)(weights, rows), momentum)
        rate = (rates * 0.5 * (1 + jnp.cos(jnp.pi * i / steps)))[:, None]
        moved = Weights(weights.kernel - rate[None] * updates.kernel, weights.bias - rate * updates.bias)
        return (moved, momentum), None

    return jax.lax.scan(step, state, (first + jnp.arange(len(batches)), batches))[0]


def evaluate(weights: Weights, data: Data, rows, *, chunk: int = 1024):
    """Accuracy [G] and mean cross-entropy [G] of each cell on some rows; 0 and infinite where a cell has diverged."""
    rows = np.asarray(rows)
    right, error = np.zeros(weights.bias.shape[0]), np.zeros(weights.bias.shape[0])
    for start in range(0, len(rows), chunk):
        found = _score(weights, data, rows[start : start + chunk])
        right, error = right + np.asarray(found[0]), error + np.asarray(found[1])
    good = np.isfinite(error)  # NaN scores would all be of class 0
    return np.where(good, right, 0.0) / len(rows), np.where(good, error, np.inf) / len(rows)


@jax.jit
def _score(weights, data, rows):
    x, labels = data.of(rows)
    scores = weights.scores(x)
    labels = jnp.broadcast_to(labels[:, None], scores.shape[:2])
    error = optax.softmax_cross_entropy_with_integer_labels(scores, labels)
    return (scores.argmax(-1) == labels).sum(0), error.sum(0)
