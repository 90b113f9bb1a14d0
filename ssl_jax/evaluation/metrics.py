"""Agreement of classes or clusters with labels; rows with label -1, unlabelled, are ignored."""

import numpy as np
from jaxtyping import Int
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


def accuracy(labels: Int[Numbers, " N"], predicted: Int[Numbers, " N"]) -> float:
    """Share of rows whose predicted class is their label."""
    labels, predicted = _labelled(labels, predicted)
    return float(np.mean(labels == predicted))


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
