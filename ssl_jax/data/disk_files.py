"""Files below a folder: their bytes, and what changes when they do."""

import functools
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ssl_jax.data.decode import contents


class FilesBelow:
    """The bytes of files, by their paths below `root`; see `pictures.Contents`."""

    def __init__(self, root: Path, names: Sequence[str]):
        self._root = str(root)
        self._names = names

    def __call__(self, i: int) -> bytes:
        return contents(os.path.join(self._root, self._names[i]))

    def head(self, i: int) -> bytes:
        return contents(os.path.join(self._root, self._names[i]), 64)


def stamps(root: Path, names: Sequence[str]) -> Callable[[Sequence[int]], list[Any]]:
    """A function that returns the stamps of some of the files; each is looked at only once."""

    @functools.cache
    def stamp_of(i: int) -> tuple[int, int] | None:
        return stamp(os.path.join(root, names[i]))

    return lambda rows: [stamp_of(i) for i in rows]


def stamp(path: str) -> tuple[int, int] | None:
    """Size in bytes and modification time in ns of a file; None if it cannot be read."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    # Few files need the second call.
    if not status.st_mode & stat.S_IROTH and not os.access(path, os.R_OK):
        return None
    return status.st_size, status.st_mtime_ns
