"""Sinkhorn-Knopp: soft assignment of samples to prototypes under an equipartition constraint."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ssl_jax.ops.types import Numbers, Scalar

_LARGEST = 1e37  # differences of two clipped scores still fit float32
_NARROW = 80.0  # exp(-80) and its inverse, times any batch, are normal float32 numbers


def sinkhorn(
    scores: Float[Numbers, "B K"], *, epsilon: Scalar = 0.05, iterations: int = 3
) -> Float[Array, "B K"]:
    """Codes of a batch (SwAV, eq. 3 to 5), finite whatever the scores.

    Alternately scales exp(scores / epsilon) to equal prototype totals and equal sample totals.
    Samples are scaled last, so each row sums to one and prototype totals are only close to B / K.
    `iterations=0` gives the joint softmax times B. Only the two scaling vectors are iterated; with
    samples sharded over devices, only vectors of K travel.

    The plain form over- and underflows to NaN (epsilon 0.01 with cosines; a prototype that scores
    far below the rest). Here each prototype's maximum over samples, then each sample's maximum over
    prototypes, is subtracted before the exponential, so every row and column keeps an entry near
    one. The prototypes' scaling absorbs the first; the samples' scaling starts from the second. On
    a CPU, where these passes dominate the time, scores that span less than 80 epsilon skip them.

    Args:
        scores: [B, K] any float type; computed in float32.
        epsilon: entropy regularisation; smaller is harder.
        iterations: rounds of both scalings.

    Returns:
        codes [B, K] float32.
    """
    scores = jnp.asarray(scores, jnp.float32)
    if iterations == 0:
        joint = jax.nn.softmax(_finite(scores / epsilon).reshape(-1))
        return len(scores) * joint.reshape(scores.shape)
    kernel, sample_scale = jax.lax.platform_dependent(
        scores,
        cpu=partial(_by_span, epsilon=epsilon),
        default=partial(_shifted, epsilon=epsilon),
    )
    share = scores.shape[0] / scores.shape[1]
    prototype_scale = jnp.ones(scores.shape[1])
    for _ in range(iterations):
        prototype_scale = share / _product(sample_scale, kernel)
        sample_scale = 1.0 / _product(kernel, prototype_scale)
    return kernel * prototype_scale[None] * sample_scale[:, None]


def _product(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _finite(scores: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.clip(jnp.nan_to_num(scores, posinf=_LARGEST, neginf=-_LARGEST), -_LARGEST, _LARGEST)


def _shifted(
    scores: Float[Array, "B K"], epsilon: Scalar
) -> tuple[Float[Array, "B K"], Float[Array, " B"]]:
    """Kernel [B, K] with an entry near one in each row and column, and first sample scale [B]."""
    scores = _finite(scores / epsilon)
    scores = scores - jnp.max(scores, axis=0, keepdims=True)
    row_maximum = jnp.max(scores, axis=1)
    return jnp.exp(scores - row_maximum[:, None]), jnp.exp(row_maximum)


def _by_span(
    scores: Float[Array, "B K"], epsilon: Scalar
) -> tuple[Float[Array, "B K"], Float[Array, " B"]]:
    """`_shifted`, but without a pass for each maximum where no entry can underflow."""
    largest = jnp.max(jnp.max(scores, axis=0))
    smallest = jnp.min(jnp.min(scores, axis=0))

    def plain(scores: Float[Array, "B K"]) -> tuple[Float[Array, "B K"], Float[Array, " B"]]:
        return jnp.exp((scores - largest) / epsilon), jnp.ones(len(scores))

    narrow = (largest - smallest) / epsilon < _NARROW  # False for NaN and infinities
    return jax.lax.cond(narrow, plain, partial(_shifted, epsilon=epsilon), scores)
