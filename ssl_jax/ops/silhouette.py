"""Silhouettes (Rousseeuw 1987): how much nearer a row is to its own cluster than to another."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ssl_jax.ops.types import Numbers
from ssl_jax.ops.vectors import dot

_ROUNDING = 1e-6  # of a distance


@partial(jax.jit, static_argnames="clusters")
def silhouettes(
    points: Float[Numbers, "N D"], labels: Int[Numbers, " N"], clusters: int
) -> Float[Array, " N"]:
    """The silhouette of each row, by cosine distance: (b - a) / max(a, b).

    a is the mean distance to the other rows of the row's cluster, b that to the rows of the nearest
    other cluster. A mean cosine is the cosine with the mean row, so no table of pairs is needed.

    Args:
        points: [N, D] unit rows.
        labels: [N] cluster of each row; rows with -1 are left out.
        clusters: K, more than the largest label; some clusters may be empty.

    Returns:
        [N] from -1 to 1; 0 for the only row of a cluster, if there are no two clusters or all rows
        are equal, and for rows that are left out.
    """
    points = jnp.asarray(points)
    labels = jnp.asarray(labels)
    inside = labels >= 0
    own = jnp.where(inside, labels, clusters)  # beyond the last: in no sum
    sizes = jax.ops.segment_sum(jnp.ones(len(points)), own, clusters)
    sums = jax.ops.segment_sum(points, own, clusters)
    totals = dot(points, sums)
    square = jnp.sum(points * points, axis=1)
    own = jnp.minimum(own, clusters - 1)
    size = sizes[own]
    total = jnp.take_along_axis(totals, own[:, None], axis=1)[:, 0]
    a = 1.0 - (total - square) / jnp.maximum(size - 1.0, 1.0)
    other = (jnp.arange(clusters)[None] != own[:, None]) & (sizes > 0)[None]
    b = jnp.min(jnp.where(other, 1.0 - totals / jnp.maximum(sizes, 1.0)[None], jnp.inf), axis=1)
    scale = jnp.maximum(a, b)
    valid = inside & (size > 1) & jnp.isfinite(b) & (scale > _ROUNDING)
    share = (b - a) / jnp.where(valid, scale, 1.0)
    return jnp.where(valid, jnp.clip(share, -1.0, 1.0), 0.0)
