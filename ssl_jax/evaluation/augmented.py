"""Linear classifiers on augmented images: the protocol of SwAV, and by its settings that of Local Aggregation."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssl_jax import interface
from ssl_jax.data.augment import View
from ssl_jax.evaluation import metrics
from ssl_jax.interface import RunFacts, no_progress
from ssl_jax.settings import ranges

_SCHEDULES = ("cosine", "drops")


@dataclasses.dataclass(frozen=True)
class Augmented(interface.Evaluator):
    """Top-1 of a linear classifier trained on random crops and flips, drawn anew each epoch, of a frozen encoder.

    The encoder is in evaluation mode. As in SwAV's evaluation: weights start normal with deviation 0.01 and biases at
    zero; SGD with momentum 0.9, without Nesterov; the rate falls epoch by epoch. Several features have a classifier
    each, trained side by side on the same crops, as Local Aggregation does; then names end in `_<feature>`.

    Where we deviate: the score is the last epoch's (the original reports the best epoch's on the test images). Test
    images are resized whole, as for all other scores here, not resized and cropped. `learning_rate` is for batches of
    `base_batch_size` and scales linearly with `batch_size`, also where there are fewer labelled images than that.

    LA's protocol for a ResNet-18 or -50: features=("stage1", .., "stage5"), batch_size=128, learning_rate=0.01,
    base_batch_size=0, weight_decay=1e-4, schedule="drops", drops=(30, 60), epochs=70. Its crops are squares of 224 of
    256 pixels (here scale=(0.77, 0.77), ratio=(1.0, 1.0)), and its maps are larger than ours, which are pooled.

    Nothing comes of raw pixels, which no encoder can draw anew.

    Attributes:
        features: "backbone", "stage1", ...
        epochs: over the labelled training images; each costs a forward pass of all of them.
        batch_size: images a step, the last of an epoch has the rest; at most the labelled training images.
        learning_rate: at the start.
        base_batch_size: that the rate is for; 0 for a rate as given.
        momentum: of SGD.
        weight_decay: coupled, of weights and biases.
        schedule: "cosine" (per epoch, to zero) or "drops".
        drops: epochs before which the rate falls to a tenth.
        scale, ratio, flip: of the crops, see `data.augment.View`.
        seed: of order, crops and weights.
    """

    features: tuple[str, ...] = ("backbone",)
    epochs: int = 100
    batch_size: int = 256
    learning_rate: float = 0.3
    base_batch_size: int = 256
    momentum: float = 0.9
    weight_decay: float = 1e-6
    schedule: str = "cosine"
    drops: tuple[int, ...] = (60, 80)
    scale: tuple[float, ...] = (0.08, 1.0)
    ratio: tuple[float, ...] = (3 / 4, 4 / 3)
    flip: float = 0.5
    seed: int = 0
    facts: RunFacts = RunFacts()

    def __post_init__(self):
        if not self.features:
            raise ValueError("features: at least one")
        if self.schedule not in _SCHEDULES:
            raise ValueError(f"schedule={self.schedule!r}: choose {' or '.join(_SCHEDULES)}")
        ranges.positive(learning_rate=self.learning_rate)
        ranges.not_negative(weight_decay=self.weight_decay)
        ranges.below_one(momentum=self.momentum)
        ranges.count(1, ranges.EPOCHS, epochs=self.epochs, batch_size=self.batch_size)
        ranges.count(0, base_batch_size=self.base_batch_size, drops=self.drops)
        ranges.count(0, ranges.SEED, seed=self.seed)
        View(size=8, scale=self.scale, ratio=self.ratio, flip=self.flip)  # checks them

    @property
    def needs(self):
        return self.features

    def rate(self, epoch: int, batch_size: int) -> float:
        """Of an epoch, counted from 0."""
        scale = batch_size / self.base_batch_size if self.base_batch_size else 1.0
        if self.schedule == "cosine":
            return scale * self.learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))
        return scale * self.learning_rate * 0.1 ** sum(epoch >= drop for drop in self.drops)

    def run(self, splits, state, report=no_progress):
        train, test = splits["train"], splits["test"]
        if train.draw is None:
            return
        weights = self._train(train, {name: test.features[name].shape[1] for name in self.features}, report)
        for name in self.features:
            x, own = jnp.asarray(test.features[name]), weights[name]
            suffix = f"_{name}" if len(self.features) > 1 else ""
            yield f"top1{suffix}", metrics.accuracy(test.labels, (x @ own["kernel"] + own["bias"][None]).argmax(1))

    def _train(self, train, dims, report):
        """Classifiers {feature: {"kernel", "bias"}} after the last epoch."""
        key, rng = jax.random.key(self.seed), np.random.default_rng(self.seed)
        keys = {name: jax.random.fold_in(key, i) for i, name in enumerate(dims)}
        classes = self.facts.classes
        weights = {name: _start(keys[name], dim, classes) for name, dim in dims.items()}
        state, known = (weights, jax.tree.map(jnp.zeros_like, weights)), np.flatnonzero(np.asarray(train.labels) >= 0)
        if not len(known):
            raise ValueError("there are no labelled training images")
        for epoch in range(self.epochs):
            tell = lambda text, epoch=epoch: report(f"epoch {epoch + 1} of {self.epochs}, {text}")
            own = jax.random.fold_in(key, 2**20 + epoch)  # beyond the keys of the weights
            state = self._epoch(epoch, own, state, train, rng.permutation(known), tell)
        return state[0]

    def _epoch(self, epoch, key, state, train, order, report):
        """Weights and momentum buffers after a pass over the rows `order`."""
        labels, size = np.asarray(train.labels), min(self.batch_size, len(order))
        crops = dict(scale=self.scale, ratio=self.ratio, flip=self.flip)
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            drawn = train.draw(jax.random.fold_in(key, start), rows, self.features, **crops)
            settings = (self.rate(epoch, size), self.momentum, self.weight_decay)
            *state, loss = _step(*state, drawn, labels[rows], *settings)
            loss = float(loss)  # waits: many passes in flight can deadlock several virtual CPU devices
            report(f"{min(start + size, len(order)):,} of {len(order):,} images, loss {loss:.3f}")
        return state


def _start(key, dim, classes):
    return {"kernel": 0.01 * jax.random.normal(key, (dim, classes)), "bias": jnp.zeros(classes)}


@jax.jit
def _step(weights, trace, features, labels, rate, momentum, decay):
    """Weights, momentum buffers and the sum of the losses, after torch's SGD on `features` {name: [B, D]}."""

    def loss(weights):
        scores = [features[name] @ own["kernel"] + own["bias"][None] for name, own in weights.items()]
        return sum(optax.softmax_cross_entropy_with_integer_labels(s, labels).mean() for s in scores)

    total, grads = jax.value_and_grad(loss)(weights)
    trace = jax.tree.map(lambda t, g, w: momentum * t + g + decay * w, trace, grads, weights)
    return jax.tree.map(lambda w, t: w - rate * t, weights, trace), trace, total


Evaluator = Augmented
