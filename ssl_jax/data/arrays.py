"""Images that are already arrays: a .npz file, or .npy files."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ssl_jax.data import array_forms, cache
from ssl_jax.data.array_contents import Contents, contents, title
from ssl_jax.data.array_files import IMAGES, Arrays, opened
from ssl_jax.data.array_forms import Form
from ssl_jax.data.decode import CorruptError, Work
from ssl_jax.data.source import Dataset, Images, Source, held_out, statistics
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

_FLAT = 0.001  # the least standard deviation of a channel, see `statistics`
_BRIGHT = 2  # a value above is not in 0..1, even with some slack
_DARK = 64  # uint8 images below this look nearly black
_SAMPLE = 100  # images that a given range is checked with
_MOST = 0.95  # of all values; a window on some tissue may leave out most
_SPOILT = "it holds values that are not finite"


def arrays(source: Source) -> Dataset:
    """The arrays of a .npz file, of .npy files in a folder, or of one .npy file of images.

    Keys: `images`; optionally `labels`, `test_images`, `test_labels`, `val_images`, `val_labels`
    and `classes` (strings [C]), or other words for these, such as Keras' and MedMNIST's. Images are
    [N, H, W], [N, H, W, C] or [N, C, H, W] (see `array_forms.is_channels_first`) of any real type;
    those other than uint8, or with `data.range`, are scaled to 0..255 (see
    `array_forms.limits_of`). Labels are whole numbers, text or one-hot. Labelled data without test
    images hold out `data.test_share`. Images keep their order.

    Names, types, shapes, sizes and labels are checked before any image is read. The arrays of a
    .npz file are held in memory. A .npy file is memory-mapped; if its images are not plain uint8,
    or a share is held out, they are converted once, into the cache.

    Raises:
        SettingError: no such file, or contents other than these.
    """
    with opened(source.dir, source.labelled) as file:
        data = contents(source, file)
        parts = (np.arange(file.headers[IMAGES].shape[0]), np.arange(0))
        if data.classes and not data.test:
            parts = held_out(data.labels[0], source.test_share)
        load = _mapped if file.files else _in_memory
        dataset = load(source, file, data, parts)
    if source.range and dataset.range and max(dataset.std) <= _FLAT:
        raise SettingError(
            f"{source.range_words}={dataset.range}: all values of {title(file, IMAGES)} lie on one "
            "side of it or close together, so no image would show anything; give data.range, the "
            "range of these values"
        )
    return dataclasses.replace(dataset, notes=(*data.notes, *dataset.notes))


def _in_memory(
    source: Source, file: Arrays, data: Contents, parts: Sequence[np.ndarray]
) -> Dataset:
    """The arrays of an archive."""
    stored = file.read(IMAGES)
    form, notes = _with_limits(source, file, data.form, stored, parts[0])
    images = _converted(file, IMAGES, stored, form)
    del stored
    labels, test_labels = data.labels
    if data.test:
        train = Images(images, labels)
        stored = file.read(data.test)
        _check_test(source, file, data.test, stored, form)
        test = Images(_converted(file, data.test, stored, form), test_labels)
    else:
        whole = not len(parts[1])
        train = Images(images if whole else images[parts[0]], labels[parts[0]])
        test = Images(images[parts[1]], labels[parts[1]])
    mean, std = statistics(images)
    names = functools.partial(_names, parts, data.test, len(test))
    return Dataset(
        train, test, data.classes, mean, std, notes=notes, range=form.limits, listed=names
    )


def _converted(file: Arrays, role: str, stored: np.ndarray, form: Form) -> np.ndarray:
    """Stored images as uint8 [N, H, W, C].

    Raises:
        SettingError: values that are not finite.
    """
    if form.plain:
        return form.selected(stored)
    rows = np.arange(len(stored))
    for block in array_forms.blocks(stored, rows):
        spoilt = array_forms.spoilt(stored[block])
        if spoilt.any():
            raise SettingError(
                f"{title(file, role)}[{block[spoilt][0]}] cannot be read ({_SPOILT}); replace them "
                "(np.nan_to_num), or remove the image"
            )
    return array_forms.converted(stored, form)


def _with_limits(
    source: Source, file: Arrays, form: Form, stored: np.ndarray, rows: np.ndarray
) -> tuple[Form, tuple[str, ...]]:
    """The form with the values that become 0 and 255, and a note on them.

    Args:
        source: the settings.
        file: holds the images.
        form: without limits.
        stored: all images of the role "images".
        rows: [R] of those to train on.
    """
    key = printable(file.keys[IMAGES])
    if stored.dtype == np.uint8:
        limits = _eight_bit_limits(source, form, stored, rows)
        if not limits:
            return form, () if source.range else _dark_note(key, form, stored, rows)
    else:
        limits = tuple(float(value) for value in source.range)
    why = source.range_words
    if limits:
        _check_range(source, limits, file, form, stored)
    else:
        low, high = _ends(source, file, form, stored, rows)
        limits = array_forms.limits_of(low, high)
        is_data = limits not in array_forms.KNOWN
        if is_data:
            source.check_range(f"{title(file, IMAGES)} are {stored.dtype}, {low:g} to {high:g}")
        why = "the training images' range; data.range sets it" if is_data else "data.range sets it"
    note = f"{key} are {stored.dtype}; {limits[0]:g} to {limits[1]:g} become black to white ({why})"
    return dataclasses.replace(form, limits=limits), (note,)


def _eight_bit_limits(
    source: Source, form: Form, stored: np.ndarray, rows: np.ndarray
) -> tuple[float, ...]:
    """The values of uint8 images that become 0 and 255; empty if they stay as they are.

    They follow `data.range`. The range of a run may be that of other types: they follow it only if
    their values could have it, not from 0..1 or of 16 bits where these reach 255.
    """
    limits = tuple(float(value) for value in source.range)
    if not limits or limits == array_forms.KNOWN[1]:
        return ()
    if source.of_run:
        most = 2 * limits[1]
        if limits[1] > np.iinfo(np.uint8).max or array_forms.peak(stored, rows, form, most) > most:
            return ()
    return limits


def _dark_note(key: str, form: Form, stored: np.ndarray, rows: np.ndarray) -> tuple[str, ...]:
    """A note on uint8 images that use few of their values, such as masks of 0 and 1."""
    largest = array_forms.peak(stored, rows, form, _DARK)
    if not 0 < largest < _DARK:  # no range would show anything in zeros
        return ()
    return (
        f"{key} are uint8 with no value above {largest:g}, so nearly black; "
        f"data.range=0,{largest:g} makes the largest white",
    )


def _check_range(
    source: Source, limits: tuple[float, ...], file: Arrays, form: Form, stored: np.ndarray
) -> None:
    """Rejects a given range beyond which nearly all values lie, such as that of another run."""
    rows = np.unique(np.linspace(0, len(stored) - 1, min(len(stored), _SAMPLE)).astype(int))
    values = form.selected(stored[rows])
    share = np.mean((values < limits[0]) | (values > limits[1]))
    if share > _MOST:
        raise SettingError(
            f"{source.range_words}={limits}: {share:.0%} of the values of {title(file, IMAGES)} "
            "lie outside of it, so images would be black or white; give data.range, the range of "
            "these values"
        )


def _check_test(source: Source, file: Arrays, role: str, stored: np.ndarray, form: Form) -> None:
    """Rejects test images in 0..255 beside training images in 0..1, and the reverse.

    Args:
        source: the settings; with `data.range` nothing is checked.
        file: holds the images.
        role: of the test images.
        stored: these.
        form: of the training images.
    """
    if source.range or form.limits not in array_forms.KNOWN:
        return
    low, high = array_forms.ends(stored, np.arange(len(stored)), form)
    if (high > _BRIGHT) != (form.limits[1] > _BRIGHT):
        raise SettingError(
            f"{title(file, role)} run from {low:g} to {high:g}, but {printable(file.keys[IMAGES])} "
            f"are in {form.limits[0]:g}..{form.limits[1]:g}; save both with the same range, or set "
            "data.range"
        )


def _ends(
    source: Source, file: Arrays, form: Form, stored: np.ndarray, rows: np.ndarray
) -> tuple[float, float]:
    """Smallest and largest value of the training images; kept in the cache for .npy files."""
    if stored.dtype == np.bool_:
        return 0.0, 1.0
    if not file.files:
        return array_forms.ends(stored, rows, form)
    doing = f"looking for the range of {len(rows):,} images of {file.path}"

    def ends() -> np.ndarray:
        with cache.progress(1, doing):
            return np.array(array_forms.ends(stored, rows, form)).view(np.int32)

    facts = [_stamps(file, [IMAGES]), len(rows), source.test_share, dataclasses.asdict(form)]
    low, high = cache.kept(source, "ranges", facts, ends, doing, 4).view(np.float64).tolist()
    return low, high


def _mapped(source: Source, file: Arrays, data: Contents, parts: Sequence[np.ndarray]) -> Dataset:
    """.npy files: in place if they are plain, else converted in the cache."""
    roles = [IMAGES, data.test] if data.test else [IMAGES]
    stored = [file.read(role) for role in roles]
    form, notes = _with_limits(source, file, data.form, stored[0], parts[0])
    test_count = len(stored[1]) if data.test else 0
    if data.test:
        _check_test(source, file, data.test, stored[1], form)
    names = functools.partial(_names, parts, data.test, test_count)
    in_order = not any(file.headers[role].fortran for role in roles)
    if form.plain and in_order and not len(parts[1]):
        maps = [images.reshape(len(images), *data.shape) for images in stored]
        train = Images(maps[0], data.labels[0])
        test = Images(maps[1] if data.test else maps[0][:0], data.labels[1])
        mean, std = statistics(maps[0])
        return Dataset(train, test, data.classes, mean, std, notes=notes, listed=names)
    rows = [(0, row) for part in parts for row in part.tolist()]
    rows += [(1, row) for row in range(test_count)]
    labels = np.concatenate([data.labels[0][np.concatenate(parts)], data.labels[1]])
    train_count = len(parts[0])

    def read(i: int) -> np.ndarray:
        which, row = rows[i]
        image = stored[which][row : row + 1]
        if array_forms.spoilt(image).any():
            raise CorruptError(_SPOILT)
        return form(image)[0]

    def work() -> Work:
        return Work(names(), labels, train_count, data.shape, read, data.classes)

    facts = [
        _stamps(file, roles),
        labels.tolist(),
        [len(part) for part in parts],
        parts[1].tolist(),
        data.classes,
        dataclasses.asdict(form),
    ]
    dataset = cache.dataset(source, "arrays", facts, str(file.path), work)
    return dataclasses.replace(dataset, notes=(*notes, *dataset.notes), range=form.limits)


def _stamps(file: Arrays, roles: Iterable[str]) -> list[Any]:
    """What changes when the files of some arrays change."""
    stamps = []
    for role in roles:
        status = file.files[role].stat()
        stamps.append([role, str(file.files[role]), status.st_size, status.st_mtime_ns])
    return stamps


def _names(parts: Iterable[Iterable[int]], test: str, test_count: int) -> list[str]:
    names = [f"images[{i}]" for rows in parts for i in rows]
    return names + [f"{test}[{i}]" for i in range(test_count) if test]
