"""The forms that arrays of labels have: numbers, text, one-hot."""

from collections.abc import Sequence

import numpy as np

from ssl_jax.data import labels
from ssl_jax.data.errors import LabelError
from ssl_jax.data.npy import Header
from ssl_jax.data.source import UNLABELLED

_LARGEST = 2**62


def check(where: str, header: Header, count: int) -> None:
    """Rejects arrays by type and shape.

    Args:
        where: file and key, for messages.
        header: of the array.
        count: number of images.
    """
    shape = header.shape
    if header.dtype.kind not in "biufUS":
        raise LabelError(
            f"{where} are {header.dtype}; save whole numbers or names, or set data.labels=none"
        )
    if not (shape[:1] == (count,) and (len(shape) == 1 or len(shape) == 2 and shape[1])):
        raise LabelError(f"{where} have shape {shape} for {count} images; save one per image")


def check_names(where: str, header: Header) -> None:
    """Rejects arrays of class names by type and shape."""
    if len(header.shape) != 1 or header.dtype.kind not in "US":
        raise LabelError(
            f"{where} are {header.dtype} of shape {header.shape}; save one string per class"
        )


def names(where: str, array: np.ndarray) -> tuple[str, ...]:
    """Class names [C] as strings; raises LabelError for broken text."""
    return tuple(_texts(where, array).tolist())


def have_gaps(classes: Sequence[str]) -> bool:
    """Whether classes are named by numbers other than 0, 1, ..."""
    numbered = all(name.isdecimal() for name in classes)
    return numbered and list(classes) != [str(i) for i in range(len(classes))]


def values(where: str, array: np.ndarray) -> tuple[np.ndarray, str]:
    """One label per image, whatever the form.

    Args:
        where: file and key, for messages.
        array: [N], [N, 1] or one-hot [N, C].

    Returns:
        int64 [N] with -1 for unlabelled, or text [N] with "" for unlabelled; and a sentence for the
        user, which may be empty.

    Raises:
        LabelError: several classes per image, numbers that are no classes, or broken text.
    """
    if array.ndim == 2 and array.shape[1] > 1:
        return _one_hot(where, array), f"{where} have shape {array.shape}, read as one-hot"
    array = np.asarray(array).reshape(len(array))
    if array.dtype.kind in "US":
        return _texts(where, array), ""
    if array.dtype.kind == "f":
        known = ~np.isnan(array)
        whole = np.where(known, array, UNLABELLED)
        wrong = whole[(whole != np.floor(whole)) | (np.abs(whole) > _LARGEST)]
        if wrong.size:
            raise labels.not_whole(where, wrong[0])
        array = whole
    if array.size and (array.min() < UNLABELLED or array.max() > _LARGEST):
        raise LabelError(
            f"{where} run from {array.min()} to {array.max()}; number the classes from 0 up"
        )
    return array.astype(np.int64), ""


def _one_hot(where: str, array: np.ndarray) -> np.ndarray:
    numbers = array.dtype.kind in "biuf"
    if not numbers or not (((array == 0) | (array == 1)).all() and (array.sum(1) == 1).all()):
        raise LabelError(
            f"{where} have shape {array.shape} and are not one-hot; save one class per image, or "
            "set data.labels=none to train without labels"
        )
    return array.argmax(1).astype(np.int64)


def _texts(where: str, array: np.ndarray) -> np.ndarray:
    try:
        if array.dtype.kind == "S":
            array = np.char.decode(array, "utf-8")
        return np.array([text.strip() for text in array.tolist()], dtype=np.str_)
    except (ValueError, SystemError) as error:  # SystemError: numpy, for the largest code points
        raise LabelError(f"{where} hold invalid Unicode; save strings") from error


def numbered(
    where: str, train: np.ndarray, test: np.ndarray, names: tuple[str, ...] | None
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Class numbers of training and test images, and the class names.

    Args:
        where: the file, for messages.
        train, test: [N] and [M], as `values` gives them.
        names: of the classes 0, 1, ...; None: classes are the labels that occur.

    Returns:
        labels int32 [N] and [M], and the class names; empty if no training image has a label.

    Raises:
        LabelError: labels without a name, or that only test images have.
    """
    texts = [part for part in (train, test) if part.dtype.kind == "U" and len(part)]
    if texts and any(part.dtype.kind != "U" for part in (train, test) if len(part)):
        raise LabelError(
            f"{where}: labels of training and test images must both be numbers or both be text"
        )
    if names is not None:
        train, test = (_by_name(where, part, names) for part in (train, test))
        return train, test, names if (train != UNLABELLED).any() else ()
    if texts:
        both, classes = labels.of_texts([*train.tolist(), *test.tolist()], f"{where}: labels")
    else:
        both, classes = labels.of_numbers(np.concatenate([train, test]))
    train, test = np.split(both, [len(train)])
    if not (train != UNLABELLED).any():
        return train, np.full(len(test), UNLABELLED, np.int32), ()
    labels.check_trained(train, test, classes, where)
    return train, test, classes


def _by_name(where: str, part: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """Labels int32 [N] of class numbers, or of text that is among the names."""
    if part.dtype.kind == "U":
        numbers = {name: i for i, name in enumerate(names)} | {"": UNLABELLED}
        unknown = sorted(set(part.tolist()) - set(numbers))
        if unknown:
            raise LabelError(
                f"{where}: the labels {labels.listed(unknown)} are not among classes; save the "
                "class names that they use"
            )
        return np.array([numbers[text] for text in part.tolist()], np.int32)
    if part.size and part.max() >= max(len(names), 1):
        raise LabelError(
            f"{where}: labels reach {part.max()}, but there are {len(names)} classes; number the "
            "classes from 0 up"
        )
    return part.astype(np.int32)
