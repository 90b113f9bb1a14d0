"""Classification of PASCAL VOC 2007 (Everingham et al. 2010): several classes an image."""

from pathlib import Path

import numpy as np

from ssl_jax.data import listing
from ssl_jax.data.source import UNLABELLED, Dataset, Source
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
_LAYOUT = listing.Layout(
    "voc07",
    "VOCdevkit/VOC2007/ImageSets/Main/<class>_trainval.txt and <class>_test.txt for the 20 "
    "classes, and VOCdevkit/VOC2007/JPEGImages/; DIR may also be VOCdevkit or VOC2007",
)
_PLACES = ("VOCdevkit/VOC2007", "VOC2007", "")
_SPLITS = ("trainval", "test")  # 5,011 and 4,952 images


def voc07(source: Source) -> Dataset:
    """VOC07 below `data.dir`: train on trainval, test on test.

    Images have no label but targets [N, 20]: 1 where a class is shown, -1 where it is not, and 0
    where all that is shown of it is marked difficult. Lines are "000005 -1". Score it with the
    evaluator `svm`.

    Raises:
        SettingError: a missing file, lists that do not name the same images, or another label.
    """
    folder = _LAYOUT.folder(source)
    root = next((folder / x for x in _PLACES if (folder / x / "ImageSets").is_dir()), None)
    if root is None:
        raise _LAYOUT.error(f"{printable(folder / _PLACES[0])}/ImageSets is missing")
    names = []
    targets = []
    counts = []
    for split in _SPLITS:
        ids, columns = _split(root, split)
        names += [f"JPEGImages/{name}.jpg" for name in ids]
        targets.append(columns)
        counts.append(len(ids))
    if len(set(names)) < len(names):
        raise _LAYOUT.error(f"the lists in {printable(root)}/ImageSets/Main name an image twice")
    train = np.arange(len(names)) < counts[0]
    labels = np.full(len(names), UNLABELLED, np.int32)
    entries = listing.Listing(names, labels, train, CLASSES, np.concatenate(targets))
    return listing.dataset(source, root, _LAYOUT, entries)


def _split(root: Path, split: str) -> tuple[list[str], np.ndarray]:
    """Names of the images of a split, and their targets int8 [n, 20]."""
    ids: list[str] = []
    columns = []
    for name in CLASSES:
        path = _LAYOUT.file(root, f"ImageSets/Main/{name}_{split}.txt")
        entries = [listing.with_number(path, number, line) for number, line in listing.lines(path)]
        values = [value for _, value in entries]
        if not set(values) <= {-1, 0, 1}:
            raise SettingError(
                f"{printable(path)} has labels besides 1, 0 and -1; fetch the data set again"
            )
        listed = [image for image, _ in entries]
        if name == CLASSES[0]:
            ids = listed
        elif listed != ids:
            raise SettingError(
                f"{printable(path)} lists other images than {CLASSES[0]}_{split}.txt beside it; "
                "fetch the data set again"
            )
        columns.append(np.array(values, np.int8))
    return ids, np.stack(columns, axis=1)
