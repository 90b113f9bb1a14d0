"""CUB-200-2011 (Wah et al. 2011): 200 kinds of birds."""

from pathlib import Path

import numpy as np

from ssl_jax.data import listing
from ssl_jax.data.source import Dataset, Source
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

_LAYOUT = listing.Layout(
    "cub200",
    "images.txt, image_class_labels.txt, train_test_split.txt, classes.txt and images/, directly "
    "or in CUB_200_2011/",
)


def cub200(source: Source) -> Dataset:
    """CUB-200-2011 below `data.dir`: the official split, 5,994 training and 5,794 test images.

    Classes keep their names without the number ("Black_footed_Albatross").

    Raises:
        SettingError: a missing file, or lists that do not name the same images.
    """
    folder = _LAYOUT.folder(source)
    inside = folder / "CUB_200_2011"
    root = inside if inside.is_dir() and not (folder / "images.txt").is_file() else folder
    names = _by_id(_LAYOUT.file(root, "images.txt"))
    labels = _numbers(root, "image_class_labels.txt", names)
    train = _numbers(root, "train_test_split.txt", names)
    if not set(train.tolist()) <= {0, 1}:
        raise _LAYOUT.error(
            f"{printable(root)}/train_test_split.txt has numbers besides 0 and 1; fetch it again"
        )
    classes = _by_id(_LAYOUT.file(root, "classes.txt"))
    order = {number: i for i, number in enumerate(sorted(classes))}
    unknown = next((x for x in labels.tolist() if x not in order), None)
    if unknown is not None:
        raise _LAYOUT.error(
            f"{printable(root)}: an image is of the class {unknown}, which classes.txt lacks"
        )
    entries = listing.Listing(
        [f"images/{name}" for name in names.values()],
        np.array([order[label] for label in labels.tolist()], np.int32),
        train == 1,
        [classes[number].partition(".")[2] or classes[number] for number in order],
    )
    listing.check_labels(_LAYOUT, entries.labels, entries.train, entries.classes)
    return listing.dataset(source, root, _LAYOUT, entries)


def _by_id(path: Path) -> dict[int, str]:
    """Lines "ID TEXT" of a file, in its order."""
    texts = {}
    for number, line in listing.lines(path):
        key, _, text = line.partition(" ")
        if not key.isdecimal() or not text or int(key) in texts:
            raise SettingError(
                f"{printable(path)}, line {number}: {printable(line)!r}; expected a new number and "
                "a name"
            )
        texts[int(key)] = text.strip()
    return texts


def _numbers(root: Path, name: str, images: dict[int, str]) -> np.ndarray:
    """The number that a file "ID NUMBER" has for each of the images, int [N]."""
    path = _LAYOUT.file(root, name)
    texts = _by_id(path)
    if set(texts) != set(images):
        raise SettingError(
            f"{printable(path)} is of other images than images.txt beside it; fetch the data set "
            "again"
        )
    try:
        return np.array([int(texts[key]) for key in images])
    except ValueError as error:
        raise SettingError(
            f"{printable(path)} holds other than whole numbers ({error}); fetch it again"
        ) from error
