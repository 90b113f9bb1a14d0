"""Data sets as uint8 arrays in a fixed order: row i is image i for good."""

import dataclasses
import functools

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
_COARSE = ("cifar100", _TFDS)  # names that start so may have coarse labels
_FETCHED = ("cifar10", "cifar100")


def load(name: str, **settings) -> Dataset:
    """The data set `name`.

    Args:
        name: a key of `LOADERS`, "tfds:" and a name of tensorflow_datasets, or a module of the user's by dotted name.
        **settings: fields of `Source`.

    Raises:
        SettingError: unknown name, a setting that does not fit, missing or damaged files (which, and the way out).
    """
    return load_from(fill(Source, dict(settings, name=name), "data"))


def load_from(source: Source) -> Dataset:
    """The data set that the settings of `config.data` describe; see `load`."""
    check(source)
    dataset = _loader(source.name)(source)
    source.check_channels(dataset.train.images.shape[-1])
    if not source.labelled:
        dataset = _unlabelled(dataset)
    if source.limit > len(dataset.train):
        raise SettingError(
            f"data.limit={source.limit}: {source.name} has {len(dataset.train)} training images; 0 takes all"
        )
    train = Images(*(a[: source.limit or None] for a in (dataset.train.images, dataset.train.labels)))
    check_classes(train.labels, dataset.classes, source.dir or source.name, "the first" if source.limit else "all")
    if source.whole:
        train = _joined(train, dataset.test)
    joined = len(dataset.test) if source.whole else 0
    statistics = dict(mean=source.mean or dataset.mean, std=source.std or dataset.std)
    return dataclasses.replace(dataset, train=train, joined=joined, **statistics)


def check(source: Source) -> None:
    """Raises a SettingError where settings do not fit the kind of data set; nothing is read."""
    name = source.name
    _loader(name)
    if source.labels == "coarse" and not name.startswith(_COARSE):
        raise SettingError(f"data.labels='coarse': {name} has no coarse labels; choose fine or none")
    if source.store == "stream" and name != "folder" and not name.startswith(_TFDS):
        raise SettingError(f"data.store='stream': {name} is read whole; only folder and tfds:<name> are streamed")
    if source.unlabelled and not name.startswith(_TFDS):
        raise SettingError(f"data.unlabelled={source.unlabelled!r}: only data sets of tfds have further splits")
    if source.download and name not in _FETCHED:
        raise SettingError(f"data.download=True: {name} cannot be downloaded, only {' and '.join(_FETCHED)}")


def _loader(name: str):
    """The function from a `Source` to the `Dataset` of this name; a user's own is `load` of a module by dotted name."""
    if name.startswith(_TFDS):
        return functools.partial(tfds, name.removeprefix(_TFDS))
    if name in LOADERS:
        return LOADERS[name]
    if "." in name:
        return choose("", name, "data.name", "load")
    raise SettingError(
        f"data.name={name!r} is not known; choose one of: {', '.join(LOADERS)}, tfds:<name>, or a module of your own "
        "by its dotted name"
    )


def _unlabelled(dataset) -> Dataset:
    """`dataset` without labels or classes."""
    splits = [Images(s.images, np.full(len(s), UNLABELLED, np.int32)) for s in (dataset.train, dataset.test)]
    return dataclasses.replace(dataset, train=splits[0], test=splits[1], classes=())


def _joined(train, test) -> Images:
    """Both splits in one."""
    ours, theirs = train.images, test.images
    images = ours.followed_by(theirs) if isinstance(ours, StreamedImages) else np.concatenate([ours, theirs])
    return Images(images, np.concatenate([train.labels, test.labels]))


def _digits(source) -> Dataset:
    """scikit-learn's 1,797 handwritten digits, 8x8 grey, with a fixed stratified 80/20 split."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    rows = train_test_split(np.arange(len(images)), test_size=0.2, stratify=digits.target, random_state=0)
    train, test = (Images(images[r], digits.target[r].astype(np.int32)) for r in rows)
    names = lambda: [f"digits[{i}]" for part in rows for i in part]
    return Dataset(train, test, tuple("0123456789"), (0.305,), (0.376,), listed=names)


LOADERS = {"digits": _digits, "cifar10": cifar10, "cifar100": cifar100, "folder": folder, "array": arrays}
