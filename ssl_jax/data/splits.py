"""Splits of a data set: how people name them, and which of their images train and test."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from ssl_jax.data.labels import check_trained
from ssl_jax.data.source import UNLABELLED, Source, check_classes, held_out
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import counted

TRAIN = "train"
VALIDATION = "validation"
TEST = "test"
WITHOUT_LABELS = "unlabelled"  # training images
NAMES = {  # in lower case
    TRAIN: ("train", "training"),
    VALIDATION: ("val", "valid", "validation"),
    TEST: ("test", "testing"),
    WITHOUT_LABELS: ("unlabelled", "unlabeled", "unsup", "unsupervised"),
}
_SPLITS = {name: split for split, names in NAMES.items() for name in names}


def split_of(name: str) -> str:
    """The split that `name` stands for, without case; "" if none."""
    return _SPLITS.get(name.strip().lower(), "")


def without_labels(splits: Sequence[str], texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """The splits [N] and labels [N], where images of WITHOUT_LABELS train and have no label."""
    blank = ["" if split == WITHOUT_LABELS else text for split, text in zip(splits, texts)]
    return [TRAIN if split == WITHOUT_LABELS else split for split in splits], blank


def with_training(splits: Sequence[str], what: str) -> tuple[list[str], list[str]]:
    """The splits [N], where a split that is the only one trains; and a note on that.

    Args:
        splits: of each image.
        what: the data, for the note.
    """
    single = set(splits)
    if len(single) != 1 or single <= {TRAIN, WITHOUT_LABELS}:
        return list(splits), []
    note = f"{what} has only a {single.pop()} split, which takes the place of the training split"
    return [TRAIN] * len(splits), [note]


def tested(labelled: Mapping[str, bool]) -> str:
    """The split to score on: the test split, unless only the validation split has labels.

    Args:
        labelled: for the splits that there are, whether any of their images has a label.

    Returns:
        TEST, VALIDATION, or "" if there is neither.
    """
    if TEST in labelled and (labelled[TEST] or not labelled.get(VALIDATION)):
        return TEST
    return VALIDATION if VALIDATION in labelled else ""


@dataclasses.dataclass(frozen=True)
class Parts:
    """Rows of the images to train and to test on, in their order; and sentences for the user."""

    train: np.ndarray
    test: np.ndarray
    notes: tuple[str, ...]

    @property
    def rows(self) -> np.ndarray:
        """All rows, training rows first."""
        return np.concatenate([self.train, self.test])


def divided(
    source: Source,
    splits: Sequence[str],
    labels: np.ndarray,
    classes: Sequence[str],
    where: str,
) -> Parts:
    """Which of N images train and which test.

    Without test images, `data.test_share` of each class is held out. Training images are in a fixed
    random order, so the first `data.limit` are a fair sample. Of two splits that could test, one
    is left out, with a note.

    Args:
        source: the settings.
        splits: [N] TRAIN, VALIDATION or TEST.
        labels: int32 [N]; -1: unlabelled.
        classes: class names.
        where: the data set, for messages.

    Raises:
        SettingError: no training images, only one class, or a class that only test images have.
    """
    names = np.asarray(splits, dtype="U10")
    rows = {name: np.flatnonzero(names == name) for name in (TRAIN, VALIDATION, TEST)}
    train = rows[TRAIN]
    if not len(train):
        raise SettingError(f"{where} has no training images, only {len(names):,} in other splits")
    which = tested(
        {
            name: bool((labels[rows[name]] != UNLABELLED).any())
            for name in (VALIDATION, TEST)
            if len(rows[name])
        }
    )
    test = rows.get(which, train[:0])
    notes = ()
    if which:
        other = TEST if which == VALIDATION else VALIDATION
        notes = tuple(left_out(other, len(rows[other]), which))
    if classes:
        check_classes(labels[train], classes, where)
        check_trained(labels[train], labels[test], classes, where)
        if not which:
            kept, test = held_out(labels[train], source.test_share)
            test = train[test]
            train = train[kept]
    shuffled = np.random.default_rng(0).permutation(train)
    return Parts(shuffled, test, notes)


def left_out(split: str, count: int, other: str) -> list[str]:
    """A note on the `count` images of a split that neither trains nor tests, if there are any."""
    if not count:
        return []
    images = counted(count, "image")
    return [f"the {split} split, {images}, is left out; scores are on the {other} split"]
