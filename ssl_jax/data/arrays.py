"""Images that are arrays already: one .npz file."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from ssl_jax.data.source import UNLABELLED, Dataset, Images, held_out, statistics
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

_KEYS = ("images", "labels", "test_images", "test_labels", "classes")
_KERAS = {"x_train": "images", "y_train": "labels", "x_test": "test_images", "y_test": "test_labels"}


def arrays(source) -> Dataset:
    """The arrays of the .npz file `data.dir`, or of the only such file in that folder; row i stays row i.

    Keys: `images` uint8 [N, H, W] or [N, H, W, C] with 1 or 3 channels; if there are any, `labels` [N] (whole numbers;
    -1: unlabelled), `test_images`, `test_labels`, and `classes` (strings [C]; without, "0", "1", ...). Keras' names
    x_train, y_train, x_test and y_test do as well. Labelled data without test images hold out `data.test_share`.

    Raises:
        SettingError: no such file, or contents that are not as above.
    """
    path = _file(source)
    found = _read(path)
    images = _images(path, found, "images")
    labels = _labels(path, found, "labels", len(images)) if source.labelled else _none(images)
    classes = _classes(path, found, labels)
    parts, tests = (range(len(images)),), 0
    if "test_images" in found:
        test = _images(path, found, "test_images")
        if test.shape[1:] != images.shape[1:]:
            raise SettingError(
                f"{path}: images are {images.shape[1:]} and test_images {test.shape[1:]}; make them alike"
            )
        test_labels = _labels(path, found, "test_labels", len(test)) if classes else _none(test)
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
    path = Path(source.dir).expanduser()
    if not source.dir:
        raise SettingError("data.dir is empty: give the .npz file with the arrays, as in --config.data.dir=FILE.npz")
    if path.is_dir():
        files = sorted(p for p in path.glob("*.npz") if not p.name.startswith("."))
        if len(files) != 1:
            raise SettingError(
                f"data.dir={source.dir} holds {len(files)} .npz files; name one of them, or a folder of one"
            )
        return files[0]
    if not path.is_file():
        raise SettingError(f"data.dir={source.dir}: there is no such file or folder; give a .npz file")
    return path


def _read(path) -> dict[str, np.ndarray]:
    """The arrays of the file by our names."""
    wanted = f"wanted: images, and if there are any {', '.join(_KEYS[1:])}; or {', '.join(_KERAS)}"
    try:
        with open(path, "rb") as raw:
            file = np.load(raw, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise SettingError(f"{path} holds a single array; save it with np.savez(FILE, images=...)")
            names = {_KERAS.get(key, key): key for key in file.files}
            if "images" not in names or set(names) - set(_KEYS) or len(names) < len(file.files):
                raise SettingError(f"{path} has the keys {printable(', '.join(file.files))}; {wanted}")
            return {name: _member(path, file, key) for name, key in names.items()}
    except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise SettingError(f"{path} is not a .npz file that can be read ({printable(error)}); save it anew") from error


def _member(path, file, key):
    try:
        return file[key]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise SettingError(
            f"{path}: {key} holds Python objects; save plain numbers (np.asarray(..., dtype))"
        ) from error


def _images(path, found, key) -> np.ndarray:
    """uint8 [N, H, W, C]."""
    images = found[key]
    if images.dtype.kind == "f":
        raise SettingError(
            f"{path}: {key} are {images.dtype}; save uint8 in 0..255; where they are in 0..1: "
            "(255 * images).round().astype('uint8')"
        )
    if images.dtype != np.uint8:
        raise SettingError(f"{path}: {key} are {images.dtype}; save uint8 in 0..255")
    shape, images = images.shape, images[..., None] if images.ndim == 3 else images
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise SettingError(f"{path}: {key} have shape {shape}; wanted [N, H, W] or [N, H, W, C] with C 1 or 3")
    if 0 in images.shape:
        raise SettingError(f"{path}: {key} have shape {shape}; there is not one pixel")
    return images


def _none(images):
    return np.full(len(images), UNLABELLED, np.int32)


def _labels(path, found, key, count) -> np.ndarray:
    """int32 [count]; -1 throughout where the file has none."""
    labels = found.get(key, np.full(count, UNLABELLED))
    if labels.shape == (len(labels), 1) if labels.ndim else False:
        labels = labels[:, 0]
    if labels.dtype.kind not in "iu":
        raise SettingError(f"{path}: {key} are {labels.dtype}; save whole numbers from 0 on, -1 for unlabelled")
    if labels.shape != (count,):
        raise SettingError(f"{path}: {key} have shape {labels.shape}, and there are {count} images; give one for each")
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
    names = found["classes"]
    if names.ndim != 1 or names.dtype.kind != "U":
        raise SettingError(
            f"{path}: classes are {names.dtype} of shape {names.shape}; save strings, one for each class"
        )
    classes = tuple(names.tolist())
    _check_range(path, "labels", labels, classes)
    return classes


def _check_range(path, key, labels, classes):
    if labels.max() >= max(len(classes), 1):
        raise SettingError(f"{path}: {key} reach {labels.max()}, but there are {len(classes)} classes")
