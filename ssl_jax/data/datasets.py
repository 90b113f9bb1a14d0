"""Data sets as uint8 arrays in a fixed order: row i is always image i."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ssl_jax.data.arrays import arrays
from ssl_jax.data.cifar import cifar10, cifar100
from ssl_jax.data.cub200 import cub200
from ssl_jax.data.dogs import dogs
from ssl_jax.data.folder import folder
from ssl_jax.data.hf import hf
from ssl_jax.data.inat18 import inat18
from ssl_jax.data.places205 import places205
from ssl_jax.data.source import UNLABELLED, Dataset, Images, Source, check_classes
from ssl_jax.data.streaming import StreamedImages
from ssl_jax.data.table import table
from ssl_jax.data.tfds import tfds
from ssl_jax.data.voc07 import voc07
from ssl_jax.data.webdataset import webdataset
from ssl_jax.data.whole import WholePictures
from ssl_jax.settings.resolve import SettingError, choose, fill

__all__ = ["LOADERS", "UNLABELLED", "Dataset", "Images", "Source", "load"]
_TFDS = "tfds:"
_HF = "hf:"
_COARSE = ("cifar100", _TFDS, _HF)  # prefixes of names that may have coarse labels
_LISTED = ("places205", "voc07", "inat18", "cub200", "dogs")  # pictures, and lists of them
_STREAMED = ("folder", "table", "webdataset", *_LISTED)
_DOWNLOADABLE = ("cifar10", "cifar100")


def load(name: str, **settings: Any) -> Dataset:
    """The data set `name`.

    Args:
        name: a key of `LOADERS`, "tfds:" and a name of tensorflow_datasets, "hf:" and a folder,
            or the dotted name of your own module.
        **settings: fields of `Source`.

    Raises:
        SettingError: an unknown name, a setting that the data set does not support, or missing or
            damaged files.
    """
    return load_from(fill(Source, dict(settings, name=name), "data"))


def load_from(source: Source) -> Dataset:
    """The data set for the settings `config.data`; see `load`."""
    check(source)
    dataset = _loader(source.name)(source)
    source.check_channels(dataset.train.images.shape[-1])
    if not source.labelled:
        dataset = _unlabelled(dataset)
    if source.limit > len(dataset.train):
        raise SettingError(
            f"data.limit={source.limit}: {source.name} has {len(dataset.train)} training images; "
            "0 keeps all"
        )
    train = dataset.train.first(source.limit or None)
    which = "the first" if source.limit else "all"
    source.check_labels(train.labels)
    check_classes(train.labels, dataset.classes, source.dir or source.name, which)
    joined = 0
    if source.whole:
        train = _joined(train, dataset.test)
        joined = len(dataset.test)
    return dataclasses.replace(
        dataset,
        train=train,
        joined=joined,
        mean=source.mean or dataset.mean,
        std=source.std or dataset.std,
    )


def check(source: Source) -> None:
    """Raises SettingError for settings that the data set does not support; reads no data."""
    name = source.name
    _loader(name)
    if source.labels == "coarse" and not name.startswith(_COARSE):
        raise SettingError(
            f"data.labels='coarse': {name} has no coarse labels; choose fine or none"
        )
    streamed = name in _STREAMED or name.startswith((_TFDS, _HF))
    if source.store == "stream" and not streamed:
        raise SettingError(
            f"data.store='stream': {name} is loaded whole; only {', '.join(_STREAMED)}, "
            "tfds:<name> and hf:<folder> can be streamed; set data.store=cache"
        )
    if source.unlabelled and not name.startswith(_TFDS):
        raise SettingError(
            f"data.unlabelled={source.unlabelled!r}: only tfds:<name> data sets have extra splits"
        )
    if not reads_bands(name) and (source.bands or source.range):
        setting = f"bands={source.bands}" if source.bands else f"range={source.range}"
        raise SettingError(
            f"data.{setting}: the images of {name} have channels of 8 bits that are read as they "
            "are; leave it out"
        )
    if source.download and name not in _DOWNLOADABLE:
        raise SettingError(
            f"data.download=True: {name} cannot be downloaded, only {' and '.join(_DOWNLOADABLE)}"
        )


def reads_bands(name: str) -> bool:
    """Whether the data set `name` follows `data.bands` and `data.range`, as far as is known."""
    return makes_squares(name) or name == "array" or "." in name


def makes_squares(name: str) -> bool:
    """Whether all images of the data set `name` become squares of `data.size` pixels a side."""
    return name in _STREAMED or name.startswith(_HF)


def _loader(name: str) -> Callable[[Source], Dataset]:
    """The function that loads the data set `name`; for a dotted name, that module's `load`."""
    if name.startswith(_TFDS):
        return functools.partial(tfds, name.removeprefix(_TFDS))
    if name.startswith(_HF):
        return functools.partial(hf, name.removeprefix(_HF))
    if name in LOADERS:
        return LOADERS[name]
    if "." in name:
        return choose("", name, "data.name", "load")
    raise SettingError(
        f"data.name={name!r} is not known; choose one of: {', '.join(LOADERS)}, tfds:<name>, "
        "hf:<folder>, or the dotted name of your own module"
    )


def _unlabelled(dataset: Dataset) -> Dataset:
    """`dataset` without labels or classes."""
    train, test = (
        Images(split.images, np.full(len(split), UNLABELLED, np.int32))
        for split in (dataset.train, dataset.test)
    )
    return dataclasses.replace(dataset, train=train, test=test, classes=())


def _joined(train: Images, test: Images) -> Images:
    """The images of both splits, `train` first."""
    images = [train.images, test.images]
    if isinstance(images[0], StreamedImages):
        images = images[0].followed_by(images[1])
    elif isinstance(images[0], WholePictures):
        images = WholePictures(
            np.concatenate([part.pixels for part in images]),
            np.concatenate([part.sizes for part in images]),
        )
    else:
        images = np.concatenate(images)
    labels = np.concatenate([train.labels, test.labels])
    if train.targets is None or test.targets is None:
        return Images(images, labels)
    return Images(images, labels, np.concatenate([train.targets, test.targets]))


def _digits(source: Source) -> Dataset:
    """scikit-learn's 1,797 handwritten digits, 8x8 grey, with a fixed stratified 80/20 split."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    splits = train_test_split(
        np.arange(len(images)), test_size=0.2, stratify=digits.target, random_state=0
    )
    train, test = (Images(images[rows], digits.target[rows].astype(np.int32)) for rows in splits)
    return Dataset(
        train,
        test,
        classes=tuple("0123456789"),
        mean=(0.305,),
        std=(0.376,),
        listed=lambda: [f"digits[{i}]" for rows in splits for i in rows],
    )


LOADERS = {
    "digits": _digits,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "folder": folder,
    "array": arrays,
    "table": table,
    "webdataset": webdataset,
    "places205": places205,
    "voc07": voc07,
    "inat18": inat18,
    "cub200": cub200,
    "dogs": dogs,
}
