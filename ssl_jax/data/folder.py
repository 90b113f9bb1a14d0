"""A folder of image files, with class folders or without."""

import dataclasses
import functools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ssl_jax.data import cache, streaming
from ssl_jax.data.decode import SUFFIXES, Work, read
from ssl_jax.data.source import UNLABELLED, Dataset, Source, check_classes, held_out
from ssl_jax.data.walk import Walk, is_folder
from ssl_jax.settings.paths import user_path
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

_TESTS = ("val", "valid", "validation", "test")


def folder(source: Source) -> Dataset:
    """The images below `data.dir` as squares [size, size, 3], cut as in `decode.square`.

    Layouts: DIR/train/<class>/ with DIR/val/<class>/ (or valid, validation, test: the first that
    exists); DIR/<class>/, of which `data.test_share` is held out; or images directly in DIR or
    DIR/train, which are unlabelled and have no test split. Class folders are read to any depth,
    hidden files and folders are ignored. With data.labels=none, everything below DIR (or DIR/train
    and DIR/val) is read, in any layout. Training images are in a fixed random order, so the first
    `data.limit` are a fair sample. Links are followed, but each split reads a folder only once: the
    notes of the data set name links that are left out, and those that lead out of DIR.

    Raises:
        SettingError: no folder, no images, a mix of layouts, only one class, a class only in the
            test split, a bad file, or a cache that cannot be written.
    """
    if not source.dir:
        raise SettingError(
            "data.dir is empty: give the folder that holds the images, as in --config.data.dir=DIR"
        )
    root = user_path(source.dir, "data.dir")
    if not root.is_dir():
        raise SettingError(
            f"data.dir={printable(source.dir)} is not a folder; give the folder that holds the "
            "images"
        )
    source.check_channels(3)
    tops = _tops(root)
    walks = [_walk(root, top) for top in tops if top is not None]
    train = walks[0].files
    test = walks[1].files if len(walks) == 2 else []
    if not train:
        raise SettingError(
            f"no images to train on in data.dir={printable(source.dir)}; file names must end in "
            f"{' '.join(SUFFIXES)}"
        )
    names, labels, count, classes = _ordered(source, tops, train, test)
    notes = _notes(root, walks, tops, classes)
    del walks, train, test  # millions of strings
    names = streaming.Names(names)
    image = functools.partial(_image, root, names, source.size)
    work = Work(names, labels, count, (source.size, source.size, 3), image, classes)
    if source.store == "stream":
        dataset = streaming.dataset(source, str(root), work)
        return dataclasses.replace(dataset, notes=notes)
    names = list(names)
    stamps = [_stamp(root / name) for name in names]
    facts = [names, stamps, labels.tolist(), count, classes, source.size]
    dataset = cache.dataset(source, "folders", facts, str(root), lambda: work)
    return dataclasses.replace(dataset, notes=(*notes, *dataset.notes))


def _image(root: Path, names: Sequence[str], size: int, i: int) -> np.ndarray:
    return read(root / names[i], size)


def _tops(root: Path) -> tuple[str, str | None]:
    """The folders with training and test images, below `root`: "" is `root`, None is no folder."""
    folders = _subfolders(root)
    if "train" not in folders:
        return "", None
    flat = not _subfolders(root / "train")
    if flat and folders - {"train", *_TESTS}:
        return "", None  # a class called "train"
    return "train", next((name for name in _TESTS if name in folders), None)


def _subfolders(path: Path) -> set[str]:
    try:
        with os.scandir(path) as entries:
            return {e.name for e in entries if is_folder(e) and not e.name.startswith(".")}
    except OSError as error:
        raise SettingError(f"{printable(path)} cannot be read ({error.strerror})") from error


def _walk(root: Path, top: str) -> Walk:
    try:
        return Walk(root, top, SUFFIXES)
    except OSError as error:
        raise SettingError(
            f"{printable(error.filename)} cannot be read ({error.strerror})"
        ) from error


def _notes(
    root: Path, walks: Sequence[Walk], tops: Sequence[str | None], classes: tuple[str, ...]
) -> tuple[str, ...]:
    """Sentences on links that are left out, classes emptied by that, and links out of `root`."""
    notes = []
    left_out = [link for walk in walks for link in walk.left_out]
    if left_out:
        link, target, reason = left_out[0]
        note = f"{root / link} links to {target}, {reason}; "
        if len(left_out) > 1:
            note += f"{len(left_out):,} such links are "
        note += "left out"
        emptied = _emptied(walks, tops) if classes else []
        if emptied:
            note += f"; no image is left in the class folder {', '.join(emptied[:3])}"
        if len(emptied) > 3:
            note += f" and {len(emptied) - 3:,} more"
        notes.append(note)
    outside = [link for walk in walks for link in walk.outside]
    if outside:
        link, target = outside[0]
        links = "1 link leads" if len(outside) == 1 else f"{len(outside):,} links lead"
        are = "is" if len(outside) == 1 else "are"
        notes.append(
            f"{links} out of data.dir and {are} followed, the first: {root / link} to {target}"
        )
    return tuple(printable(note) for note in notes)


def _emptied(walks: Sequence[Walk], tops: Sequence[str | None]) -> list[str]:
    """Class folders, as paths below the root, whose images are all behind links left out."""
    emptied = []
    for walk, top in zip(walks, tops):
        full = {_class_of(name, top) for name in walk.files}
        linked = {_class_of(os.path.join(link, ""), top) for link, *_ in walk.left_out}
        emptied += [os.path.join(top, name) for name in sorted(linked - full)]
    return emptied


def _ordered(
    source: Source, tops: tuple[str, str | None], train: list[str], test: list[str]
) -> tuple[list[str], np.ndarray, int, tuple[str, ...]]:
    """The images in their final order, training images first.

    Returns:
        names [N], labels int32 [N], number of training images, class names.
    """
    train_classes, test_classes = (
        [_class_of(name, top) for name in names] for names, top in zip((train, test), tops)
    )
    shuffled = np.random.default_rng(0).permutation
    classes = sorted(set(train_classes) - {""}) if source.labelled else []
    if not classes:
        names = [train[i] for i in shuffled(len(train))] + test
        return names, np.full(len(names), UNLABELLED, np.int32), len(train), ()
    names = train + test
    class_of = train_classes + test_classes
    stray = next((name for name, class_name in zip(names, class_of) if not class_name), None)
    if stray:
        raise SettingError(
            f"{printable(Path(source.dir, stray))} is outside the class folders; move it into one, "
            "or set data.labels=none to read all images as unlabelled"
        )
    only_test = sorted(set(test_classes) - set(classes))
    if only_test:
        raise SettingError(
            f"{printable(Path(source.dir, tops[1], only_test[0]))} is a class that {tops[0]}/ "
            "lacks; give it training images, or remove it"
        )
    numbers = {name: i for i, name in enumerate(classes)}
    labels = np.array([numbers[name] for name in class_of], np.int32)
    check_classes(labels[: len(train)], classes, printable(source.dir))
    train_rows = np.arange(len(train))
    test_rows = np.arange(len(train), len(labels))
    if not test:
        train_rows, test_rows = held_out(labels, source.test_share)
    order = np.concatenate([shuffled(train_rows), test_rows])
    return [names[i] for i in order], labels[order], len(train_rows), tuple(classes)


def _class_of(name: str, top: str) -> str:
    """The class folder of the file `name` below `top`; "" if it is in none."""
    parts = name.split(os.sep)[1 if top else 0 :]
    return parts[0] if len(parts) > 1 else ""


def _stamp(path: Path) -> tuple[int, int]:
    """Size in bytes and modification time in ns of a file."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise SettingError(f"{printable(path)} cannot be read ({error.strerror})") from error
    return status.st_size, status.st_mtime_ns
