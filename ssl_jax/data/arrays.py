"""Images that are already arrays, in one .npz file."""

import contextlib
import functools
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np

from ssl_jax.data import npy
from ssl_jax.data.source import UNLABELLED, Dataset, Images, Source, held_out, statistics
from ssl_jax.settings.machine import memory
from ssl_jax.settings.paths import user_path
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

_KEYS = ("images", "labels", "test_images", "test_labels", "classes")
_LABELLING = ("labels", "test_labels", "classes")
_MAX_KEY_TEXT = 200  # characters of the file's keys in a message
_KERAS = {
    "x_train": "images",
    "y_train": "labels",
    "x_test": "test_images",
    "y_test": "test_labels",
}
_Headers = Mapping[str, tuple[zipfile.ZipInfo, npy.Header]]


def arrays(source: Source) -> Dataset:
    """The arrays of the .npz file `data.dir`, or of the only .npz file in that folder.

    Keys: `images` uint8 [N, H, W] or [N, H, W, C] with 1 or 3 channels; optionally `labels` [N]
    (integers, -1: unlabelled), `test_images`, `test_labels`, and `classes` (strings [C]; default
    "0", "1", ...). Keras' names x_train, y_train, x_test and y_test also work. Labelled data
    without test images hold out `data.test_share`. Names, dtypes, shapes and sizes are checked
    before anything but the headers is read. Images keep their order.

    Raises:
        SettingError: no such file, or contents other than these.
    """
    path = _file(source)
    with _readable(path), open(path, "rb") as raw, _archive(path, raw) as archive:
        headers = _headers(path, archive, _members(path, archive, source.labelled))
        _check(path, headers)
        contents = {key: _array(archive, info) for key, (info, _) in headers.items()}
    images = _four_axes(contents["images"])
    labels = _labels(path, contents, "labels", len(images))
    classes = _classes(path, contents, labels)
    parts = (range(len(images)),)
    test_count = 0
    if "test_images" in contents:
        test_images = _four_axes(contents["test_images"])
        test_count = len(test_images)
        test_labels = _labels(path, contents if classes else {}, "test_labels", test_count)
        _check_range(path, "test_labels", test_labels, classes)
        train = Images(images, labels)
        test = Images(test_images, test_labels)
    elif classes:
        parts = held_out(labels, source.test_share)
        train, test = (Images(images[rows], labels[rows]) for rows in parts)
    else:
        train = Images(images, labels)
        test = Images(images[:0], labels[:0])
    mean, std = statistics(images)
    names = functools.partial(_names, parts, test_count)
    return Dataset(train, test, classes, mean, std, listed=names)


def _names(parts: Iterable[Iterable[int]], test_count: int) -> list[str]:
    names = [f"images[{i}]" for rows in parts for i in rows]
    return names + [f"test_images[{i}]" for i in range(test_count)]


def _file(source: Source) -> Path:
    if not source.dir:
        raise SettingError(
            "data.dir is empty: give the .npz file of the arrays, as in --config.data.dir=FILE.npz"
        )
    path = user_path(source.dir, "data.dir")
    shown = printable(source.dir)
    if path.is_dir():
        files = sorted(p for p in path.glob("*.npz") if not p.name.startswith(".") and p.is_file())
        if len(files) != 1:
            raise SettingError(
                f"data.dir={shown} holds {len(files)} .npz files; give one of them, or a folder "
                "with exactly one"
            )
        return files[0]
    if not path.is_file():
        raise SettingError(f"data.dir={shown}: no such file or folder; give a .npz file")
    return path


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns errors of reading in the block into one line that names the file."""
    try:
        yield
    except (
        OSError,
        EOFError,
        ValueError,
        NotImplementedError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise SettingError(
            f"{path} is not a readable .npz file ({printable(error)}); save it again"
        ) from error


def _archive(path: Path, raw: IO[bytes]) -> zipfile.ZipFile:
    if raw.read(6) == np.lib.format.MAGIC_PREFIX:
        raise SettingError(f"{path} holds a single array; save it with np.savez(FILE, images=...)")
    return zipfile.ZipFile(raw)


def _members(path: Path, archive: zipfile.ZipFile, labelled: bool) -> dict[str, zipfile.ZipInfo]:
    """The members to read, by our names."""
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    renamed = {_KERAS.get(key, key): info for key, info in members.items()}
    duplicates = len(renamed) < len(archive.infolist())
    if "images" not in renamed or set(renamed) - set(_KEYS) or duplicates:
        keys = ", ".join(info.filename.removesuffix(".npy") for info in archive.infolist())
        shown = printable(keys)
        if len(shown) > _MAX_KEY_TEXT:
            shown = f"{shown[:_MAX_KEY_TEXT]}..."
        raise SettingError(
            f"{path} has the keys {shown}; expected images and optionally {', '.join(_KEYS[1:])}; "
            f"or {', '.join(_KERAS)}"
        )
    return {key: info for key, info in renamed.items() if labelled or key not in _LABELLING}


def _headers(
    path: Path, archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo]
) -> _Headers:
    """Each member with the header of its array.

    Only headers are inflated, so members of any size are checked quickly.

    Raises:
        SettingError: a member is encrypted, compressed as numpy never does, not an array, an array
            of Python objects, or not as long as its header says; or the arrays together exceed
            this machine's memory.
    """
    headers = {}
    for key, info in members.items():
        if info.flag_bits & 1:
            raise SettingError(f"{path}: {key} is encrypted; save it again with np.savez")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise SettingError(
                f"{path}: {key} has a compression that numpy never writes; save it again with "
                "np.savez_compressed"
            )
        with archive.open(info) as member:
            try:
                header = npy.read_header(member)
            except ValueError as error:
                raise SettingError(
                    f"{path}: {key} cannot be read ({error}); save it again with np.savez"
                ) from error
        if header.dtype.hasobject:
            raise SettingError(
                f"{path}: {key} holds Python objects; save plain numbers (np.asarray(..., dtype))"
            )
        if header.nbytes != info.file_size:
            raise SettingError(
                f"{path}: {key} has {info.file_size:,} bytes, but its header says "
                f"{header.nbytes:,}; save it again"
            )
        headers[key] = info, header
    total = sum(header.nbytes for _, header in headers.values())
    available = memory()
    if total > available:
        raise SettingError(
            f"{path} holds {total:,} bytes of arrays, but this machine has {available:,} bytes of "
            "memory; save fewer images, or save them as files for data.name=folder with "
            "data.store=stream"
        )
    return headers


def _check(path: Path, headers: _Headers) -> None:
    """Rejects arrays by dtype and shape."""
    images = _image_shape(path, headers, "images")
    if "labels" in headers:
        _check_labels(path, headers, "labels", images[0])
    if "test_images" in headers:
        test = _image_shape(path, headers, "test_images")
        if test[1:] != images[1:]:
            raise SettingError(
                f"{path}: images are {images[1:]} but test_images are {test[1:]}; give both the "
                "same shape"
            )
        if "labels" in headers and "test_labels" in headers:
            _check_labels(path, headers, "test_labels", test[0])
    if "classes" in headers:
        _, names = headers["classes"]
        if len(names.shape) != 1 or names.dtype.kind != "U":
            raise SettingError(
                f"{path}: classes are {names.dtype} of shape {names.shape}; save one string per "
                "class"
            )


def _image_shape(path: Path, headers: _Headers, key: str) -> tuple[int, ...]:
    """[N, H, W, C] of the images under `key`, which must be uint8 and not empty."""
    _, header = headers[key]
    shape = header.shape
    dtype = header.dtype
    if dtype.kind == "f":
        raise SettingError(
            f"{path}: {key} are {dtype}; save uint8 in 0..255; from 0..1: "
            "(255 * images).round().astype('uint8')"
        )
    if dtype != np.uint8:
        raise SettingError(f"{path}: {key} are {dtype}; save uint8 in 0..255")
    four_axes = (*shape, 1) if len(shape) == 3 else shape
    if len(four_axes) != 4 or four_axes[-1] not in (1, 3):
        raise SettingError(
            f"{path}: {key} have shape {shape}; save [N, H, W] or [N, H, W, C] with C 1 or 3"
        )
    if 0 in four_axes:
        raise SettingError(f"{path}: {key} have shape {shape}, so no pixels; save some images")
    return four_axes


def _check_labels(path: Path, headers: _Headers, key: str, count: int) -> None:
    _, header = headers[key]
    if header.dtype.kind not in "iu":
        raise SettingError(
            f"{path}: {key} are {header.dtype}; save integers from 0 up, -1 for unlabelled"
        )
    if header.shape not in ((count,), (count, 1)):
        raise SettingError(
            f"{path}: {key} have shape {header.shape} for {count} images; save one per image"
        )


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as member:
        return np.lib.format.read_array(member, allow_pickle=False)


def _four_axes(images: np.ndarray) -> np.ndarray:
    """`images` as [N, H, W, C]."""
    return images[..., None] if images.ndim == 3 else images


def _labels(path: Path, contents: Mapping[str, np.ndarray], key: str, count: int) -> np.ndarray:
    """Labels int32 [count]; all -1 if the file has none."""
    if key not in contents:
        return np.full(count, UNLABELLED, np.int32)
    labels = contents[key].reshape(count)
    if labels.min() < UNLABELLED or labels.max() >= 2**31:
        raise SettingError(
            f"{path}: {key} run from {labels.min()} to {labels.max()}; number the classes from 0 up"
        )
    return labels.astype(np.int32)


def _classes(path: Path, contents: Mapping[str, np.ndarray], labels: np.ndarray) -> tuple[str, ...]:
    """The names of the classes; empty if no image has a label."""
    count = int(labels.max()) + 1
    if not count:
        return ()
    if "classes" not in contents:
        if count > len(labels):
            raise SettingError(
                f"{path}: labels reach {count - 1} with {len(labels)} images; number the classes "
                "from 0 up"
            )
        return tuple(str(i) for i in range(count))
    try:
        classes = tuple(contents["classes"].tolist())
    except (ValueError, SystemError) as error:  # SystemError: numpy, for the largest code points
        raise SettingError(f"{path}: classes hold invalid Unicode; save strings") from error
    _check_range(path, "labels", labels, classes)
    return classes


def _check_range(path: Path, key: str, labels: np.ndarray, classes: tuple[str, ...]) -> None:
    if labels.max() >= max(len(classes), 1):
        raise SettingError(
            f"{path}: {key} reach {labels.max()}, but there are {len(classes)} classes; number "
            "the classes from 0 up"
        )
