"""Ten crops of an image: its four corners and its centre, each as it is and mirrored."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ssl_jax.data import whole
from ssl_jax.data.augment import normalise, resized_square

COUNT = 10
_PLACES = ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.5, 0.5))


def ten_crops(
    images: Any, size: int, mean: Sequence[float], std: Sequence[float], crop: float
) -> jax.Array:
    """torchvision's `Resize(size / crop)` and `TenCrop(size)`, normalised: [B, 10, size, size, C].

    The corners are those of the whole image, whatever its proportions. First come the upper left,
    upper right, lower left and lower right corner and the centre, then each of them mirrored left
    to right. (torchvision mirrors the image instead: the same ten crops in another order.)

    Args:
        images: [B, H, W, C] uint8, or `WholePictures`.
        size: side of a crop, in pixels.
        mean, std: C channel statistics of pixels in 0..1.
        crop: side of a crop as a share of the image's short side: 0.875 is 224 of 256 pixels.
    """
    x = whole.with_pixels(images, lambda pixels: jnp.asarray(pixels, jnp.float32) / 255.0)
    crops = []
    for flip in (False, True):
        for place in _PLACES:
            square = functools.partial(resized_square, size=size, crop=crop, place=place, flip=flip)
            crops.append(jax.vmap(square)(x))
    return normalise(jnp.stack(crops, axis=1), mean, std)
