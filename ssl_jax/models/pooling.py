"""Average pools of maps: to a given side, or to about 9,000 numbers as for published probes."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

MOST = 9216  # numbers in a pooled map

# (window, stride, padding) of AlexNet's five maps at 224 pixels, by (side, channels): 9,600 or
# 9,216 numbers each.
ALEXNET = {(55, 96): (6, 6, 3), (27, 256): (4, 4, 0), (13, 384): (3, 3, 1), (13, 256): (2, 2, 0)}


def flat(x: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    """Features [B, D] of a map [B, H, W, C], in float32; flat features are returned as they are.

    As in the tables of Instance Discrimination, DeepCluster and Anchor Neighbourhood Discovery
    (after Zhang et al. 2017): average pools to about 9,000 numbers. AlexNet's maps at 224 pixels
    use the published windows, with padding counted as zeros. Other maps are pooled to the largest
    square of at most 9,216 numbers: sides of 12, 6, 4, 3, 2 for a ResNet-50 at 224 pixels, of 12,
    12, 8, 6, 4 for a ResNet-18 at 32; smaller maps are not pooled.
    """
    if x.ndim != 4:
        return x
    x = jnp.asarray(x, jnp.float32)
    _, height, width, channels = x.shape
    if height == width and (height, channels) in ALEXNET:
        window, stride, pad = ALEXNET[height, channels]
        x = nn.avg_pool(x, (window, window), (stride, stride), ((pad, pad), (pad, pad)))
    else:
        x = adaptive(x, max(1, math.isqrt(MOST // channels)))
    return x.reshape(len(x), -1)


def adaptive(x: jax.Array | np.ndarray, side: int, *, grow: bool = False) -> jax.Array | np.ndarray:
    """Averages maps [B, H, W, C] to `side` rows and columns.

    Bin i of n pixels reaches from floor(i n / side) to ceil((i + 1) n / side), as in torch's
    adaptive pools.

    Args:
        x: [B, H, W, C].
        side: rows and columns of the result.
        grow: enlarge smaller maps to `side`, too, instead of leaving them as they are.
    """
    rows, columns = (_bins(n, side if grow else min(side, n)) for n in x.shape[1:3])
    if len(rows) == x.shape[1] and len(columns) == x.shape[2]:
        return x
    x = jnp.einsum("sh,bhwc->bswc", rows, x, precision="highest")
    return jnp.einsum("tw,bswc->bstc", columns, x, precision="highest")


def _bins(pixels: int, side: int) -> np.ndarray:
    """[side, pixels]: the weight of each pixel in each bin."""
    i = np.arange(side)[:, None]
    pixel = np.arange(pixels)[None]
    start = i * pixels // side
    end = -(-(i + 1) * pixels // side)
    inside = (pixel >= start) & (pixel < end)
    return np.asarray(inside / inside.sum(1, keepdims=True), np.float32)
