"""A folder of image files, with class folders or without."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ssl_jax.data import disk_files, formats, pictures, streaming
from ssl_jax.data.errors import LabelError
from ssl_jax.data.layout import (
    Layout,
    check_no_splits,
    check_single,
    class_of,
    is_unlabelled,
    layout_notes,
    layout_of,
)
from ssl_jax.data.source import UNLABELLED, Dataset, Source, held_out
from ssl_jax.data.walk import Walk
from ssl_jax.settings.paths import user_path
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable


def folder(source: Source) -> Dataset:
    """The images below `data.dir` as squares [size, size, C]; see `decode.square`.

    Layouts: DIR/train/<class>/ (or training) with DIR/val/<class>/ (or valid, validation, test,
    testing: the first with images); DIR/<class>/, of which `data.test_share` is held out; or images
    directly in DIR or DIR/train, or in a single folder there, which are unlabelled. Images of a
    class folder called unlabelled (unlabeled, unsup, unsupervised), also beside train/, join the
    training images without a label. These names may be in upper or lower case. Class folders are
    read to any depth; hidden files and folders are ignored, and files with other endings counted in
    `left_out`. With data.labels=none, everything below DIR (or DIR/train and DIR/val) is read, in
    any layout. Training images are in a fixed random order, so the first `data.limit` are a fair
    sample. Links are followed, but each split reads a folder only once: the notes of the data set
    name links that are left out, and those that lead out of DIR.

    Raises:
        SettingError: no folder, no images, a mix of layouts, a class only in the test split, a bad
            file, or a cache that cannot be written.
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
    source.check_channels(source.bands or 3)
    layout = layout_of(source, root)
    walks = [_walk(root, top) for top in layout.tops]
    left_out = sum((walk.others for walk in walks), layout.left_out)
    if not walks[0].files:
        raise _no_images(source, left_out)
    names, labels, count, classes, notes = _ordered(source, layout, walks)
    notes = (
        *layout_notes(layout),
        *notes,
        *_link_notes(root, walks, layout, classes),
        *formats.remedies(left_out),
    )
    del walks  # millions of strings
    names = streaming.Names(names)
    files = pictures.Pictures(
        names=names,
        labels=labels,
        train=count,
        classes=classes,
        origin=str(root),
        contents=disk_files.FilesBelow(root, names),
        stamps=disk_files.stamps(root, names),
        left_out=dict(sorted(left_out.items())),
        notes=notes,
    )
    return pictures.dataset(source, "folders", files)


def _no_images(source: Source, left_out: Counter[str]) -> SettingError:
    """The error for a folder without images, with what it has instead."""
    total = left_out.total()
    files = "1 file" if total == 1 else f"{total:,} files"
    holds = f"; it has {files} ({formats.counted(left_out)})" if left_out else ""
    return SettingError(
        f"no images to train on in data.dir={printable(source.dir)}{holds}; file names must end in "
        f"{' '.join([*formats.suffixes()])}{''.join(f'; {x}' for x in formats.remedies(left_out))}"
    )


def _walk(root: Path, top: str) -> Walk:
    try:
        return Walk(root, top, formats.suffixes())
    except OSError as error:
        raise SettingError(
            f"{printable(error.filename)} cannot be read ({error.strerror})"
        ) from error


def _link_notes(
    root: Path, walks: Sequence[Walk], layout: Layout, classes: tuple[str, ...]
) -> list[str]:
    """Sentences on links that are left out, classes emptied by that, and links out of `root`."""
    notes = []
    left_out = [link for walk in walks for link in walk.left_out]
    if left_out:
        link, target, reason = left_out[0]
        note = f"{root / link} links to {target}, {reason}; "
        if len(left_out) > 1:
            note += f"{len(left_out):,} such links are "
        note += "left out"
        emptied = _emptied(walks, layout) if classes else []
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
    return [printable(note) for note in notes]


def _emptied(walks: Sequence[Walk], layout: Layout) -> list[str]:
    """Class folders, as paths below the root, whose images are all behind links left out."""
    emptied = []
    for walk, top in zip(walks, layout.tops):
        full = {class_of(name, top) for name in walk.files}
        linked = {class_of(os.path.join(link, ""), top) for link, *_ in walk.left_out}
        emptied += [os.path.join(top, name) for name in sorted(linked - full)]
    return emptied


def _ordered(
    source: Source, layout: Layout, walks: Sequence[Walk]
) -> tuple[list[str], np.ndarray, int, tuple[str, ...], list[str]]:
    """The images in their final order, training images first.

    Returns:
        names [N], labels int32 [N], number of training images, class names, notes.
    """
    parts = [walk.files for walk in walks]
    test = parts.pop(1) if layout.test else []
    train = parts[0] + [name for part in parts[1:] for name in part]
    train_classes = [class_of(name, layout.train) for name in parts[0]]
    test_classes = [class_of(name, layout.test) for name in test] if layout.test else []
    shuffled = np.random.default_rng(0).permutation
    classes, notes = _classes(source, layout, parts[0] + test, train_classes, test_classes)
    if not classes:
        names = [train[i] for i in shuffled(len(train))] + test
        return names, np.full(len(names), UNLABELLED, np.int32), len(train), (), notes
    numbers = {name: i for i, name in enumerate(classes)}
    labels = np.full(len(train) + len(test), UNLABELLED, np.int32)
    labels[: len(parts[0])] = [numbers.get(name, UNLABELLED) for name in train_classes]
    labels[len(train) :] = [numbers[name] for name in test_classes]
    unlabelled = int((labels == UNLABELLED).sum())
    if unlabelled:
        inside = {os.path.join(layout.train, x) for x in train_classes if is_unlabelled(x)}
        where = ", ".join(f"{x}/" for x in [*sorted(inside), *layout.unlabelled])
        have = "1 image of {} has" if unlabelled == 1 else f"{unlabelled:,} images of {{}} have"
        notes.append(printable(f"{have.format(where)} no label"))
    names = train + test
    train_rows = np.arange(len(train))
    test_rows = np.arange(len(train), len(labels))
    if not test:
        train_rows, test_rows = held_out(labels, source.test_share)
    order = np.concatenate([shuffled(train_rows), test_rows])
    return [names[i] for i in order], labels[order], len(train_rows), tuple(classes), notes


def _classes(
    source: Source,
    layout: Layout,
    names: Sequence[str],
    train_classes: Sequence[str],
    test_classes: Sequence[str],
) -> tuple[list[str], list[str]]:
    """The names of the classes, sorted, none for images without labels; and notes.

    Args:
        source: the settings.
        layout: the parts of the folder.
        names: images of the training folder, then those of the test folder.
        train_classes, test_classes: their class folders.

    Raises:
        SettingError: an image outside the class folders, a class only in the test split, or class
            folders that are one level too deep, or are splits by their names.
    """
    classes = sorted(x for x in set(train_classes) if x and not is_unlabelled(x))
    if not classes or not source.labelled:
        return [], []
    class_folders = [*train_classes, *test_classes]
    stray = next((name for name, folder in zip(names, class_folders) if not folder), None)
    if stray:
        raise LabelError(
            f"{printable(Path(source.dir, stray))} is outside the class folders; move it into one, "
            "or set data.labels=none to read all images as unlabelled"
        )
    only_test = sorted(set(test_classes) - set(classes))
    if only_test:
        raise LabelError(
            f"{printable(Path(source.dir, layout.test or '', only_test[0]))} is a class that "
            f"{layout.train}/ lacks; give it training images, or remove it"
        )
    if len(classes) > 1:
        return classes, check_no_splits(source, layout, classes)
    check_single(source, [x for x, folder in zip(names, train_classes) if folder == classes[0]])
    single = printable(os.path.join(layout.train, classes[0]))
    return [], [
        f"{single}/ is the only class folder, so all images are read without labels; for labels, "
        "put the images of each class into a folder of their own"
    ]
