"""Random streams and data order: functions of (seed, step) and (seed, epoch), so never saved."""

import jax
import jax.numpy as jnp
import numpy as np

ORDER, VIEWS, LOSS, REFRESH, INIT = range(5)


def key_for(key: jax.Array, name: int, count: jax.Array | int = 0) -> jax.Array:
    """The key for one purpose (`ORDER`, `VIEWS`, `LOSS`, ...) at one step or epoch of the run."""
    return jax.random.fold_in(jax.random.fold_in(key, name), count)


def epoch_order(key: jax.Array, epoch: int, examples: int, batch_size: int) -> jax.Array:
    """Data set rows of each step of an epoch, [steps, B] int32, without the last partial batch."""
    steps = examples // batch_size
    order = jax.random.permutation(key_for(key, ORDER, epoch), examples)
    return order[: steps * batch_size].reshape(steps, batch_size).astype(jnp.int32)


class Order:
    """The rows [B] int32 of any step, on the host: `epoch_order` by step.

    Keeps one epoch; can be pickled.
    """

    def __init__(self, key: jax.Array, examples: int, batch_size: int):
        # The key as numbers, not as an array on all devices: only this process computes with it.
        self._key = np.asarray(jax.random.key_data(key))
        self._kind = jax.random.key_impl(key)
        self._examples = examples
        self._batch_size = batch_size
        self._epoch = -1
        self._order = None

    def __call__(self, step: int) -> np.ndarray:
        epoch, position = divmod(step, self._examples // self._batch_size)
        if epoch != self._epoch:
            key = jax.random.wrap_key_data(self._key, impl=self._kind)
            self._order = np.asarray(epoch_order(key, epoch, self._examples, self._batch_size))
            self._epoch = epoch
        return self._order[position]
