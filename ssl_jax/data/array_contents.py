"""What a file of arrays holds: forms of images and labels, checked before images are read."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ssl_jax.data import array_forms, array_labels, splits
from ssl_jax.data.array_files import CLASSES, IMAGES, LABELS, Arrays
from ssl_jax.data.array_forms import Form
from ssl_jax.data.source import UNLABELLED, Source
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import counted, printable

_PREFIXES = {splits.VALIDATION: "val_", splits.TEST: "test_"}


@dataclasses.dataclass(frozen=True)
class Contents:
    """Images and labels of a file of arrays.

    Attributes:
        shape: (H, W, C) of the images that are read.
        form: how stored images become these, without its limits.
        test: role of the test images; "" if there are none.
        labels: int32 [N] of "images" and int32 [M] of the test images; -1: unlabelled.
        classes: class names.
        notes: sentences for the user.
    """

    shape: tuple[int, int, int]
    form: Form
    test: str
    labels: tuple[np.ndarray, np.ndarray]
    classes: tuple[str, ...]
    notes: tuple[str, ...]


def contents(source: Source, file: Arrays) -> Contents:
    """The contents of `file`; reads headers and labels only.

    Raises:
        SettingError: images or labels that cannot be used.
    """
    shape, form, notes = _form(source, file)
    test, test_notes = _test_role(file)
    counts = [file.headers[role].shape[0] if role else 0 for role in (IMAGES, test)]
    train_labels, test_labels, classes, label_notes = _labels(file, test, counts)
    notes = (*notes, *test_notes, *label_notes)
    return Contents(
        shape=shape,
        form=form,
        test=test,
        labels=(train_labels, test_labels),
        classes=classes,
        notes=tuple(printable(note) for note in notes),
    )


def title(file: Arrays, role: str) -> str:
    """The file and its name of an array, for messages."""
    return printable(f"{file.path}: {file.keys[role]}")


def _form(source: Source, file: Arrays) -> tuple[tuple[int, int, int], Form, list[str]]:
    """The shape of the images that are read, how they are stored, and notes."""
    roles = [role for role in file.headers if role.endswith(IMAGES)]
    for role in roles:
        _check_images(file, role)
    for role in roles:
        _check_alike(file, role)
    stored = file.headers[IMAGES].shape
    height, width, channels = array_forms.shape_of(stored)
    if not array_forms.bands_fit(channels, source.bands):
        raise SettingError(
            f"data.bands={source.bands}: {title(file, IMAGES)} have "
            f"{counted(channels, 'channel')}; 0 reads all"
        )
    read = source.bands or channels
    source.check_channels(read)
    channels_first = array_forms.is_channels_first(stored)
    form = Form(channels_first, 0 if read == channels else read)
    notes = []
    if channels_first or channels not in (1, 3):
        axes = "[N, C, H, W]" if channels_first else "[N, H, W, C]"
        notes.append(f"{file.keys[IMAGES]} have shape {stored}, read as {axes}")
    return (height, width, read), form, notes


def _check_images(file: Arrays, role: str) -> None:
    """Rejects images by type and shape."""
    dtype = file.headers[role].dtype
    shape = file.headers[role].shape
    if dtype.kind not in "biuf":
        raise SettingError(f"{title(file, role)} are {dtype}; save numbers, such as uint8")
    if array_forms.is_picture(shape):
        raise SettingError(
            f"{title(file, role)} have shape {shape}, which is a single picture; save "
            "[N, H, W, C], or grey pictures as [N, H, W]"
        )
    if len(shape) not in (3, 4):
        raise SettingError(
            f"{title(file, role)} have shape {shape}; save [N, H, W], [N, H, W, C] or [N, C, H, W]"
        )
    if 0 in shape:
        raise SettingError(
            f"{title(file, role)} have shape {shape}, so no pixels; save some images"
        )


def _check_alike(file: Arrays, role: str) -> None:
    """Rejects images of another shape or kind of number than the training images."""
    header = file.headers[role]
    training = file.headers[IMAGES]
    key = file.keys[role]
    if header.shape[1:] != training.shape[1:]:
        raise SettingError(
            f"{title(file, IMAGES)} are {training.shape[1:]} but {key} are {header.shape[1:]}; "
            "give both the same shape"
        )
    plain = [one.dtype == np.uint8 for one in (header, training)]
    if header.dtype.kind != training.dtype.kind or plain[0] != plain[1]:
        raise SettingError(
            f"{title(file, IMAGES)} are {training.dtype} but {key} are {header.dtype}; save both "
            "with the same type and range"
        )


def _test_role(file: Arrays) -> tuple[str, list[str]]:
    """The role of the images to score on, and a note on those that are left out."""
    available = {
        split: f"{prefix}{LABELS}" in file.headers
        for split, prefix in _PREFIXES.items()
        if f"{prefix}{IMAGES}" in file.headers
    }
    chosen = splits.tested(available)
    if not chosen:
        return "", []
    test = f"{_PREFIXES[chosen]}{IMAGES}"
    notes = []
    for split in available:
        role = f"{_PREFIXES[split]}{IMAGES}"
        if role != test:
            count = file.headers[role].shape[0]
            notes.append(
                f"{file.keys[role]}, {counted(count, 'image')}, are left out; scores are on "
                f"{file.keys[test]}"
            )
    return test, notes


def _labels(
    file: Arrays, test: str, counts: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...], list[str]]:
    """Labels of training and test images, class names, and notes."""
    of_images = [_role_of_labels(file, images) for images in (IMAGES, test)]
    for role, count in zip(of_images, counts):
        if role:
            array_labels.check(title(file, role), file.headers[role], count)
    if CLASSES in file.headers:
        array_labels.check_names(title(file, CLASSES), file.headers[CLASSES])
    none = tuple(np.full(count, UNLABELLED, np.int32) for count in counts)
    if not of_images[0]:
        return *none, (), []
    notes = []
    parts = []
    for role, count in zip(of_images, counts):
        if role:
            values, note = array_labels.values(title(file, role), file.read(role))
            notes += [note] if note else []
        else:
            values = np.full(count, "" if parts[0].dtype.kind == "U" else UNLABELLED)
        parts.append(values)
    names = None
    if CLASSES in file.headers:
        names = array_labels.names(title(file, CLASSES), file.read(CLASSES))
    train, held, classes = array_labels.numbered(str(file.path), parts[0], parts[1], names)
    if not classes:
        return *none, (), notes
    if names is None and array_labels.have_gaps(classes):
        notes.append(
            f"{file.keys[of_images[0]]} are {len(classes):,} numbers from {classes[0]} to "
            f"{classes[-1]}, which name the classes"
        )
    return train, held, classes, notes


def _role_of_labels(file: Arrays, images: str) -> str:
    """The role of the labels of some images; "" if they have none."""
    role = f"{images.removesuffix(IMAGES)}{LABELS}"
    return role if images and role in file.headers else ""
