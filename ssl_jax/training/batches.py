"""Training images and batches, in the form that the step takes."""

import time
from concurrent import futures
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ssl_jax.data import (
    augment,  # noqa: F401, makes whole pictures a pytree
    cache_files,
    prefetch,
)
from ssl_jax.data.rng import Order
from ssl_jax.data.streaming import StreamedImages
from ssl_jax.data.whole import WholePictures
from ssl_jax.runtime.sharding import (
    batch_sharding,
    from_local,
    own_rows,
    padded,
    put,
    put_all,
    replicated,
)

_PATIENCE = 10  # seconds that worker processes have to finish their batches when the run ends


class Batches:
    """The training images, and the batch of each step: a function of (key, step).

    A resident data set is replicated on every device, and a step only names its rows. A larger one
    stays on the host, in a memory-mapped file or in the image files; each batch is sent while the
    devices compute the step before it, and every process reads only the rows of its own devices.

    Args:
        images: [N, H, W, C] uint8, a numpy array, `WholePictures` or streamed.
        mesh: the devices.
        key: of the run; the order follows from it.
        batch_size: B, over all devices.
        resident: whether to put all images on the devices.
        workers: processes that decode streamed images; 0: a thread.

    Attributes:
        images: [N, H, W, C] uint8: as given, or on the devices.
        waited: seconds so far that the devices were idle because images were not ready.
    """

    def __init__(
        self,
        images: np.ndarray | WholePictures | StreamedImages,
        mesh: Mesh,
        key: jax.Array,
        *,
        batch_size: int,
        resident: bool,
        workers: int = 0,
    ):
        self.images = put_all(images, replicated(mesh)) if resident else images
        self.waited = 0.0
        self._sharding = batch_sharding(mesh)
        self._everywhere = replicated(mesh)
        self._resident = resident
        self._workers = workers
        self._order = Order(key, len(images), batch_size)
        self._own_rows = own_rows(self._sharding, batch_size)
        self._next: dict[int, futures.Future] = {}
        self._prefetcher: prefetch.Prefetcher | None = None
        self._reader: futures.ThreadPoolExecutor | None = None
        initializer = None
        if isinstance(images, StreamedImages):
            prefetch.check(images, len(self._own_rows), workers)
            if workers:
                initializer = prefetch.ignore_signals
        if not resident:
            self._reader = futures.ThreadPoolExecutor(1, "batches", initializer=initializer)

    def batch(self, step: int, running: jax.Array | None = None) -> tuple[Any, jax.Array]:
        """Images and `index` [B] for `train_step`: all images, or those of this batch alone.

        Args:
            step: any step; the following one is read ahead.
            running: an array that the devices are computing; time spent before it is ready does not
                count as waiting for images.
        """
        if self._resident:
            return self.images, put(self._order(step), self._everywhere)
        waiting = self._next.pop(step, None) or self._reader.submit(self._read, step)
        batch = self._wait(waiting, running)
        self._next = {step + 1: self._reader.submit(self._read, step + 1)}
        return batch

    def close(self) -> None:
        """Stops reading ahead, and ends its threads and processes."""
        if self._reader:
            for waiting in self._next.values():
                waiting.cancel()
            end = self._reader.submit(self._close_prefetcher)  # after the read under way
            if not futures.wait([end], _PATIENCE).done:
                prefetch.kill()
            self._reader.shutdown()

    def _wait(self, waiting: futures.Future, running: jax.Array | None) -> tuple[Any, jax.Array]:
        while running is not None and not running.is_ready() and not waiting.done():
            futures.wait([waiting], 0.002)
        began = time.monotonic()
        batch = waiting.result()
        self.waited += time.monotonic() - began
        return batch

    def _read(self, step: int) -> tuple[Any, jax.Array]:
        """Images and `index` of a step, on the devices."""
        if isinstance(self.images, StreamedImages):
            if self._prefetcher is None or self._prefetcher.step != step:
                self._close_prefetcher()
                steps = prefetch.Steps(self.images, self._order, self._own_rows)
                self._prefetcher = prefetch.Prefetcher(steps, step, self._workers)
            rows, pixels = self._prefetcher.next()
        else:
            rows = self._order(step)
            pixels = cache_files.take(self.images, rows[self._own_rows])
        images = from_local(pixels, self._sharding, padded(len(rows), self._sharding))
        return images, put(rows, self._everywhere)

    def _close_prefetcher(self) -> None:
        if self._prefetcher:
            self._prefetcher.close()
            self._prefetcher = None
