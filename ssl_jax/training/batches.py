"""Training images and batches as the step takes them."""

import time
from concurrent import futures

import jax

from ssl_jax.data import cache_files, prefetch
from ssl_jax.data.rng import Order
from ssl_jax.data.streaming import StreamedImages
from ssl_jax.runtime.sharding import batch_sharding, own_rows, padded, put, replicated

_PATIENCE = 10  # seconds that a worker process has to finish its batch when the run ends


class Batches:
    """The training images, and each step's share of them: a function of (key, step).

    A resident set lies whole on every device and a step only names its rows. A larger one stays where it is, in a
    memory-mapped file or in the files of its images, and each batch travels while the step before it is computed;
    every process reads the rows of its own devices only.

    Attributes:
        images: [N, H, W, C] uint8, on the devices, as numpy array, or streamed.
        waited: seconds so far that the devices had nothing to do because images were not there.
    """

    def __init__(self, images, mesh, key, *, batch_size: int, resident: bool, workers: int = 0):
        self.images = put(images, replicated(mesh)) if resident else images
        self.waited = 0.0
        self._sharding, self._everywhere = batch_sharding(mesh), replicated(mesh)
        self._resident, self._workers = resident, workers
        self._order = Order(key, len(images), batch_size)
        self._own = own_rows(self._sharding, batch_size)
        self._next, self._ahead = {}, None
        if isinstance(images, StreamedImages):
            prefetch.check(images, len(self._own), workers)
        calm = prefetch.ignore_signals if isinstance(images, StreamedImages) and workers else None
        self._reader = None if resident else futures.ThreadPoolExecutor(1, "batches", initializer=calm)

    def batch(self, step: int, running=None):
        """Images and `index` [B], whole on every device, for `train_step`: all images, or those of the batch alone.

        Args:
            step: any; those that follow one another are read ahead.
            running: an array that devices compute meanwhile. Until it is there, nobody waits for images.
        """
        if self._resident:
            return self.images, put(self._order(step), self._everywhere)
        waiting = self._next.pop(step, None) or self._reader.submit(self._read, step)
        found = self._wait(waiting, running)
        self._next = {step + 1: self._reader.submit(self._read, step + 1)}
        return found

    def close(self) -> None:
        """Ends the reading ahead, with its threads and processes."""
        if self._reader:
            for waiting in self._next.values():
                waiting.cancel()
            end = self._reader.submit(self._end)  # after what is being read
            if not futures.wait([end], _PATIENCE).done:
                prefetch.kill()
            self._reader.shutdown()

    def _wait(self, waiting, running):
        while running is not None and not running.is_ready() and not waiting.done():
            futures.wait([waiting], 0.002)
        began = time.monotonic()
        found = waiting.result()
        self.waited += time.monotonic() - began
        return found

    def _read(self, step):
        """Images and `index` of a step, on the devices."""
        if isinstance(self.images, StreamedImages):
            if self._ahead is None or self._ahead.step != step:
                self._end()
                self._ahead = prefetch.Prefetcher(
                    prefetch.Steps(self.images, self._order, self._own), step, self._workers
                )
            rows, own = self._ahead.next()
        else:
            rows = self._order(step)
            own = cache_files.take(self.images, rows[self._own])
        shape = (padded(len(rows), self._sharding), *own.shape[1:])
        return jax.make_array_from_process_local_data(self._sharding, own, shape), put(rows, self._everywhere)

    def _end(self):
        if self._ahead:
            self._ahead.close()
            self._ahead = None
