"""Decoded data sets on disk, under a name of what they follow from; how one lies in its folder is in `cache_files`."""

import dataclasses
import hashlib
import json
import os
import secrets
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from ssl_jax.data import cache_files, npy
from ssl_jax.data.source import Dataset, Images
from ssl_jax.runtime import file_lock
from ssl_jax.settings.paths import user_path
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

_FORMAT = 1  # raise it when the same files would give other pixels


@dataclasses.dataclass(frozen=True)
class Work:
    """What is to be decoded: N images, those for training first.

    Attributes:
        names: [N] of the images, for messages.
        labels: int32 [N]; -1: unlabelled.
        train: how many of them are for training.
        shape: (H, W, C) of every image.
        read: the i-th image, uint8 [H, W, C]; runs in several threads, and of a stream in other processes, to which
            it is pickled; raises CorruptError where there is none.
        classes: their names.
    """

    names: Sequence[str]
    labels: np.ndarray
    train: int
    shape: tuple[int, int, int]
    read: Callable[[int], np.ndarray]
    classes: tuple[str, ...]


def root(source) -> Path:
    """The cache's folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ssl_jax"
    return user_path(source.cache, "data.cache") if source.cache else default


def dataset(source, kind: str, facts, origin: str, work: Callable[[], Work]) -> Dataset:
    """The data set from `<cache>/<kind>/<hash of facts>`, decoded into it first where that is missing or damaged.

    Args:
        source: the settings.
        kind: subfolder of the cache.
        facts: what JSON can hold and the decoded images follow from.
        origin: where the images come from, for messages.
        work: gives what to decode; called only when needed.

    Raises:
        SettingError: a bad image (unless those are left out), no room, a cache that cannot be written.
    """
    folder = root(source) / kind / _hash(facts)
    found = cache_files.read(folder)
    if found is None:
        with _in_turn(source, folder, f"decoding {origin}"):
            found = cache_files.read(folder)
            if found is None:
                given = work()
                with _writable(source):
                    cache_files.create(folder, given, origin, progress, skip_corrupt=source.skip_corrupt)
                found = cache_files.read(folder)
        if found is None:
            raise SettingError(f"{folder} cannot be read back; set data.cache to another folder")
    images, labels, index = found
    notes, skipped, train = (), index["skipped"], index["train"]
    if skipped:
        if not source.skip_corrupt:
            raise cache_files.corrupt(origin, *skipped[0])
        total, (name, why) = len(images) + len(skipped), skipped[0]
        first = printable(f"{origin}/{name} ({why})")
        notes = (f"{len(skipped):,} of {total:,} images cannot be read and are left out, the first: {first}",)
    splits = (Images(images[rows], labels[rows]) for rows in (slice(train), slice(train, None)))
    facts = (tuple(index[key]) for key in ("classes", "mean", "std"))
    return Dataset(*splits, *facts, notes, listed=lambda: cache_files.names(folder))


def kept(source, kind: str, facts, make: Callable[[], np.ndarray], doing: str, count: int) -> np.ndarray:
    """An int32 array [count] that takes long to make: `make()`, or what it gave before, from the cache's folder `kind`.

    `doing` says what `make` does, to those who wait for another process that is at it. A file that is damaged, or of
    another array, is made anew.

    Raises:
        SettingError: the cache cannot be written.
    """
    path = root(source) / kind / f"{_hash(facts)}.npy"
    found = _loaded(path, count)
    if found is None:
        with _in_turn(source, path, doing):
            found = _loaded(path, count)
            if found is None:
                found = make()
                _store(source, path, found)
    return found


def _loaded(path, count):
    try:
        header = npy.header_of(path)
        right = (header.shape, header.dtype) == ((count,), np.int32)
        return np.load(path, allow_pickle=False) if right else None
    except (OSError, ValueError):
        return None


def _store(source, path, found):
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(4)}")
    try:
        with _writable(source):
            path.parent.mkdir(parents=True, exist_ok=True)
            cache_files.clear(path.parent)
            with open(temporary, "wb") as file:
                np.save(file, found)
            cache_files.remove(path)
            temporary.replace(path)
    finally:
        with suppress(OSError):  # the first one is told
            temporary.unlink()


@contextmanager
def _in_turn(source, path, doing):
    """Of all processes that share the cache, one at a time is in here for `path`."""
    with _writable(source):
        lock = file_lock.opened(path)
    with file_lock.held(lock, doing):
        yield


def _hash(facts):
    return hashlib.sha256(json.dumps([_FORMAT, facts]).encode()).hexdigest()[:32]


@contextmanager
def _writable(source):
    """Errors of the file system inside the block become one line that names the way out."""
    try:
        yield
    except OSError as error:
        raise SettingError(
            f"the cache {root(source)} cannot be written ({error.strerror}); set data.cache to a folder that can"
        ) from error


@contextmanager
def progress(total, text):
    """A bar with `text` on standard error, where that is a terminal, else one line; gives what to call after each.

    In a notebook, where standard error looks like a mistake, the line is on standard output.
    """
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    console, text = Console(stderr=True), printable(text)
    if not console.is_terminal:
        print(text, file=sys.stdout if console.is_jupyter else sys.stderr, flush=True)
        yield lambda: None
        return
    columns = [*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(text.replace("[", r"\["), total=total)
        yield lambda: bar.advance(task)
