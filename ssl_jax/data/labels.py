"""Labels as people write them, numbers or text, as class numbers and class names."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ssl_jax.data.errors import LabelError
from ssl_jax.data.source import UNLABELLED
from ssl_jax.settings.text import printable

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_WHOLE = re.compile(r"[+-]?\d{1,18}(\.0*)?")
_SHOWN = 3  # names in a message


def of_numbers(values: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Classes are the numbers that occur, named by them.

    Args:
        values: [N] integers; -1: unlabelled.

    Returns:
        labels int32 [N], and the class names in ascending order.
    """
    occurring = np.unique(values[values != UNLABELLED])
    labels = np.searchsorted(occurring, values)
    labels = np.where(values == UNLABELLED, UNLABELLED, labels).astype(np.int32)
    return labels, tuple(str(value) for value in occurring.tolist())


def of_texts(texts: Sequence[str], where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Classes are the texts that occur, sorted; whole numbers are sorted and named as numbers.

    Args:
        texts: [N]; empty, or -1 among whole numbers: unlabelled.
        where: what holds them, for messages.

    Returns:
        labels int32 [N], and the class names.

    Raises:
        LabelError: all are numbers, but not whole ones.
    """
    texts = ["" if not text.strip() else text for text in texts]
    classes = sorted(set(texts) - {""})
    if classes and all(_WHOLE.fullmatch(text.strip()) for text in classes):
        # A column of integers with gaps becomes "1.0" in pandas.
        numbers = {text: int(text.strip().partition(".")[0]) for text in classes}
        numbers[""] = UNLABELLED
        return of_numbers(np.array([numbers[text] for text in texts], np.int64))
    fraction = next((text for text in classes if not _WHOLE.fullmatch(text.strip())), "")
    if fraction and all(_NUMBER.fullmatch(text.strip()) for text in classes):
        raise not_whole(where, fraction)
    numbers = {text: i for i, text in enumerate(classes)}
    numbers[""] = UNLABELLED
    return np.array([numbers[text] for text in texts], np.int32), tuple(classes)


def text(value: Any) -> str:
    """A cell of a table as text; "" for missing values."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip()
    return str(value).strip()


def not_whole(where: str, value: object) -> LabelError:
    """The error for labels that are measurements, not classes."""
    return LabelError(
        f"{where} hold numbers such as {value}, which are no classes; save a name or a whole "
        "number per image, or set data.labels=none to train without labels"
    )


def check_trained(train: np.ndarray, test: np.ndarray, classes: Sequence[str], where: str) -> None:
    """Rejects classes that only test images have.

    Args:
        train, test: labels [N] and [M]; -1: unlabelled.
        classes: class names.
        where: the data set, for the message.

    Raises:
        LabelError: names them.
    """
    only_test = np.setdiff1d(test[test != UNLABELLED], train)
    if len(only_test):
        names = listed(f"{classes[i]!r}" for i in only_test.tolist())
        raise LabelError(
            f"{where}: test images have the label {names}, but no training image has; give such "
            "training images, leave these test images out, or set data.labels=none"
        )


def listed(names: Iterable[str]) -> str:
    """A few of the names, and how many more there are."""
    names = list(names)
    shown = printable(", ".join(names[:_SHOWN]))
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN:,} more"
