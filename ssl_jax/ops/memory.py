"""Memory banks (one row per training image) and queues (the newest rows of past batches)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ssl_jax.ops.mesh import ROWS, constrain
from ssl_jax.ops.types import Numbers, Scalar
from ssl_jax.ops.vectors import unit


def init_bank(key: PRNGKeyArray, rows: int, dim: int) -> Float[Array, "N D"]:
    """A bank [rows, dim] of uniform numbers; rows have expected length one (Wu et al. 2018)."""
    limit = (3.0 / dim) ** 0.5
    return jax.random.uniform(key, (rows, dim), minval=-limit, maxval=limit)


def update_bank(
    bank: Float[Numbers, "N D"],
    index: Int[Numbers, " B"],
    features: Float[Numbers, "B D"],
    *,
    momentum: Scalar,
) -> Float[Array, "N D"]:
    """Momentum update of the rows `index`: unit(momentum * old + (1 - momentum) * feature).

    An image that occurs several times in the batch updates its row once, with the mean of its
    features.

    Args:
        bank: [N, D], may end with padding rows.
        index: [B] bank rows of the batch.
        features: [B, D] unit rows.
        momentum: weight of the old row, 0 to 1.

    Returns:
        bank [N, D]; all other rows are untouched.
    """
    bank = jnp.asarray(bank)
    index = jnp.asarray(index)
    same = (index[:, None] == index[None, :]).astype(jnp.float32)
    total = jnp.matmul(same, features, precision=jax.lax.Precision.HIGHEST)
    mean = total / same.sum(1, keepdims=True)
    rows = unit(momentum * bank[index] + (1.0 - momentum) * mean)
    return constrain(bank.at[index].set(rows), ROWS)


def push_queue(queue: Float[Numbers, "Q D"], rows: Float[Numbers, "B D"]) -> Float[Array, "Q D"]:
    """First-in first-out queue [Q, D] with `rows` [B, D] in front; the oldest rows drop out.

    Raises:
        ValueError: more rows than the queue holds.
    """
    if len(rows) > len(queue):
        raise ValueError(f"a queue of {len(queue)} rows cannot take {len(rows)} at once")
    return jnp.concatenate([rows, queue[: len(queue) - len(rows)]])
