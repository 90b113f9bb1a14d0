"""iNaturalist 2018 (Van Horn et al. 2018): species, with lists in COCO's form."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from ssl_jax.data import listing
from ssl_jax.data.source import Dataset, Source
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

_LAYOUT = listing.Layout(
    "inat18",
    "train2018.json and val2018.json, the pictures in train_val2018/, and optionally "
    "categories.json with the names of the species",
)
_LISTS = ("train2018.json", "val2018.json")
_NAMES = "categories.json"


def inat18(source: Source) -> Dataset:
    """iNat18 below `data.dir`: train on train2018.json, test on val2018.json.

    The lists hold `images` (`id`, `file_name`: train_val2018/...), `annotations` (`image_id`,
    `category_id`) and `categories` (`id`, `name`). In the official lists names are numbers; those
    of the species are in categories.json (from memory of the competition's page).

    Raises:
        SettingError: a missing list or picture, or a list in another form.
    """
    folder = _LAYOUT.folder(source)
    paths = [_LAYOUT.file(folder, name) for name in _LISTS]
    names = []
    categories = []
    counts = []
    for path in paths:
        entries = _entries(path)
        names += [name for name, _ in entries]
        categories += [category for _, category in entries]
        counts.append(len(entries))
    numbers, classes = _classes(folder, paths[0])
    unknown = next((x for x in categories if x not in numbers), None)
    if unknown is not None:
        raise SettingError(
            f"{printable(folder)}: an image is of the category {unknown}, which {_LISTS[0]} does "
            "not list; fetch the lists again"
        )
    labels = np.array([numbers[category] for category in categories], np.int32)
    train = np.arange(len(names)) < counts[0]
    listing.check_labels(_LAYOUT, labels, train, classes)
    return listing.dataset(source, folder, _LAYOUT, listing.Listing(names, labels, train, classes))


def _entries(path: Path) -> list[tuple[str, int]]:
    """(file, category) of each image that a list annotates."""
    record = _json(path)
    try:
        files = {_whole(image["id"]): _text(image["file_name"]) for image in record["images"]}
        entries = [
            (files[_whole(x["image_id"])], _whole(x["category_id"])) for x in record["annotations"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise SettingError(
            f"{printable(path)} lacks images, annotations or their entries ({error!r}); fetch it "
            "again"
        ) from error
    annotated = {name for name, _ in entries}
    if len(annotated) < len(entries):
        raise SettingError(f"{printable(path)} has an image of two categories; fetch it again")
    if len(annotated) < len(record["images"]):
        raise SettingError(f"{printable(path)} has images without a category; fetch it again")
    return entries


def _classes(folder: Path, path: Path) -> tuple[dict[int, int], list[str]]:
    """The class number of each category, and the names of the classes."""
    species = folder / _NAMES
    record = _json(species) if species.is_file() else _json(path).get("categories", ())
    try:
        names = {_whole(category["id"]): str(category["name"]) for category in record}
    except (KeyError, TypeError, ValueError) as error:
        where = species if species.is_file() else path
        raise SettingError(
            f"{printable(where)}: the categories have no id and name; fetch it again"
        ) from error
    if len(names) < len(record):
        where = species if species.is_file() else path
        raise SettingError(f"{printable(where)} has a category twice; fetch it again")
    numbers = {category: number for number, category in enumerate(sorted(names))}
    return numbers, [names[category] for category in sorted(names)]


def _whole(value: Any) -> int:
    """A whole number of a list: 3 or "3", but neither 3.5 nor true."""
    return int(str(value))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no file name")
    return value


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise listing.unreadable(path, str(error)) from error
