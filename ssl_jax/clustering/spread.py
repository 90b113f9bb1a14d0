"""Labels of a few images, spread to all by their nearest labelled neighbours."""

import dataclasses
from collections.abc import Iterator

import jax
import numpy as np

from ssl_jax.clustering.given_labels import GivenLabels
from ssl_jax.data.source import held_out
from ssl_jax.evaluation import metrics
from ssl_jax.evaluation.knn import weighted_knn
from ssl_jax.ops.vectors import unit
from ssl_jax.settings.text import counted

FEWEST_NEIGHBOURS = 5
MOST_NEIGHBOURS = 20
LEFT_OUT_ONE_BY_ONE = 100  # labelled images at most; of more a share is held out
HELD_OUT = 0.2
UNSURE = 0.6  # confidence


@dataclasses.dataclass(frozen=True, eq=False)
class SpreadLabels:
    """A label for each image.

    Attributes:
        classes: names of the labels.
        labels: [N] int32, indices of `classes`; those that were given are kept.
        confidence: [N] share of the neighbours' votes for the label; 1 for given labels.
        given: [n] indices of the images with given labels.
        scored: number of held-out images; 0: none could be scored.
        accuracy: share of these whose label is spread to them from the others.
        largest: share of the largest class among these.
        one_by_one: whether each was held out alone, with all others as neighbours.
    """

    classes: tuple[str, ...]
    labels: np.ndarray
    confidence: np.ndarray
    given: np.ndarray
    scored: int
    accuracy: float
    largest: float
    one_by_one: bool

    def lines(self) -> Iterator[str]:
        """How many labels were spread, how sure they are, and how good on held-out images."""
        others = np.delete(self.confidence, self.given)
        unsure = int((others < UNSURE).sum())
        yield (
            f"{counted(len(self.given), 'label')} spread to "
            f"{counted(len(others), 'other image')}; {unsure:,} of these have a confidence below "
            f"{UNSURE:g}"
        )
        if not self.scored:
            yield "not scored: no class has two labelled pictures"
            return
        how = " (each held out alone)" if self.one_by_one else ""
        yield (
            f"on {self.scored:,} held-out labelled pictures{how}: {self.accuracy:.2f}; largest "
            f"class {self.largest:.2f}"
        )


def spread(features: np.ndarray | jax.Array, given: GivenLabels) -> SpreadLabels:
    """Spreads labels to all features [N, D] by weighted kNN (Wu et al. 2018, temperature 0.1).

    The number of neighbours is the root of the number of labelled images, from 5 to 20. The score
    is that of labelled images of classes with at least two, held out: up to 100 one by one, of more
    a fifth of each class.
    """
    points = np.asarray(unit(features))
    known = points[given.rows]
    classes = len(given.classes)
    labels, confidence = _votes(known, given.labels, points, classes)
    labels[given.rows] = given.labels
    confidence[given.rows] = 1.0
    one_by_one = len(known) <= LEFT_OUT_ONE_BY_ONE
    if one_by_one:
        counts = np.bincount(given.labels, minlength=classes)
        tests = np.flatnonzero(counts[given.labels] > 1)
        predicted = np.array(
            [_without(known, given.labels, row, classes) for row in tests.tolist()], int
        )
    else:
        train, tests = held_out(given.labels, HELD_OUT)
        predicted, _ = _votes(known[train], given.labels[train], known[tests], classes)
    truth = given.labels[tests]
    return SpreadLabels(
        classes=given.classes,
        labels=labels,
        confidence=confidence,
        given=given.rows,
        scored=len(tests),
        accuracy=float(np.mean(predicted == truth)) if len(tests) else 0.0,
        largest=metrics.largest_share(truth),
        one_by_one=one_by_one,
    )


def neighbours_for(labelled: int) -> int:
    """The number of neighbours that vote, of a number of labelled images."""
    root = round(labelled**0.5)
    return min(max(root, FEWEST_NEIGHBOURS), MOST_NEIGHBOURS, labelled)


def _votes(
    known: np.ndarray, labels: np.ndarray, points: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Labels [M] int32 of unit `points` [M, D], and the share of votes [M] for them."""
    votes = weighted_knn(known, labels, points, k=neighbours_for(len(known)), classes=classes)
    votes = np.array(votes)
    return votes.argmax(axis=1).astype(np.int32), votes.max(axis=1) / votes.sum(axis=1)


def _without(known: np.ndarray, labels: np.ndarray, row: int, classes: int) -> int:
    """The label of a labelled row, by the others."""
    others = np.delete(np.arange(len(known)), row)
    predicted, _ = _votes(known[others], labels[others], known[row : row + 1], classes)
    return int(predicted[0])
