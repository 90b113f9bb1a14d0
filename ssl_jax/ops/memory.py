"""Memory banks (one row per training image) and queues (the newest rows of past batches)."""

import jax
import jax.numpy as jnp

from ssl_jax.ops.mesh import ROWS, constrain
from ssl_jax.ops.vectors import unit


def init_bank(key, rows: int, dim: int):
    """Uniform start of a bank [rows, dim] with rows of expected length one (Instance Discrimination)."""
    limit = (3.0 / dim) ** 0.5
    return jax.random.uniform(key, (rows, dim), minval=-limit, maxval=limit)


def update_bank(bank, index, features, *, momentum: float):
    """Momentum update of the rows `index`: unit(momentum * old + (1 - momentum) * feature).

    An image that stands more than once in the batch updates its row once, with the mean of its features.

    Args:
        bank: [N, D], may hold padding rows at its end.
        index: [B] rows of this batch.
        features: [B, D] unit rows.
        momentum: share of the old row that stays, 0 to 1.

    Returns:
        bank [N, D]; all other rows are untouched.
    """
    bank, index = jnp.asarray(bank), jnp.asarray(index)
    same = (index[:, None] == index[None, :]).astype(jnp.float32)
    mean = jnp.matmul(same, features, precision=jax.lax.Precision.HIGHEST) / same.sum(1, keepdims=True)
    rows = unit(momentum * bank[index] + (1.0 - momentum) * mean)
    return constrain(bank.at[index].set(rows), ROWS)


def push_queue(queue, rows):
    """A first-in first-out queue [Q, D] after `rows` [B, D] have entered: newest first, oldest dropped.

    Raises:
        ValueError: more rows than the queue holds.
    """
    if len(rows) > len(queue):
        raise ValueError(f"a queue of {len(queue)} rows cannot take {len(rows)} at once")
    return jnp.concatenate([rows, queue[: len(queue) - len(rows)]])
