"""Signs of collapse: statistics that show, during training, whether features still differ."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from ssl_jax.ops.types import Numbers


def spread(features: Float[Numbers, "*batch D"]) -> Float[Array, ""]:
    """Spread of unit rows over the sphere: mean standard deviation of a coordinate times sqrt(D).

    1 for evenly spread rows, 0 for equal rows; also low when the rows share a few directions.

    Args:
        features: [..., D] unit rows.
    """
    rows = features.reshape(-1, features.shape[-1])
    variance = jnp.mean(rows * rows, axis=0) - jnp.mean(rows, axis=0) ** 2
    return jnp.mean(jnp.sqrt(jnp.maximum(variance, 0.0))) * rows.shape[1] ** 0.5


def code_entropy(codes: Float[Numbers, "*batch K"]) -> Float[Array, ""]:
    """Mean entropy of the rows of `codes` [..., K] over ln K: 0 if one-hot, 1 if uniform."""
    entropy = -jnp.sum(codes * jnp.log(jnp.maximum(codes, 1e-30)), axis=-1)
    return jnp.mean(entropy) / jnp.log(codes.shape[-1])


def usage(codes: Float[Numbers, "*batch K"]) -> Float[Array, ""]:
    """Share of the K prototypes that are the first choice of some row of `codes` [..., K].

    With fewer rows than prototypes, the share of as many prototypes as there are rows.
    """
    prototypes = codes.shape[-1]
    preferred = codes.reshape(-1, prototypes).argmax(1)
    used = jnp.zeros(prototypes).at[preferred].set(1.0).sum()
    return used / min(prototypes, len(preferred))


def evenness(sizes: Num[Numbers, " K"]) -> Float[Array, ""]:
    """Effective share of the K clusters in use: exp(entropy of the size shares) / K.

    1 when all `sizes` [K] are equal, k / K when k equal clusters hold everything. A count of empty
    clusters would miss collapse, since k-means refills them; here a cluster of one row hardly
    counts.
    """
    share = sizes / jnp.maximum(jnp.sum(sizes), 1)
    entropy = -jnp.sum(share * jnp.log(jnp.maximum(share, 1e-30)))
    return jnp.exp(entropy) / len(sizes)
