"""Nearest neighbours by inner product."""

import jax
import jax.numpy as jnp

from ssl_jax.ops.mesh import local_top_k
from ssl_jax.ops.vectors import dot


def nearest(queries, keys, k: int, *, chunk: int = 1024):
    """The k keys with the largest inner product, for each query; memory bounded by chunk x N.

    Args:
        queries: [M, D].
        keys: [N, D], may be sharded over rows: only candidates travel.
        k: neighbours, at most N.
        chunk: queries scored at a time.

    Returns:
        similarity [M, k] falling, index [M, k] int32.

    Raises:
        ValueError: k larger than N.
    """
    if k > len(keys):
        raise ValueError(f"k={k} nearest neighbours of {len(keys)} rows")
    rows, chunk = len(queries), min(chunk, len(queries))
    blocks = jnp.pad(queries, ((0, -rows % chunk), (0, 0))).reshape(-1, chunk, queries.shape[1])
    similarity, index = jax.lax.map(lambda block: local_top_k(dot(block, keys), k), blocks)
    return similarity.reshape(-1, k)[:rows], index.reshape(-1, k)[:rows]
