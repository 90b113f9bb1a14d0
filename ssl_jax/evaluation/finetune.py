"""Fine-tuning of the whole backbone on a share of the labels: SwAV's semi-supervised protocol."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ssl_jax import interface
from ssl_jax.data.augment import View
from ssl_jax.evaluation import metrics
from ssl_jax.evaluation.probe import stratified
from ssl_jax.interface import Backbone, RunFacts, Split, TrainState, no_progress
from ssl_jax.models.layers import uniform_fan_in
from ssl_jax.ops.mesh import REPLICATED, constrain
from ssl_jax.ops.types import Numbers, Scalar
from ssl_jax.runtime.compilation import convolution_options
from ssl_jax.settings import ranges

_TOP = 5  # classes that count as right in "top5"


class Weights(NamedTuple):
    """What is trained, by the group that has a learning rate: the backbone, and a linear head."""

    backbone: Any
    head: Any


class Trained(NamedTuple):
    """Everything that a step changes: weights, running statistics, and momentum buffers."""

    weights: Weights
    batch_stats: Any
    buffers: Any


@dataclasses.dataclass(frozen=True)
class Finetune(interface.Evaluator):
    """Top-1 and top-5 after training a copy of the whole backbone, with a new head, on few labels.

    The defaults are SwAV's protocol for 1 % and 10 % of ImageNet's labels (Caron et al. 2020,
    semi-supervised learning; the settings are those of the released code): random crops and flips,
    SGD with momentum 0.9, without Nesterov, and no weight decay; rates fall to a fifth before
    epochs 12 and 16 of 20; BatchNorm is in training mode. Each share of the labels begins with the
    weights of the run, which stay as they are.

    Deviations: the shares are drawn by `seed`, as for the probe (the authors take SimCLR's lists of
    files). The score is the last epoch's. An epoch is cut into batches of nearly equal size, so
    that no small rest meets BatchNorm. Of test images `evals.crop` decides what is seen, as for all
    other scores: 0.875 is the authors' resize and central crop. The head starts as torch's linear
    layers do, uniform within 1 / sqrt(D); this is from memory.

    Yields `top1`, and `top5` of more than five classes; names end in `_<share>` for shares below 1
    (`top1_0.01`). Yields nothing for raw pixels, which no backbone made.

    Attributes:
        shares: shares of the labels to train on: that part of each class, at least one image, drawn
            by `seed`; larger shares contain the smaller ones.
        backbone_rates: learning rates of the backbone at the start: one for each share, or one for
            all.
        head_rates: learning rates of the head at the start: one for each share, or one for all.
        epochs: passes over the chosen images.
        drops: epochs before which both rates fall.
        factor: what the rates are multiplied by at each drop.
        batch_size: images per step, at most; two at least, for BatchNorm.
        base_batch_size: the batch size that the rates are for: they scale linearly with
            `batch_size`, or with the number of chosen images if that is smaller; 0 uses the rates
            unscaled.
        momentum: momentum of SGD.
        weight_decay: weight decay, coupled, of all weights.
        scale: range of a crop's area, as a share of the image's.
        ratio: range of a crop's aspect ratio, log-uniform.
        flip: probability of a horizontal flip.
        seed: seed of shares, order, crops and the head.
    """

    shares: tuple[float, ...] = (0.01, 0.1)
    backbone_rates: tuple[float, ...] = (0.02, 0.01)
    head_rates: tuple[float, ...] = (5.0, 0.2)
    epochs: int = 20
    drops: tuple[int, ...] = (12, 16)
    factor: float = 0.2
    batch_size: int = 256
    base_batch_size: int = 256
    momentum: float = 0.9
    weight_decay: float = 0.0
    scale: tuple[float, ...] = (0.08, 1.0)
    ratio: tuple[float, ...] = (3 / 4, 4 / 3)
    flip: float = 0.5
    seed: int = 0
    facts: RunFacts = RunFacts()

    def __post_init__(self):
        if not self.shares or not 0 < min(self.shares) <= max(self.shares) <= 1:
            raise ValueError(f"shares={self.shares}: at least one, above 0 and at most 1")
        for name in ("backbone_rates", "head_rates"):
            rates = getattr(self, name)
            if len(rates) not in (1, len(self.shares)):
                raise ValueError(
                    f"{name}={rates}: give one rate, or one for each of shares={self.shares}"
                )
        ranges.at_most(ranges.MANY, shares=self.shares)
        ranges.different(shares=self.shares)
        ranges.positive(shares=self.shares, head_rates=self.head_rates, factor=self.factor)
        ranges.not_negative(backbone_rates=self.backbone_rates, weight_decay=self.weight_decay)
        ranges.below_one(momentum=self.momentum)
        ranges.count(1, ranges.EPOCHS, epochs=self.epochs)
        ranges.count(2, ranges.INT32, batch_size=self.batch_size)
        ranges.count(0, base_batch_size=self.base_batch_size, drops=self.drops)
        ranges.count(0, ranges.SEED, seed=self.seed)
        View(size=8, scale=self.scale, ratio=self.ratio, flip=self.flip)  # checks them

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    def rates(self, share: int, epoch: int, images: int) -> Weights:
        """Learning rates of backbone and head.

        Args:
            share: number of the share, from 0.
            epoch: from 0.
            images: how many are trained on.
        """
        scale = self.factor ** sum(epoch >= drop for drop in self.drops)
        if self.base_batch_size:
            scale *= min(self.batch_size, images) / self.base_batch_size
        both = (self.backbone_rates, self.head_rates)
        return Weights(*(scale * r[min(share, len(r) - 1)] for r in both))

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
        if train.backbone is None or test.backbone is None:
            raise ValueError(
                "fine-tuning needs a method with a field `network`; see add-a-method.md"
            )
        labels = np.asarray(train.labels)
        if not (labels >= 0).any():
            raise ValueError("there are no labelled training images")
        for number, share in enumerate(self.shares):
            label_share = f"{share:.4g} of the labels"

            def report_share(text: str, label_share: str = label_share) -> None:
                report(f"{label_share}, {text}")

            rows = stratified(labels, share, self.seed)
            scores = self._scores(number, train.backbone, test.backbone, rows, labels, report_share)
            suffix = f"_{share:g}" if share < 1 else ""
            yield f"top1{suffix}", metrics.accuracy(test.labels, scores.argmax(1))
            if self.facts.classes > _TOP:
                yield f"top5{suffix}", metrics.top_accuracy(test.labels, scores, _TOP)

    def _scores(
        self,
        number: int,
        train: Backbone,
        test: Backbone,
        rows: Int[np.ndarray, " n"],
        labels: Int[np.ndarray, " N"],
        report: Callable[[str], None],
    ) -> Float[np.ndarray, "M C"]:
        """Scores of the test images after training on some rows, for one of the shares."""
        with jax.set_mesh(train.mesh):
            weights, statistics = self.tuned(number, train, rows, labels, report)
            features = np.asarray(test.clean(weights.backbone, statistics, report))
            kernel = np.asarray(weights.head["kernel"])
            return features @ kernel + np.asarray(weights.head["bias"])[None]

    def tuned(
        self,
        number: int,
        train: Backbone,
        rows: Int[np.ndarray, " n"],
        labels: Int[np.ndarray, " N"],
        report: Callable[[str], None] = no_progress,
    ) -> tuple[Weights, Any]:
        """Weights and running statistics after the last epoch on some rows.

        Args:
            number: of the share, from 0; decides the rates.
            train: the backbone and the training images.
            rows: of the images to train on.
            labels: of all training images.
            report: takes progress lines.

        Raises:
            ValueError: training has diverged.
        """
        key = jax.random.key(self.seed)
        rng = np.random.default_rng(self.seed)
        steps = math.ceil(len(rows) / self.batch_size)
        trained = None
        for epoch in range(self.epochs):
            rates = self.rates(number, epoch, len(rows))
            done = 0
            for step, batch in enumerate(np.array_split(rng.permutation(rows), steps)):
                view_key = jax.random.fold_in(key, 1 + epoch * steps + step)
                crops = dict(scale=self.scale, ratio=self.ratio, flip=self.flip)
                views = train.views(view_key, batch, **crops)
                if trained is None:
                    trained = self._start(key, train, views)
                trained, loss = _step()(
                    train.apply,
                    self.momentum,
                    self.weight_decay,
                    trained,
                    views,
                    labels[batch],
                    rates,
                )
                # Waits for the step: many steps in flight can deadlock several virtual CPU devices.
                loss = float(loss)
                if not math.isfinite(loss):
                    raise ValueError(
                        f"training diverged in epoch {epoch + 1} at the share "
                        f"{self.shares[number]:g}; lower backbone_rates or head_rates"
                    )
                done += len(batch)
                images = f"{done:,} of {len(rows):,} images"
                report(f"epoch {epoch + 1} of {self.epochs}, {images}, loss {loss:.3f}")
        assert trained is not None
        return trained.weights, trained.batch_stats

    def _start(
        self, key: PRNGKeyArray, train: Backbone, views: Float[Array, "B S S C"]
    ) -> "Trained":
        """The weights of the run and a new head, a linear layer as torch starts it."""
        features, _ = jax.eval_shape(train.apply, train.params, train.batch_stats, views)
        dim = features.shape[-1]
        kernel_key, bias_key = jax.random.split(jax.random.fold_in(key, 0))
        kernel = uniform_fan_in(kernel_key, (dim, self.facts.classes), jnp.float32)
        bound = dim**-0.5
        bias = jax.random.uniform(bias_key, (self.facts.classes,), minval=-bound, maxval=bound)
        head = {"kernel": np.asarray(kernel), "bias": np.asarray(bias)}  # on all hosts
        weights = Weights(train.params, head)
        buffers = _optimiser(self.momentum, self.weight_decay).init(weights)
        return _laid_out()(Trained(weights, train.batch_stats, buffers))


def _optimiser(momentum: float, decay: float) -> optax.GradientTransformation:
    """torch's SGD without the rate, which multiplies outside the momentum buffer."""
    return optax.chain(optax.add_decayed_weights(decay), optax.trace(momentum))


def _replicated(tree: Any) -> Any:
    """`tree` on all devices, so that each step gets its arrays laid out alike."""
    return jax.tree.map(lambda x: constrain(x, REPLICATED), tree)


@cache
def _laid_out() -> Callable[[Trained], Trained]:
    return jax.jit(_replicated)


@cache
def _step() -> Callable[..., tuple[Trained, Array]]:
    """The jitted step; created on first use, since its options need the backend."""
    return jax.jit(step, static_argnums=(0, 1, 2), compiler_options=convolution_options())


def step(
    apply: Callable[..., Any],
    momentum: float,
    decay: float,
    trained: Trained,
    views: Float[Array, "B S S C"],
    labels: Int[Numbers, " B"],
    rates: tuple[Scalar, Scalar],
) -> tuple[Trained, Float[Array, ""]]:
    """A step of SGD on the mean cross-entropy, and the loss before it.

    Args:
        apply: see `interface.Backbone`.
        momentum, decay: of SGD.
        trained: before the step.
        views: of the batch.
        labels: of the batch.
        rates: of backbone and head.
    """

    def loss(weights: Weights) -> tuple[Float[Array, ""], Any]:
        features, updated = apply(weights.backbone, trained.batch_stats, views)
        scores = features @ weights.head["kernel"] + weights.head["bias"][None]
        error = optax.softmax_cross_entropy_with_integer_labels(scores, labels)
        return error.mean(), updated

    weights = trained.weights
    (value, batch_stats), grads = jax.value_and_grad(loss, has_aux=True)(weights)
    optimiser = _optimiser(momentum, decay)
    directions: Any
    directions, buffers = optimiser.update(grads, trained.buffers, weights)
    moves = [
        jax.tree.map(lambda x, rate=rate: -rate * x, group)
        for group, rate in zip(directions, rates, strict=True)
    ]
    moved: Any = optax.apply_updates(weights, Weights(*moves))
    return _replicated((Trained(moved, batch_stats, buffers), value))


Evaluator = Finetune
