"""Pictures in the tar files of WebDataset, read in place."""

import glob
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl_jax.data import cache, cache_json, pictures, splits, streaming, tar_index
from ssl_jax.data import labels as labels_of
from ssl_jax.data.errors import CorruptError
from ssl_jax.data.formats import ending, suffixes
from ssl_jax.data.source import UNLABELLED, Dataset, Source
from ssl_jax.settings.paths import user_path
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import counted, printable

_COMPRESSED = re.compile(r"\.(tar\.(gz|bz2|xz|zstd?|lz4|lzma)|tgz|tbz2?|txz)$", re.IGNORECASE)
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_SHOWN = 2  # folders in a note
_MOST = 10**6  # files that a pattern may name


def webdataset(source: Source) -> Dataset:
    """The pictures in tar files, as squares [size, size, C].

    `data.dir` is a folder of .tar files (also one level deeper), one file, or a pattern with braces
    or stars, such as "train-{000..146}.tar". Files or subfolders whose name has the word train,
    val or test give the splits. The label of a picture is the text of its member .cls, else the
    entry "label" of .json, else the text of .txt unless that is a caption. Where pictures are in
    the files is found out once and kept in the cache; their order is fixed as for folders.

    Raises:
        SettingError: no such files, or files that are compressed, damaged or without pictures.
    """
    root, files, beside = _files(source)
    contents = _indexed(source, root, files)
    marks, split_notes = splits.with_training(_splits(root, files), printable(source.dir))
    left_out = sum((Counter(entry["others"]) for entry in contents), beside)
    names = []
    places = []
    for number, (file, entry) in enumerate(zip(files, contents)):
        shown = os.path.relpath(file, root)
        names += [os.path.join(shown, name) for name, _, _ in entry["places"]]
        places += [(number, offset, size) for _, offset, size in entry["places"]]
    if not names:
        raise SettingError(
            f"data.dir={printable(source.dir)}: no member of {counted(len(files), 'tar file')} "
            f"ends in {' '.join(suffixes())}"
        )
    texts, notes = _labels(source, contents, left_out)
    if source.labelled and not any(texts):
        notes += _folder_notes(contents)
    every = [mark for mark, entry in zip(marks, contents) for _ in entry["places"]]
    every, texts = splits.without_labels(every, texts)
    where = printable(source.dir)
    labels, classes = labels_of.of_texts(texts, f"{where}: the labels")
    parts = splits.divided(source, every, labels, classes, where)
    rows = parts.rows
    members = _Members([str(file) for file in files], np.array(places, np.int64)[rows])
    packed = pictures.Pictures(
        names=streaming.Names(names[i] for i in rows.tolist()),
        labels=labels[rows],
        train=len(parts.train),
        classes=classes if (labels[parts.train] != UNLABELLED).any() else (),
        origin=str(root),
        contents=members,
        stamps=members.stamps,
        left_out=dict(sorted((key, count) for key, count in left_out.items() if count)),
        notes=(*split_notes, *parts.notes, *notes),
    )
    return pictures.dataset(source, "webdatasets", packed)


class _Members:
    """The bytes of members of tar files.

    Args:
        files: the tar files.
        places: [N, 3] number of the file, offset and size in bytes of each picture.
    """

    def __init__(self, files: Sequence[str], places: np.ndarray):
        self._files = files
        self._places = places

    def __call__(self, i: int) -> bytes:
        return self._read(i)

    def head(self, i: int) -> bytes:
        return self._read(i, 64)

    def stamps(self, rows: Sequence[int]) -> list[Any]:
        """What changes when pictures change: size and time of the files, and the places."""
        places = self._places[np.asarray(rows, int)]
        files = [_stamp(Path(self._files[i])) for i in np.unique(places[:, 0]).tolist()]
        return [files, places.tolist()]

    def _read(self, i: int, most: int | None = None) -> bytes:
        number, offset, size = self._places[i].tolist()
        length = size if most is None else min(size, most)
        try:
            with open(self._files[number], "rb", buffering=0) as file:
                raw = os.pread(file.fileno(), length, offset)
        except OSError as error:
            raise SettingError(
                f"{printable(self._files[number])} cannot be read ({error.strerror})"
            ) from error
        if len(raw) < length:
            raise CorruptError("the tar file ends before it")
        return raw


def _stamp(file: Path) -> tuple[int, int]:
    """Size in bytes and modification time in ns of a file."""
    try:
        status = file.stat()
    except OSError as error:
        raise SettingError(f"{printable(file)} cannot be read ({error.strerror})") from error
    return status.st_size, status.st_mtime_ns


def _files(source: Source) -> tuple[Path, list[Path], Counter[str]]:
    """The folder that names are relative to, the tar files, and the number of other files in it."""
    if not source.dir:
        raise SettingError(
            "data.dir is empty: give the folder of the .tar files, as in --config.data.dir=DIR"
        )
    shown = printable(source.dir)
    path = user_path(source.dir, "data.dir")
    if path.is_file():
        return path.parent, [path], Counter()
    if path.is_dir():
        files = _below(path)
        archives = [file for file in files if file.suffix.lower() == ".tar"]
        _check_compressed(files)
        if not archives:
            raise SettingError(f"data.dir={shown} holds no .tar files")
        others = Counter(ending(file.name) for file in files if file not in set(archives))
        return path, archives, others
    archives = [Path(file) for file in _matching(source.dir, str(path))]
    if not archives:
        raise SettingError(
            f"data.dir={shown}: no such file or folder; give a folder of .tar files, one of them, "
            "or a pattern such as train-{000..146}.tar"
        )
    missing = next((file for file in archives if not file.is_file()), None)
    if missing:
        raise SettingError(f"data.dir={shown}: there is no file {printable(missing)}")
    _check_compressed(archives)
    return Path(os.path.commonpath([file.parent for file in archives])), archives, Counter()


def _below(folder: Path) -> list[Path]:
    """Files in a folder and in its subfolders, sorted, without hidden ones."""
    try:
        entries = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
        files = [p for p in entries if p.is_file()]
        for deeper in (p for p in entries if p.is_dir()):
            files += sorted(
                p for p in deeper.iterdir() if p.is_file() and not p.name.startswith(".")
            )
    except OSError as error:
        raise SettingError(f"{printable(folder)} cannot be read ({error.strerror})") from error
    return files


def _check_compressed(files: Sequence[Path]) -> None:
    compressed = next((file for file in files if _COMPRESSED.search(file.name)), None)
    if compressed:
        raise SettingError(
            f"{printable(compressed)} is compressed; unpack it to a plain .tar file, as members "
            "are read in place"
        )


def _matching(setting: str, pattern: str) -> list[str]:
    """The files that a pattern names: braces name each file, stars those that exist."""
    expanded = list(itertools.islice(_expanded(pattern), _MOST + 1))
    if len(expanded) > _MOST:
        raise SettingError(f"data.dir={printable(setting)} names more than {_MOST:,} files")
    if expanded == [pattern] and not glob.has_magic(pattern):
        return []
    matches = []
    for name in expanded:
        matches += sorted(glob.glob(name)) if glob.has_magic(name) else [name]
    return matches


def _expanded(pattern: str) -> Iterator[str]:
    """A pattern with its braces as a shell expands them: {000..146} and {a,b}."""
    match = _BRACES.search(pattern)
    if not match:
        yield pattern
        return
    numbers = _RANGE.fullmatch(match[1])
    choices: Iterator[str] = iter(match[1].split(","))
    if numbers:
        first, last = int(numbers[1]), int(numbers[2])
        width = len(numbers[1]) if numbers[1].startswith("0") else 0
        step = 1 if first <= last else -1
        choices = (f"{i:0{width}}" for i in range(first, last + step, step))
    for choice in choices:
        yield from _expanded(f"{pattern[: match.start()]}{choice}{pattern[match.end() :]}")


def _indexed(source: Source, root: Path, files: Sequence[Path]) -> list[dict[str, Any]]:
    """The index of each file, from the cache where it is known."""
    facts = [[tar_index.FORMAT, str(file.absolute()), _stamp(file), suffixes()] for file in files]
    contents = [cache_json.load(source, "tars", fact) for fact in facts]
    unknown = [i for i, content in enumerate(contents) if content is None]
    if unknown:
        doing = f"listing {counted(len(unknown), 'tar file')} of {root}"
        with cache.progress(len(unknown), doing) as advance:
            for i in unknown:
                contents[i] = tar_index.index(files[i])
                cache_json.store(source, "tars", facts[i], contents[i])
                advance()
    return contents


def _splits(root: Path, files: Sequence[Path]) -> list[str]:
    """The split of each file, by the words of its subfolder and its name; without one it trains."""
    marks = []
    for file in files:
        words = re.split("[^a-z]+", os.path.relpath(file, root).lower())
        marks.append(next(filter(None, map(splits.split_of, words)), splits.TRAIN))
    return marks


def _labels(
    source: Source, contents: Sequence[dict[str, Any]], left_out: Counter[str]
) -> tuple[list[str], list[str]]:
    """The label of each picture, "" for none, and notes; counts unused labels in `left_out`."""
    columns = {
        kind: [text for entry in contents for text in entry["labels"][kind]]
        for kind in tar_index.LABELS
    }
    none = [""] * len(columns["cls"])
    if not source.labelled:
        return none, []
    present = {kind: sum(text is not None for text in columns[kind]) for kind in columns}
    used = next((kind for kind in columns if present[kind]), "")
    notes = []
    if used == "txt" and _are_captions(columns["txt"]):
        notes.append("the members .txt are captions, no classes, and are not read")
        used = ""
    for kind, count in present.items():
        if kind != used:
            left_out[f".{kind}"] += count
    return [text or "" for text in columns[used]] if used else none, notes


def _folder_notes(contents: Sequence[dict[str, Any]]) -> list[str]:
    """A sentence on the folders of pictures without labels, which may be classes or splits."""
    folders = sorted(
        {os.path.dirname(name) for entry in contents for name, _, _ in entry["places"]}
    )
    if len(folders) < 2:
        return []
    shown = ", ".join(printable(f"{folder}/") for folder in folders[:_SHOWN] if folder)
    return [
        "there are no labels (.cls, .json or .txt), and folders in the tar files "
        f"({shown}, ...) are not read as classes or splits; unpack them and give data.name=folder "
        "for that"
    ]


def _are_captions(texts: Sequence[str | None]) -> bool:
    """Whether texts describe pictures rather than name their classes."""
    known = [text for text in texts if text]
    return len(set(known)) > len(known) / 2 or any(
        len(text) > tar_index.LONGEST or "\n" in text for text in known
    )
