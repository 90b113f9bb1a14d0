"""Data sets as uint8 arrays in a fixed order: row i is always image i."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ssl_jax.data.arrays import arrays
from ssl_jax.data.cifar import cifar10, cifar100
from ssl_jax.data.folder import folder
from ssl_jax.data.source import UNLABELLED, Dataset, Images, Source, check_classes
from ssl_jax.data.streaming import StreamedImages
from ssl_jax.data.tfds import tfds
from ssl_jax.settings.resolve import SettingError, choose, fill

__all__ = ["LOADERS", "UNLABELLED", "Dataset", "Images", "Source", "load"]
_TFDS = "tfds:"
_COARSE = ("cifar100", _TFDS)  # prefixes of names that may have coarse labels
_DOWNLOADABLE = ("cifar10", "cifar100")


def load(name: str, **settings: Any) -> Dataset:
    """The data set `name`.

    Args:
        name: a key of `LOADERS`, "tfds:" and a name of tensorflow_datasets, or the dotted name of
            your own module.
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
    limit = source.limit or None
    train = Images(dataset.train.images[:limit], dataset.train.labels[:limit])
    which = "the first" if source.limit else "all"
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
    if source.store == "stream" and name != "folder" and not name.startswith(_TFDS):
        raise SettingError(
            f"data.store='stream': {name} is loaded whole; only folder and tfds:<name> can be "
            "streamed; set data.store=cache"
        )
    if source.unlabelled and not name.startswith(_TFDS):
        raise SettingError(
            f"data.unlabelled={source.unlabelled!r}: only tfds:<name> data sets have extra splits"
        )
    if source.download and name not in _DOWNLOADABLE:
        raise SettingError(
            f"data.download=True: {name} cannot be downloaded, only {' and '.join(_DOWNLOADABLE)}"
        )


def _loader(name: str) -> Callable[[Source], Dataset]:
    """The function that loads the data set `name`; for a dotted name, that module's `load`."""
    if name.startswith(_TFDS):
        return functools.partial(tfds, name.removeprefix(_TFDS))
    if name in LOADERS:
        return LOADERS[name]
    if "." in name:
        return choose("", name, "data.name", "load")
    raise SettingError(
        f"data.name={name!r} is not known; choose one of: {', '.join(LOADERS)}, tfds:<name>, or "
        "the dotted name of your own module"
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
    if isinstance(train.images, StreamedImages):
        images = train.images.followed_by(test.images)
    else:
        images = np.concatenate([train.images, test.images])
    return Images(images, np.concatenate([train.labels, test.labels]))


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
}
