"""Softmax regression for a whole grid of learning rates and weight decays at once."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from ssl_jax.interface import no_progress
from ssl_jax.ops.types import Count, Numbers

_TOGETHER = 100  # steps per call, between progress lines


class Data(NamedTuple):
    """Features and labels, standardised batch by batch, so that no copy of `x` is needed.

    `x` [N, D]; `labels` [N]; `mean` and `scale` [1, D].
    """

    x: Any
    labels: Any
    mean: Any
    scale: Any

    def of(self, rows: Int[Numbers, " B"]) -> tuple[Float[Array, "B D"], Int[Array, " B"]]:
        """Standardised features and labels of some rows."""
        return (self.x[rows] - self.mean) / self.scale, self.labels[rows]


def standardised(x: Float[Numbers, "N D"], labels: Int[Numbers, " N"]) -> Data:
    """Data with the mean and standard deviation of `x`; a constant feature becomes zero."""
    x = jnp.asarray(x)
    mean = x.mean(0, keepdims=True)
    scale = x.std(0, keepdims=True) + 1e-6
    return Data(x, jnp.asarray(labels), mean, scale)


class Weights(NamedTuple):
    """Classifiers of the G cells of a grid: `kernel` [D, G, C] and `bias` [G, C]."""

    kernel: jax.Array
    bias: jax.Array

    def scores(self, x: Float[Array, "B D"]) -> Float[Array, "B G C"]:
        """Scores of standardised features, as one matrix product."""
        features, cells, classes = self.kernel.shape
        return (x @ self.kernel.reshape(features, -1)).reshape(-1, cells, classes) + self.bias[None]


def fit(
    data: Data,
    rows: Int[Numbers, " n"],
    rates: Sequence[float],
    decays: Sequence[float],
    *,
    classes: int,
    steps: int,
    batch_size: int,
    seed: int,
    report: Callable[[str], None] = no_progress,
) -> Weights:
    """Minimises the mean cross-entropy plus decay / 2 times the squared kernel, for each cell.

    SGD with Nesterov momentum 0.9 from zero weights; the rate falls along half a cosine.
    Mini-batches cover the rows in random order, epoch by epoch; if all rows fit in one batch, each
    step takes all of them. The cells share the batches, so one matrix product serves them all.
    scikit-learn's `C` is 1 / (decay * rows).

    Args:
        data: features and labels.
        rows: [n] rows of `data` to train on.
        rates: [G] learning rates of the cells.
        decays: [G] weight decays of the cells.
        classes: C.
        steps: of the optimiser.
        batch_size: rows per step, at most.
        seed: of the order.
        report: takes a progress line every 100 steps.
    """
    batches = _batches(np.asarray(rows), steps, batch_size, np.random.default_rng(seed))
    cells = len(rates)
    features = data.x.shape[1]
    weights = Weights(jnp.zeros((features, cells, classes)), jnp.zeros((cells, classes)))
    momentum = _optimiser().init(weights)
    cell_rates = jnp.asarray(rates, jnp.float32)
    cell_decays = jnp.asarray(decays, jnp.float32)
    for first in range(0, steps, _TOGETHER):
        weights, momentum = jax.block_until_ready(
            _advance(
                data,
                weights,
                momentum,
                batches[first:][:_TOGETHER],
                first,
                steps,
                cell_rates,
                cell_decays,
            )
        )
        report(f"step {min(first + _TOGETHER, steps):,} of {steps:,}")
    return weights


def _batches(
    rows: Int[np.ndarray, " n"], steps: int, size: int, rng: np.random.Generator
) -> Int[np.ndarray, "steps B"]:
    """The rows of each step."""
    if len(rows) <= size:
        return np.broadcast_to(rows, (steps, len(rows)))
    epochs = -(-steps * size // len(rows))
    order = np.concatenate([rng.permutation(rows) for _ in range(epochs)])
    return order[: steps * size].reshape(steps, size)


def _optimiser() -> optax.GradientTransformation:
    return optax.trace(0.9, nesterov=True)


@jax.jit
def _advance(
    data: Data,
    weights: Weights,
    momentum: Any,
    batches: Int[Numbers, "S B"],
    first: Count,
    steps: Count,
    rates: Float[Array, " G"],
    decays: Float[Array, " G"],
) -> tuple[Weights, Any]:
    """Weights and momentum after the steps first, first + 1, ... on `batches`."""

    def loss(weights, rows):
        x, labels = data.of(rows)
        scores = weights.scores(x)
        labels = jnp.broadcast_to(labels[:, None], scores.shape[:2])
        error = optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean(0)
        penalty = 0.5 * decays * (weights.kernel**2).sum((0, 2))
        return (error + penalty).sum()  # each cell's gradient comes from its own term alone

    def step(state, now):
        weights, momentum = state
        i, rows = now
        updates, momentum = _optimiser().update(jax.grad(loss)(weights, rows), momentum)
        updates = cast(Weights, updates)
        rate = (rates * 0.5 * (1 + jnp.cos(jnp.pi * i / steps)))[:, None]
        moved = Weights(
            weights.kernel - rate[None] * updates.kernel, weights.bias - rate * updates.bias
        )
        return (moved, momentum), None

    numbered = (first + jnp.arange(len(batches)), batches)
    return jax.lax.scan(step, (weights, momentum), numbered)[0]


def evaluate(
    weights: Weights, data: Data, rows: Int[Numbers, " n"], *, chunk: int = 1024
) -> tuple[Float[np.ndarray, " G"], Float[np.ndarray, " G"]]:
    """Accuracy and mean cross-entropy of each cell on some rows; 0 and infinite if it diverged."""
    rows = np.asarray(rows)
    cells = weights.bias.shape[0]
    right = np.zeros(cells)
    error = np.zeros(cells)
    for start in range(0, len(rows), chunk):
        right_here, error_here = _score(weights, data, rows[start : start + chunk])
        right = right + np.asarray(right_here)
        error = error + np.asarray(error_here)
    good = np.isfinite(error)  # NaN scores would all count as class 0
    return np.where(good, right, 0.0) / len(rows), np.where(good, error, np.inf) / len(rows)


@jax.jit
def _score(
    weights: Weights, data: Data, rows: Int[Numbers, " B"]
) -> tuple[Int[Array, " G"], Float[Array, " G"]]:
    """How many rows each cell gets right, and the sum of its cross-entropy."""
    x, labels = data.of(rows)
    scores = weights.scores(x)
    labels = jnp.broadcast_to(labels[:, None], scores.shape[:2])
    error = optax.softmax_cross_entropy_with_integer_labels(scores, labels)
    return (scores.argmax(-1) == labels).sum(0), error.sum(0)
