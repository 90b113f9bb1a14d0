"""Linear SVMs, one for each class against the rest: the protocol of VOC07 classification."""

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int

from ssl_jax import interface
from ssl_jax.data.parallel import cpus
from ssl_jax.evaluation import precision
from ssl_jax.interface import RunFacts, Split, TrainState, no_progress
from ssl_jax.ops.types import Numbers
from ssl_jax.settings import ranges

_IGNORED = ("left_out", "negative")
_NORM_FLOOR = 1e-5  # added to the norm of a row, as VISSL does


@dataclasses.dataclass(frozen=True)
class SVM(interface.Evaluator):
    """Mean average precision of linear SVMs on frozen features of clean images.

    For each class an SVM separates the images that show it from the others. Its cost C is the one
    with the best mean average precision (scikit-learn's, as in the original) in `folds`-fold
    cross-validation on the training images, the smallest of equals; then it is trained on all of
    them. Images with the target 0 for a class (VOC's "difficult" ones) are left out for that class,
    and so are unlabelled ones. Of data with a label per image the other classes are the rest.

    This is the protocol of VISSL's scripts (Goyal et al. 2019), with which SwAV's 88.9 on VOC07 was
    reproduced: rows of length 1, squared hinge loss, L2 penalty, positives weighted twice, these
    costs, three folds, stratified and not shuffled. Deviations: VISSL trains on images that are
    difficult for a class as negatives, as `ignored="negative"` does, and leaves them out of the
    test alone, while VOC leaves them out altogether; and we solve the primal problem, which
    converges at every cost and gives the same SVM each time. Goyal et al.'s paper has the costs
    2^-19 .. 2^-4 and 10^-7 .. 10^2 (from memory).

    Yields `map`, the mean over the classes that test images show of the area under the interpolated
    curve, `map_11point`, the mean of VOC2007's own average precision at eleven recalls, and
    `ap_<class>`, the area of each class.

    Attributes:
        feature: the feature to classify.
        costs: values of C to choose from; a single one is used as it is.
        folds: parts of the training images in cross-validation.
        positive_weight: weight of images that show the class; others have 1.
        normalise: scale features to length 1.
        ignored: what training does with images that are difficult for a class: "left_out" or
            "negative", which counts them as not showing it.
        tolerance: of the optimiser.
        iterations: of the optimiser, at most.
    """

    feature: str = "backbone"
    costs: tuple[float, ...] = (
        0.01,
        0.1,
        1.0,
        2.0,
        5.0,
        10.0,
        15.0,
        20.0,
        50.0,
        100.0,
        1000.0,
    )
    folds: int = 3
    positive_weight: float = 2.0
    normalise: bool = True
    ignored: str = "left_out"
    tolerance: float = 1e-4
    iterations: int = 2000
    facts: RunFacts = RunFacts()

    takes_targets: ClassVar[bool] = True

    def __post_init__(self):
        if not self.costs:
            raise ValueError("costs: at least one")
        if self.ignored not in _IGNORED:
            raise ValueError(f"ignored={self.ignored!r}: choose {' or '.join(_IGNORED)}")
        ranges.positive(
            costs=self.costs, positive_weight=self.positive_weight, tolerance=self.tolerance
        )
        ranges.at_most(ranges.MANY, costs=self.costs)
        ranges.count(2, ranges.MANY, folds=self.folds)
        ranges.count(1, 10**7, iterations=self.iterations)

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.feature,)

    def run(
        self,
        splits: Mapping[str, Split],
        state: TrainState | None,
        report: Callable[[str], None] = no_progress,
    ) -> Iterator[tuple[str, float]]:
        from sklearn.exceptions import ConvergenceWarning

        train = self._targets(splits["train"])
        test = self._targets(splits["test"])
        scored = [c for c in range(train.shape[1]) if (test[:, c] == 1).any()]
        if not scored:
            raise ValueError("no test image shows any class")
        for c in scored:
            self._check_counts(c, train[:, c])
        x = self._rows(splits["train"].features[self.feature])
        test_x = self._rows(splits["test"].features[self.feature])
        score = partial(self._class, x, train, test_x, test)
        areas = {}
        points = {}
        with warnings.catch_warnings(), ThreadPoolExecutor(cpus()) as pool:
            warnings.simplefilter("ignore", ConvergenceWarning)  # as the original, after 2,000
            for done, (c, values) in enumerate(zip(scored, pool.map(score, scored)), 1):
                areas[c], points[c] = values
                report(f"class {done} of {len(scored)}: average precision {areas[c]:.4f}")
        yield "map", float(np.mean(list(areas.values())))
        yield "map_11point", float(np.mean(list(points.values())))
        for c, value in areas.items():
            yield f"ap_{self._name(c)}", value

    def _targets(self, split: Split) -> Int[np.ndarray, "N C"]:
        """1, -1, or 0 for each image and class; a split with labels has one class an image."""
        if split.targets is not None:
            return np.asarray(split.targets)
        labels = np.asarray(split.labels)[:, None]
        shown = np.where(labels == np.arange(self.facts.classes)[None], 1, -1)
        return np.where(labels < 0, 0, shown)

    def _check_counts(self, c: int, targets: Int[np.ndarray, " N"]) -> None:
        """Checks that a class has enough images to train on.

        Raises:
            ValueError: it has not.
        """
        needed = self.folds if len(self.costs) > 1 else 1
        for sign, what in ((1, "with"), (-1, "without")):
            count = int((targets == sign).sum())
            if count < needed:
                images = "1 training image" if count == 1 else f"{count} training images"
                way_out = "give more images"
                if count:
                    way_out += ", fewer folds or a single cost"
                raise ValueError(
                    f"folds={self.folds}: only {images} {what} {self._name(c)!r}; {way_out}"
                )

    def _name(self, c: int) -> str:
        return self.facts.class_names[c] if self.facts.class_names else str(c)

    def _rows(self, x: Float[Numbers, "N D"]) -> Float[np.ndarray, "N D"]:
        x = np.asarray(x, np.float64)
        if not self.normalise:
            return x
        return x / (np.linalg.norm(x, axis=1, keepdims=True) + _NORM_FLOOR)

    def _class(
        self,
        x: Float[np.ndarray, "N D"],
        train: Int[np.ndarray, "N C"],
        test_x: Float[np.ndarray, "M D"],
        test: Int[np.ndarray, "M C"],
        c: int,
    ) -> tuple[float, float]:
        """The area and the 11-point average precision of a class on the test images."""
        targets = train[:, c]
        if self.ignored == "negative":
            labelled = (train != 0).any(axis=1)
            targets = np.where((targets == 0) & labelled, -1, targets)
        rows = targets != 0
        machine = self._machine(self._cost(x[rows], targets[rows])).fit(x[rows], targets[rows])
        counted = test[:, c] != 0
        scores = machine.decision_function(test_x[counted])
        positive = test[counted, c] == 1
        return precision.area(scores, positive), precision.eleven_points(scores, positive)

    def _cost(self, x: Float[np.ndarray, "n D"], targets: Int[np.ndarray, " n"]) -> float:
        """The cost with the best cross-validated average precision."""
        from sklearn.model_selection import cross_val_score

        if len(self.costs) == 1:
            return self.costs[0]
        values = [
            cross_val_score(
                self._machine(cost), x, targets, cv=self.folds, scoring="average_precision"
            ).mean()
            for cost in self.costs
        ]
        return self.costs[int(np.argmax(values))]

    def _machine(self, cost: float):
        from sklearn.svm import LinearSVC

        return LinearSVC(
            C=cost,
            class_weight={1: self.positive_weight, -1: 1.0},
            dual=False,  # pyright: ignore[reportArgumentType]
            tol=self.tolerance,
            max_iter=self.iterations,
        )


Evaluator = SVM
