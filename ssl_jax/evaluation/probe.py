"""Linear probe with rate and weight decay chosen on held-out training images."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ssl_jax import interface
from ssl_jax.data.source import held_out
from ssl_jax.evaluation import metrics, regression
from ssl_jax.evaluation.ten_crop import Classifier, crops_of, mean_probabilities
from ssl_jax.interface import RunFacts, Split, TrainState, no_progress
from ssl_jax.ops.types import Numbers
from ssl_jax.settings import ranges


@dataclasses.dataclass(frozen=True)
class Probe(interface.Evaluator):
    """Top-1, on the test split, of softmax regression on frozen features of clean images.

    For each feature and each share of the labels, all rates and weight decays are trained at once
    on four fifths of those labelled training images (`regression.fit`). The best cell is chosen on
    the other fifth, which is stratified (by accuracy, ties by cross-entropy), and a classifier with
    its rate and decay is retrained on all of them. Only that classifier sees the test split, once;
    the choice never does. Features are standardised by the training split; its unlabelled images
    serve for nothing else.

    Yields `top1`, `held_out` (of the chosen cell, before retraining), and the chosen `rate` and
    `decay`. Names end in `_<feature>` if there are several features, and in `_<share>` for shares
    below 1 (`top1_stage3_0.01`). If every class has a single image, none can be held out: the
    middle of the grid is used, without `held_out`.

    Attributes:
        features: the features to classify: "backbone", "embedding", "stage1" to "stage5" (maps
            pooled to about 9,000 numbers).
        shares: shares of the labels to train on: that part of each class, at least one image, drawn
            by `seed`; larger shares contain the smaller ones.
        rates: learning rates at the start of the cosine; the more numbers a feature has, the
            smaller the rates that do not diverge.
        decays: weight decays: factors of half the squared weights in the loss.
        steps: steps of the optimiser, whatever the number of images.
        batch_size: rows per step.
        held_out: share of each class that the rate and the decay are chosen on.
        ten_crop: ten-crop testing, which adds `top1_ten_crop` of the same classifiers: side of the
            crops, as a share of a test image's short side (0.875: 224 of 256 pixels); 0 for none.
            Four corners and the centre, as they are and mirrored; the classes' probabilities are
            averaged. The choice of rate and decay sees clean images alone.
        seed: seed of shares and batches.
    """

    features: tuple[str, ...] = ("backbone",)
    shares: tuple[float, ...] = (0.01, 0.1, 1.0)
    rates: tuple[float, ...] = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)
    decays: tuple[float, ...] = (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
    steps: int = 2000
    batch_size: int = 512
    held_out: float = 0.2
    ten_crop: float = 0.0
    seed: int = 0
    facts: RunFacts = RunFacts()

    def __post_init__(self):
        if (
            not self.features
            or not self.shares
            or not 0 < min(self.shares) <= max(self.shares) <= 1
        ):
            raise ValueError(
                f"features={self.features} and shares={self.shares}: at least one; shares in 0..1"
            )
        if not self.rates or not self.decays:
            raise ValueError(f"rates={self.rates} and decays={self.decays}: at least one each")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out={self.held_out}: above 0 and below 1")
        ranges.positive(shares=self.shares, rates=self.rates)
        ranges.not_negative(decays=self.decays)
        ranges.between(0, 1, ten_crop=self.ten_crop)
        ranges.at_most(ranges.MANY, shares=self.shares, rates=self.rates, decays=self.decays)
        ranges.different(shares=self.shares)
        ranges.count(1, 10**7, steps=self.steps)
        ranges.count(1, 10**6, batch_size=self.batch_size)
        ranges.count(0, ranges.SEED, seed=self.seed)

    @property
    def needs(self) -> tuple[str, ...]:
        return self.features

    def run(
        self,
        splits: Mapping[str, Split],
        state: TrainState | None,
        report: Callable[[str], None] = no_progress,
    ) -> Iterator[tuple[str, float]]:
        train = splits["train"]
        test = splits["test"]
        if not (np.asarray(train.labels) >= 0).any():
            raise ValueError("there are no labelled training images")
        probed = {}  # raw pixels stand in for every feature: one probe is enough
        classifiers = {}
        for feature in self.features:
            x = train.features[feature]
            if id(x) not in probed:
                probed[id(x)] = list(
                    self._probe(
                        x,
                        train.labels,
                        test.features[feature],
                        test.labels,
                        _prefixed(report, feature),
                    )
                )
            for share, values, classifier in probed[id(x)]:
                suffix = self._suffix(feature, share)
                classifiers[suffix] = (feature, classifier)
                for name, value in values.items():
                    yield f"{name}{suffix}", float(value)
        if ten_crops := crops_of(test, self.ten_crop):
            shares = mean_probabilities(ten_crops, self.ten_crop, classifiers)
            for suffix, x in shares.items():
                yield f"top1_ten_crop{suffix}", metrics.accuracy(test.labels, x.argmax(1))

    def _suffix(self, feature: str, share: float) -> str:
        """The end of the names of a feature's scores at a share of the labels."""
        suffix = f"_{feature}" if len(self.features) > 1 else ""
        return f"{suffix}_{share:g}" if share < 1 else suffix

    def _probe(
        self,
        x: Float[Numbers, "N D"],
        labels: Int[Numbers, " N"],
        test_x: Float[Numbers, "M D"],
        test_labels: Int[Numbers, " M"],
        report: Callable[[str], None],
    ) -> Iterator[tuple[float, dict[str, float], Classifier]]:
        """(share, {"top1": ...}, classifier) for each share of the labels, on one feature."""
        data = regression.standardised(x, labels)
        test_data = regression.Data(
            jnp.asarray(test_x), jnp.asarray(test_labels), data.mean, data.scale
        )
        test_rows = np.flatnonzero(np.asarray(test_labels) >= 0)
        for share in self.shares:
            report_share = _prefixed(report, f"{share:.4g} of the labels")
            rows = stratified(np.asarray(labels), share, self.seed)
            chosen, values = self._choose(data, rows, report_share)
            weights = self._fit(data, rows, [chosen], _prefixed(report_share, "again"))
            accuracy, _ = regression.evaluate(weights, test_data, test_rows)
            classifier = partial(_scores, weights, data.mean, data.scale)
            yield share, {"top1": accuracy[0], **values}, classifier

    def _choose(
        self, data: regression.Data, rows: Int[np.ndarray, " n"], report: Callable[[str], None]
    ) -> tuple[tuple[float, float], dict[str, float]]:
        """(rate, decay) of the best cell on held-out rows, and the scores of the choice."""
        grid = list(itertools.product(self.rates, self.decays))
        fitted, other = held_out(np.asarray(data.labels)[rows], self.held_out)
        values = {}
        if len(other):
            weights = self._fit(data, rows[fitted], grid, report)
            accuracy, error = regression.evaluate(weights, data, rows[other])
            best = int(np.lexsort((error, -accuracy))[0])
            values["held_out"] = accuracy[best]
        else:
            best = grid.index((_middle(self.rates), _middle(self.decays)))
        rate, decay = grid[best]
        return grid[best], values | {"rate": rate, "decay": decay}

    def _fit(
        self,
        data: regression.Data,
        rows: Int[np.ndarray, " n"],
        grid: Sequence[tuple[float, float]],
        report: Callable[[str], None],
    ) -> regression.Weights:
        return regression.fit(
            data,
            rows,
            [rate for rate, _ in grid],
            [decay for _, decay in grid],
            classes=self.facts.classes,
            steps=self.steps,
            batch_size=self.batch_size,
            seed=self.seed,
            report=report,
        )


def stratified(labels: Int[np.ndarray, " N"], share: float, seed: int) -> Int[np.ndarray, " n"]:
    """A random `share` of each class's rows, at least one, in ascending order; -1 is no class."""
    rng = np.random.default_rng(seed)
    chosen = []
    for label in np.unique(labels[labels >= 0]):
        members = rng.permutation(np.flatnonzero(labels == label))
        chosen.append(members[: max(1, round(share * len(members)))])
    return np.sort(np.concatenate(chosen))


def _scores(
    weights: regression.Weights,
    mean: Float[Array, "1 D"],
    scale: Float[Array, "1 D"],
    x: Float[Array, "B D"],
) -> Float[Array, "B C"]:
    """Scores of a classifier, the only cell of its grid, for features as they are."""
    return weights.scores((x - mean) / scale)[:, 0]


def _middle(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def _prefixed(report: Callable[[str], None], prefix: str) -> Callable[[str], None]:
    """`report`, with `prefix` before each line."""
    return lambda text: report(f"{prefix}, {text}")


Evaluator = Probe
