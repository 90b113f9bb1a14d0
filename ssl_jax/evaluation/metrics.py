"""Agreement of classes or clusters with labels. Rows with label -1 are unlabelled and left out."""

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn import metrics


def _labelled(labels, predicted):
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    keep = labels >= 0
    if not keep.any():
        raise ValueError("no labelled rows to compare with")
    return labels[keep], predicted[keep]


def accuracy(labels, predicted) -> float:
    """Share of rows whose predicted class [N] is their label."""
    labels, predicted = _labelled(labels, predicted)
    return float(np.mean(labels == predicted))


def clustering_accuracy(labels, predicted) -> float:
    """Share of rows that agree under the best one-to-one match of clusters [N] to classes (Hungarian).

    Where there are more or fewer clusters than classes, those left over match nothing.
    """
    labels, predicted = _labelled(labels, predicted)
    table = metrics.cluster.contingency_matrix(labels, predicted)
    return float(table[linear_sum_assignment(table, maximize=True)].sum() / len(labels))


def normalized_mutual_info(labels, predicted) -> float:
    """Mutual information over the arithmetic mean of both entropies."""
    return float(metrics.normalized_mutual_info_score(*_labelled(labels, predicted)))


def adjusted_rand_index(labels, predicted) -> float:
    """Rand index, adjusted for chance."""
    return float(metrics.adjusted_rand_score(*_labelled(labels, predicted)))
