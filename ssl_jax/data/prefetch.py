"""Batches of streamed images, read ahead by grain: in a thread of this process, or by worker processes."""

import functools
import gc
import itertools
import math
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import sys
import threading
from multiprocessing import resource_tracker, shared_memory

import numpy as np

from ssl_jax.data.rng import Order
from ssl_jax.data.streaming import StreamedImages
from ssl_jax.settings.resolve import SettingError

_AHEAD = 2  # batches read ahead by threads; each worker process holds about twice as many
_SHARED = "/dev/shm"  # where batches of worker processes lie
_tell = None  # in a worker process: takes the row that is read next


class Steps:
    """Element i: the rows [B] of step i as bytes, and the images of those in the places `own` [R] of the batch."""

    def __init__(self, images: StreamedImages, order: Order, own: np.ndarray):
        self.images, self.order, self.own = images, order, own

    def __len__(self):
        return 2**40  # steps go on for ever; whoever reads them stops

    def __getitem__(self, step):
        rows = self.order(step)
        return rows.tobytes(), self.images.read(rows[self.own], _tell)  # bytes: only images need shared memory


class Passed:
    """`Steps` that lie pickled behind the first `start` bytes of the shared memory `name`, for worker processes.

    What a process is started with has to fit into a pipe: where it dies earlier, multiprocessing waits for ever.
    """

    def __init__(self, name: str, start: int):
        self._name, self._start = name, start

    def __len__(self):
        return Steps.__len__(self)

    @functools.cached_property
    def _steps(self):
        memory = shared_memory.SharedMemory(self._name)
        steps = pickle.loads(bytes(memory.buf[self._start :]))
        memory.close()
        return steps

    def __getitem__(self, step):
        return self._steps[step]


class Prefetcher:
    """Elements of `steps` from `step` on, in turn, whatever process reads them.

    Made and used in one thread, after `ignore_signals()` where there are workers, and closed there.
    """

    def __init__(self, steps: Steps, step: int, workers: int):
        import grain
        from absl import flags

        if not flags.FLAGS.is_parsed():  # in notebooks and scripts nobody has, and grain wants to read its own
            flags.FLAGS.mark_as_parsed()
        self.step, self._steps, self._workers = step, steps, itertools.cycle(range(workers or 1))
        threads = dict(num_threads=0 if workers else 1, prefetch_buffer_size=0 if workers else _AHEAD)
        source, self._rows = steps, None
        if workers:
            self._rows = _share(bytes(8 * workers) + pickle.dumps(steps))
            source = Passed(self._rows.name, 8 * workers)
        batches = grain.MapDataset.source(source)[step:].to_iter_dataset(grain.ReadOptions(**threads))
        if workers:
            options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1)
            batches = batches.mp_prefetch(options, worker_init_fn=functools.partial(_begin, self._rows.name))
        self._batches = iter(batches)

    def next(self):
        """Rows [B] and own images [R, H, W, C] of the step that comes next.

        Raises:
            SettingError: a file that cannot be decoded, or a worker process that died, and over which file.
        """
        worker, failure = next(self._workers), None
        try:
            rows, images = next(self._batches)
        except (SettingError, RuntimeError) as error:
            failure = self._explained(error, worker)
        if failure:  # here, where it no longer holds grain's frames, which complain when the interpreter ends
            raise failure
        self.step += 1
        return np.frombuffer(rows, np.int32), np.array(images)  # a copy, as grain's own lies in shared memory

    def close(self):
        """Ends threads and processes."""
        if self._batches is None:
            return
        try:
            self._batches.close()
        finally:  # also where its processes were killed
            self._batches = None
            gc.collect()  # while all modules are there that grain's iterators tidy up with
            if self._rows:
                self._rows.close()
                self._rows.unlink()

    def _explained(self, error, worker) -> Exception:
        """What to say of a failure, without grain's notes and frames."""
        if isinstance(error, SettingError):
            return SettingError(*error.args)
        ended = re.search(r"terminated unexpectedly with exit code (-?\d+)", str(error))
        if not ended:
            return error
        code, row = int(ended[1]), int.from_bytes(self._rows.buf[8 * worker :][:8], sys.byteorder)
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        over = f"over {self._steps.images.name(row - 1)}" if row else "before it read anything"
        hint = {-signal.SIGKILL: "if memory ran out, lower data.workers", -signal.SIGBUS: f"{_SHARED} may be full"}
        hint = hint.get(code, "data.workers=0 reads without processes")
        if not row and code > 0:
            hint = "a script that trains needs `if __name__ == '__main__':`, or data.workers=0"
        return SettingError(f"a worker process of data.workers was {how} {over}; {hint}; the same command goes on")


def check(images: StreamedImages, batch_size: int, workers: int):
    """Raises a SettingError where worker processes have no room to hand over their batches."""
    needed = 4 * workers * batch_size * math.prod(images.shape[1:]) + (len(pickle.dumps(images)) if workers else 0)
    room = shutil.disk_usage(_SHARED).free if os.path.isdir(_SHARED) else needed
    if needed > room:
        raise SettingError(
            f"data.workers={workers} hand over batches in {_SHARED}: {needed / 1e6:,.0f} MB, and it has "
            f"{room / 1e6:,.0f}; make it larger (docker run --shm-size), or lower data.workers; 0 needs none"
        )


def _share(content: bytes):
    memory = shared_memory.SharedMemory(create=True, size=len(content))
    memory.buf[: len(content)] = content
    return memory


def ignore_signals():
    """Ctrl-C and SIGTERM pass this thread by, and the worker processes that are started from it, for good."""
    _track()  # it would listen again
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})


def _track():
    """Starts multiprocessing's process that removes what killed workers leave in shared memory; it warns of none."""
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, (before, "ignore:resource_tracker")))
    try:
        resource_tracker.ensure_running()
    finally:
        os.environ.pop("PYTHONWARNINGS") if before is None else os.environ.update(PYTHONWARNINGS=before)


def kill():
    """Ends the worker processes of this process at once."""
    for process in multiprocessing.active_children():
        if process.name.startswith("grain-"):
            process.kill()


def _begin(name, worker, _):
    """A worker process before its first batch: it leaves accelerators alone, and ends with the one that started it."""
    global _tell
    import jax

    jax.config.update("jax_platforms", "cpu")
    memory = shared_memory.SharedMemory(name)
    place = slice(8 * worker, 8 * worker + 8)
    _tell = lambda row: memory.buf.__setitem__(place, (int(row) + 1).to_bytes(8, sys.byteorder))
    threading.Thread(target=_ends_with_parent, daemon=True).start()


def _ends_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)
