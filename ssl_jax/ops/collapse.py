"""Signs of collapse: numbers that tell, while training runs, whether features still differ."""

import jax.numpy as jnp

COLLAPSED = 0.1  # a spread below this: the mean cosine of two rows is above 0.99


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


def warning(metrics, remedies: str) -> str | None:
    """One line where targets have collapsed, to one point or to less than half of the clusters; else None.

    Args:
        metrics: means with `spread`, and `clusters_used` (`evenness`) where positives cluster.
        remedies: what to try, after "In a new folder try".
    """
    if metrics["spread"] <= COLLAPSED:
        return f"the embeddings have collapsed (spread {metrics['spread']:.3f} of 1). In a new folder try {remedies}"
    if metrics.get("clusters_used", 1.0) < 0.5:
        return (
            f"the embeddings fall into {metrics['clusters_used']:.0%} of the clusters. In a new folder try a later "
            f"second stage, fewer positives.k, {remedies}"
        )
    return None
