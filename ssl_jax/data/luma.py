"""The brightness of colour images; imports no jax, so that loaders can use it."""

from typing import Any

import numpy as np

_LUMA = (19595, 38470, 7471)  # ITU-R 601 in units of 2**-16, as in Pillow's convert("L")


def luma(images: Any) -> Any:
    """Brightness uint8 [..., 1] of colour images uint8 [..., 3], numpy's or jax's.

    ITU-R 601, the same numbers as Pillow's `convert("L")`.
    """
    red, green, blue = (images[..., i].astype(np.uint32) for i in range(3))
    total = red * _LUMA[0] + green * _LUMA[1] + blue * _LUMA[2]
    return ((total + 2**15) >> 16)[..., None].astype(np.uint8)
