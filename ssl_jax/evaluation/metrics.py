"""Agreement of classes or clusters with labels; rows with label -1, unlabelled, are ignored."""

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from sklearn import metrics

from ssl_jax.ops.types import Numbers


def _labelled(
    labels: Int[Numbers, " N"], predicted: Int[Numbers, " N"]
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    labels = np.asarray(labels)
    predicted = np.asarray(predicted)
    keep = labels >= 0
    if not keep.any():
        raise ValueError("no labelled rows to compare with")
    return labels[keep], predicted[keep]


class Accuracy(float):
    """Share of rows whose predicted class is their label; a float that keeps the predictions.

    `ssl_jax.evaluate` and reports derive balanced accuracy and the scores of each class from it.

    Attributes:
        labels, predicted: [n] int, of the labelled rows.
    """

    labels: Int[np.ndarray, " n"]
    predicted: Int[np.ndarray, " n"]

    def __new__(cls, labels: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"]) -> "Accuracy":
        value = super().__new__(cls, np.mean(labels == predicted))
        value.labels = labels
        value.predicted = predicted
        return value

    @property
    def balanced(self) -> float:
        """Mean recall of the classes that occur among the labels."""
        right = self.labels == self.predicted
        recalls = [right[self.labels == label].mean() for label in np.unique(self.labels)]
        return float(np.mean(recalls))


def accuracy(labels: Int[Numbers, " N"], predicted: Int[Numbers, " N"]) -> Accuracy:
    """Share of rows whose predicted class is their label."""
    return Accuracy(*_labelled(labels, predicted))


def top_accuracy(labels: Int[Numbers, " N"], scores: Float[Numbers, "N C"], count: int) -> float:
    """Share of rows whose label is among the `count` classes with the highest scores."""
    scores = np.asarray(scores)
    labels = np.asarray(labels)
    highest = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    rows = np.where((highest == labels[:, None]).any(1), labels, -2)  # -2: no class
    return float(accuracy(labels, rows))


def largest_share(labels: Int[Numbers, " N"]) -> float:
    """Share of the largest class among the labelled rows; 0 if there are none.

    It is the accuracy of a classifier that always names this class, and the clustering accuracy of
    a single cluster.
    """
    labels = np.asarray(labels)
    labelled = labels[labels >= 0]
    return float(np.bincount(labelled).max() / len(labelled)) if len(labelled) else 0.0


def clustering_accuracy(labels: Int[Numbers, " N"], predicted: Int[Numbers, " N"]) -> float:
    """Share of rows that agree under the best one-to-one match of clusters to classes (Hungarian).

    If there are more or fewer clusters than classes, those left over match nothing.
    """
    labels, predicted = _labelled(labels, predicted)
    table = metrics.cluster.contingency_matrix(labels, predicted)
    return float(table[linear_sum_assignment(table, maximize=True)].sum() / len(labels))


def normalized_mutual_info(labels: Int[Numbers, " N"], predicted: Int[Numbers, " N"]) -> float:
    """Mutual information over the arithmetic mean of both entropies."""
    return float(metrics.normalized_mutual_info_score(*_labelled(labels, predicted)))


def adjusted_rand_index(labels: Int[Numbers, " N"], predicted: Int[Numbers, " N"]) -> float:
    """Rand index, adjusted for chance."""
    return float(metrics.adjusted_rand_score(*_labelled(labels, predicted)))
