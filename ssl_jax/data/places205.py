"""Places205 (Zhou et al. 2014): scenes, with lists of paths and labels."""

import os
from pathlib import Path

import numpy as np

from ssl_jax.data import listing
from ssl_jax.data.source import Dataset, Source
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

_LAYOUT = listing.Layout(
    "places205",
    "train_places205.csv and val_places205.csv (or .txt), lines of a path and a label, directly or "
    "in trainvalsplit_places205/, and the pictures in images256/, images/, DIR itself or "
    "data/vision/torralba/deeplearning/images256/",
)
# Where the pictures are: as the archive unpacks, or moved up.
_IMAGES = (
    "images256",
    "data/vision/torralba/deeplearning/images256",
    "images",
    "",
)
_TRIED = 1000  # pictures that are looked for in each of these
_LISTS = "trainvalsplit_places205"
_CLASSES = "categoryIndex_places205.csv"


def places205(source: Source) -> Dataset:
    """Places205 below `data.dir`: train on its training list, test on its validation list.

    Lines are "a/abbey/NAME.jpg 0", or with a comma. Names of classes come from
    categoryIndex_places205.csv ("/a/abbey 0") if it is there, else from the folders of the
    pictures; "/a/" is left out of them. The folders are those that other libraries read, too; the
    name of the file of classes is from memory.

    Raises:
        SettingError: a missing list or picture, or a line that cannot be read.
    """
    folder = _LAYOUT.folder(source)
    parts = [_entries(folder, split) for split in ("train", "val")]
    names = [name for part in parts for name, _ in part]
    labels = np.array([label for part in parts for _, label in part], np.int32)
    train = np.arange(len(names)) < len(parts[0])
    classes = _classes(folder, names, labels)
    listing.check_labels(_LAYOUT, labels, train, classes)
    root = _root(folder, names)
    return listing.dataset(source, root, _LAYOUT, listing.Listing(names, labels, train, classes))


def _entries(folder: Path, split: str) -> list[tuple[str, int]]:
    """(path, label) of each picture of a list."""
    stem = f"{split}_places205"
    names = [f"{place}{stem}{end}" for place in ("", f"{_LISTS}/") for end in (".csv", ".txt")]
    path = _LAYOUT.file(folder, *names)
    entries = []
    for number, line in listing.lines(path):
        name, label = listing.with_number(path, number, line, ",")
        entries.append((name.lstrip("/"), label))
    if not entries:
        raise listing.empty(path)
    return entries


def _root(folder: Path, names: list[str]) -> Path:
    """The folder below which the first picture is, or one of those after it."""
    for name in names[:_TRIED]:
        for place in _IMAGES:
            if os.path.isfile(folder / place / name):
                return folder / place
    raise _LAYOUT.error(
        f"{printable(folder / _IMAGES[0] / names[0])}, the first picture of the list, is missing"
    )


def _classes(folder: Path, names: list[str], labels: np.ndarray) -> list[str]:
    """Names of the classes 0, 1, ..., without their first letter: "abbey"."""
    of_label: dict[int, str] = {}
    for place in (folder, folder / _LISTS):
        path = place / _CLASSES
        if path.is_file():
            for number, line in listing.lines(path):
                name, label = listing.with_number(path, number, line, ",")
                of_label[label] = name
            if not of_label:
                raise listing.empty(path)
            break
    else:
        for name, label in zip(names, labels.tolist()):
            of_label.setdefault(label, name.rpartition("/")[0])
    if sorted(of_label) != list(range(len(of_label))):
        raise SettingError(
            f"the labels of {printable(folder)} are not 0, 1, ... without a gap; fetch the lists "
            "again"
        )
    return [_plain(of_label[label], label) for label in range(len(of_label))]


def _plain(name: str, label: int) -> str:
    """ "/a/abbey" as "abbey"; the number of a class without a name."""
    parts = [part for part in name.split("/") if part]
    if len(parts) > 1 and len(parts[0]) == 1:
        parts = parts[1:]
    return "/".join(parts) or str(label)
