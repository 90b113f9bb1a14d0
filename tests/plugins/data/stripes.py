"""A toy data set in one file, as a user would add it."""

import numpy as np

from ssl_jax.data.source import Dataset, Images, statistics


def load(source) -> Dataset:
    """Noise [8, 8, 1] with brighter rows (class 0) or columns (class 1).

    `source` has the settings of `data`.
    """
    rng = np.random.default_rng(0)
    count = 160
    labels = (np.arange(count) % 2).astype(np.int32)
    images = rng.integers(0, 128, (count, 8, 8, 1), dtype=np.uint8)
    images[labels == 0, ::2] += 100
    images[labels == 1, :, ::2] += 100
    train = Images(images[:128], labels[:128])
    test = Images(images[128:], labels[128:])
    return Dataset(train, test, ("rows", "columns"), *statistics(train.images))
