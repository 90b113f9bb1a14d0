"""Signs of collapse: numbers that tell, while training runs, whether features still differ."""

import jax.numpy as jnp


def spread(features):
    """How far unit rows `features` [..., D] spread over the sphere: the mean deviation of a coordinate times sqrt(D).

    1 when they lie evenly, 0 when all are the same; low also when they share a few directions.
    """
    rows = features.reshape(-1, features.shape[-1])
    variance = jnp.mean(rows * rows, axis=0) - jnp.mean(rows, axis=0) ** 2
    return jnp.mean(jnp.sqrt(jnp.maximum(variance, 0.0))) * rows.shape[1] ** 0.5


def code_entropy(codes):
    """Mean entropy of the rows of `codes` [..., K] over ln K: 0 for one-hot codes, 1 for codes that say nothing."""
    entropy = -jnp.sum(codes * jnp.log(jnp.maximum(codes, 1e-30)), axis=-1)
    return jnp.mean(entropy) / jnp.log(codes.shape[-1])


def usage(codes):
    """Share of the K prototypes that some row of `codes` [..., K] prefers, of as many as there are rows for."""
    prototypes = codes.shape[-1]
    preferred = codes.reshape(-1, prototypes).argmax(1)
    used = jnp.zeros(prototypes).at[preferred].set(1.0).sum()
    return used / min(prototypes, len(preferred))


def evenness(sizes):
    """How many of the K clusters of these `sizes` [K] are in use, as a share: exp(entropy of the shares) / K.

    1 when all are as large; k of K when so many share everything. k-means that fills empty clusters again has none,
    but a cluster of a single row hardly counts here.
    """
    share = sizes / jnp.maximum(jnp.sum(sizes), 1)
    entropy = -jnp.sum(share * jnp.log(jnp.maximum(share, 1e-30)))
    return jnp.exp(entropy) / len(sizes)
