"""Data sets of tensorflow_datasets that were prepared as array_record, which is read without TensorFlow."""

import difflib
import os
import re
from pathlib import Path

import numpy as np

from ssl_jax.data import cache, records, streaming
from ssl_jax.data.source import UNLABELLED, Dataset, check_classes, held_out
from ssl_jax.settings.paths import user_path
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")
_NAME = re.compile(r"(?P<name>\w+)(/(?P<config>[^/:]+))?(:(?P<version>\d+\.\d+\.\d+))?")


def tfds(name: str, source) -> Dataset:
    """The data set `name`, "<name>[/config][:version]", from the tfds folder `data.dir`.

    Without a config the only one that is prepared, without a version the highest. The test split is the first of
    `test` and `validation` with labels; without either `data.test_share` is held out. Images that all have one shape,
    1 or 3 channels and no side above `data.size` stay as they are, [H, W, C]; others become squares [size, size, 3]
    (`decode.square`). We decode the files that tfds stores with Pillow, where tfds itself takes OpenCV if there is any.

    Raises:
        SettingError: an unknown name, a data set that is not prepared (with the command that does it) or has no images.
    """
    match = _NAME.fullmatch(name)
    if not match:
        raise SettingError(f"data.name='tfds:{name}': give tfds:<name>, tfds:<name>/<config> or tfds:<name>:<version>")
    top = user_path(source.dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets", "data.dir")
    try:
        folder = _prepared(top, name, **match.groupdict())
        files = sorted((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in folder.iterdir() if p.is_file())
    except OSError as error:
        raise SettingError(f"tfds:{name}: {error.filename or top} cannot be read ({error.strerror})") from error
    if odd := next((p for p in folder.iterdir() if not p.is_file() and not p.is_dir()), None):
        raise SettingError(printable(f"tfds:{name}: {odd} is not a regular file; prepare it anew"))
    facts = [str(folder.relative_to(top)), files, source.size, source.labels, source.test_share, source.unlabelled]
    work = lambda: _work(folder, name, top, source, facts[:2])
    if source.store == "stream":
        return streaming.dataset(source, f"tfds:{name}", work())
    return cache.dataset(source, "tfds", facts, f"tfds:{name}", work)


def _prepared(top, full, name, config, version) -> Path:
    """The folder of the wanted version; no network, and tfds itself is imported only where there is none."""
    base = top / name / config if config else top / name
    found = _versions(base)
    if not found and not config and base.is_dir():
        configs = {p.name: _versions(p) for p in sorted(base.iterdir()) if p.is_dir() and _versions(p)}
        if len(configs) > 1:
            raise SettingError(f"data.name='tfds:{full}': name its config, one of: {', '.join(configs)}")
        found = next(iter(configs.values()), [])
    wanted = [p for p in found if version in (None, p.name)]
    if wanted:
        return wanted[-1]
    if found:
        raise SettingError(f"data.name='tfds:{full}': prepared are the versions {', '.join(p.name for p in found)}")
    _check_known(name)
    raise SettingError(
        f"tfds:{full} is not prepared in {top}; once, where tensorflow is installed: {_command(full, top)}"
    )


def _versions(folder) -> list[Path]:
    """Prepared versions in a folder of tfds, ascending."""
    found = [p for p in folder.glob("*/") if _VERSION.fullmatch(p.name) and (p / "dataset_info.json").is_file()]
    return sorted(found, key=lambda p: tuple(int(n) for n in p.name.split(".")))


def _check_known(name):
    try:
        import tensorflow_datasets
    except ImportError:
        return  # the message on how to prepare it holds all the same

    known = tensorflow_datasets.list_builders(with_community_datasets=False)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "see https://www.tensorflow.org/datasets/catalog"
        raise SettingError(f"data.name='tfds:{name}': tensorflow_datasets has no such data set; {hint}")


def _command(name, top) -> str:
    call = f"tfds.builder('{name}', file_format='array_record', data_dir='{top}').download_and_prepare()"
    return f'python -c "import tensorflow_datasets as tfds; {call}"'


def _work(folder, name, top, source, facts) -> cache.Work:
    """Reads the labels, and says how to decode."""
    try:
        builder = records.builder(folder)
    except Exception as error:  # tfds raises all kinds for missing and damaged files
        raise SettingError(printable(f"tfds:{name}: {folder} cannot be read ({error}); prepare it anew")) from error
    shape, key = _shape(builder, name, source), _label(builder, name, source)
    read = lambda part, key: _read(builder, part, key, name, top, source, facts)
    splits = list(builder.info.splits)
    if "train" not in splits:
        raise SettingError(f"tfds:{name} has no split 'train', only {', '.join(splits)}")
    if source.unlabelled and source.unlabelled not in splits:
        raise SettingError(f"data.unlabelled={source.unlabelled!r}: the splits of tfds:{name} are {', '.join(splits)}")
    parts = {"train": read("train", key)}
    if source.unlabelled:
        parts[source.unlabelled] = read(source.unlabelled, None)
    trained = len(parts)
    for part in [p for p in ("test", "validation") if p in splits and p not in parts]:
        examples, labels = read(part, key)
        if not key or (labels != UNLABELLED).all():
            parts[part] = examples, labels
            break
    labels = np.concatenate([labels for _, labels in parts.values()])
    counts = {part: len(labels) for part, (_, labels) in parts.items()}
    train, test = np.split(np.arange(len(labels), dtype=np.int32), [sum([*counts.values()][:trained])])
    if key and len(parts) == trained:
        train, test = held_out(labels, source.test_share)
    classes = _classes(builder, key, labels)
    check_classes(labels[train], classes, f"tfds:{name}")
    rows = np.concatenate([train, test])
    places, opened = records.Places(counts, rows), {part: examples for part, (examples, _) in parts.items()}
    image = records.Reader(folder, places, shape, source.size, opened)
    return cache.Work(places, labels[rows], len(train), shape, image, classes)


def _read(builder, part, key, name, top, source, facts):
    """The examples of a split, and their labels int32 [N]."""
    try:
        examples = records.examples(builder, part)
        return examples, records.labels(source, examples, key, [facts, part], f"tfds:{name}, split {part}")
    except SettingError:
        raise
    except NotImplementedError as error:
        other, kind = f"{top}_array_record", builder.info.file_format.value
        raise SettingError(
            f"tfds:{name} in {top} is prepared as {kind}, which needs tensorflow; once, where that is installed: "
            f"{_command(name, other)}; then set data.dir={other}"
        ) from error
    except Exception as error:  # array_record raises all kinds for missing and damaged files
        raise SettingError(printable(f"tfds:{name} in {top} cannot be read ({error}); prepare it anew")) from error


def _shape(builder, name, source) -> tuple[int, int, int]:
    """What the images are stored as: their own shape where it is known and small, else a square."""
    features = builder.info.features
    if "image" not in features or np.dtype(features["image"].np_dtype) != np.uint8:
        raise SettingError(f"tfds:{name} has no feature 'image' of uint8, only {', '.join(features)}; take another set")
    shape = features["image"].shape
    known = len(shape) == 3 and None not in shape and shape[2] in (1, 3)
    shape = shape if known and max(shape[:2]) <= source.size else (source.size, source.size, 3)
    source.check_channels(shape[2])
    return shape


def _label(builder, name, source) -> str | None:
    """The feature with the labels; None where there is none, or none is wanted."""
    features, key = builder.info.features, "coarse_label" if source.labels == "coarse" else "label"
    if not source.labelled or (key not in features and key == "label"):
        return None
    if key not in features:
        raise SettingError(f"data.labels='coarse': tfds:{name} has no coarse labels; choose fine or none")
    if features[key].shape or np.dtype(features[key].np_dtype).kind not in "iu":
        raise SettingError(f"tfds:{name}: its labels are not one class an image; data.labels=none trains without")
    return key


def _classes(builder, key, labels) -> tuple[str, ...]:
    names = getattr(builder.info.features[key], "names", None) if key else ()
    return tuple(str(i) for i in range(labels.max() + 1)) if names is None else tuple(names)
