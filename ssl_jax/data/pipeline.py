"""Random streams and the order of the data: functions of (seed, step) and (seed, epoch), nothing to save."""

import jax
import jax.numpy as jnp

ORDER, VIEWS, LOSS, REFRESH, INIT = range(5)


def stream(key, name: int, count=0):
    """The key of one purpose (`ORDER`, `VIEWS`, `LOSS`, ...) at one step or epoch of the run."""
    return jax.random.fold_in(jax.random.fold_in(key, name), count)


def epoch_order(key, epoch: int, examples: int, batch_size: int):
    """Rows of the data set for each step of an epoch, [steps, B] int32; the last partial batch is left out."""
    steps = examples // batch_size
    order = jax.random.permutation(stream(key, ORDER, epoch), examples)
    return order[: steps * batch_size].reshape(steps, batch_size).astype(jnp.int32)
