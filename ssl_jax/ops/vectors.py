"""Unit vectors and full-precision products, which every bank, graph and loss here is made of."""

import jax
import jax.numpy as jnp


def unit(x, *, epsilon: float = 1e-12):
    """Rows of `x` [..., D] at unit L2 length, in float32. A zero row stays zero, with zero gradient."""
    x = jnp.asarray(x, jnp.float32)
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, epsilon**2))


def dot(a, b):
    """`a` [..., D] times the rows of `b` [N, D] -> [..., N], in full float32.

    TF32 or bfloat16 products change which neighbours are nearest, so they are ruled out by name.
    """
    return jnp.einsum("...d,nd->...n", a, b, precision=jax.lax.Precision.HIGHEST)
