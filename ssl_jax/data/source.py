"""What every loader takes and gives: a `Source` in, a `Dataset` out; and what they share."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ssl_jax.settings import ranges
from ssl_jax.settings.resolve import SettingError

UNLABELLED = -1
_STATISTICS_FROM = 2000  # images that the channel statistics are computed from, at most
_AT_ONCE = 250  # of them


@dataclasses.dataclass(frozen=True)
class Images:
    """One split: `images` uint8 [N, H, W, C] and `labels` int32 [N] (-1: unlabelled).

    `images` is a numpy array, a memory map, or `streaming.StreamedImages`, which decodes the rows that it is asked for.
    """

    images: Any
    labels: np.ndarray

    def __len__(self):
        return len(self.images)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Training and test images, class names, and the channel statistics that views are normalised with.

    `test` may be empty, [0, H, W, C], and `classes` too, where there are no labels. `notes` are sentences that the
    user should read. `joined`: so many images at the end of `train` are those of `test`, in their order. `listed` reads
    the names of all images that the source has, those for training first; see `names`.
    """

    train: Images
    test: Images
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: tuple[str, ...] = ()
    joined: int = 0
    listed: Callable[[], Sequence[str]] | None = None

    def names(self) -> list[str]:
        """Where each image comes from: those trained on without the joined ones, then the test images.

        Files by their path below `data.dir`; rows of arrays as "train[17]".
        """
        own, held = len(self.train) - self.joined, len(self.test)
        if self.listed is None:
            return [f"{split}[{i}]" for split, count in (("train", own), ("test", held)) for i in range(count)]
        names = list(self.listed())
        return names[:own] + names[len(names) - held :]

    def facts(self) -> dict:
        """What a trained encoder needs to know of the data, as JSON: see `stand_in`."""
        return dict(
            shape=self.train.images.shape,
            classes=self.classes,
            mean=[float(x) for x in self.mean],
            std=[float(x) for x in self.std],
        )

    def fingerprint(self) -> str:
        """A short hash of what is trained on: counts, labels, classes, and every so many images."""
        found = hashlib.sha256(json.dumps([self.train.images.shape, self.test.images.shape, self.classes]).encode())
        for split in (self.train, self.test):
            found.update(np.ascontiguousarray(split.labels))
            rows = np.unique(np.linspace(0, max(len(split) - 1, 0), min(len(split), 64)).astype(int))
            found.update(np.ascontiguousarray(split.images[rows]))
        return found.hexdigest()[:16]

    def resident(self, gigabytes: float) -> bool:
        """Whether the training images are to lie whole on the devices: they take no more than that, and are decoded."""
        return isinstance(self.train.images, np.ndarray) and self.train.images.nbytes <= gigabytes * 2**30


def stand_in(facts: dict) -> Dataset:
    """A data set with the `facts` of another one and no images of its own, for those who need no more.

    Its arrays have the right shapes and take no memory.
    """
    rows, *image = facts["shape"]
    images = lambda n: Images(np.broadcast_to(np.uint8(0), (n, *image)), np.full(n, UNLABELLED, np.int32))
    return Dataset(images(rows), images(0), *(tuple(facts[name]) for name in ("classes", "mean", "std")))


@dataclasses.dataclass(frozen=True)
class Source:
    """The settings of `config.data`.

    Attributes:
        name: of the data set: digits, cifar10, cifar100, folder, array, tfds:<name>, or a module of your own.
        dir: folder or file that the data set is read from.
        limit: keep the first `limit` training images; 0 keeps all.
        labels: "fine"; "coarse", for CIFAR-100; or "none", as if the data set had no labels.
        size: side in pixels of the squares that images of folders and of tfds are stored as.
        whole: train on the test images, too, as deep clustering does; kNN and linear scores then are of images that
            were trained on without labels, and clusterings are scored on all images.
        unlabelled: a split of a tfds data set, added to the training images without labels ("unlabelled" of stl10).
        test_share: share of each class that is held out where a labelled data set has no test split.
        skip_corrupt: leave out files that cannot be read.
        download: fetch what is missing, for the data sets that can.
        cache: folder for decoded images and downloads; empty: ssl_jax in $XDG_CACHE_HOME or ~/.cache.
        store: "cache": images of folders and of tfds are decoded once, before the first step, into a file from which
            they are read ever after; "stream": they stay in their files and each is decoded whenever it is wanted, to
            the same pixels, which needs no room and no first pass over millions of them.
        workers: of "stream": so many processes decode what is trained on; 0: a thread a CPU of this process.
        mean, std: C channel statistics of pixels in 0..1; empty: the data set's own.
    """

    name: str = "digits"
    dir: str = ""
    limit: int = 0
    labels: str = "fine"
    size: int = 128
    whole: bool = False
    unlabelled: str = ""
    test_share: float = 0.1
    skip_corrupt: bool = False
    download: bool = False
    cache: str = ""
    store: str = "cache"
    workers: int = 0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def labelled(self) -> bool:
        """Whether labels are wanted."""
        return self.labels != "none"

    def __post_init__(self):
        if self.labels not in ("fine", "coarse", "none"):
            raise ValueError(f"labels={self.labels!r}: choose fine, coarse or none")
        for key in ("dir", "cache"):
            if "://" in getattr(self, key):
                raise ValueError(f"{key}={getattr(self, key)}: a folder is wanted; mount the bucket as one")
        if self.limit < 0:
            raise ValueError(f"limit={self.limit}: at least 0; 0 takes all")
        if self.store not in ("cache", "stream"):
            raise ValueError(f"store={self.store!r}: choose cache or stream")
        if self.store == "stream" and self.skip_corrupt:
            raise ValueError(
                "skip_corrupt=True: data.store=stream learns only during training which files are bad, when their "
                "rows are given away; set data.store=cache, or take the bad files out"
            )
        if self.workers < 0:
            raise ValueError(f"workers={self.workers}: at least 0; 0 decodes in threads")
        if self.workers and self.store != "stream":
            raise ValueError(f"workers={self.workers} decode streamed images; they go with data.store=stream")
        ranges.count(0, limit=self.limit)
        ranges.count(1, 2**14, size=self.size)
        ranges.count(0, ranges.MANY, workers=self.workers)
        if not 0 < self.test_share < 1:
            raise ValueError(f"test_share={self.test_share}: between 0 and 1, both left out")
        if not all(0 <= value <= 1 for value in self.mean):
            raise ValueError(f"mean={self.mean}: within 0 and 1, as pixels are scaled to 0..1")
        if not all(0 < value <= 1 for value in self.std):
            raise ValueError(f"std={self.std}: above 0 and at most 1, as pixels are scaled to 0..1")

    def check_channels(self, channels: int):
        """Raises a SettingError where `mean` or `std` is given for another number of channels."""
        for key in ("mean", "std"):
            value = getattr(self, key)
            if len(value) not in (0, channels):
                raise SettingError(f"data.{key}={value}: the images have {channels} channels; give {channels} numbers")


def check_classes(labels, classes, where: str, which: str = "all"):
    """Refuses labels [N] that are all of one class: nothing could be learnt from them, nor scored.

    Raises:
        SettingError: names the class; -1 does not count, and no labels at all are fine.
    """
    found = np.unique(labels[labels != UNLABELLED])
    if len(found) == 1:
        raise SettingError(
            f"{which} {len(labels):,} training images of {where} are of one class, {classes[found[0]]!r}; "
            "give images of two classes or more; data.labels=none trains without labels"
        )


def held_out(labels, share: float) -> tuple[np.ndarray, np.ndarray]:
    """A fixed stratified split into rows for training and rows for the test, both ascending.

    Args:
        labels: [N]; unlabelled rows (-1) stay in training.
        share: of each class that is held out, at least one image, but never the last of its class.
    """
    rng, test = np.random.default_rng(0), np.zeros(len(labels), bool)
    for label in np.unique(labels[labels != UNLABELLED]):
        rows = rng.permutation(np.flatnonzero(labels == label))
        count = min(max(1, round(share * len(rows))), len(rows) - 1)
        test[rows[:count]] = True
    return np.flatnonzero(~test), np.flatnonzero(test)


def statistics(images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 images [N, H, W, C], in units of 255, to four digits.

    From at most 2,000 images, spread evenly. Exact sums of whole numbers: the same on every machine.
    """
    rows = np.unique(np.linspace(0, len(images) - 1, min(len(images), _STATISTICS_FROM)).astype(int))
    counts = np.zeros((images.shape[-1], 256), np.int64)
    for block in (images[rows[i : i + _AT_ONCE]] for i in range(0, len(rows), _AT_ONCE)):
        for channel, count in enumerate(counts):
            count += np.bincount(block[..., channel].ravel(), minlength=256)
    values, total = np.arange(256), counts.sum(axis=1)
    mean = counts @ values / total
    variance = counts @ values**2 / total - mean**2
    std = np.maximum(np.sqrt(np.maximum(variance, 0.0)) / 255, 1e-3)
    return tuple(np.round(mean / 255, 4).tolist()), tuple(np.round(std, 4).tolist())
