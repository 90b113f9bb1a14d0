"""A toy data set in one file, as a user would add it."""

import numpy as np

from ssl_jax.data.source import Dataset, Images, statistics


def load(source) -> Dataset:
    """Noise with brighter rows (class 0) or columns (class 1), [8, 8, 1]; `source` has the settings of `data`."""
    rng, count = np.random.default_rng(0), 160
    labels = (np.arange(count) % 2).astype(np.int32)
    images = rng.integers(0, 128, (count, 8, 8, 1), dtype=np.uint8)
    images[labels == 0, ::2] += 100
    images[labels == 1, :, ::2] += 100
    train, test = (Images(images[rows], labels[rows]) for rows in (slice(128), slice(128, None)))
    return Dataset(train, test, ("rows", "columns"), *statistics(train.images))
