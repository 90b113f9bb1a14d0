"""A folder of image files, with class folders or without."""

import functools
import os
from pathlib import Path

import numpy as np

from ssl_jax.data import cache, streaming
from ssl_jax.data.decode import SUFFIXES, read
from ssl_jax.data.source import UNLABELLED, Dataset, check_classes, held_out
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

_TESTS = ("val", "valid", "validation", "test")


def folder(source) -> Dataset:
    """The images below `data.dir` as squares [size, size, 3]; `decode.square` says how they are cut.

    One of: DIR/train/<class>/ with DIR/val/<class>/ (or valid, validation, test: the first there is); DIR/<class>/, of
    which `data.test_share` is held out; or images right in DIR or DIR/train, which are unlabelled and have no test
    split. Class folders are read to any depth; hidden files and folders are not. With data.labels=none everything
    below DIR (or DIR/train and DIR/val) is read, in any layout. Training images are in a fixed random order, so that
    the first `data.limit` are a fair sample.

    Raises:
        SettingError: no folder, no images, a mix of layouts, one class only, a class only in the test split, a bad
            file, or a cache that cannot be written.
    """
    root = Path(source.dir).expanduser()
    if not source.dir:
        raise SettingError("data.dir is empty: give the folder that holds the images, as in --config.data.dir=DIR")
    if not root.is_dir():
        raise SettingError(f"data.dir={printable(source.dir)} is not a folder; give the one that holds the images")
    source.check_channels(3)
    tops = _tops(root)
    train, test = (_files(root, top) for top in tops)
    if not train:
        raise SettingError(f"no images to train on in data.dir={printable(source.dir)} ({' '.join(SUFFIXES)})")
    names, labels, count, classes = _ordered(source, tops, train, test)
    del train, test  # millions of strings
    names = streaming.Names(names)
    image = functools.partial(_image, root, names, source.size)
    work = cache.Work(names, labels, count, (source.size, source.size, 3), image, classes)
    if source.store == "stream":
        return streaming.dataset(source, str(root), work)
    names = list(names)
    facts = [names, [_stamp(root / name) for name in names], labels.tolist(), count, classes, source.size]
    return cache.dataset(source, "folders", facts, str(root), lambda: work)


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
            return {e.name for e in entries if e.is_dir() and not e.name.startswith(".")}
    except OSError as error:
        raise SettingError(f"{printable(path)} cannot be read ({error.strerror})") from error


def _files(root, top) -> list[str]:
    """Image files below `root/top`, to any depth, as sorted paths below `root`."""
    found = []

    def stop(error):
        raise SettingError(f"{printable(error.filename)} cannot be read ({error.strerror})")

    if top is None:
        return found
    for place, folders, files in os.walk(root / top, onerror=stop, followlinks=True):
        folders[:] = [f for f in folders if not f.startswith(".") and not _loops(place, f)]
        below = os.path.relpath(place, root)
        found += [os.path.join(below, f) for f in files if f.lower().endswith(SUFFIXES) and not f.startswith(".")]
    return sorted(os.path.normpath(f) for f in found)


def _loops(place, folder) -> bool:
    """Whether the folder is a link to one that it lies in."""
    path = os.path.join(place, folder)
    return os.path.islink(path) and Path(place).resolve().is_relative_to(Path(path).resolve())


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
