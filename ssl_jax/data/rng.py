"""Random streams and the order of the data: functions of (seed, step) and (seed, epoch), nothing to save."""

import jax
import jax.numpy as jnp
import numpy as np

ORDER, VIEWS, LOSS, REFRESH, INIT = range(5)


def key_for(key, name: int, count=0):
    """The key of one purpose (`ORDER`, `VIEWS`, `LOSS`, ...) at one step or epoch of the run."""
    return jax.random.fold_in(jax.random.fold_in(key, name), count)


def epoch_order(key, epoch: int, examples: int, batch_size: int):
    """Rows of the data set for each step of an epoch, [steps, B] int32; the last partial batch is left out."""
    steps = examples // batch_size
    order = jax.random.permutation(key_for(key, ORDER, epoch), examples)
    return order[: steps * batch_size].reshape(steps, batch_size).astype(jnp.int32)


class Order:
    """`epoch_order` as rows [B] int32 of any step, on the host; it can be pickled, and keeps one epoch."""

    def __init__(self, key, examples: int, batch_size: int):
        # Numbers, not an array on all devices: this process alone computes with it.
        self._key, self._kind = np.asarray(jax.random.key_data(key)), jax.random.key_impl(key)
        self._examples, self._batch_size = examples, batch_size
        self._epoch, self._order = -1, None

    def __call__(self, step: int) -> np.ndarray:
        epoch, position = divmod(step, self._examples // self._batch_size)
        if epoch != self._epoch:
            key = jax.random.wrap_key_data(self._key, impl=self._kind)
            self._order = np.asarray(epoch_order(key, epoch, self._examples, self._batch_size))
            self._epoch = epoch
        return self._order[position]
