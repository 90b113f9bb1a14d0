"""Local data sets of Hugging Face, read with its package `datasets` and without the network."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ssl_jax.data import cache, pictures, splits
from ssl_jax.data import labels as labels_of
from ssl_jax.data.errors import CorruptError, LabelError
from ssl_jax.data.records import Places
from ssl_jax.data.source import UNLABELLED, Dataset, Source
from ssl_jax.settings.paths import user_path
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import counted, printable

_LABELS = ("label", "labels", "fine_label", "class", "class_name", "category", "target", "y")
_IMAGES = ("image", "img", "jpg", "png")
_SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk writes
_LONGEST = 300  # characters of an error of `datasets`


def hf(name: str, source: Source) -> Dataset:
    """The pictures of the data set in a folder, as squares [size, size, C].

    The folder is what `save_to_disk` wrote, or one that `load_dataset` understands: Parquet files,
    or image files with class folders or metadata. The test split is `test`, or `validation` if only
    that has labels; see `splits.divided`. Training images are in a fixed random order.

    Args:
        name: the folder, below `data.dir` if that is given.
        source: the settings.

    Raises:
        SettingError: the package is missing, or a folder that it cannot read, or one without
            pictures.
    """
    folder = _folder(name, source)
    title = printable(f"hf:{name}")
    tables, notes = _tables(source, folder, title)
    column = _image_column(tables, title)
    marks = {part: splits.split_of(part) for part in tables}
    sizes = {part: len(table) for part, table in tables.items()}
    every, only_note = splits.with_training(
        [marks[part] for part in tables for _ in range(sizes[part])], title
    )
    labels, classes = _labels(source, tables, title)
    without = np.repeat(
        [mark == splits.WITHOUT_LABELS for mark in marks.values()], [*sizes.values()]
    )
    labels[without] = UNLABELLED
    every = [splits.TRAIN if mark == splits.WITHOUT_LABELS else mark for mark in every]
    parts = splits.divided(source, every, labels, classes, title)
    places = Places(sizes, parts.rows)
    stamps = _stamps(folder)
    packed = pictures.Pictures(
        names=places,
        labels=labels[parts.rows],
        train=len(parts.train),
        classes=classes if (labels[parts.train] != UNLABELLED).any() else (),
        origin=title,
        contents=_Rows({part: _undecoded(table, column) for part, table in tables.items()}, places),
        stamps=lambda _: stamps,
        notes=(*notes, *only_note, *parts.notes),
    )
    return pictures.dataset(source, "hf", packed)


class _Rows:
    """The bytes of pictures in tables of `datasets` with one column."""

    def __init__(self, tables: Mapping[str, Any], places: Places):
        self._tables = tables
        self._places = places

    def __call__(self, i: int) -> bytes:
        part, row = self._places.place(i)
        (value,) = self._tables[part][row].values()
        if isinstance(value, dict):
            path = value.get("path")
            value = value.get("bytes")
            if value is None and path:
                return _contents(path)
        if not value:
            raise CorruptError("it has no bytes")
        return value

    def head(self, i: int) -> bytes:
        return self(i)


def _contents(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise CorruptError(f"{path}: {error.strerror}") from error


def _folder(name: str, source: Source) -> Path:
    if not name and not source.dir:
        raise SettingError("data.name='hf:' names no folder; give hf:FOLDER")
    folder = user_path(os.path.join(source.dir, name), "data.name")
    if not folder.is_dir():
        raise SettingError(
            f"data.name={f'hf:{name}'!r}: {printable(folder)} is not a folder; give one that holds "
            "a data set of Hugging Face; nothing is downloaded"
        )
    return folder


def _tables(source: Source, folder: Path, title: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The splits with a name that is known, which are not empty, and a note on the others."""
    try:
        import datasets
    except ImportError as error:
        raise SettingError(
            f"data.name='{title}' needs the package datasets; pip install 'ssl_jax[hf]'"
        ) from error
    saved = any((folder / name).is_file() for name in _SAVED)
    try:
        with _offline(datasets):
            if saved:
                data = datasets.load_from_disk(str(folder))
            else:
                kept = cache.root(source) / "datasets"
                with cache.progress(1, f"reading {folder} with the package datasets"):
                    data = datasets.load_dataset(str(folder), cache_dir=str(kept))
    except Exception as error:  # datasets raises all kinds for folders that it cannot read
        reason = printable(" ".join(str(error).split()))[:_LONGEST]
        raise SettingError(
            f"{title}: the package datasets cannot read {printable(folder)} "
            f"({type(error).__name__}: {reason})"
        ) from error
    if isinstance(data, datasets.Dataset):
        return {"train": data}, ()
    tables = {name: table for name, table in data.items() if len(table)}
    known = {name: table for name, table in tables.items() if splits.split_of(name)}
    if not known:
        raise SettingError(
            f"{title} has the splits {printable(', '.join(data))}; one must be called train"
        )
    unread = [name for name in tables if name not in known]
    notes = ()
    if unread:
        notes = (f"of {title} are not read: {counted(len(unread), 'split')} ({', '.join(unread)})",)
    return known, notes


@contextlib.contextmanager
def _offline(datasets: Any) -> Iterator[None]:
    """Keeps `datasets` off the network, and quiet, within the block."""
    import huggingface_hub

    places = [
        (datasets.config, "HF_HUB_OFFLINE"),
        (huggingface_hub.constants, "HF_HUB_OFFLINE"),
    ]
    before = [getattr(module, name) for module, name in places]
    bars = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    for module, name in places:
        setattr(module, name, True)
    try:
        yield
    finally:
        for (module, name), value in zip(places, before):
            setattr(module, name, value)
        if bars:
            datasets.enable_progress_bars()


def _image_column(tables: Mapping[str, Any], title: str) -> str:
    """The column with pictures: of the type Image, or bytes, or {bytes, path}."""
    import datasets

    features = next(iter(tables.values())).features
    columns = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    columns = columns or [name for name, kind in features.items() if _holds_bytes(kind)]
    if len(columns) > 1:
        columns = [name for name in _IMAGES if name in columns] or columns
    lacking = [part for part, table in tables.items() if not {*columns} & {*table.features}]
    if not columns or lacking:
        part = f"its split {lacking[0]}" if columns else "it"
        names = tables[lacking[0]].features if columns else features
        raise SettingError(
            f"{title}: {part} has no pictures, only the columns {printable(', '.join(names))}"
        )
    return columns[0]


def _holds_bytes(kind: Any) -> bool:
    if isinstance(kind, dict):
        return _holds_bytes(kind.get("bytes"))
    return getattr(kind, "dtype", "") in ("binary", "large_binary")


def _undecoded(table: Any, column: str) -> Any:
    """The table with only its pictures, as they are stored."""
    import datasets

    table = table.select_columns([column]).with_format(None)
    if isinstance(table.features[column], datasets.Image):
        return table.cast_column(column, datasets.Image(decode=False))
    return table


def _labels(
    source: Source, tables: Mapping[str, Any], title: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels int32 [N] of all splits, -1 where there is none, and class names."""
    import datasets

    column = _label_column(source, next(iter(tables.values())), title)
    values = []
    names: tuple[str, ...] = ()
    for table in tables.values():
        if column not in table.features:
            values += [None] * len(table)
            continue
        kind = table.features[column]
        if isinstance(kind, datasets.ClassLabel):
            if names and tuple(kind.names) != names:
                raise LabelError(
                    f"{title}: the column {column} has other class names, or another order of "
                    "these, in some splits; save all splits with the same ClassLabel, or set "
                    "data.labels=none to train without labels"
                )
            names = tuple(kind.names)
        elif not isinstance(kind, datasets.Value):
            raise LabelError(
                f"{title}: the column {column} is not one class per picture; set data.labels=none "
                "to train without labels"
            )
        values += table.select_columns([column]).with_format(None)[:][column]
    if names:
        numbers = [UNLABELLED if value is None else value for value in values]
        return np.array(numbers, np.int32), names
    texts = [labels_of.text(value) for value in values]
    return labels_of.of_texts(texts, f"{title}: the labels of column {column}")


def _label_column(source: Source, table: Any, title: str) -> str:
    """The column with labels; "" if there is none, or labels are not used."""
    import datasets

    if not source.labelled:
        return ""
    features = table.features
    if source.labels == "coarse":
        if "coarse_label" not in features:
            raise SettingError(
                f"data.labels='coarse': {title} has no coarse labels; choose fine or none"
            )
        return "coarse_label"
    classes = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    candidates = [name for name in _LABELS if name in features]
    if not candidates and len(classes) > 1:
        raise LabelError(
            f"{title} has the labels {printable(' and '.join(classes))}; rename the column to use "
            "to label, or set data.labels=none to train without labels"
        )
    return next(iter([*candidates, *classes]), "")


def _stamps(folder: Path) -> list[Any]:
    """Name, size in bytes and modification time in ns of each file below the folder."""
    stamps = []
    for place, _, files in os.walk(folder, followlinks=True):
        for name in files:
            path = os.path.join(place, name)
            with contextlib.suppress(OSError):
                status = os.stat(path)
                relative = os.path.relpath(path, folder)
                stamps.append((relative, status.st_size, status.st_mtime_ns))
    return sorted(stamps)
