"""Decoded images on disk: written once under a name of their content, then opened in place."""

import dataclasses
import errno
import hashlib
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ssl_jax.data.decode import CorruptError, in_order, printable
from ssl_jax.data.source import Dataset, Images, statistics
from ssl_jax.settings import SettingError

_FORMAT = 1  # raise it when the same files would give other pixels
_STALE = 24 * 3600  # seconds without a write after which a decode is taken for dead


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
    return Path(source.cache).expanduser() if source.cache else default


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
    stored = _open(folder)
    if stored is None:
        _create(folder, work(), origin, source)
        stored = _open(folder)
        if stored is None:
            raise SettingError(f"{folder} cannot be read back; set data.cache to another folder")
    images, labels, index = stored
    notes, skipped, train = (), index["skipped"], index["train"]
    if skipped:
        if not source.skip_corrupt:
            raise _corrupt(origin, *skipped[0])
        total, (name, why) = len(images) + len(skipped), skipped[0]
        first = printable(f"{origin}/{name} ({why})")
        notes = (f"{len(skipped):,} of {total:,} images cannot be read and are left out, the first: {first}",)
    splits = (Images(images[rows], labels[rows]) for rows in (slice(train), slice(train, None)))
    facts = (tuple(index[key]) for key in ("classes", "mean", "std"))
    return Dataset(*splits, *facts, notes, listed=lambda: json.loads((folder / "names.json").read_text("utf-8")))


def kept(source, kind: str, facts, make: Callable[[], np.ndarray]) -> np.ndarray:
    """A small array that takes long to make: `make()`, or what it gave before, from the cache's folder `kind`.

    Raises:
        SettingError: the cache cannot be written.
    """
    path = root(source) / kind / f"{_hash(facts)}.npy"
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        found = make()
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear(path.parent)
        with open(temporary, "wb") as file:
            np.save(file, found)
        temporary.replace(path)
    except OSError as error:
        raise _unwritable(source, error) from error
    finally:
        temporary.unlink(missing_ok=True)
    return found


def _hash(facts):
    return hashlib.sha256(json.dumps([_FORMAT, facts]).encode()).hexdigest()[:32]


def _unwritable(source, error):
    return SettingError(
        f"the cache {root(source)} cannot be written ({error.strerror}); set data.cache to a folder that can"
    )


def _corrupt(origin, name, why):
    return SettingError(
        printable(f"{origin}/{name} cannot be read ({why}); data.skip_corrupt=True leaves such files out")
    )


def _open(folder):
    """Images [N, H, W, C], labels [N] and the index of a cache; None where it is missing or damaged."""
    try:
        index = json.loads((folder / "index.json").read_text("utf-8"))
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        labels = np.load(folder / "labels.npy", allow_pickle=False)
        whole = [list(images.shape), str(images.dtype)] == [index["shape"], "uint8"] and len(labels) == len(images)
        return (images, labels, index) if whole and 0 < index["train"] <= len(images) else None
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def _create(folder, work, origin, source):
    """Decodes into a temporary folder beside `folder` and renames it whole."""
    temporary = folder.parent / f".{folder.name}-{secrets.token_hex(4)}"
    needed = len(work.names) * int(np.prod(work.shape))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _clear(folder.parent)
        temporary.mkdir()
        room = shutil.disk_usage(temporary).free
        if needed > room:
            raise SettingError(
                f"{len(work.names):,} images of {origin} need {needed:,} bytes, and {folder.parent} has {room:,}; "
                "set data.cache to a folder with more room, or data.size lower"
            )
        _fill(temporary, work, origin, source)
        _move(temporary, folder)
    except OSError as error:
        raise _unwritable(source, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fill(folder, work, origin, source):
    """Decodes all images, in order, and writes what `_open` reads."""
    kept, skipped = [], []

    def read(i):
        try:
            return work.read(i)
        except CorruptError as error:
            return error

    with (
        open(folder / "images.npy", "wb") as file,
        progress(len(work.names), f"decoding {len(work.names):,} images of {origin}") as advance,
        in_order(read, range(len(work.names))) as images,
    ):
        _header(file, len(work.names), work.shape)
        for i, image in enumerate(images):
            if not isinstance(image, CorruptError):
                file.write(np.ascontiguousarray(image))
                kept.append(i)
            elif source.skip_corrupt:
                skipped.append((work.names[i], str(image)))
            else:
                raise _corrupt(origin, work.names[i], image)
            advance()
        _header(file, len(kept), work.shape)
        os.fsync(file.fileno())
    train = int(np.searchsorted(kept, work.train))
    if not train:
        name, why = skipped[0]
        raise SettingError(printable(f"no training image of {origin} can be read, the first: {name} ({why})"))
    mean, std = statistics(np.load(folder / "images.npy", mmap_mode="r")[:train])
    np.save(folder / "labels.npy", work.labels[kept])
    _write(folder / "names.json", [work.names[i] for i in kept])
    shape = [len(kept), *work.shape]
    _write(
        folder / "index.json",
        dict(shape=shape, train=train, skipped=skipped, classes=work.classes, mean=mean, std=std),
    )


def _header(file, count, shape):
    """The .npy header at the start of `file`; it takes the same room for every count."""
    file.seek(0)
    facts = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
    np.lib.format.write_array_header_1_0(file, facts)


def _write(path, value):
    path.write_text(json.dumps(value), "utf-8")


def _move(temporary, folder):
    """Renames; where another process was first its cache stays, unless it is damaged."""
    try:
        temporary.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if _open(folder) is None:
            damaged = temporary.with_name(f"{temporary.name}-damaged")
            folder.rename(damaged)
            temporary.rename(folder)
            shutil.rmtree(damaged, ignore_errors=True)


def _clear(folder):
    """Removes what processes that were killed left behind."""
    for path in folder.glob(".*-*"):
        written = [p.stat().st_mtime for p in (path, *path.glob("*")) if p.exists()]
        if time.time() - max(written, default=time.time()) > _STALE:
            path.unlink(missing_ok=True) if path.is_file() else shutil.rmtree(path, ignore_errors=True)


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
