"""Linear probe: rates and weight decays chosen on held-out training images, for several features and label shares."""

import dataclasses
import itertools

import jax.numpy as jnp
import numpy as np

from ssl_jax import interface
from ssl_jax.data.source import held_out
from ssl_jax.evaluation import regression
from ssl_jax.interface import RunFacts, no_progress
from ssl_jax.settings import ranges


@dataclasses.dataclass(frozen=True)
class Probe(interface.Evaluator):
    """Top-1, on the test split, of softmax regression on frozen features of clean images.

    For each feature and each share of the labels: all rates and weight decays are trained at once on four fifths of
    those labelled training images (`regression.fit`); of their other fifth, which is stratified, the best cell is
    chosen (by accuracy, ties by cross-entropy); a classifier with its rate and decay is trained anew on all of them.
    The test split is seen once, by that classifier; it never takes part in the choice. Features are standardised by
    the training split, whose unlabelled images have no other part in this.

    Yields `top1`, `held_out` (of the chosen cell, before it is trained anew), `rate` and `decay` (the chosen ones);
    where there are several features with `_<feature>` behind, and with `_<share>` for shares below 1
    (`top1_stage3_0.01`). Where every class has but one image, there is none to hold out: the middle of the grid is
    taken, without `held_out`.

    Attributes:
        features: "backbone", "embedding", "stage1".. "stage5" (maps pooled to about 9,000 numbers).
        shares: of the labels: that part of each class, at least one image, drawn by `seed`; the larger contain the
            smaller.
        rates: learning rates at the start of the cosine; the more features, the smaller those that do not diverge.
        decays: factors of half the squared weights.
        steps: of the optimiser, whatever the number of images.
        batch_size: rows a step.
        held_out: share of each class that the choice is made on.
        seed: of shares and batches.
    """

    features: tuple[str, ...] = ("backbone",)
    shares: tuple[float, ...] = (0.01, 0.1, 1.0)
    rates: tuple[float, ...] = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)
    decays: tuple[float, ...] = (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
    steps: int = 2000
    batch_size: int = 512
    held_out: float = 0.2
    seed: int = 0
    facts: RunFacts = RunFacts()

    def __post_init__(self):
        if not self.features or not self.shares or not 0 < min(self.shares) <= max(self.shares) <= 1:
            raise ValueError(f"features={self.features} and shares={self.shares}: at least one; shares in 0..1")
        if not self.rates or not self.decays:
            raise ValueError(f"rates={self.rates} and decays={self.decays}: at least one each")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out={self.held_out}: above 0 and below 1")
        ranges.positive(shares=self.shares, rates=self.rates)
        ranges.not_negative(decays=self.decays)
        ranges.at_most(ranges.MANY, shares=self.shares, rates=self.rates, decays=self.decays)
        ranges.count(1, 10**7, steps=self.steps)
        ranges.count(1, 10**6, batch_size=self.batch_size)
        ranges.count(0, ranges.SEED, seed=self.seed)

    @property
    def needs(self):
        return self.features

    def run(self, splits, state, report=no_progress):
        train, test = splits["train"], splits["test"]
        if not (np.asarray(train.labels) >= 0).any():
            raise ValueError("there are no labelled training images")
        known = {}  # raw pixels stand for every feature: one probe is enough
        for feature in self.features:
            x = train.features[feature]
            if id(x) not in known:
                tell = lambda text, feature=feature: report(f"{feature}, {text}")
                known[id(x)] = list(self._of(x, train.labels, test.features[feature], test.labels, tell))
            for share, values in known[id(x)]:
                parts = (feature,) * (len(self.features) > 1) + (f"{share:g}",) * (share < 1)
                for name, value in values.items():
                    yield "_".join((name, *parts)), float(value)

    def _of(self, x, labels, test_x, test_labels, report):
        """(share, {"top1": ...}) of one feature."""
        data = regression.standardised(x, labels)
        tests = regression.Data(jnp.asarray(test_x), jnp.asarray(test_labels), data.mean, data.scale)
        own = np.flatnonzero(np.asarray(test_labels) >= 0)
        for share in self.shares:
            tell = lambda text, share=share: report(f"{share:.4g} of the labels, {text}")
            rows = stratified(np.asarray(labels), share, self.seed)
            chosen, values = self._choose(data, rows, tell)
            weights = self._fit(data, rows, [chosen], lambda text, tell=tell: tell(f"again, {text}"))
            yield share, dict(top1=regression.evaluate(weights, tests, own)[0][0]) | values

    def _choose(self, data, rows, report):
        """(rate, decay) of the cell that is best on held-out rows, and what to say of it."""
        grid = list(itertools.product(self.rates, self.decays))
        fitted, other = (rows[part] for part in held_out(np.asarray(data.labels)[rows], self.held_out))
        if len(other):
            accuracy, error = regression.evaluate(self._fit(data, fitted, grid, report), data, other)
            best = np.lexsort((error, -accuracy))[0]
            said = dict(held_out=accuracy[best])
        else:
            best, said = grid.index((_middle(self.rates), _middle(self.decays))), {}
        return grid[best], said | dict(rate=grid[best][0], decay=grid[best][1])

    def _fit(self, data, rows, grid, report):
        settings = dict(steps=self.steps, batch_size=self.batch_size, seed=self.seed)
        classes = self.facts.classes
        return regression.fit(data, rows, *zip(*grid), classes=classes, **settings, report=report)


def stratified(labels, share: float, seed: int):
    """Rows [n], ascending, with so large a share of each class of `labels` [N], at least one; -1 is no class."""
    rng, rows = np.random.default_rng(seed), []
    for label in np.unique(labels[labels >= 0]):
        own = rng.permutation(np.flatnonzero(labels == label))
        rows.append(own[: max(1, round(share * len(own)))])
    return np.sort(np.concatenate(rows))


def _middle(values):
    return sorted(values)[len(values) // 2]


Evaluator = Probe
