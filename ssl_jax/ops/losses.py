"""The losses, one function per published equation. Means over the global batch; targets are constants."""

import jax
import jax.numpy as jnp

from ssl_jax.ops.mesh import COLUMNS, REPLICATED, constrain
from ssl_jax.ops.vectors import dot


def swapped_prediction(scores, codes, *, assign=(0, 1), temperature: float = 0.1):
    """SwAV's loss (eq. 2 and 6): every other view predicts the codes of each assignment view.

    Args:
        scores: [V, B, K] cosines of the embeddings with the prototypes.
        codes: [A, B, K] targets; no gradient flows into them.
        assign: the A views that `codes` were computed from.
        temperature: of the softmax over prototypes.

    Returns:
        scalar: mean over assignment views of the mean over the other views of the cross-entropy.
    """
    views, batch, _ = scores.shape
    log_p = jax.nn.log_softmax(jnp.asarray(scores, jnp.float32) / temperature)
    codes = jax.lax.stop_gradient(codes)
    cross_entropy = -jnp.einsum("abk,vbk->av", codes, log_p, precision="highest") / batch
    others = jnp.asarray(assign)[:, None] != jnp.arange(views)[None]
    return jnp.sum(cross_entropy * others) / (len(assign) * (views - 1))


def instance_nll(features, bank, index, *, temperature: float):
    """Instance Discrimination with the full non-parametric softmax (Wu et al. 2018, eq. 2 and 3).

    Args:
        features: [B, D] unit rows.
        bank: [N, D]; no gradient flows into it.
        index: [B] the bank row that is each feature's own.
        temperature: of the softmax over the bank.

    Returns:
        scalar: mean negative log probability of the own row.
    """
    bank = jax.lax.stop_gradient(bank)
    # Replicated queries and column-sharded scores keep the gradient from gathering the bank.
    features = constrain(features, REPLICATED)
    logits = constrain(dot(features, bank) / temperature, COLUMNS)
    own = jnp.sum(features * bank[index], axis=1) / temperature
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - own)
