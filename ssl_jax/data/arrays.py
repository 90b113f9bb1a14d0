"""Images that are arrays already: one .npz file."""

import contextlib
import zipfile
import zlib
from pathlib import Path

import numpy as np

from ssl_jax.data import npy
from ssl_jax.data.source import UNLABELLED, Dataset, Images, held_out, statistics
from ssl_jax.settings.machine import memory
from ssl_jax.settings.paths import user_path
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

_KEYS = ("images", "labels", "test_images", "test_labels", "classes")
_LABELLING = ("labels", "test_labels", "classes")
_SHOWN = 200  # characters of the keys in a message, at most
_KERAS = {"x_train": "images", "y_train": "labels", "x_test": "test_images", "y_test": "test_labels"}


def arrays(source) -> Dataset:
    """The arrays of the .npz file `data.dir`, or of the only such file in that folder; row i stays row i.

    Keys: `images` uint8 [N, H, W] or [N, H, W, C] with 1 or 3 channels; if there are any, `labels` [N] (whole numbers;
    -1: unlabelled), `test_images`, `test_labels`, and `classes` (strings [C]; without, "0", "1", ...). Keras' names
    x_train, y_train, x_test and y_test do as well. Labelled data without test images hold out `data.test_share`.
    Names, dtypes, shapes and sizes are checked before anything but the arrays' headers is read.

    Raises:
        SettingError: no such file, or contents that are not as above.
    """
    path = _file(source)
    with _reading(path), open(path, "rb") as raw, _archive(path, raw) as archive:
        headers = _headers(path, archive, _keys(path, archive, source.labelled))
        _check(path, headers)
        found = {key: _array(archive, info) for key, (info, _) in headers.items()}
    images = _four_axes(found["images"])
    labels = _labels(path, found, "labels", len(images))
    classes = _classes(path, found, labels)
    parts, tests = (range(len(images)),), 0
    if "test_images" in found:
        test = _four_axes(found["test_images"])
        test_labels = _labels(path, found if classes else {}, "test_labels", len(test))
        _check_range(path, "test_labels", test_labels, classes)
        splits, tests = (Images(images, labels), Images(test, test_labels)), len(test)
    elif classes:
        parts = held_out(labels, source.test_share)
        splits = (Images(images[rows], labels[rows]) for rows in parts)
    else:
        splits = Images(images, labels), Images(images[:0], labels[:0])
    return Dataset(*splits, classes, *statistics(images), listed=lambda: _names(parts, tests))


def _names(parts, tests):
    return [f"images[{i}]" for rows in parts for i in rows] + [f"test_images[{i}]" for i in range(tests)]


def _file(source) -> Path:
    if not source.dir:
        raise SettingError("data.dir is empty: give the .npz file with the arrays, as in --config.data.dir=FILE.npz")
    path, shown = user_path(source.dir, "data.dir"), printable(source.dir)
    if path.is_dir():
        files = sorted(p for p in path.glob("*.npz") if not p.name.startswith(".") and p.is_file())
        if len(files) != 1:
            raise SettingError(f"data.dir={shown} holds {len(files)} .npz files; name one of them, or a folder of one")
        return files[0]
    if not path.is_file():
        raise SettingError(f"data.dir={shown}: there is no such file or folder; give a .npz file")
    return path


@contextlib.contextmanager
def _reading(path):
    """What goes wrong in the block as one line on the file."""
    try:
        yield
    except (OSError, EOFError, ValueError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise SettingError(f"{path} is not a .npz file that can be read ({printable(error)}); save it anew") from error


def _archive(path, raw) -> zipfile.ZipFile:
    if raw.read(6) == np.lib.format.MAGIC_PREFIX:
        raise SettingError(f"{path} holds a single array; save it with np.savez(FILE, images=...)")
    return zipfile.ZipFile(raw)


def _keys(path, archive, labelled) -> dict[str, zipfile.ZipInfo]:
    """The members that are wanted, by our names."""
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    names = {_KERAS.get(key, key): info for key, info in members.items()}
    if "images" not in names or set(names) - set(_KEYS) or len(names) < len(archive.infolist()):
        keys = printable(", ".join(info.filename.removesuffix(".npy") for info in archive.infolist()))
        shown = keys if len(keys) <= _SHOWN else f"{keys[:_SHOWN]}..."
        wanted = f"wanted: images, and if there are any {', '.join(_KEYS[1:])}; or {', '.join(_KERAS)}"
        raise SettingError(f"{path} has the keys {shown}; {wanted}")
    return {key: info for key, info in names.items() if labelled or key not in _LABELLING}


def _headers(path, archive, members) -> dict[str, tuple[zipfile.ZipInfo, npy.Header]]:
    """Each member with the header of its array. Nothing else of it is inflated, so a member of any size is judged soon.

    Raises:
        SettingError: a member that is encrypted, packed in other ways than numpy does, no array, an array of Python
            objects, or of another length than its header says; or more in all than this machine's memory.
    """
    found = {}
    for key, info in members.items():
        if info.flag_bits & 1:
            raise SettingError(f"{path}: {key} is encrypted; save it anew with np.savez")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise SettingError(
                f"{path}: {key} is compressed as numpy never does; save it anew with np.savez_compressed"
            )
        with archive.open(info) as member:
            try:
                header = npy.read_header(member)
            except ValueError as error:
                raise SettingError(f"{path}: {key} cannot be read ({error}); save it anew with np.savez") from error
        if header.dtype.hasobject:
            raise SettingError(f"{path}: {key} holds Python objects; save plain numbers (np.asarray(..., dtype))")
        if header.nbytes != info.file_size:
            raise SettingError(
                f"{path}: {key} has {info.file_size:,} bytes, and {header.nbytes:,} by its header; save it anew"
            )
        found[key] = info, header
    total = sum(header.nbytes for _, header in found.values())
    if total > (room := memory()):
        raise SettingError(
            f"{path} holds {total:,} bytes of arrays, and this machine has {room:,} bytes of memory; save fewer "
            "images, or save them as files for data.name=folder with data.store=stream"
        )
    return found


def _check(path, headers) -> None:
    """Refuses arrays by dtype and shape."""
    shapes = {key: header.shape for key, (_, header) in headers.items()}
    images = _image_shape(path, headers, "images")
    if "labels" in headers:
        _check_labels(path, headers, "labels", images[0])
    if "test_images" in headers:
        test = _image_shape(path, headers, "test_images")
        if test[1:] != images[1:]:
            raise SettingError(f"{path}: images are {images[1:]} and test_images {test[1:]}; make them alike")
        if "labels" in headers and "test_labels" in headers:
            _check_labels(path, headers, "test_labels", test[0])
    if "classes" in headers:
        _, names = headers["classes"]
        if len(names.shape) != 1 or names.dtype.kind != "U":
            raise SettingError(
                f"{path}: classes are {names.dtype} of shape {shapes['classes']}; save strings, one for each class"
            )


def _image_shape(path, headers, key) -> tuple[int, ...]:
    """[N, H, W, C] of the images under `key`, if they are uint8 and not empty."""
    _, header = headers[key]
    shape, dtype = header.shape, header.dtype
    if dtype.kind == "f":
        raise SettingError(
            f"{path}: {key} are {dtype}; save uint8 in 0..255; where they are in 0..1: "
            "(255 * images).round().astype('uint8')"
        )
    if dtype != np.uint8:
        raise SettingError(f"{path}: {key} are {dtype}; save uint8 in 0..255")
    whole = (*shape, 1) if len(shape) == 3 else shape
    if len(whole) != 4 or whole[-1] not in (1, 3):
        raise SettingError(f"{path}: {key} have shape {shape}; wanted [N, H, W] or [N, H, W, C] with C 1 or 3")
    if 0 in whole:
        raise SettingError(f"{path}: {key} have shape {shape}; there is not one pixel")
    return whole


def _check_labels(path, headers, key, count) -> None:
    _, header = headers[key]
    if header.dtype.kind not in "iu":
        raise SettingError(f"{path}: {key} are {header.dtype}; save whole numbers from 0 on, -1 for unlabelled")
    if header.shape not in ((count,), (count, 1)):
        raise SettingError(f"{path}: {key} have shape {header.shape}, and there are {count} images; give one for each")


def _array(archive, info) -> np.ndarray:
    with archive.open(info) as member:
        return np.lib.format.read_array(member, allow_pickle=False)


def _four_axes(images) -> np.ndarray:
    """[N, H, W, C]."""
    return images[..., None] if images.ndim == 3 else images


def _labels(path, found, key, count) -> np.ndarray:
    """int32 [count]; -1 throughout where the file has none."""
    if key not in found:
        return np.full(count, UNLABELLED, np.int32)
    labels = found[key].reshape(count)
    if labels.min() < UNLABELLED or labels.max() >= 2**31:
        raise SettingError(f"{path}: {key} run from {labels.min()} to {labels.max()}; number the classes from 0 on")
    return labels.astype(np.int32)


def _classes(path, found, labels) -> tuple[str, ...]:
    """The names of the classes; none where no image has a label."""
    count = int(labels.max()) + 1
    if not count:
        return ()
    if "classes" not in found:
        if count > len(labels):
            raise SettingError(
                f"{path}: labels reach {count - 1} with {len(labels)} images; number the classes from 0 on"
            )
        return tuple(str(i) for i in range(count))
    try:
        classes = tuple(found["classes"].tolist())
    except (ValueError, SystemError) as error:  # the second is what numpy makes of the largest numbers
        raise SettingError(f"{path}: classes hold what are no characters of Unicode; save strings") from error
    _check_range(path, "labels", labels, classes)
    return classes


def _check_range(path, key, labels, classes):
    if labels.max() >= max(len(classes), 1):
        raise SettingError(f"{path}: {key} reach {labels.max()}, but there are {len(classes)} classes")
