"""Grad-CAM: which places of a picture a score depends on (Selvaraju et al. 2017)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ssl_jax.ops.types import Numbers


def grad_cam(
    maps: Float[Numbers, "B h w C"], gradient: Float[Numbers, "B h w C"]
) -> Float[Array, "B h w"]:
    """Heat maps of a score, Grad-CAM's eq. 1 and 2.

    A channel's weight is the spatial mean of the score's gradient in it; the heat at a place is
    the weighted sum over channels, where positive. Behind global average pooling and a linear
    layer these are the class activation maps of Zhou et al. 2016, over h * w.

    Args:
        maps: [B, h, w, C] feature maps.
        gradient: [B, h, w, C] of each image's score with respect to `maps`.

    Returns:
        [B, h, w] float32, not negative.
    """
    weights = jnp.mean(jnp.asarray(gradient, jnp.float32), axis=(1, 2))
    heat = jnp.einsum(
        "bhwc,bc->bhw",
        jnp.asarray(maps, jnp.float32),
        weights,
        precision=jax.lax.Precision.HIGHEST,
    )
    return jax.nn.relu(heat)


def resized(
    heat: Float[Numbers, "*batch h w"], height: int, width: int
) -> Float[Array, "*batch height width"]:
    """Heat maps at the size of their pictures, bilinear between the centres of their places."""
    heat = jnp.asarray(heat)
    shape = (*heat.shape[:-2], height, width)
    return jax.image.resize(heat, shape, "linear", antialias=False)
