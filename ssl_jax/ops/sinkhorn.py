"""Sinkhorn-Knopp: soft assignment of samples to prototypes under an equipartition constraint."""

import jax
import jax.numpy as jnp

_LARGEST = 1e37  # differences of two clipped scores still fit float32


def sinkhorn(scores, *, epsilon: float = 0.05, iterations: int = 3):
    """Codes of a batch (SwAV, eq. 3 to 5), finite whatever the scores.

    exp(scores / epsilon) is scaled in turn to equal prototype totals and equal sample totals. The last
    scaling is the samples', so each row sums to one and the prototype totals are only near B / K.
    `iterations=0` gives the joint softmax times B.

    The plain form over- and underflows to NaN (epsilon 0.01 with cosines; a prototype that scores far
    below the rest). Here each prototype's maximum over samples, then each sample's maximum over
    prototypes, is taken out before the exponential: every row and column keeps an entry near one, and
    only the two scaling vectors are iterated. The first is absorbed by the prototypes' scaling, the
    second is where the samples' scaling starts. Sharded over samples, only vectors of K travel.

    Args:
        scores: [B, K] any float type; computed in float32.
        epsilon: entropy regularisation; smaller is harder.
        iterations: rounds of both scalings.

    Returns:
        codes [B, K] float32.
    """
    scores = jnp.nan_to_num(jnp.asarray(scores, jnp.float32) / epsilon, posinf=_LARGEST, neginf=-_LARGEST)
    scores = jnp.clip(scores, -_LARGEST, _LARGEST)
    if iterations == 0:
        return len(scores) * jax.nn.softmax(scores.reshape(-1)).reshape(scores.shape)
    scores = scores - jnp.max(scores, axis=0, keepdims=True)
    row_maximum = jnp.max(scores, axis=1)
    kernel = jnp.exp(scores - row_maximum[:, None])
    product = lambda a, b: jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
    sample_scale, share = jnp.exp(row_maximum), scores.shape[0] / scores.shape[1]
    for _ in range(iterations):
        prototype_scale = share / product(sample_scale, kernel)
        sample_scale = 1.0 / product(kernel, prototype_scale)
    codes = kernel * prototype_scale[None]
    return codes / jnp.sum(codes, axis=1, keepdims=True)
