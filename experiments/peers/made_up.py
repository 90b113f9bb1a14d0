"""Data that every side makes for itself, the same in each: nothing but numpy."""

import numpy as np


def images(count, size):
    """[count, size, size, 3] uint8."""
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def scores(rows, prototypes, dead):
    """Cosines [rows, prototypes]; with `dead` the last prototype lies far below the rest."""
    found = np.random.default_rng(0).normal(0.0, 0.1, (rows, prototypes)).clip(-1, 1).astype(np.float32)
    if dead:
        found[:, -1] = -8.0
    return found


def points(rows, dim, classes, seed=1):
    """Unit points [rows, dim] in overlapping clusters, and their numbers [rows]."""
    centres = np.random.default_rng(0).normal(size=(classes, dim))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    found = centres[labels] + 2.0 * rng.normal(size=(rows, dim))
    return np.float32(found / np.linalg.norm(found, axis=1, keepdims=True)), labels


def neighbours(case):
    """Points and labels to search in, and those to search with."""
    train = points(case["rows"], case["dim"], case["classes"])
    return *train, *points(case["queries"], case["dim"], case["classes"], seed=2)


def clustering(case):
    """Points, and the rows that k-means starts at."""
    found, _ = points(case["rows"], case["dim"], 100)
    return found, found[np.random.default_rng(3).permutation(len(found))[: case["clusters"]]]
