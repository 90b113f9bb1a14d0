"""Sinkhorn-Knopp: soft assignment of samples to prototypes under an equipartition constraint."""

import jax
import jax.numpy as jnp

_LARGEST = 1e37  # differences of two clipped scores still fit float32
_NARROW = 80.0  # exp(-80) and its inverse, times any batch, are normal float32 numbers


def sinkhorn(scores, *, epsilon: float = 0.05, iterations: int = 3):
    """Codes of a batch (SwAV, eq. 3 to 5), finite whatever the scores.

    exp(scores / epsilon) is scaled in turn to equal prototype totals and equal sample totals. The last
    scaling is the samples', so each row sums to one and the prototype totals are only near B / K.
    `iterations=0` gives the joint softmax times B. Only the two scaling vectors are iterated; sharded
    over samples, only vectors of K travel.

    The plain form over- and underflows to NaN (epsilon 0.01 with cosines; a prototype that scores far
    below the rest). Here each prototype's maximum over samples, then each sample's maximum over
    prototypes, is taken out before the exponential: every row and column keeps an entry near one. The
    first is absorbed by the prototypes' scaling, the second is where the samples' scaling starts. On a
    CPU, whose time goes into those passes, scores that span less than 80 epsilon are spared them.

    Args:
        scores: [B, K] any float type; computed in float32.
        epsilon: entropy regularisation; smaller is harder.
        iterations: rounds of both scalings.

    Returns:
        codes [B, K] float32.
    """
    scores = jnp.asarray(scores, jnp.float32)
    if iterations == 0:
        return len(scores) * jax.nn.softmax(_finite(scores / epsilon).reshape(-1)).reshape(scores.shape)
    shifted = lambda scores: _shifted(scores, epsilon)
    by_span = lambda scores: _by_span(scores, epsilon)
    kernel, sample_scale = jax.lax.platform_dependent(scores, cpu=by_span, default=shifted)
    product = lambda a, b: jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
    share = scores.shape[0] / scores.shape[1]
    for _ in range(iterations):
        prototype_scale = share / product(sample_scale, kernel)
        sample_scale = 1.0 / product(kernel, prototype_scale)
    return kernel * prototype_scale[None] * sample_scale[:, None]


def _finite(scores):
    return jnp.clip(jnp.nan_to_num(scores, posinf=_LARGEST, neginf=-_LARGEST), -_LARGEST, _LARGEST)


def _shifted(scores, epsilon):
    """The kernel [B, K] with an entry near one in each row and column, and the samples' first scaling [B]."""
    scores = _finite(scores / epsilon)
    scores = scores - jnp.max(scores, axis=0, keepdims=True)
    row_maximum = jnp.max(scores, axis=1)
    return jnp.exp(scores - row_maximum[:, None]), jnp.exp(row_maximum)


def _by_span(scores, epsilon):
    """The same of any scores; without a pass for each maximum where no entry can underflow."""
    largest, smallest = jnp.max(jnp.max(scores, axis=0)), jnp.min(jnp.min(scores, axis=0))
    plain = lambda scores: (jnp.exp((scores - largest) / epsilon), jnp.ones(len(scores)))
    narrow = (largest - smallest) / epsilon < _NARROW  # NaN and infinities are not
    return jax.lax.cond(narrow, plain, lambda scores: _shifted(scores, epsilon), scores)
