"""Made-up clusters: no run, no encoder."""

import csv

import numpy as np

from ssl_jax.clustering.output import ClusterReport
from ssl_jax.clustering.placement import ClusterAssignment
from ssl_jax.data.source import Dataset, Images


def report(count, clusters, *, names=None, classes=(), side=8, channels=1):
    """A report on `count` pictures, spread evenly over all but the last of `clusters` clusters."""
    rng = np.random.default_rng(0)
    labels = (np.arange(count) % (clusters - 1)).astype(np.int32)
    similarity = rng.permutation(np.linspace(0.2, 1, count))
    margin = rng.permutation(np.linspace(0, 0.5, count))
    centres = rng.standard_normal((clusters, 8))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    pixels = rng.integers(0, 256, (min(count, 50), side, side, channels), dtype=np.uint8)
    pixels = pixels[np.arange(count) % len(pixels)]
    given = np.arange(count) % len(classes) if classes else np.full(count, -1)
    train = Images(pixels, given)
    test = Images(pixels[:0], given[:0])
    listed = (lambda: names) if names else None
    dataset = Dataset(train, test, tuple(classes), (0.5,), (0.5,), listed=listed)
    return ClusterReport(ClusterAssignment(labels, similarity, margin, centres), dataset)


def cells(path):
    """Rows of a CSV file as dicts."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))
