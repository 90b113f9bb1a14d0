"""One decoded data set as the files of a folder: written whole or not at all, opened in place."""

import contextlib
import errno
import functools
import hashlib
import json
import os
import secrets
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ssl_jax.data import npy
from ssl_jax.data.decode import CorruptError, in_order
from ssl_jax.data.source import UNLABELLED, statistics
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

_LABELS, _NAMES = "labels.npy", "names.json"
_AT_ONCE = 16  # places that are read at the same time
_STALE = 24 * 3600  # seconds without a write after which a decode is taken for dead


def read(folder: Path):
    """Images [N, H, W, C], labels [N] and the index of a folder; None where it is missing or any of its files damaged.

    The index is checked value by value; labels and names by the checksums in it, and in folders of before there were
    any by what they hold. The pixels are not: to read all of them would take too long at each start, so of images.npy
    only the header and the exact size are checked.
    """
    try:
        index = _checked_index(_parsed(folder / "index.json"))
        count, header = index["shape"][0], npy.header_of(folder / "images.npy")
        if [list(header.shape), header.dtype, header.fortran] != [index["shape"], np.uint8, False]:
            return None
        labels = _checked_labels(folder / "labels.npy", count, len(index["classes"]))
        if any(_sha256(folder / name) != noted for name, noted in index["sha256"].items()):
            return None
        if _NAMES not in index["sha256"]:
            _check_names(_parsed(folder / _NAMES), count)
        return np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False), labels, index
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _parsed(path: Path):
    if not path.is_file():
        raise ValueError("not a regular file")
    return json.loads(path.read_text("utf-8"))


def _checked_index(index) -> dict:
    """The index of a folder, with an empty "sha256" where it notes no checksums.

    Raises:
        ValueError, KeyError, TypeError: a value is not what `_fill` writes.
    """
    shape, train = index["shape"], index["train"]
    right = (
        len(shape) == 4
        and all(type(x) is int and x > 0 for x in [*shape, train])
        and train <= shape[0]
        and all(type(x) is list and len(x) == 2 and _strings(x) for x in index["skipped"])
        and _strings(index["classes"])
        and len(index["mean"]) == len(index["std"]) == shape[3]
        and all(type(x) in (int, float) and 0 <= x <= 1 for x in [*index["mean"], *index["std"]])
        and all(index["std"])
        and set(index.get("sha256", {})) <= {_LABELS, _NAMES}
    )
    if not right or not isinstance(index["skipped"], list) or not isinstance(index.get("sha256", {}), dict):
        raise ValueError("the index is damaged")
    return {"sha256": {}} | index


def _strings(values) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _checked_labels(path: Path, count: int, classes: int) -> np.ndarray:
    header = npy.header_of(path)
    if (header.shape, header.dtype) != ((count,), np.int32):
        raise ValueError("other labels")
    labels = np.load(path, allow_pickle=False)
    if labels.min() < UNLABELLED or labels.max() >= classes:
        raise ValueError("labels out of range")
    return labels


def _check_names(names, count: int) -> None:
    if not _strings(names) or len(names) != count:
        raise ValueError("the names are damaged")


def _sha256(path: Path) -> str:
    if not path.is_file():
        raise ValueError("not a regular file")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    """The names of its images.

    Raises:
        SettingError: they are gone or damaged since the folder was read.
    """
    try:
        return _parsed(folder / _NAMES)
    except (OSError, ValueError) as error:
        raise SettingError(
            printable(f"{folder / _NAMES} cannot be read ({error}); the next start makes it anew")
        ) from error


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
            remove(path)


def remove(path: Path) -> None:
    """Removes whatever is at `path`, as far as that can be done."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


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
    np.save(folder / _LABELS, work.labels[kept])
    _write(folder / _NAMES, [work.names[i] for i in kept])
    shape, sums = [len(kept), *work.shape], {name: _sha256(folder / name) for name in (_LABELS, _NAMES)}
    facts = dict(shape=shape, train=train, skipped=skipped, classes=work.classes, mean=mean, std=std)
    _write(folder / "index.json", facts | dict(sha256=sums))


def _header(file, count, shape):
    """The .npy header at the start of `file`; it takes the same room for every count."""
    file.seek(0)
    facts = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
    np.lib.format.write_array_header_1_0(file, facts)


def _write(path, value):
    path.write_text(json.dumps(value), "utf-8")


def _move(temporary, folder):
    """Renames; where another process was first its cache stays. What is damaged, or no folder, is replaced."""
    try:
        temporary.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        if read(folder) is None:
            damaged = temporary.with_name(f"{temporary.name}-damaged")
            folder.rename(damaged)
            temporary.rename(folder)
            remove(damaged)
