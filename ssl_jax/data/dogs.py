"""Stanford Dogs (Khosla et al. 2011): 120 breeds."""

from pathlib import Path
from typing import Any

import numpy as np

from ssl_jax.data import listing
from ssl_jax.data.source import Dataset, Source
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

_LAYOUT = listing.Layout(
    "dogs",
    "train_list.mat and test_list.mat, directly or in lists/, and Images/<synset>-<breed>/",
)


def dogs(source: Source) -> Dataset:
    """Stanford Dogs below `data.dir`: the official split, 12,000 training and 8,580 test images.

    The lists are MATLAB's, with `file_list` [N, 1] ("n02085620-Chihuahua/n02085620_5927.jpg") and
    `labels` [N, 1] from 1. Classes are named by their folders, without the synset ("Chihuahua").

    Raises:
        SettingError: a missing list or picture, or a list in another form.
    """
    folder = _LAYOUT.folder(source)
    names = []
    labels = []
    counts = []
    for split in ("train", "test"):
        path = _LAYOUT.file(folder, f"{split}_list.mat", f"lists/{split}_list.mat")
        files, numbers = _entries(path)
        names += files
        labels += numbers
        counts.append(len(files))
    breeds = {}
    for name, label in zip(names, labels):
        breed = name.partition("/")[0]
        if breeds.setdefault(label, breed) != breed:
            raise SettingError(
                f"{printable(folder)}: the lists give {printable(breed)} and "
                f"{printable(breeds[label])} the same label; fetch them again"
            )
    order = {label: i for i, label in enumerate(sorted(breeds))}
    entries = listing.Listing(
        [f"Images/{name}" for name in names],
        np.array([order[label] for label in labels], np.int32),
        np.arange(len(names)) < counts[0],
        [breeds[label].partition("-")[2] or breeds[label] for label in order],
    )
    listing.check_labels(_LAYOUT, entries.labels, entries.train, entries.classes)
    return listing.dataset(source, folder, _LAYOUT, entries)


def _entries(path: Path) -> tuple[list[str], list[int]]:
    """Files and labels of a list."""
    from scipy.io import loadmat

    try:
        record = loadmat(path)
    except Exception as error:  # scipy raises all kinds for damaged files
        raise listing.unreadable(path, str(error)) from error
    try:
        files = [str(np.asarray(cell).item()) for cell in record["file_list"].ravel()]
        labels = [_whole(label) for label in record["labels"].ravel()]
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise SettingError(
            f"{printable(path)} has no file_list and labels in MATLAB's form ({error!r}); fetch it "
            "again"
        ) from error
    if len(files) != len(labels):
        raise SettingError(
            f"{printable(path)} has {len(files):,} files but {len(labels):,} labels; fetch it again"
        )
    return files, labels


def _whole(value: Any) -> int:
    """A label as a whole number; MATLAB's are often floating-point numbers."""
    number = int(value)
    if number != value:
        raise ValueError(f"label {value}")
    return number
