"""One process at a time makes what all will read."""

import errno
import os
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from ssl_jax.settings.text import printable

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None


def opened(path: Path):
    """The lock file of what is to be made at `path`.

    Raises:
        OSError: the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return lock_file(path.with_name(f".{path.stem}.lock"))


def lock_file(path: Path):
    """The file at `path`, made where there is none, open to be locked.

    Raises:
        OSError: it cannot be written, or is no file: to open a pipe would wait for ever.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, f"{path.name} is not a regular file", str(path))
    return path.open("a")


@contextmanager
def held(lock, doing: str):
    """Holds the file from `opened` for this process alone, of all that see it; those that wait say what for.

    Whoever comes in looks first whether another has made it by now. The lock ends with the process. On a file system
    without locks all are let in: each makes its own then, and the first one's stays.
    """
    with lock:
        if not locked(lock):
            print(printable(f"waiting for another process that is {doing}"), file=sys.stderr, flush=True)
            while not locked(lock):
                time.sleep(0.2)
        try:
            yield
        finally:
            with suppress(OSError):
                os.unlink(lock.name)


def locked(lock) -> bool:
    """Whether this process has the lock of an open file now; also where the file system has no locks."""
    try:
        if fcntl:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # no locks here
    return True
