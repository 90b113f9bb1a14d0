"""Data that every side makes for itself, identical in each; needs only numpy."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def images(count: int, size: int) -> np.ndarray:
    """Random images [count, size, size, 3], uint8."""
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def scores(rows: int, prototypes: int, dead: bool) -> np.ndarray:
    """Cosines [rows, prototypes]; with `dead` the last prototype is far below the rest."""
    rng = np.random.default_rng(0)
    cosines = rng.normal(0.0, 0.1, (rows, prototypes)).clip(-1, 1).astype(np.float32)
    if dead:
        cosines[:, -1] = -8.0
    return cosines


def points(rows: int, dim: int, classes: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Unit points [rows, dim] in overlapping clusters, and their clusters [rows]."""
    centres = np.random.default_rng(0).normal(size=(classes, dim))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    vectors = centres[labels] + 2.0 * rng.normal(size=(rows, dim))
    return np.float32(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)), labels


def neighbours(case: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Points and labels to search in, then points and labels to search with."""
    train = points(case["rows"], case["dim"], case["classes"])
    return *train, *points(case["queries"], case["dim"], case["classes"], seed=2)


def clustering(case: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Points, and the rows at which k-means starts."""
    vectors, _ = points(case["rows"], case["dim"], 100)
    order = np.random.default_rng(3).permutation(len(vectors))
    return vectors, vectors[order[: case["clusters"]]]
