"""Data sets of tensorflow_datasets prepared as array_record, read without TensorFlow."""

import difflib
import functools
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl_jax.data import cache, records, streaming
from ssl_jax.data.decode import Work
from ssl_jax.data.source import UNLABELLED, Dataset, Source, check_classes, held_out
from ssl_jax.settings.paths import user_path
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")
_NAME = re.compile(r"(?P<name>\w+)(/(?P<config>[^/:]+))?(:(?P<version>\d+\.\d+\.\d+))?")
_CATALOG = "https://www.tensorflow.org/datasets/catalog"
_Split = tuple[Sequence[dict[str, Any]], np.ndarray]  # examples, labels int32 [N]


def tfds(name: str, source: Source) -> Dataset:
    """The data set `name`, "<name>[/config][:version]", from the tfds folder `data.dir`.

    The config may be omitted if only one is prepared; the default version is the highest. The test
    split is the first of `test` and `validation` with labels; without either, `data.test_share` is
    held out. Images that all have one shape, 1 or 3 channels and no side above `data.size` keep it,
    [H, W, C]; others become squares [size, size, 3] (`decode.square`). We decode the stored files
    with Pillow; tfds itself uses OpenCV where it is installed.

    Raises:
        SettingError: an unknown name, a data set without images, or one that is not prepared (gives
            the command that prepares it).
    """
    match = _NAME.fullmatch(name)
    if not match:
        raise SettingError(
            f"data.name='tfds:{name}': give tfds:<name>, tfds:<name>/<config> or "
            "tfds:<name>:<version>"
        )
    top = user_path(
        source.dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets", "data.dir"
    )
    try:
        folder = _prepared(top, name, **match.groupdict())
        files = _stamps(folder)
    except OSError as error:
        raise SettingError(
            f"tfds:{name}: {error.filename or top} cannot be read ({error.strerror})"
        ) from error
    special = next((p for p in folder.iterdir() if not p.is_file() and not p.is_dir()), None)
    if special:
        raise SettingError(
            printable(f"tfds:{name}: {special} is not a regular file; prepare the data set again")
        )
    facts = [
        str(folder.relative_to(top)),
        files,
        source.size,
        source.labels,
        source.test_share,
        source.unlabelled,
    ]
    if source.keep == "whole":
        facts.append(source.keep)
    if source.store == "stream":
        work = _work(folder, name, top, source, facts[:2])
        return streaming.dataset(source, f"tfds:{name}", work)
    return cache.dataset(
        source,
        "tfds",
        facts,
        f"tfds:{name}",
        work=lambda: _work(folder, name, top, source, facts[:2]),
    )


def _stamps(folder: Path) -> list[tuple[str, int, int]]:
    """Name, size in bytes and modification time in ns of each file, sorted."""
    files = [p for p in folder.iterdir() if p.is_file()]
    return sorted((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files)


def _prepared(top: Path, full: str, name: str, config: str | None, version: str | None) -> Path:
    """The folder of the requested version.

    Needs no network, and imports tfds only if there is no such folder.
    """
    base = top / name / config if config else top / name
    versions = _versions(base)
    if not versions and not config and base.is_dir():
        configs = {
            p.name: _versions(p) for p in sorted(base.iterdir()) if p.is_dir() and _versions(p)
        }
        if len(configs) > 1:
            raise SettingError(
                f"data.name='tfds:{full}': name its config, one of: {', '.join(configs)}"
            )
        versions = next(iter(configs.values()), [])
    matching = [p for p in versions if version in (None, p.name)]
    if matching:
        return matching[-1]
    if versions:
        raise SettingError(
            f"data.name='tfds:{full}' is not prepared; choose one of the versions "
            f"{', '.join(p.name for p in versions)}"
        )
    _check_known(name)
    raise SettingError(
        f"tfds:{full} is not prepared in {top}; run once, where tensorflow is installed: "
        f"{_command(full, top)}"
    )


def _versions(folder: Path) -> list[Path]:
    """Prepared versions in a tfds folder, ascending."""
    versions = [
        p
        for p in folder.glob("*/")
        if _VERSION.fullmatch(p.name) and (p / "dataset_info.json").is_file()
    ]
    return sorted(versions, key=lambda p: tuple(int(n) for n in p.name.split(".")))


def _check_known(name: str) -> None:
    """Raises SettingError if tfds has no data set `name`."""
    try:
        import tensorflow_datasets
    except ImportError:
        return  # then the caller's error explains how to prepare it

    known = tensorflow_datasets.list_builders(with_community_datasets=False)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"see {_CATALOG}"
        raise SettingError(
            f"data.name='tfds:{name}': tensorflow_datasets has no such data set; {hint}"
        )


def _command(name: str, top: Path | str) -> str:
    builder = f"tfds.builder('{name}', file_format='array_record', data_dir='{top}')"
    call = f"{builder}.download_and_prepare()"
    return f'python -c "import tensorflow_datasets as tfds; {call}"'


def _work(folder: Path, name: str, top: Path, source: Source, facts: Any) -> Work:
    """Reads the labels, and prepares the decoding of the images."""
    try:
        builder = records.builder(folder)
    except Exception as error:  # tfds raises all kinds for missing and damaged files
        raise SettingError(
            printable(f"tfds:{name}: {folder} cannot be read ({error}); prepare it again")
        ) from error
    shape = _shape(builder, name, source)
    key = _label(builder, name, source)
    splits = list(builder.info.splits)
    if "train" not in splits:
        raise SettingError(f"tfds:{name} has no split 'train', only {', '.join(splits)}")
    if source.unlabelled and source.unlabelled not in splits:
        raise SettingError(
            f"data.unlabelled={source.unlabelled!r}: the splits of tfds:{name} are "
            f"{', '.join(splits)}"
        )
    read = functools.partial(_read, builder, name=name, top=top, source=source, facts=facts)
    parts = {"train": read("train", key)}
    if source.unlabelled:
        parts[source.unlabelled] = read(source.unlabelled, None)
    train_count = sum(len(labels) for _, labels in parts.values())
    candidates = [p for p in ("test", "validation") if p in splits and p not in parts]
    test_part = _test_split(read, candidates, key)
    parts |= test_part
    labels = np.concatenate([labels for _, labels in parts.values()])
    if key and not test_part:
        train, test = held_out(labels, source.test_share)
    else:
        train, test = np.split(np.arange(len(labels), dtype=np.int32), [train_count])
    classes = _classes(builder, key, labels)
    check_classes(labels[train], classes, f"tfds:{name}")
    rows = np.concatenate([train, test])
    places = records.Places({part: len(labels) for part, (_, labels) in parts.items()}, rows)
    opened = {part: examples for part, (examples, _) in parts.items()}
    image = records.Reader(folder, places, shape, source.size, source.keep, opened)
    whole = source.keep == "whole" and shape == (source.size, source.size, 3)
    return Work(places, labels[rows], len(train), shape, image, classes, whole)


def _test_split(
    read: Callable[[str, str | None], _Split], candidates: Sequence[str], key: str | None
) -> dict[str, _Split]:
    """The first of the splits `candidates` that is fully labelled, or the first if none need be."""
    for part in candidates:
        examples, labels = read(part, key)
        if not key or (labels != UNLABELLED).all():
            return {part: (examples, labels)}
    return {}


def _read(
    builder: Any, part: str, key: str | None, *, name: str, top: Path, source: Source, facts: Any
) -> _Split:
    """The examples of a split, and their labels int32 [N]."""
    try:
        examples = records.examples(builder, part)
        title = f"tfds:{name}, split {part}"
        return examples, records.labels(source, examples, key, [facts, part], title)
    except SettingError:
        raise
    except NotImplementedError as error:
        other = f"{top}_array_record"
        kind = builder.info.file_format.value
        raise SettingError(
            f"tfds:{name} in {top} is prepared as {kind}, which needs tensorflow; run once, where "
            f"that is installed: {_command(name, other)}; then set data.dir={other}"
        ) from error
    except Exception as error:  # array_record raises all kinds for missing and damaged files
        raise SettingError(
            printable(f"tfds:{name} in {top} cannot be read ({error}); prepare it again")
        ) from error


def _shape(builder: Any, name: str, source: Source) -> tuple[int, int, int]:
    """The stored shape of the images: their own if it is fixed and small, else a square."""
    features = builder.info.features
    if "image" not in features or np.dtype(features["image"].np_dtype) != np.uint8:
        raise SettingError(
            f"tfds:{name} has no uint8 feature 'image', only {', '.join(features)}; choose another "
            "data set"
        )
    shape = features["image"].shape
    fixed = len(shape) == 3 and None not in shape and shape[2] in (1, 3)
    if not fixed or max(shape[:2]) > source.size:
        shape = (source.size, source.size, 3)
    source.check_channels(shape[2])
    return shape


def _label(builder: Any, name: str, source: Source) -> str | None:
    """The feature with the labels; None if there is none, or labels are not used."""
    features = builder.info.features
    key = "coarse_label" if source.labels == "coarse" else "label"
    if not source.labelled or (key not in features and key == "label"):
        return None
    if key not in features:
        raise SettingError(
            f"data.labels='coarse': tfds:{name} has no coarse labels; choose fine or none"
        )
    if features[key].shape or np.dtype(features[key].np_dtype).kind not in "iu":
        raise SettingError(
            f"tfds:{name}: its labels are not one class per image; set data.labels=none to train "
            "without labels"
        )
    return key


def _classes(builder: Any, key: str | None, labels: np.ndarray) -> tuple[str, ...]:
    if not key:
        return ()
    names = getattr(builder.info.features[key], "names", None)
    if names is None:
        return tuple(str(i) for i in range(labels.max() + 1))
    return tuple(names)
