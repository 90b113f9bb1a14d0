"""Average pools of maps: to a given side, and to the about 9,000 numbers that linear classifiers are published on."""

import math

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

MOST = 9216  # numbers of a pooled map

# (window, stride, padding) of AlexNet's five maps at 224 pixels, by (side, channels): 9,600 or 9,216 numbers each.
ALEXNET = {(55, 96): (6, 6, 3), (27, 256): (4, 4, 0), (13, 384): (3, 3, 1), (13, 256): (2, 2, 0)}


def flat(x):
    """Features [B, D] of a map [B, H, W, C], in float32; what is flat already stays.

    As in the tables of Instance Discrimination, DeepCluster and Anchor Neighbourhood Discovery (after Zhang et al.
    2017): average pools to about 9,000 numbers. AlexNet's maps at 224 pixels take the published windows, their padding
    counted as zeros. Others are pooled to the largest square of at most 9,216 numbers: sides of 12, 6, 4, 3, 2 for a
    ResNet-50 at 224 pixels, of 12, 12, 8, 6, 4 for a ResNet-18 at 32; smaller maps are not pooled.
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


def adaptive(x, side: int, *, grow: bool = False):
    """Maps [B, H, W, C] averaged to `side` rows and columns; those with fewer stay, unless they shall `grow`.

    Bin i of n pixels reaches from floor(i n / side) to ceil((i + 1) n / side), as torch's adaptive pools do.
    """
    rows, columns = (_bins(n, side if grow else min(side, n)) for n in x.shape[1:3])
    if len(rows) == x.shape[1] and len(columns) == x.shape[2]:
        return x
    x = jnp.einsum("sh,bhwc->bswc", rows, x, precision="highest")
    return jnp.einsum("tw,bswc->bstc", columns, x, precision="highest")


def _bins(pixels, side):
    """[side, pixels]: the weight of each pixel in each bin."""
    i, pixel = np.arange(side), np.arange(pixels)
    inside = (pixel[None] >= (i * pixels // side)[:, None]) & (pixel[None] < -(-(i + 1) * pixels // side)[:, None])
    return np.asarray(inside / inside.sum(1, keepdims=True), np.float32)
