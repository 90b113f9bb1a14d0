"""Images of any kind, decoded or not, square or whole, as arrays to compare."""

from typing import Any

import numpy as np

from ssl_jax.data.whole import WholePictures, pixels_of


def pixels_in(images: Any) -> np.ndarray:
    """Pixels uint8 [N, H, W, C]: of arrays, whole pictures, and images that are read on demand."""
    return np.asarray(pixels_of(images[np.arange(len(images))]))


def sizes_in(images: Any) -> np.ndarray:
    """True heights and widths [N, 2]; those of plain images are the array's."""
    everything = images[np.arange(len(images))]
    if isinstance(everything, WholePictures):
        return np.asarray(everything.sizes)
    return np.tile(np.float32(images.shape[1:3]), (len(images), 1))


def assert_same_images(ours: Any, theirs: Any) -> None:
    """Fails unless pixels and true sizes are equal, whatever holds them."""
    np.testing.assert_array_equal(pixels_in(ours), pixels_in(theirs))
    np.testing.assert_array_equal(sizes_in(ours), sizes_in(theirs))
