"""Decoded data sets on disk, addressed by a hash of what they depend on.

`cache_files` defines the files of one data set.
"""

import hashlib
import json
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np

from ssl_jax.data import cache_files, npy, whole
from ssl_jax.data.decode import Work
from ssl_jax.data.source import Dataset, Images, Source
from ssl_jax.data.whole import WholePictures
from ssl_jax.runtime import file_lock
from ssl_jax.settings.paths import user_path
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

_FORMAT = 1  # raise it when the same files would give other pixels


def root(source: Source) -> Path:
    """The cache's folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ssl_jax"
    return user_path(source.cache, "data.cache") if source.cache else default


def dataset(
    source: Source, kind: str, facts: Any, origin: str, work: Callable[[], Work]
) -> Dataset:
    """The data set in `<cache>/<kind>/<hash of facts>`, decoded first if missing or damaged.

    Args:
        source: the settings.
        kind: subfolder of the cache.
        facts: everything the decoded images depend on, as JSON.
        origin: where the images come from, for messages.
        work: returns what to decode; called only if needed.

    Raises:
        SettingError: a bad image (unless `data.skip_corrupt`), a full disk, or a cache that cannot
            be written.
    """
    folder = root(source) / kind / _hash(facts)
    contents = cache_files.read(folder)
    if contents is None:
        with _locked(source, folder, f"decoding {origin}"):
            contents = cache_files.read(folder)
            if contents is None:
                to_decode = work()
                with _writable(source):
                    cache_files.create(
                        folder, to_decode, origin, progress, skip_corrupt=source.skip_corrupt
                    )
                contents = cache_files.read(folder)
        if contents is None:
            raise SettingError(f"{folder} cannot be read back; set data.cache to another folder")
    images, labels, index = contents
    skipped = index["skipped"]
    notes = ()
    if skipped:
        if not source.skip_corrupt:
            raise cache_files.corrupt(origin, *skipped[0])
        name, reason = skipped[0]
        first = printable(f"{os.path.join(origin, name)} ({reason})")
        total = len(images) + len(skipped)
        count = f"{len(skipped):,} of {total:,} images"
        notes = (f"{count} cannot be read and are skipped; the first: {first}",)
    if isinstance(images, WholePictures):
        notes += whole.note_on_cut(images.sizes)
    train = index["train"]
    return Dataset(
        train=Images(images[:train], labels[:train]),
        test=Images(images[train:], labels[train:]),
        classes=tuple(index["classes"]),
        mean=tuple(index["mean"]),
        std=tuple(index["std"]),
        notes=notes,
        left_out={"unreadable": len(skipped)} if skipped else {},
        listed=lambda: cache_files.names(folder),
    )


def kept(
    source: Source,
    kind: str,
    facts: Any,
    make: Callable[[], np.ndarray],
    doing: str,
    count: int,
    *,
    optional: bool = False,
) -> np.ndarray:
    """An int32 array [count] that is slow to make: from the cache, else from `make()`.

    A damaged file, or one with another array, is rebuilt.

    Args:
        source: the settings.
        kind: subfolder of the cache.
        facts: everything the array depends on, as JSON.
        make: computes the array.
        doing: what `make` does, shown to processes that wait for it.
        count: length of the array.
        optional: where the cache cannot be written, make the array each time.

    Raises:
        SettingError: the cache cannot be written, unless `optional`.
    """
    path = root(source) / kind / f"{_hash(facts)}.npy"
    array = _loaded(path, count)
    if array is not None:
        return array
    if optional and not _is_writable(path.parent):
        return make()
    with _locked(source, path, doing):
        array = _loaded(path, count)
        if array is None:
            array = make()
            with suppress(SettingError) if optional else nullcontext():
                _store(source, path, array)
    return array


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def _loaded(path: Path, count: int) -> np.ndarray | None:
    """The array int32 [count] at `path`; None if there is none."""
    try:
        header = npy.header_of(path)
        if (header.shape, header.dtype) != ((count,), np.int32):
            return None
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError):
        return None


def _store(source: Source, path: Path, array: np.ndarray) -> None:
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(4)}")
    try:
        with _writable(source):
            path.parent.mkdir(parents=True, exist_ok=True)
            cache_files.clear(path.parent)
            with open(temporary, "wb") as file:
                np.save(file, array)
            cache_files.remove(path)
            temporary.replace(path)
    finally:
        with suppress(OSError):  # report the error above, not this one
            temporary.unlink()


@contextmanager
def _locked(source: Source, path: Path, doing: str) -> Iterator[None]:
    """Admits one process at a time for `path`, among all that share the cache."""
    with _writable(source):
        lock = file_lock.opened(path)
    with file_lock.held(lock, doing):
        yield


def _hash(facts: Any) -> str:
    return hashlib.sha256(json.dumps([_FORMAT, facts]).encode()).hexdigest()[:32]


@contextmanager
def _writable(source: Source) -> Iterator[None]:
    """Turns file system errors in the block into one line that names the way out."""
    try:
        yield
    except OSError as error:
        raise SettingError(
            f"the cache {root(source)} cannot be written ({error.strerror}); set data.cache to a "
            "writable folder"
        ) from error


@contextmanager
def progress(total: int, text: str) -> Iterator[Callable[[], None]]:
    """A progress bar on standard error if it is a terminal, else one line.

    In a notebook the line goes to standard output, as standard error looks like a mistake there.

    Args:
        total: number of steps.
        text: shown beside the bar, or as the line.

    Yields:
        A function to call after each step.
    """
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    text = printable(text)
    if not console.is_terminal:
        print(text, file=sys.stdout if console.is_jupyter else sys.stderr, flush=True)
        yield lambda: None
        return
    columns = [*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(text.replace("[", r"\["), total=total)
        yield lambda: bar.advance(task)
