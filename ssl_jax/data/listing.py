"""Pictures that the files of a published data set list, read as all other pictures are.

Each data set has a file of its own that reads its lists: `places205`, `voc07`, `inat18`, `cub200`
and `dogs`.
"""

import dataclasses
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ssl_jax.data import disk_files, pictures, streaming
from ssl_jax.data.source import UNLABELLED, Dataset, Images, Source
from ssl_jax.settings.paths import user_path
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import counted, printable

_KIND = "listings"  # subfolder of the cache
_DIGITS = 9  # of a label, at most


@dataclasses.dataclass(frozen=True)
class Listing:
    """N pictures of a published data set, in the order of its files.

    Attributes:
        names: [N] different files, by their paths below the root.
        labels: int32 [N]; -1: unlabelled.
        train: bool [N], whether to train on them.
        classes: C class names.
        targets: int8 [N, C], of images that may show several classes; see `source.Images`.
    """

    names: Sequence[str]
    labels: np.ndarray
    train: np.ndarray
    classes: Sequence[str]
    targets: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the folder of a data set looks, for messages.

    Attributes:
        name: of the data set, as `data.name` gives it.
        text: what the folder holds: "DIR/images.txt, DIR/images/...".
    """

    name: str
    text: str

    def folder(self, source: Source) -> Path:
        """The folder `data.dir`.

        Raises:
            SettingError: there is none.
        """
        if not source.dir:
            raise SettingError(
                f"data.dir is empty: {self.name} needs a folder DIR with {self.text}"
            )
        folder = user_path(source.dir, "data.dir")
        if not folder.is_dir():
            raise self.error(f"data.dir={printable(source.dir)} is not a folder")
        return folder

    def file(self, folder: Path, *names: str) -> Path:
        """The first of the files `names` below `folder` that exists.

        Raises:
            SettingError: none does.
        """
        for name in names:
            if (folder / name).is_file():
                return folder / name
        others = f" (nor {', '.join(names[1:])})" if len(names) > 1 else ""
        raise self.error(f"{printable(folder / names[0])} is missing{others}")

    def error(self, message: str) -> SettingError:
        """An error that also says how the folder should look."""
        return SettingError(f"{message}; {self.name} needs a folder DIR with {self.text}")


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of a text file that are not blank, with their numbers from 1.

    Raises:
        SettingError: a file that cannot be read, or is not text.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise unreadable(path, str(reason)) from error
    for number, line in enumerate(re.split("\r\n|\r|\n", text), 1):
        if line.strip():
            yield number, line.strip()


def unreadable(path: Path, reason: str) -> SettingError:
    """The error for a file of the data set that is damaged."""
    return SettingError(f"{printable(path)} cannot be read ({printable(reason)}); fetch it again")


def empty(path: Path) -> SettingError:
    """The error for a list without entries."""
    return SettingError(f"{printable(path)} is empty; fetch it again")


def with_number(path: Path, number: int, line: str, separator: str = "") -> tuple[str, int]:
    """What stands before the last column of a line, and the whole number in that column.

    Args:
        path: the file, for the message.
        number: of the line, for the message.
        line: "NAME NUMBER".
        separator: another separator than white space, if the line has it.

    Raises:
        SettingError: another line.
    """
    parts = line.rsplit(separator if separator and separator in line else None, 1)
    try:
        name, value = parts
        if len(value) > _DIGITS:
            raise ValueError(value)
        return name.strip(), int(value)
    except ValueError as error:
        raise SettingError(
            f"{printable(path)}, line {number}: {printable(line)!r}; expected a name and a whole "
            "number"
        ) from error


def dataset(source: Source, root: Path, layout: Layout, listing: Listing) -> Dataset:
    """The listed pictures as squares [size, size, C]; see `pictures.dataset`.

    Training images are in a fixed random order, so the first `data.limit` are a fair sample; test
    images are in the order of the listing.

    Args:
        source: the settings.
        root: the folder that the names of the listing start from.
        layout: for messages.
        listing: the pictures.

    Raises:
        SettingError: no training or test images, a picture with two labels or in both splits, a
            path that leads out of the root, a file that does not exist (unless
            `data.skip_corrupt`), or one that cannot be decoded.
    """
    _check_names(listing, layout)
    train = np.flatnonzero(listing.train)
    test = np.flatnonzero(~listing.train)
    if not len(train) or not len(test):
        part = "test" if len(train) else "training"
        raise layout.error(f"the lists in {printable(source.dir)} name no {part} images")
    order = np.concatenate([np.random.default_rng(0).permutation(train), test])
    names = streaming.Names(listing.names[i] for i in order)
    stamps = disk_files.stamps(root, names)
    if not source.skip_corrupt:
        _check_present(root, names, stamps(range(len(names))), layout)
    files = pictures.Pictures(
        names=names,
        labels=listing.labels[order],
        train=len(train),
        classes=tuple(listing.classes),
        origin=str(root),
        contents=disk_files.FilesBelow(root, names),
        stamps=stamps,
    )
    data = pictures.dataset(source, _KIND, files)
    return data if listing.targets is None else _with_targets(data, listing)


def check_labels(
    layout: Layout, labels: np.ndarray, train: np.ndarray, classes: Sequence[str]
) -> None:
    """Checks that all labels have a class, and all classes training images.

    Args:
        layout: for messages.
        labels: [N] int, numbers of classes.
        train: bool [N], whether images are trained on.
        classes: names.

    Raises:
        SettingError: a label beyond the classes, or a class that only test images have.
    """
    wrong = labels[(labels < 0) | (labels >= len(classes))]
    if len(wrong):
        raise layout.error(f"an image has the class {wrong[0]} of {len(classes):,} classes")
    only_test = np.setdiff1d(labels[~train], labels[train])
    if len(only_test):
        name = printable(classes[only_test[0]])
        raise layout.error(f"test images have the class {name!r}, but no training image has")


def _check_names(listing: Listing, layout: Layout) -> None:
    """Checks that all names are paths below the root, and that nothing is listed in two ways."""
    for name in listing.names:
        if not _is_below(name):
            raise layout.error(f"the lists name {printable(name)!r}, which is no path below DIR")
    if len(set(listing.names)) == len(listing.names):
        return
    entries: dict[str, tuple[int, bool]] = {}
    for name, label, train in zip(listing.names, listing.labels.tolist(), listing.train.tolist()):
        first_label, first_train = entries.setdefault(name, (label, train))
        if train != first_train:
            raise layout.error(f"the lists name {printable(name)} for training and for testing")
        if label != first_label:
            raise layout.error(f"the lists give {printable(name)} two labels")


def _is_below(name: str) -> bool:
    """Whether a name is a path of a file that does not lead out of its folder."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return bool(name) and name[0] != "/" and "\0" not in name and ".." not in name.split("/")


def _check_present(
    root: Path, names: Sequence[str], stamps: Sequence[object], layout: Layout
) -> None:
    missing = [i for i, stamp in enumerate(stamps) if stamp is None]
    if not missing:
        return
    first = printable(os.path.join(root, names[missing[0]]))
    if len(missing) == len(names):
        raise layout.error(f"{first} is missing, as all listed pictures are")
    others = f", and so are {len(missing) - 1:,} more" if len(missing) > 1 else ""
    raise layout.error(
        f"{first} is missing{others} of {counted(len(names), 'listed picture')}; "
        "data.skip_corrupt=True skips what is missing"
    )


def _with_targets(data: Dataset, listing: Listing) -> Dataset:
    """`data` with the targets of its images, from which unreadable ones are gone."""
    rows = {name: i for i, name in enumerate(listing.names)}
    assert data.listed is not None
    assert listing.targets is not None
    targets = listing.targets[[rows[name] for name in data.listed()]]
    count = len(data.train)
    return dataclasses.replace(
        data,
        train=_multi_label(data.train, targets[:count]),
        test=_multi_label(data.test, targets[count:]),
    )


def _multi_label(split: Images, targets: np.ndarray) -> Images:
    labels = np.full(len(split), UNLABELLED, np.int32)
    return dataclasses.replace(split, labels=labels, targets=targets)
