"""Work on many images in threads."""

import collections
import itertools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from PIL import Image

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@contextmanager
def quiet() -> Iterator[None]:
    """Silences Pillow's warnings (large images, odd metadata).

    Warning filters are global to the process: use this in the thread that starts the workers, not
    in the workers.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def cpus() -> int:
    """Number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def in_order(
    function: Callable[[_Item], _Result], items: Iterable[_Item]
) -> Iterator[Iterator[_Result]]:
    """Maps `function` over `items` with one thread per CPU, a few items ahead, in order.

    Leaving the block early cancels everything but the calls already running.

    Yields:
        An iterator over the results.
    """
    workers = cpus()
    remaining = iter(items)
    pool = ThreadPoolExecutor(workers)

    def results() -> Iterator[_Result]:
        first = itertools.islice(remaining, 4 * workers)
        ahead = collections.deque(pool.submit(function, item) for item in first)
        while ahead:
            yield ahead.popleft().result()
            ahead.extend(pool.submit(function, item) for item in itertools.islice(remaining, 1))

    Image.init()  # load Pillow's plugins here, not in all threads at once
    with quiet():
        try:
            yield results()
        finally:
            pool.shutdown(cancel_futures=True)
