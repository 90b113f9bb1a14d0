"""One decoded data set as the files of a folder: written whole or not at all, opened in place."""

import errno
import functools
import json
import os
import secrets
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ssl_jax.data.decode import CorruptError, in_order
from ssl_jax.data.source import statistics
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

_AT_ONCE = 16  # places that are read at the same time
_STALE = 24 * 3600  # seconds without a write after which a decode is taken for dead


def read(folder: Path):
    """Images [N, H, W, C], labels [N] and the index of a folder; None where it is missing or damaged."""
    try:
        index = json.loads((folder / "index.json").read_text("utf-8"))
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        labels = np.load(folder / "labels.npy", allow_pickle=False)
        whole = [list(images.shape), str(images.dtype)] == [index["shape"], "uint8"] and len(labels) == len(images)
        return (images, labels, index) if whole and 0 < index["train"] <= len(images) else None
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def take(images, rows) -> np.ndarray:
    """`images[rows]` of an array that may lie on a disk, which is faster where it is asked for many rows at once."""
    found = np.empty((len(rows), *images.shape[1:]), images.dtype)
    parts = [part for part in np.array_split(np.arange(len(rows)), _AT_ONCE) if len(part)]
    # mode: any but "raise", which would copy once more
    read = lambda part: np.take(images, rows[part], axis=0, out=found[part[0] : part[-1] + 1], mode="clip")
    for _ in _threads().map(read, parts):
        pass
    return found


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_AT_ONCE, "rows")


def names(folder: Path) -> list[str]:
    """The names of its images."""
    return json.loads((folder / "names.json").read_text("utf-8"))


def create(folder: Path, work, origin: str, progress, *, skip_corrupt: bool) -> None:
    """Decodes `work` into a temporary folder beside `folder` and renames it whole.

    Args:
        folder: where to; another process may be at it, too.
        work: a `cache.Work`.
        origin: where the images come from, for messages.
        progress: `cache.progress`.
        skip_corrupt: bad images are left out, and listed in the index.

    Raises:
        SettingError: a bad image (unless those are left out), no room.
        OSError: the folder cannot be written.
    """
    temporary = folder.parent / f".{folder.name}-{secrets.token_hex(4)}"
    needed = len(work.names) * int(np.prod(work.shape))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        clear(folder.parent)
        temporary.mkdir()
        room = shutil.disk_usage(temporary).free
        if needed > room:
            raise SettingError(
                f"{len(work.names):,} images of {origin} need {needed:,} bytes, and {folder.parent} has {room:,}; "
                "set data.cache to a folder with more room, or data.size lower"
            )
        _fill(temporary, work, origin, progress, skip_corrupt)
        _move(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def clear(folder: Path) -> None:
    """Removes what processes that were killed left behind."""
    for path in folder.glob(".*-*"):
        written = [p.stat().st_mtime for p in (path, *path.glob("*")) if p.exists()]
        if time.time() - max(written, default=time.time()) > _STALE:
            path.unlink(missing_ok=True) if path.is_file() else shutil.rmtree(path, ignore_errors=True)


def corrupt(origin: str, name: str, why) -> SettingError:
    """The error that names a bad image."""
    return SettingError(
        printable(f"{origin}/{name} cannot be read ({why}); data.skip_corrupt=True leaves such files out")
    )


def _fill(folder, work, origin, progress, skip_corrupt):
    """Decodes all images, in order, and writes what `read` reads."""
    kept, skipped = [], []

    def decoded(i):
        try:
            return work.read(i)
        except CorruptError as error:
            return error

    with (
        open(folder / "images.npy", "wb") as file,
        progress(len(work.names), f"decoding {len(work.names):,} images of {origin}") as advance,
        in_order(decoded, range(len(work.names))) as images,
    ):
        _header(file, len(work.names), work.shape)
        for i, image in enumerate(images):
            if not isinstance(image, CorruptError):
                file.write(np.ascontiguousarray(image))
                kept.append(i)
            elif skip_corrupt:
                skipped.append((work.names[i], str(image)))
            else:
                raise corrupt(origin, work.names[i], image)
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
        if read(folder) is None:
            damaged = temporary.with_name(f"{temporary.name}-damaged")
            folder.rename(damaged)
            temporary.rename(folder)
            shutil.rmtree(damaged, ignore_errors=True)
