"""Unit vectors and full-precision products, the building blocks of every bank, graph and loss."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from ssl_jax.ops.types import Numbers


def unit(x: Num[Numbers, "*batch D"], *, epsilon: float = 1e-12) -> Float[Array, "*batch D"]:
    """Rows of `x` [..., D] at unit L2 length, in float32. Zero rows stay zero, with no gradient."""
    x = jnp.asarray(x, jnp.float32)
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, epsilon**2))


def dot(a: Float[Numbers, "*batch D"], b: Float[Numbers, "N D"]) -> Float[Array, "*batch N"]:
    """`a` [..., D] times the rows of `b` [N, D] -> [..., N], in full float32.

    TF32 and bfloat16 products change which neighbours are nearest, hence the explicit precision.
    """
    return jnp.einsum("...d,nd->...n", a, b, precision=jax.lax.Precision.HIGHEST)
