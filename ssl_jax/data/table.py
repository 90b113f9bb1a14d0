"""Pictures that a table names, with their labels and splits."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ssl_jax.data import labels as labels_of
from ssl_jax.data import pictures, splits, streaming, table_files
from ssl_jax.data.decode import contents
from ssl_jax.data.errors import CorruptError
from ssl_jax.data.source import UNLABELLED, Dataset, Source
from ssl_jax.settings.paths import user_path
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import counted, printable

# Names of columns, in lower case with "_" for spaces; the first is taken if there are several.
_COLUMNS = {
    "path": "path file filename file_name filepath filepaths file_path image image_path image_file "
    "image_filename image_name img img_path img_file",
    "label": "label labels class class_name classname category target y",
    "split": "split subset partition set data_set dataset_split",
}
_INDEX = re.compile(r"(Unnamed: \d+|__index_level_\d+__|)$")  # what pandas calls its row numbers
_MISSING = ("nan", "na", "n/a", "#n/a", "null", "none")  # what programs write for missing values
_MAX_COLUMN_TEXT = 200  # characters of the columns in a message


def table(source: Source) -> Dataset:
    """The pictures that the table `data.dir` names, as squares [size, size, C].

    A row per picture: a column `path` (or file, filename, image, ...), relative to the folder of
    the table or absolute; optionally `label` (or class, category, target, ...) and `split` (train,
    val, test; empty is train). Other columns are ignored. See `table_files` for the files that are
    read, `labels.of_texts` for labels, and `splits.divided` for splits.

    Raises:
        SettingError: no such table, columns or pictures, or labels that cannot be used.
    """
    path = _table_file(source)

    header = []

    def choose(names: Sequence[str]) -> dict[str, int]:
        chosen = _chosen(path, names, source.labelled)
        header[:] = names
        return chosen

    lines, columns, notes = table_files.read(path, choose)
    if not lines:
        raise SettingError(f"{printable(path)} has no rows; give a row per picture")
    names, paths, stamps = _located(source, path, lines, columns["path"])
    marks = _splits(path, lines, columns.get("split", [""] * len(lines)))
    texts = columns.get("label", [""] * len(lines))
    marks, texts = splits.without_labels(marks, texts)
    where = printable(path)
    labels, classes = labels_of.of_texts(texts, f"{where}: the labels")
    parts = splits.divided(source, marks, labels, classes, where)
    unread = _unread(header, columns) if source.labelled else ()
    notes = (*notes, *parts.notes, *unread, *_notes(lines, paths, texts, labels, marks))
    rows = parts.rows.tolist()
    names = streaming.Names(names[i] for i in rows)
    ordered = [stamps[i] for i in rows]
    files = pictures.Pictures(
        names=names,
        labels=labels[parts.rows],
        train=len(parts.train),
        classes=classes if (labels[parts.train] != UNLABELLED).any() else (),
        origin=str(path.parent),
        contents=_Files(streaming.Names(paths[i] for i in rows)),
        stamps=lambda which: [ordered[i] for i in which],
        notes=tuple(printable(note) for note in notes),
    )
    return pictures.dataset(source, "tables", files)


class _Files:
    """The bytes of files."""

    def __init__(self, paths: Sequence[str]):
        self._paths = paths

    def __call__(self, i: int) -> bytes:
        return self._read(i, -1)

    def head(self, i: int) -> bytes:
        return self._read(i, 64)

    def _read(self, i: int, first: int) -> bytes:
        path = self._paths[i]
        if not os.path.exists(path):
            raise CorruptError("there is no such file")
        return contents(path, first)


def _table_file(source: Source) -> Path:
    if not source.dir:
        raise SettingError(
            "data.dir is empty: give the table of the pictures, as in --config.data.dir=FILE.csv"
        )
    path = user_path(source.dir, "data.dir")
    shown = printable(source.dir)
    if path.is_dir():
        files = sorted(
            p
            for p in path.iterdir()
            if p.suffix.lower() in table_files.ENDINGS and not p.name.startswith(".")
        )
        if len(files) != 1:
            raise SettingError(
                f"data.dir={shown} is a folder with {counted(len(files), 'table')}; give the table "
                f"({', '.join(table_files.ENDINGS)})"
            )
        return files[0]
    if not path.is_file():
        raise SettingError(
            f"data.dir={shown}: no such file; give a table ({', '.join(table_files.ENDINGS)})"
        )
    return path


def _chosen(path: Path, names: Sequence[str], labelled: bool) -> dict[str, int]:
    """The positions of the columns path, label and split; the last two may be missing.

    Raises:
        SettingError: no column of paths, or several that could be the one.
    """
    plain = [_plain(name) for name in names]
    chosen = {}
    for role, words in _COLUMNS.items():
        if role == "label" and not labelled:
            continue
        candidates = [i for i, name in enumerate(plain) if name in words.split()]
        first = [i for i in candidates if plain[i] == role]
        if len(candidates) > 1 and len(first) != 1:
            listed = " and ".join(names[i] for i in candidates)
            raise SettingError(
                printable(
                    f"{path} has the columns {listed}, each of which could be the {role}; rename "
                    f"one to {role}"
                )
            )
        if candidates:
            chosen[role] = first[0] if first else candidates[0]
    if "path" not in chosen:
        shown = printable(", ".join(names))
        if len(shown) > _MAX_COLUMN_TEXT:
            shown = f"{shown[:_MAX_COLUMN_TEXT]}..."
        raise SettingError(
            f"{printable(path)} has the columns {shown}; expected path (or "
            f"{', '.join(_COLUMNS['path'].split()[1:])}), and optionally label and split"
        )
    return chosen


def _unread(names: Sequence[str], columns: Mapping[str, Sequence[str]]) -> list[str]:
    """A sentence on the other columns of a table without labels, which may be among them.

    Args:
        names: of all columns.
        columns: those that are read, by their role.
    """
    words = " ".join(_COLUMNS.values()).split()
    others = [name for name in names if _plain(name) not in words and not _INDEX.match(name)]
    if "label" in columns or not others:
        return []
    shown = ", ".join(others)
    if len(shown) > _MAX_COLUMN_TEXT:
        shown = f"{shown[:_MAX_COLUMN_TEXT]}..."
    return [
        f"not read: {counted(len(others), 'column')} ({shown}); one of labels must be called label"
    ]


def _plain(name: str) -> str:
    """The name of a column in lower case, with "_" for spaces and hyphens."""
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def _located(
    source: Source, table_path: Path, lines: Sequence[int], texts: Sequence[str]
) -> tuple[list[str], list[str], list[tuple[int, int] | None]]:
    """Names, paths and stamps of the files that the rows name.

    Raises:
        SettingError: a row without a path; or a file that does not exist, unless
            `data.skip_corrupt`.
    """
    folder = os.path.abspath(table_path.parent)
    shown = printable(table_path)
    names = []
    paths = []
    stamps = []
    missing = []
    for line, text in zip(lines, texts):
        if not text:
            raise SettingError(f"{shown}, line {line}: no path; give a file, or remove the row")
        full = os.path.normpath(os.path.join(folder, text))
        stamp = _stamp(full)
        if stamp is None and "\\" in text:
            full = os.path.normpath(os.path.join(folder, text.replace("\\", "/")))
            stamp = _stamp(full)
        if stamp is None:
            missing.append((line, text))
        below = full.startswith(os.path.join(folder, ""))
        names.append(os.path.relpath(full, folder) if below else full)
        paths.append(full)
        stamps.append(stamp)
    if missing and not source.skip_corrupt:
        line, text = missing[0]
        others = f", and {len(missing) - 1:,} more are missing" if len(missing) > 1 else ""
        raise SettingError(
            f"{shown}, line {line}: there is no file {printable(text)}{others}; paths are relative "
            "to the folder of the table; data.skip_corrupt=True skips such rows"
        )
    return names, paths, stamps


def _stamp(path: str) -> tuple[int, int] | None:
    """Size in bytes and modification time in ns of a file; None if it does not exist."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


def _splits(path: Path, lines: Sequence[int], texts: Sequence[str]) -> list[str]:
    """The split of each row."""
    marks = []
    for line, text in zip(lines, texts):
        mark = splits.split_of(text) if text else splits.TRAIN
        if not mark:
            raise SettingError(
                f"{printable(path)}, line {line}: the split is {printable(text)!r}; write train, "
                "val or test, or leave it empty for train"
            )
        marks.append(mark)
    return marks


def _notes(
    lines: Sequence[int],
    paths: Sequence[str],
    texts: Sequence[str],
    labels: np.ndarray,
    marks: Sequence[str],
) -> list[str]:
    """Sentences on rows without a label, and on pictures that several rows name."""
    notes = []
    minus = sum(1 for text, label in zip(texts, labels) if text and label == UNLABELLED)
    if minus:
        notes.append(f"{counted(minus, 'row')} with the label -1, read as unlabelled")
    missing = [text for text in texts if text.lower() in _MISSING]
    if missing:
        rows = f"{counted(len(missing), 'row')} with the label {missing[0]}, read as a class"
        notes.append(f"{rows}; leave the cells empty if there is no label")
    first: dict[str, int] = {}
    repeated = [i for i, path in enumerate(paths) if first.setdefault(path, i) != i]
    if repeated:
        i = repeated[0]
        note = (
            f"{counted(len(repeated), 'row')} with a picture of an earlier row, the first in line "
            f"{lines[i]} ({paths[i]})"
        )
        notes.append(note + _differences(first, paths, labels, marks, repeated))
    return notes


def _differences(
    first: Mapping[str, int],
    paths: Sequence[str],
    labels: np.ndarray,
    marks: Sequence[str],
    repeated: Sequence[int],
) -> str:
    """What rows that repeat a picture change: how many labels, and how many splits."""
    other_label = sum(labels[i] != labels[first[paths[i]]] for i in repeated)
    other_split = sum(marks[i] != marks[first[paths[i]]] for i in repeated)
    text = f", {other_label:,} with another label" if other_label else ""
    return text + (f", {other_split:,} in another split" if other_split else "")
