"""Linear classifiers on augmented images: SwAV's protocol or, by settings, Local Aggregation's."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ssl_jax import interface
from ssl_jax.data.augment import View
from ssl_jax.evaluation import metrics
from ssl_jax.evaluation.ten_crop import crops_of, mean_probabilities
from ssl_jax.interface import RunFacts, Split, TrainState, no_progress
from ssl_jax.ops.types import Numbers, Scalar
from ssl_jax.settings import ranges

_SCHEDULES = ("cosine", "drops")


@dataclasses.dataclass(frozen=True)
class Augmented(interface.Evaluator):
    """Top-1 of a linear classifier on a frozen encoder, trained on random crops and flips.

    Crops and flips are redrawn in every epoch, and the encoder is in evaluation mode. As in SwAV's
    evaluation, weights start normal with standard deviation 0.01 and biases at zero; SGD has
    momentum 0.9, without Nesterov; the learning rate falls epoch by epoch. Several features get a
    classifier each, trained side by side on the same crops, as Local Aggregation does; then names
    end in `_<feature>`.

    Deviations: the score is the last epoch's (the original reports the best epoch's on the test
    images). Of test images `evals.crop` decides what is seen, as for all other scores: 0.875 is the
    original's resize and central crop.
    `learning_rate` is for batches of `base_batch_size` and scales linearly with `batch_size`, or
    with the number of labelled images if that is smaller.

    LA's protocol for a ResNet-18 or -50: features=("stage1", .., "stage5"), batch_size=128,
    learning_rate=0.01, base_batch_size=0, weight_decay=1e-4, schedule="drops", drops=(30, 60),
    epochs=70, ten_crop=0.875. Its crops are squares of 224 of 256 pixels (here scale=(0.77, 0.77),
    ratio=(1.0, 1.0)), and its maps are larger than ours, which are pooled. It cuts the ten crops
    from the central 256 x 256 pixels; here the corners are those of the whole image, as in
    torchvision's `TenCrop` (data.keep="centre" stores central squares).

    `standardise` stands in for the BatchNorm that VISSL puts before the classifier: the statistics
    are those of clean training images, not of batches of crops, and there is no learnt scale.

    Yields nothing for raw pixels, which have no random crops.

    Attributes:
        features: the features to classify: "backbone", "stage1", ...
        epochs: passes over the labelled training images; each costs a forward pass of all of them.
        batch_size: images per step, at most the labelled training images; an epoch's last step gets
            the rest.
        learning_rate: learning rate at the start.
        base_batch_size: the batch size that `learning_rate` is for; 0 uses the rate unscaled.
        momentum: momentum of SGD.
        nesterov: Nesterov's momentum.
        weight_decay: weight decay, coupled, of weights and biases.
        schedule: learning-rate schedule: "cosine" (per epoch, to zero) or "drops".
        drops: epochs before which the rate of schedule="drops" falls to a tenth.
        scale: range of a crop's area, as a share of the image's.
        ratio: range of a crop's aspect ratio, log-uniform.
        flip: probability of a horizontal flip.
        standardise: subtract the mean of the labelled training images from features, and divide by
            their standard deviation.
        ten_crop: ten-crop testing, which adds `top1_ten_crop`: side of the crops, as a share of a
            test image's short side (0.875: 224 of 256 pixels); 0 for none. Four corners and the
            centre, as they are and mirrored; the classes' probabilities are averaged.
        seed: seed of order, crops and weights.
    """

    features: tuple[str, ...] = ("backbone",)
    epochs: int = 100
    batch_size: int = 256
    learning_rate: float = 0.3
    base_batch_size: int = 256
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-6
    schedule: str = "cosine"
    drops: tuple[int, ...] = (60, 80)
    scale: tuple[float, ...] = (0.08, 1.0)
    ratio: tuple[float, ...] = (3 / 4, 4 / 3)
    flip: float = 0.5
    standardise: bool = False
    ten_crop: float = 0.0
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
        ranges.between(0, 1, ten_crop=self.ten_crop)
        View(size=8, scale=self.scale, ratio=self.ratio, flip=self.flip)  # checks them

    @property
    def needs(self) -> tuple[str, ...]:
        return self.features

    def rate(self, epoch: int, batch_size: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        scale = batch_size / self.base_batch_size if self.base_batch_size else 1.0
        if self.schedule == "cosine":
            return scale * self.learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))
        return scale * self.learning_rate * 0.1 ** sum(epoch >= drop for drop in self.drops)

    def run(
        self,
        splits: Mapping[str, Split],
        state: TrainState | None,
        report: Callable[[str], None] = no_progress,
    ) -> Iterator[tuple[str, float]]:
        train = splits["train"]
        test = splits["test"]
        if train.draw is None:
            return
        if self.standardise:
            train, test = _standardised(train, test, self.features)
        dims = {name: test.features[name].shape[1] for name in self.features}
        classifiers = self._train(train, dims, report)
        for name in self.features:
            scores = _scores(classifiers[name], jnp.asarray(test.features[name]))
            suffix = f"_{name}" if len(self.features) > 1 else ""
            yield f"top1{suffix}", metrics.accuracy(test.labels, scores.argmax(1))
        if ten_crops := crops_of(test, self.ten_crop):
            scorers = {name: (name, partial(_scores, classifiers[name])) for name in self.features}
            shares = mean_probabilities(ten_crops, self.ten_crop, scorers)
            for name in self.features:
                suffix = f"_{name}" if len(self.features) > 1 else ""
                accuracy = metrics.accuracy(test.labels, shares[name].argmax(1))
                yield f"top1_ten_crop{suffix}", accuracy

    def _train(
        self, train: Split, dims: Mapping[str, int], report: Callable[[str], None]
    ) -> dict[str, dict[str, Array]]:
        """Classifiers {feature: {"kernel", "bias"}} after the last epoch."""
        key = jax.random.key(self.seed)
        rng = np.random.default_rng(self.seed)
        weights = {}
        for i, (name, dim) in enumerate(dims.items()):
            weights[name] = _start(jax.random.fold_in(key, i), dim, self.facts.classes)
        trace = jax.tree.map(jnp.zeros_like, weights)
        labelled = np.flatnonzero(np.asarray(train.labels) >= 0)
        if not len(labelled):
            raise ValueError("there are no labelled training images")
        for epoch in range(self.epochs):
            epoch_key = jax.random.fold_in(key, 2**20 + epoch)  # beyond the keys of the weights
            order = rng.permutation(labelled)
            weights, trace = self._epoch(epoch, epoch_key, weights, trace, train, order, report)
        return weights

    def _epoch(
        self,
        epoch: int,
        key: PRNGKeyArray,
        weights: Any,
        trace: Any,
        train: Split,
        order: Int[np.ndarray, " n"],
        report: Callable[[str], None],
    ) -> tuple[Any, Any]:
        """Weights and momentum buffers after a pass over the rows `order`."""
        assert train.draw is not None
        labels = np.asarray(train.labels)
        size = min(self.batch_size, len(order))
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            features = train.draw(
                jax.random.fold_in(key, start),
                rows,
                self.features,
                scale=self.scale,
                ratio=self.ratio,
                flip=self.flip,
            )
            weights, trace, loss = _step(
                weights,
                trace,
                features,
                labels[rows],
                self.rate(epoch, size),
                self.momentum,
                self.weight_decay,
                self.nesterov,
            )
            # Waits for the step: many steps in flight can deadlock several virtual CPU devices.
            loss = float(loss)
            done = f"{min(start + size, len(order)):,} of {len(order):,} images"
            report(f"epoch {epoch + 1} of {self.epochs}, {done}, loss {loss:.3f}")
        return weights, trace


def _standardised(train: Split, test: Split, names: Sequence[str]) -> tuple[Split, Split]:
    """Both splits with features of mean 0 and deviation 1 over the labelled training images."""
    labelled = np.flatnonzero(np.asarray(train.labels) >= 0)
    x = {name: jnp.asarray(train.features[name])[labelled] for name in names}
    means = {name: rows.mean(0, keepdims=True) for name, rows in x.items()}
    scales = {name: rows.std(0, keepdims=True) + 1e-6 for name, rows in x.items()}
    draw = train.draw
    ten_crops = test.ten_crops
    assert draw is not None

    def scaled(features: Mapping[str, Any]) -> dict[str, Array]:
        return {name: (jnp.asarray(features[name]) - means[name]) / scales[name] for name in names}

    def draw_scaled(*args: Any, **crop: Any) -> dict[str, Array]:
        return scaled(draw(*args, **crop))

    def scaled_crops(*args: Any) -> Iterator[dict[str, Array]]:
        assert ten_crops is not None
        for block in ten_crops(*args):
            flat = {name: jnp.asarray(block[name]) for name in names}
            rows = scaled({name: x.reshape(-1, x.shape[-1]) for name, x in flat.items()})
            yield {name: rows[name].reshape(flat[name].shape) for name in names}

    train = train._replace(features=scaled(train.features), draw=draw_scaled)
    test = test._replace(
        features=scaled(test.features), ten_crops=scaled_crops if ten_crops else None
    )
    return train, test


def _start(key: PRNGKeyArray, dim: int, classes: int) -> dict[str, Array]:
    return {"kernel": 0.01 * jax.random.normal(key, (dim, classes)), "bias": jnp.zeros(classes)}


def _scores(classifier: Mapping[str, Array], x: Float[Array, "B D"]) -> Float[Array, "B C"]:
    return x @ classifier["kernel"] + classifier["bias"][None]


@partial(jax.jit, static_argnames="nesterov")
def _step(
    weights: Any,
    trace: Any,
    features: Mapping[str, Float[Array, "B _"]],
    labels: Int[Numbers, " B"],
    rate: Scalar,
    momentum: Scalar,
    decay: Scalar,
    nesterov: bool,
) -> tuple[Any, Any, Float[Array, ""]]:
    """A step of torch's SGD: weights, momentum buffers and the sum of the classifiers' losses."""

    def loss(weights):
        scores = [_scores(weights[name], features[name]) for name in weights]
        return sum(
            optax.softmax_cross_entropy_with_integer_labels(s, labels).mean() for s in scores
        )

    total, grads = jax.value_and_grad(loss)(weights)
    grads = jax.tree.map(lambda g, w: g + decay * w, grads, weights)
    trace = jax.tree.map(lambda t, g: momentum * t + g, trace, grads)
    moves = trace
    if nesterov:
        moves = jax.tree.map(lambda t, g: momentum * t + g, trace, grads)
    return jax.tree.map(lambda w, t: w - rate * t, weights, moves), trace, total


Evaluator = Augmented
