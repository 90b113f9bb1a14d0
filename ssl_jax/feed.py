"""Training images and batches as the step takes them."""

from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np

from ssl_jax.data.pipeline import epoch_order
from ssl_jax.sharding import batch_sharding, replicated


class Feed:
    """The training images, and each step's share of them: a function of (key, step).

    A resident set lies whole on every device and a step only names its rows. A larger one stays where it
    is, usually in a memory-mapped file, and each batch travels while the step before it is computed.

    Attributes:
        images: [N, H, W, C] uint8, on the devices or as numpy array.
    """

    def __init__(self, images, mesh, key, *, batch_size: int, resident: bool):
        self.images = jax.device_put(images, replicated(mesh)) if resident else images
        self._mesh, self._key, self._batch_size, self._resident = mesh, key, batch_size, resident
        self._epoch, self._order = -1, None
        self._reader, self._next = (None, {}) if resident else (ThreadPoolExecutor(1), {})

    def batch(self, step: int):
        """Images and `index` [B] for `train_step`: all images, or those of the batch alone."""
        rows = self._rows(step)
        index = jax.device_put(rows, batch_sharding(self._mesh))
        if self._resident:
            return self.images, index
        waiting = self._next.pop(step, None)
        batch = waiting.result() if waiting else self._read(rows)
        self._next = {step + 1: self._reader.submit(self._read, self._rows(step + 1))}
        return batch, index

    def close(self) -> None:
        """Ends the reading ahead."""
        if self._reader:
            self._reader.shutdown(wait=False, cancel_futures=True)

    def _rows(self, step):
        epoch, position = divmod(step, len(self.images) // self._batch_size)
        if epoch != self._epoch:
            self._order = np.asarray(epoch_order(self._key, epoch, len(self.images), self._batch_size))
            self._epoch = epoch
        return self._order[position]

    def _read(self, rows):
        return jax.device_put(self.images[rows], batch_sharding(self._mesh))
