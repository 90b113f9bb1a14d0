"""Batches of streamed images, read ahead by grain in a thread or in worker processes."""

import functools
import gc
import itertools
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import sys
import threading
from multiprocessing import resource_tracker, shared_memory
from typing import Any

import numpy as np

from ssl_jax.data.rng import Order
from ssl_jax.data.streaming import StreamedImages
from ssl_jax.data.whole import WholePictures
from ssl_jax.settings.resolve import SettingError

_AHEAD = 2  # batches that threads read ahead; each worker process holds about twice as many
_SHARED = "/dev/shm"  # where worker processes put their batches
_tell = None  # in a worker process: called with each row before it is read


class Steps:
    """Element i: the rows [B] of step i as bytes, and the images of this process's part of them.

    Images are an array, or a tuple of the pixels and sizes of whole pictures.

    Args:
        images: all images.
        order: the rows [B] of any step.
        own: [R] positions in the batch that this process reads.
    """

    def __init__(self, images: StreamedImages, order: Order, own: np.ndarray):
        self.images = images
        self.order = order
        self.own = own

    def __len__(self) -> int:
        return 2**40  # endless: the reader decides when to stop

    def __getitem__(self, step: int) -> tuple[bytes, Any]:
        rows = self.order(step)
        images = self.images.read(rows[self.own], _tell)
        if isinstance(images, WholePictures):
            images = (images.pixels, images.sizes)
        # Rows as bytes, so that only the images need shared memory.
        return rows.tobytes(), images


class Passed:
    """`Steps` for worker processes, pickled into the shared memory `name` from byte `start` on.

    Shared memory because start arguments must fit into a pipe: if a process dies while reading
    larger ones, multiprocessing waits forever.
    """

    def __init__(self, name: str, start: int):
        self._name = name
        self._start = start

    def __len__(self) -> int:
        return Steps.__len__(self)

    @functools.cached_property
    def _steps(self) -> Steps:
        memory = shared_memory.SharedMemory(self._name)
        steps = pickle.loads(bytes(memory.buf[self._start :]))
        memory.close()
        return steps

    def __getitem__(self, step: int) -> tuple[bytes, Any]:
        return self._steps[step]


class Prefetcher:
    """Elements of `steps` in order, read ahead by a thread or by worker processes.

    Create, use and close it in one thread; with workers, call `ignore_signals()` there first.

    Args:
        steps: what to read.
        step: the first step.
        workers: number of worker processes; 0: a thread.
    """

    def __init__(self, steps: Steps, step: int, workers: int):
        import grain
        from absl import flags

        if not flags.FLAGS.is_parsed():  # grain reads its flags; notebooks and scripts parse none
            flags.FLAGS.mark_as_parsed()
        self.step = step
        self._steps = steps
        self._workers = itertools.cycle(range(workers or 1))
        self._rows = None
        source = steps
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=_AHEAD)
        if workers:
            # Per worker 8 bytes: 1 + the row that it reads. Then the pickled steps.
            self._rows = _share(bytes(8 * workers) + pickle.dumps(steps))
            source = Passed(self._rows.name, 8 * workers)
            options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        batches = grain.MapDataset.source(source)[step:].to_iter_dataset(options)
        if workers:
            batches = batches.mp_prefetch(
                grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1),
                worker_init_fn=functools.partial(_begin, self._rows.name),
            )
        self._batches = iter(batches)

    def next(self) -> tuple[np.ndarray, np.ndarray | WholePictures]:
        """The next step's rows [B], and the images of this process's part; see `StreamedImages`.

        Raises:
            SettingError: a file that cannot be decoded, or a worker process that died; names the
                file.
        """
        worker = next(self._workers)
        failure = None
        try:
            rows, images = next(self._batches)
        except (SettingError, RuntimeError) as error:
            failure = self._explained(error, worker)
        if failure:
            # Raised here without grain's frames, which complain when the interpreter exits.
            raise failure
        self.step += 1
        if isinstance(images, tuple):
            images = WholePictures(*map(np.array, images))
        else:
            images = np.array(images)  # a copy out of shared memory
        return np.frombuffer(rows, np.int32), images

    def close(self) -> None:
        """Ends threads and processes."""
        if self._batches is None:
            return
        try:
            self._batches.close()
        finally:  # also if its processes were killed
            self._batches = None
            gc.collect()  # now, while the modules that grain's clean-up needs are still loaded
            if self._rows:
                self._rows.close()
                self._rows.unlink()

    def _explained(self, error: Exception, worker: int) -> Exception:
        """The error to report, without grain's notes and frames."""
        if isinstance(error, SettingError):
            return SettingError(*error.args)
        match = re.search(r"terminated unexpectedly with exit code (-?\d+)", str(error))
        if not match:
            return error
        code = int(match[1])
        row = int.from_bytes(self._rows.buf[8 * worker :][:8], sys.byteorder)
        if code < 0:
            end = f"was killed by {signal.Signals(-code).name}"
        else:
            end = f"ended with exit code {code}"
        if row:
            when = f"while reading {self._steps.images.name(row - 1)}"
        else:
            when = "before it read anything"
        if not row and code > 0:
            hint = "a script that trains needs `if __name__ == '__main__':`, or data.workers=0"
        elif code == -signal.SIGKILL:
            hint = "if memory ran out, lower data.workers"
        elif code == -signal.SIGBUS:
            hint = f"{_SHARED} may be full"
        else:
            hint = "data.workers=0 reads without processes"
        return SettingError(
            f"a worker process of data.workers {end} {when}; {hint}; rerun the same command to "
            "resume"
        )


def check(images: StreamedImages, batch_size: int, workers: int) -> None:
    """Raises SettingError if shared memory is too small for the batches of the worker processes."""
    needed = 4 * workers * batch_size * images.row_bytes
    if workers:
        needed += len(pickle.dumps(images))
    free = shutil.disk_usage(_SHARED).free if os.path.isdir(_SHARED) else needed
    if needed > free:
        raise SettingError(
            f"data.workers={workers} need {needed / 1e6:,.0f} MB in {_SHARED}, but it has "
            f"{free / 1e6:,.0f}; enlarge it (docker run --shm-size) or lower data.workers; 0 needs "
            "none"
        )


def _share(content: bytes) -> shared_memory.SharedMemory:
    memory = shared_memory.SharedMemory(create=True, size=len(content))
    memory.buf[: len(content)] = content
    return memory


def ignore_signals() -> None:
    """Blocks SIGINT and SIGTERM for good, in this thread and the worker processes it starts."""
    _start_tracker()  # first, as starting it unblocks them
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})


def _start_tracker() -> None:
    """Starts multiprocessing's tracker, which silently frees the shared memory of dead workers."""
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, (before, "ignore:resource_tracker")))
    try:
        resource_tracker.ensure_running()
    finally:
        if before is None:
            os.environ.pop("PYTHONWARNINGS")
        else:
            os.environ["PYTHONWARNINGS"] = before


def kill() -> None:
    """Kills the worker processes of this process."""
    for process in multiprocessing.active_children():
        if process.name.startswith("grain-"):
            process.kill()


def _begin(name: str, worker: int, _: int) -> None:
    """Prepares a worker process: no accelerators, and it ends with its parent."""
    global _tell
    import jax

    jax.config.update("jax_platforms", "cpu")
    memory = shared_memory.SharedMemory(name)
    place = slice(8 * worker, 8 * worker + 8)

    def tell(row: int) -> None:
        memory.buf[place] = (int(row) + 1).to_bytes(8, sys.byteorder)

    _tell = tell
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
