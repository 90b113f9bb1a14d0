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
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

import numpy as np

from ssl_jax.data import npy, whole
from ssl_jax.data.decode import CorruptError, Work
from ssl_jax.data.parallel import in_order
from ssl_jax.data.source import UNLABELLED, statistics
from ssl_jax.data.whole import WholePictures
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import byte_count, printable

_LABELS = "labels.npy"
_NAMES = "names.json"
_SIZES = "sizes.npy"
_PARALLEL_READS = 16
_STALE = 24 * 3600  # seconds without a write after which a decode counts as dead
_Progress = Callable[[int, str], AbstractContextManager[Callable[[], None]]]


def read(
    folder: Path,
) -> tuple[np.memmap | WholePictures, np.ndarray, dict[str, Any]] | None:
    """Images [N, H, W, C], labels [N] and index of a folder; None if a file is missing or damaged.

    Every value of the index is checked. Labels, names and true sizes are checked against the
    checksums in it; labels and names of folders written before there were checksums, by their
    contents. Reading all pixels would
    take too long at each start, so only the header and the exact size of images.npy are checked.
    """
    try:
        index = _checked_index(_parsed(folder / "index.json"))
        count = index["shape"][0]
        header = npy.header_of(folder / "images.npy")
        if [list(header.shape), header.dtype, header.fortran] != [index["shape"], np.uint8, False]:
            return None
        labels = _checked_labels(folder / _LABELS, count, len(index["classes"]))
        checksums = index["sha256"]
        if any(_sha256(folder / name) != checksum for name, checksum in checksums.items()):
            return None
        if _NAMES not in checksums:
            _check_names(_parsed(folder / _NAMES), count)
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        if _SIZES in checksums:
            images = WholePictures(images, _checked_sizes(folder / _SIZES, count))
        elif os.path.lexists(folder / _SIZES):
            return None
        return images, labels, index
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _parsed(path: Path) -> Any:
    if not path.is_file():
        raise ValueError("not a regular file")
    return json.loads(path.read_text("utf-8"))


def _checked_index(index: Any) -> dict[str, Any]:
    """The index of a folder, with an empty "sha256" if it has no checksums.

    Raises:
        ValueError, KeyError, TypeError: a value is not what `_fill` writes.
    """
    shape = index["shape"]
    train = index["train"]
    checksums = index.get("sha256", {})
    valid = (
        len(shape) == 4
        and all(type(x) is int and x > 0 for x in [*shape, train])
        and train <= shape[0]
        and all(type(x) is list and len(x) == 2 and _is_strings(x) for x in index["skipped"])
        and _is_strings(index["classes"])
        and len(index["mean"]) == len(index["std"]) == shape[3]
        and all(type(x) in (int, float) and 0 <= x <= 1 for x in [*index["mean"], *index["std"]])
        and all(index["std"])
        and set(checksums) <= {_LABELS, _NAMES, _SIZES}
    )
    if not valid or not isinstance(index["skipped"], list) or not isinstance(checksums, dict):
        raise ValueError("the index is damaged")
    return {"sha256": {}} | index


def _is_strings(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _checked_labels(path: Path, count: int, classes: int) -> np.ndarray:
    header = npy.header_of(path)
    if (header.shape, header.dtype) != ((count,), np.int32):
        raise ValueError("the labels have another shape or dtype")
    labels = np.load(path, allow_pickle=False)
    if labels.min() < UNLABELLED or labels.max() >= classes:
        raise ValueError("labels out of range")
    return labels


def _checked_sizes(path: Path, count: int) -> np.ndarray:
    sizes = np.load(path, allow_pickle=False)
    if (sizes.shape, sizes.dtype) != ((count, 2), np.float32):
        raise ValueError("the sizes have another shape or dtype")
    if not ((sizes >= 1) & np.isfinite(sizes)).all():
        raise ValueError("sizes out of range")
    return sizes


def _check_names(names: Any, count: int) -> None:
    if not _is_strings(names) or len(names) != count:
        raise ValueError("the names are damaged")


def _sha256(path: Path) -> str:
    if not path.is_file():
        raise ValueError("not a regular file")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def take(images: np.ndarray | WholePictures, rows: np.ndarray) -> np.ndarray | WholePictures:
    """`images[rows]`, read in parallel, which is faster from a memory-mapped file."""
    if isinstance(images, WholePictures):
        return WholePictures(take(images.pixels, rows), images.sizes[rows])
    batch = np.empty((len(rows), *images.shape[1:]), images.dtype)
    parts = np.array_split(np.arange(len(rows)), _PARALLEL_READS)

    def copy(part: np.ndarray) -> None:
        target = batch[part[0] : part[-1] + 1]
        # Any mode but the default "raise", which makes another copy.
        np.take(images, rows[part], axis=0, out=target, mode="clip")

    for _ in _threads().map(copy, [part for part in parts if len(part)]):
        pass
    return batch


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_PARALLEL_READS, "rows")


def names(folder: Path) -> list[str]:
    """The names of the images in a folder.

    Raises:
        SettingError: they were removed or damaged after the folder was read.
    """
    try:
        return _parsed(folder / _NAMES)
    except (OSError, ValueError) as error:
        raise SettingError(
            printable(f"{folder / _NAMES} cannot be read ({error}); restart to rebuild it")
        ) from error


def create(
    folder: Path, work: Work, origin: str, progress: _Progress, *, skip_corrupt: bool
) -> None:
    """Decodes `work` into a temporary folder beside `folder`, then renames it.

    Args:
        folder: the destination; other processes may be writing it too.
        work: what to decode.
        origin: where the images come from, for messages.
        progress: `cache.progress`.
        skip_corrupt: skip bad images and list them in the index.

    Raises:
        SettingError: a bad image (unless `skip_corrupt`), or a full disk.
        OSError: the folder cannot be written.
    """
    temporary = folder.parent / f".{folder.name}-{secrets.token_hex(4)}"
    needed = len(work.names) * int(np.prod(work.shape))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        clear(folder.parent)
        temporary.mkdir()
        free = shutil.disk_usage(temporary).free
        if needed > free:
            raise SettingError(
                f"{len(work.names):,} images of {origin} need {needed:,} bytes, but "
                f"{folder.parent} has {free:,}; set data.cache to a folder with more room, or "
                "lower data.size"
            )
        _fill(temporary, work, origin, progress, skip_corrupt)
        _move(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def clear(folder: Path) -> None:
    """Removes the leftovers of killed processes."""
    for path in folder.glob(".*-*"):
        written = [p.stat().st_mtime for p in (path, *path.glob("*")) if p.exists()]
        if time.time() - max(written, default=time.time()) > _STALE:
            remove(path)


def remove(path: Path) -> None:
    """Removes whatever is at `path`; errors are ignored."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def corrupt(origin: str, name: str, why: object) -> SettingError:
    """The error for a bad image."""
    return SettingError(
        printable(
            f"{os.path.join(origin, name)} cannot be read ({why}); data.skip_corrupt=True skips "
            "such files"
        )
    )


def _fill(folder: Path, work: Work, origin: str, progress: _Progress, skip_corrupt: bool) -> None:
    """Decodes all images in order and writes the files that `read` expects."""
    kept, skipped, sizes = _decode(folder / "images.npy", work, origin, progress, skip_corrupt)
    train = int(np.searchsorted(kept, work.train))
    if not train:
        name, reason = skipped[0]
        raise SettingError(
            printable(f"no training image of {origin} can be read, the first: {name} ({reason})")
        )
    mean, std = statistics(np.load(folder / "images.npy", mmap_mode="r")[:train])
    np.save(folder / _LABELS, work.labels[kept])
    _write_json(folder / _NAMES, [work.names[i] for i in kept])
    files = [_LABELS, _NAMES]
    if sizes is not None:
        np.save(folder / _SIZES, sizes)
        files.append(_SIZES)
    index = dict(
        shape=[len(kept), *work.shape],
        train=train,
        skipped=skipped,
        classes=work.classes,
        mean=mean,
        std=std,
        sha256={name: _sha256(folder / name) for name in files},
    )
    _write_json(folder / "index.json", index)


def _decode(
    path: Path, work: Work, origin: str, progress: _Progress, skip_corrupt: bool
) -> tuple[list[int], list[tuple[str, str]], np.ndarray | None]:
    """Writes the images to a .npy file.

    Returns:
        the rows kept; (name, reason) of the others; and true sizes [N, 2], None if all are square.
    """
    count = len(work.names)
    kept = []
    skipped = []
    sizes = []
    needed = byte_count(count * int(np.prod(work.shape)))

    def decoded(i: int) -> np.ndarray | WholePictures | CorruptError:
        try:
            return work.read(i)
        except CorruptError as error:
            return error

    with (
        open(path, "wb") as file,
        progress(count, f"decoding {count:,} images of {origin} ({needed})") as advance,
        in_order(decoded, range(count)) as images,
    ):
        _write_header(file, count, work.shape)
        for i, image in enumerate(images):
            if not isinstance(image, CorruptError):
                file.write(np.ascontiguousarray(whole.pixels_of(image)))
                kept.append(i)
                if work.whole:
                    sizes.append(image.sizes)
            elif skip_corrupt:
                skipped.append((work.names[i], str(image)))
            else:
                raise corrupt(origin, work.names[i], image)
            advance()
        _write_header(file, len(kept), work.shape)
        os.fsync(file.fileno())
    sizes = np.array(sizes, np.float32) if sizes else None
    if sizes is not None and (sizes[:, 0] == sizes[:, 1]).all():
        sizes = None
    return kept, skipped, sizes


def _write_header(file: IO[bytes], count: int, shape: Sequence[int]) -> None:
    """Writes the .npy header at the start of `file`; its length is the same for every count."""
    file.seek(0)
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
    np.lib.format.write_array_header_1_0(file, header)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), "utf-8")


def _move(temporary: Path, folder: Path) -> None:
    """Renames `temporary` to `folder`.

    If another process was first, its cache stays. A damaged cache, or a file in its place, is
    replaced.
    """
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
