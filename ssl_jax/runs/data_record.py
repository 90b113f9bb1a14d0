"""data.json of a run folder: which images a run reads, and which files it does not."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ssl_jax.data import datasets
from ssl_jax.data.source import Dataset, Source
from ssl_jax.data.whole import WholePictures, pixels_of
from ssl_jax.runtime.atomic_file import write_atomically
from ssl_jax.settings.text import byte_count, encodable, printable

FILE = "data.json"
_EIGHT_BITS = (0, 255)
_LISTED = 40  # characters of a list of class names


def of_dataset(dataset: Dataset) -> dict[str, Any]:
    """The content of data.json, except `stored`.

    Returns:
        `train` and `test`: numbers of images, those of `data.whole` in both; `unlabelled`: how many
        of all have no label; `classes`: names; `left_out`: number of files that were not read, by
        ending; `channels`; `range`: the values that become black and white; `notes`: sentences.
    """
    labelled = dataset.train.labelled[: len(dataset.train) - dataset.joined]
    unlabelled = np.sum(~labelled) + np.sum(~dataset.test.labelled)
    return dict(
        train=len(dataset.train),
        test=len(dataset.test),
        unlabelled=int(unlabelled),
        classes=list(dataset.classes),
        left_out=dict(dataset.left_out),
        channels=int(dataset.train.images.shape[-1]),
        range=[float(x) for x in dataset.range] or list(_EIGHT_BITS),
        notes=list(dataset.notes),
    )


def write(folder: Path, dataset: Dataset, source: Source) -> None:
    """Writes data.json, whole or not at all."""
    record = of_dataset(dataset) | {"stored": stored(dataset, source)}
    write_atomically(folder / FILE, json.dumps(record, indent=2) + "\n")


def stored(dataset: Dataset, source: Source) -> str:
    """What the images are stored as.

    For example "whole pictures as squares of 256 (1.97 GB)", "central squares of 256 (streamed)",
    or "images stored at 28", which were no pictures of other sizes.
    """
    images = dataset.train.images
    _, height, width, _ = images.shape
    if not datasets.makes_squares(source.name) and not isinstance(images, WholePictures):
        return f"images stored at {height if height == width else f'{height}x{width}'}"
    if source.keep == "whole":
        form = f"whole pictures as squares of {height}"
    else:
        form = f"central squares of {height}"
    if not isinstance(pixels_of(images), np.ndarray):
        return f"{form} (streamed)"
    total = images.nbytes
    if not dataset.joined:
        total += dataset.test.images.nbytes
    return f"{form} ({byte_count(total)})"


def sentence(dataset: Dataset, limit: int = 0) -> str:
    """What was read: "read 40 pictures: 30 to train on, 10 to test on, 2 classes (cat, dog)".

    Args:
        dataset: the images.
        limit: `data.limit`, which is named where it is set.
    """
    record = of_dataset(dataset)
    train = record["train"]
    total = train + record["test"] - dataset.joined
    trained = f"{train:,} to train on"
    if limit:
        trained += f" (data.limit={limit})"
    if not record["test"]:
        tested = "none to test on"
    elif dataset.joined:
        tested = f"{record['test']:,} of them to test on"
    else:
        tested = f"{record['test']:,} to test on"
    parts = [f"read {_counted(total, 'picture')}: {trained}", tested]
    if not record["classes"]:
        parts.append("no labels")
    else:
        parts.append(f"{_counted(len(record['classes']), 'class')} ({_listed(record['classes'])})")
        if record["unlabelled"]:
            parts.append(f"{record['unlabelled']:,} without a label")
    text = ", ".join(parts)
    if record["left_out"]:
        text += f"; left out {_left_out(record['left_out'])}"
    return text


def _left_out(counts: Mapping[str, int]) -> str:
    """For example "13 files (.tif 7, .heic 1, 5 unreadable)", the most frequent endings first."""
    endings = {ending: count for ending, count in counts.items() if ending != "unreadable"}
    by_count = sorted(endings, key=lambda ending: (-endings[ending], ending))
    parts = [f"{_plain(ending) or 'no ending'} {endings[ending]:,}" for ending in by_count]
    if counts.get("unreadable"):
        parts.append(f"{counts['unreadable']:,} unreadable")
    return f"{_counted(sum(counts.values()), 'file')} ({', '.join(parts)})"


def _listed(names: list[str]) -> str:
    """As many of the names as fit into a line, at least one."""
    shown = []
    for name in map(_plain, names):
        if shown and sum(map(len, shown)) + 2 * len(shown) + len(name) > _LISTED:
            return f"{', '.join(shown)}, ..."
        shown.append(name)
    return ", ".join(shown)


def _plain(name: str) -> str:
    return printable(encodable(name))


def _counted(count: int, noun: str) -> str:
    """For example "1 picture" or "2,000 pictures"."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else plural}"
