"""A folder of image files, with class folders or without."""

import dataclasses
import functools
import os
from pathlib import Path

import numpy as np

from ssl_jax.data import cache, streaming
from ssl_jax.data.decode import SUFFIXES, read
from ssl_jax.data.source import UNLABELLED, Dataset, check_classes, held_out
from ssl_jax.data.walk import Walk, is_folder
from ssl_jax.settings.paths import user_path
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

_TESTS = ("val", "valid", "validation", "test")


def folder(source) -> Dataset:
    """The images below `data.dir` as squares [size, size, 3]; `decode.square` says how they are cut.

    One of: DIR/train/<class>/ with DIR/val/<class>/ (or valid, validation, test: the first there is); DIR/<class>/, of
    which `data.test_share` is held out; or images right in DIR or DIR/train, which are unlabelled and have no test
    split. Class folders are read to any depth; hidden files and folders are not. With data.labels=none everything
    below DIR (or DIR/train and DIR/val) is read, in any layout. Training images are in a fixed random order, so that
    the first `data.limit` are a fair sample. Links are followed, but no folder is read twice for one split: the notes
    of the data set name links that are left out, and those that lead out of DIR.

    Raises:
        SettingError: no folder, no images, a mix of layouts, one class only, a class only in the test split, a bad
            file, or a cache that cannot be written.
    """
    if not source.dir:
        raise SettingError("data.dir is empty: give the folder that holds the images, as in --config.data.dir=DIR")
    root = user_path(source.dir, "data.dir")
    if not root.is_dir():
        raise SettingError(f"data.dir={printable(source.dir)} is not a folder; give the one that holds the images")
    source.check_channels(3)
    tops = _tops(root)
    walks = [_walk(root, top) for top in tops if top is not None]
    train, test = walks[0].files, walks[1].files if len(walks) == 2 else []
    if not train:
        raise SettingError(f"no images to train on in data.dir={printable(source.dir)} ({' '.join(SUFFIXES)})")
    names, labels, count, classes = _ordered(source, tops, train, test)
    notes = _notes(root, walks, tops, classes)
    del walks, train, test  # millions of strings
    names = streaming.Names(names)
    image = functools.partial(_image, root, names, source.size)
    work = cache.Work(names, labels, count, (source.size, source.size, 3), image, classes)
    if source.store == "stream":
        dataset = streaming.dataset(source, str(root), work)
        return dataclasses.replace(dataset, notes=notes)
    names = list(names)
    facts = [names, [_stamp(root / name) for name in names], labels.tolist(), count, classes, source.size]
    dataset = cache.dataset(source, "folders", facts, str(root), lambda: work)
    return dataclasses.replace(dataset, notes=(*notes, *dataset.notes))


def _image(root, names, size, i):
    return read(root / names[i], size)


def _tops(root) -> tuple[str, str | None]:
    """The folders in `root` with training and test images: "" is `root` itself, None is no folder."""
    folders = _subfolders(root)
    if "train" not in folders:
        return "", None
    flat = not _subfolders(root / "train")
    if flat and folders - {"train", *_TESTS}:
        return "", None  # a class called "train"
    return "train", next((name for name in _TESTS if name in folders), None)


def _subfolders(path) -> set[str]:
    try:
        with os.scandir(path) as entries:
            return {e.name for e in entries if is_folder(e) and not e.name.startswith(".")}
    except OSError as error:
        raise SettingError(f"{printable(path)} cannot be read ({error.strerror})") from error


def _walk(root, top) -> Walk:
    try:
        return Walk(root, top, SUFFIXES)
    except OSError as error:
        raise SettingError(f"{printable(error.filename)} cannot be read ({error.strerror})") from error


def _notes(root, walks, tops, classes) -> tuple[str, ...]:
    """Sentences on links that are left out, with classes that lose all images by it, and on those that lead out."""
    notes = []
    left_out = [found for walk in walks for found in walk.left_out]
    if left_out:
        link, target, why = left_out[0]
        count = f"{len(left_out):,} such links are " if len(left_out) > 1 else ""
        emptied = _emptied(walks, tops) if classes else []
        lost = f"; no image is left in the class folder {', '.join(emptied[:3])}" if emptied else ""
        more = f" and {len(emptied) - 3:,} more" if len(emptied) > 3 else ""
        notes.append(f"{root / link} links to {target}, {why}; {count}left out{lost}{more}")
    outside = [found for walk in walks for found in walk.outside]
    if outside:
        link, target = outside[0]
        one = len(outside) == 1
        count = "1 link leads out of data.dir and is" if one else f"{len(outside):,} links lead out of data.dir and are"
        notes.append(f"{count} followed, the first: {root / link} to {target}")
    return tuple(map(printable, notes))


def _emptied(walks, tops) -> list[str]:
    """Class folders, as paths below the root, whose only images lie behind links that are left out."""
    emptied = []
    for walk, top in zip(walks, tops):
        full = {_owner(name, top) for name in walk.files}
        linked = {_owner(os.path.join(link, ""), top) for link, *_ in walk.left_out}
        emptied += [os.path.join(top, name) for name in sorted(linked - full)]
    return emptied


def _ordered(source, tops, train, test):
    """Names [N], labels int32 [N], the number of training images, which come first, and the classes' names."""
    owners = [[_owner(name, top) for name in names] for names, top in zip((train, test), tops)]
    shuffled = np.random.default_rng(0).permutation
    classes = sorted(set(owners[0]) - {""}) if source.labelled else []
    if not classes:
        names = [train[i] for i in shuffled(len(train))] + test
        return names, np.full(len(names), UNLABELLED, np.int32), len(train), ()
    stray = next((n for n, owner in zip(train + test, owners[0] + owners[1]) if not owner), None)
    if stray:
        raise SettingError(
            f"{printable(Path(source.dir, stray))} lies beside class folders; move it into one, or set "
            "data.labels=none to read all images as unlabelled"
        )
    lacking = sorted(set(owners[1]) - set(classes))
    if lacking:
        raise SettingError(f"{printable(Path(source.dir, tops[1], lacking[0]))} is a class that {tops[0]}/ lacks")
    numbers = {name: i for i, name in enumerate(classes)}
    labels = np.array([numbers[owner] for owner in owners[0] + owners[1]], np.int32)
    check_classes(labels[: len(train)], classes, printable(source.dir))
    rows, held = np.arange(len(train)), np.arange(len(train), len(labels))
    if not test:
        rows, held = held_out(labels, source.test_share)
    order = np.concatenate([shuffled(rows), held])
    names = train + test
    return [names[i] for i in order], labels[order], len(rows), tuple(classes)


def _owner(name, top) -> str:
    """The class folder below `top` that the file `name` lies in; empty where it lies in none."""
    parts = name.split(os.sep)[1 if top else 0 :]
    return parts[0] if len(parts) > 1 else ""


def _stamp(path) -> tuple[int, int]:
    """Size and time of change of a file, in bytes and ns."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise SettingError(f"{printable(path)} cannot be read ({error.strerror})") from error
    return found.st_size, found.st_mtime_ns
