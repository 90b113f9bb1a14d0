"""File locks: one process at a time makes a file that all of them read."""

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from ssl_jax.settings.text import printable

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None


def opened(path: Path) -> TextIO:
    """Opens the lock file of an artefact that will be made at `path`.

    Raises:
        OSError: the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return lock_file(path.with_name(f".{path.stem}.lock"))


def lock_file(path: Path) -> TextIO:
    """Opens a lock file, and creates it if missing.

    Raises:
        OSError: it cannot be written, or is not a regular file (opening a pipe would wait forever).
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, f"{path.name} is not a regular file", str(path))
    return path.open("a")


@contextmanager
def held(lock: TextIO, doing: str) -> Iterator[None]:
    """Holds a lock from `opened`; while it waits, says what the other process is `doing`.

    Callers must re-check the artefact after acquiring the lock. The lock ends with the process. On
    a file system without locks every process gets in and makes its own; the first one's stays.
    """
    with lock:
        if not locked(lock):
            message = printable(f"waiting for another process that is {doing}")
            print(message, file=sys.stderr, flush=True)
            while not locked(lock):
                time.sleep(0.2)
        try:
            yield
        finally:
            with suppress(OSError):
                os.unlink(lock.name)


def locked(lock: TextIO) -> bool:
    """Tries to lock an open file; True if this process has the lock, or locks do not exist here."""
    try:
        if fcntl:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # the file system has no locks
    return True
