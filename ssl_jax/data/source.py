"""What loaders take and return (`Source`, `Dataset`), and what they share."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ssl_jax.data.errors import LabelError
from ssl_jax.data.whole import WholePictures, pixels_of
from ssl_jax.settings import ranges
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import counted, printable

UNLABELLED = -1
_STATISTICS_FROM = 2000  # most images that the channel statistics are computed from
_BLOCK = 250  # of these images, read at once


@dataclasses.dataclass(frozen=True)
class Images:
    """One split.

    Attributes:
        images: uint8 [N, H, W, C]: a numpy array, a memory map, `WholePictures` of one of these, or
            `streaming.StreamedImages`, which decodes rows on demand.
        labels: int32 [N]; -1: unlabelled.
        targets: int8 [N, C], of data whose images may show several classes, none of which is its
            label: 1 where a class is shown, -1 where it is not, 0 where the image does not count
            for the class. Else None.
    """

    images: Any
    labels: np.ndarray
    targets: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labelled(self) -> np.ndarray:
        """Whether images have a label or targets, bool [N]."""
        with_label = np.asarray(self.labels) >= 0
        return with_label if self.targets is None else (self.targets != 0).any(axis=1)

    def first(self, count: int | None) -> "Images":
        """The first `count` images; all if None."""
        targets = None if self.targets is None else self.targets[:count]
        return Images(self.images[:count], self.labels[:count], targets)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Training and test images, class names, and the channel statistics for normalising.

    Attributes:
        train: the training split.
        test: the test split; may be empty, [0, H, W, C].
        classes: class names; empty without labels.
        mean, std: C channel statistics of pixels in 0..1.
        notes: sentences for the user.
        joined: number of test images appended to `train`, in test order.
        range: the values of the source that pixels 0 and 255 stand for; empty for 8-bit images.
        left_out: files that were not read: their number by ending (".txt", "" without one), and
            that of unreadable ones under "unreadable".
        listed: reads the names of all images in the source, training images first; see `names`.
    """

    train: Images
    test: Images
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: tuple[str, ...] = ()
    joined: int = 0
    range: tuple[float, ...] = ()
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)
    listed: Callable[[], Sequence[str]] | None = None

    @property
    def several_classes(self) -> bool:
        """Whether an image may show several classes, so that it has targets and no label."""
        return self.test.targets is not None

    def names(self) -> list[str]:
        """Where each image comes from: training images without the joined ones, then test images.

        Files by their path below `data.dir`; rows of arrays as "train[17]".
        """
        train_count = len(self.train) - self.joined
        test_count = len(self.test)
        if self.listed is None:
            names = [f"train[{i}]" for i in range(train_count)]
            return names + [f"test[{i}]" for i in range(test_count)]
        names = list(self.listed())
        return names[:train_count] + names[len(names) - test_count :]

    def facts(self) -> dict[str, Any]:
        """The facts that a trained encoder depends on, as JSON; `stand_in` reads them."""
        facts = dict(
            shape=self.train.images.shape,
            classes=self.classes,
            mean=[float(x) for x in self.mean],
            std=[float(x) for x in self.std],
        )
        return facts | ({"range": [float(x) for x in self.range]} if self.range else {})

    def fingerprint(self) -> str:
        """A short hash of the data: shapes, classes, labels, and up to 64 images of each split.

        Square images have the same one whether their sizes are recorded or not.
        """
        shapes = [self.train.images.shape, self.test.images.shape, self.classes]
        digest = hashlib.sha256(json.dumps(shapes).encode())
        for split in (self.train, self.test):
            digest.update(np.ascontiguousarray(split.labels))
            if split.targets is not None:
                digest.update(np.ascontiguousarray(split.targets))
            rows = np.linspace(0, max(len(split) - 1, 0), min(len(split), 64)).astype(int)
            images = split.images[np.unique(rows)]
            digest.update(np.ascontiguousarray(pixels_of(images)))
            if isinstance(images, WholePictures) and not images.all_square:
                digest.update(np.ascontiguousarray(images.sizes))
        return digest.hexdigest()[:16]

    def resident(self, gigabytes: float) -> bool:
        """Whether to keep the training images on the devices: decoded, and at most `gigabytes`."""
        return (
            isinstance(pixels_of(self.train.images), np.ndarray)
            and self.train.images.nbytes <= gigabytes * 2**30
        )


def stand_in(facts: Mapping[str, Any]) -> Dataset:
    """A placeholder with the `facts` of a data set and no real images.

    Its arrays have the right shapes; the images take no memory.
    """
    count, *shape = facts["shape"]
    return Dataset(
        train=_blank(count, shape),
        test=_blank(0, shape),
        classes=tuple(facts["classes"]),
        mean=tuple(facts["mean"]),
        std=tuple(facts["std"]),
        range=tuple(facts.get("range", ())),
    )


def _blank(count: int, shape: Sequence[int]) -> Images:
    images = np.broadcast_to(np.uint8(0), (count, *shape))
    return Images(images, np.full(count, UNLABELLED, np.int32))


@dataclasses.dataclass(frozen=True)
class Source:
    """The settings of `config.data`.

    Attributes:
        name: the data set: digits, cifar10, cifar100; places205, voc07, inat18, cub200 or dogs, as
            published; folder, array, table or webdataset, for data of your own; hf:<folder>;
            tfds:<name>; or the dotted name of your own module.
        dir: folder or file to read the data set from.
        limit: keep the first `limit` training images; 0 keeps all.
        labels: which labels to use: "fine"; "coarse", for CIFAR-100 and data sets of tfds and hf
            that have them; or "none", which ignores all.
        size: side in pixels of the squares that pictures are stored as (all but digits, cifar10,
            cifar100 and array).
        keep: what of these pictures is kept: "whole" squeezes all of each into the square, and
            views are drawn in its true proportions; "centre" keeps the central square alone.
        whole: also train on the test images, as deep clustering does. kNN and linear scores are
            then on images that were trained on, without their labels, and clusterings are scored on
            all images.
        unlabelled: a split of a tfds data set to add to the training images without labels
            ("unlabelled" of stl10).
        test_share: share of each class to hold out if a labelled data set has no test split.
        skip_corrupt: skip files that cannot be read.
        bands: channels to read: 0 reads pictures in colour, with transparent parts white, and
            arrays with all their channels; 1 makes grey; 3 colour; otherwise the first bands of the
            file as they are, such as 4 for red, green, blue and near infrared.
        range: two values, which become black and white, of pictures with more than 8 bits and of
            arrays; empty: arrays of uint8 stay as they are, others take the smallest and largest
            value of the training split, or arrays 0 and 1 or 0 and 255 if these fit. Trained runs
            keep theirs.
        download: fetch missing files (cifar10 and cifar100).
        cache: folder for decoded images and downloads; empty: ssl_jax in $XDG_CACHE_HOME or
            ~/.cache.
        store: how pictures are stored (all but digits, cifar10, cifar100 and array). "cache"
            decodes all of them once, before the first step, into a file that later runs share.
            "stream" decodes each image whenever it is used, to the same pixels: no disk space, and
            no first pass over millions of files.
        workers: processes that decode streamed training images; 0 uses one thread per CPU.
        mean: mean of each channel, for pixels in 0..1; empty: the data set's own.
        std: standard deviation of each channel, for pixels in 0..1; empty: the data set's own.
        of_run: no setting: `range` was not given but is that of the trained run that the images
            are read for.
        labels_for: no setting: the method that is trained on the labels; empty for all others,
            which train without.
        needs_range: no setting: what the images are read for, if it takes no range from them, such
            as a weight file; then images of more than 8 bits need a `range`.
    """

    name: str = "digits"
    dir: str = ""
    limit: int = 0
    labels: str = "fine"
    size: int = 128
    keep: str = "whole"
    whole: bool = False
    unlabelled: str = ""
    test_share: float = 0.1
    skip_corrupt: bool = False
    bands: int = 0
    range: tuple[float, ...] = ()
    download: bool = False
    cache: str = ""
    store: str = "cache"
    workers: int = 0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    of_run: bool = False
    labels_for: str = ""
    needs_range: str = ""

    @property
    def range_words(self) -> str:
        """What `range` is called in notes and errors."""
        return "the range of the run" if self.of_run else "data.range"

    @property
    def labelled(self) -> bool:
        """Whether labels are used."""
        return self.labels != "none"

    def __post_init__(self) -> None:
        if self.labels not in ("fine", "coarse", "none"):
            raise ValueError(f"labels={self.labels!r}: choose fine, coarse or none")
        for key in ("dir", "cache"):
            if "://" in getattr(self, key):
                raise ValueError(
                    f"{key}={getattr(self, key)}: must be a local path; mount the bucket"
                )
        if self.limit < 0:
            raise ValueError(f"limit={self.limit}: at least 0; 0 keeps all")
        if self.store not in ("cache", "stream"):
            raise ValueError(f"store={self.store!r}: choose cache or stream")
        if self.store == "stream" and self.skip_corrupt:
            raise ValueError(
                "skip_corrupt=True: data.store=stream finds bad files only during training, too "
                "late to drop their rows; set data.store=cache, or remove the bad files"
            )
        if self.keep not in ("whole", "centre"):
            raise ValueError(f"keep={self.keep!r}: choose whole or centre")
        if self.workers < 0:
            raise ValueError(f"workers={self.workers}: at least 0; 0 decodes in threads")
        if self.workers and self.store != "stream":
            raise ValueError(
                f"workers={self.workers} decode streamed images only; set data.store=stream"
            )
        ranges.count(0, limit=self.limit)
        ranges.count(1, 2**14, size=self.size)
        ranges.count(0, ranges.MANY, workers=self.workers)
        if not 0 < self.test_share < 1:
            raise ValueError(f"test_share={self.test_share}: strictly between 0 and 1")
        ranges.count(0, ranges.MANY, bands=self.bands)
        if self.range and not (
            len(self.range) == 2
            and all(abs(value) <= ranges.FLOAT32 for value in self.range)
            and self.range[0] < self.range[1]
        ):
            raise ValueError(f"range={self.range}: give (darkest, brightest), the first smaller")
        if self.labels_for and not self.labelled:
            raise ValueError(
                f"labels='none': method.name={self.labels_for!r} is trained on labels; leave it out"
            )
        if self.labels_for and self.whole:
            raise ValueError(
                f"whole=True: method.name={self.labels_for!r} would learn the labels of the test "
                "images; leave it out"
            )
        if not all(0 <= value <= 1 for value in self.mean):
            raise ValueError(f"mean={self.mean}: between 0 and 1, as pixels are scaled to 0..1")
        if not all(0 < value <= 1 for value in self.std):
            raise ValueError(f"std={self.std}: above 0 and at most 1, as pixels are scaled to 0..1")

    def check_labels(self, labels: np.ndarray) -> None:
        """Checks that there are `labels` [N] of training images for a method that needs them.

        Loaders of pictures call it before they decode any.

        Raises:
            SettingError: all images are unlabelled, -1.
        """
        if self.labels_for and not (np.asarray(labels) >= 0).any():
            raise SettingError(
                f"method.name={self.labels_for!r} is trained on labels, but none of the "
                f"{counted(len(labels), 'training image')} of {printable(self.dir or self.name)} "
                "has one; docs/data.md says where labels are read from, and the other methods need "
                "none"
            )

    def check_range(self, images: str) -> None:
        """Rejects images of more than 8 bits without a range, where the images do not set it.

        Args:
            images: what has more than 8 bits, and how much of it.

        Raises:
            SettingError: `needs_range`, and there is no `range`.
        """
        if self.needs_range and not self.range:
            raise SettingError(
                f"{images}, and {self.needs_range} does not say which values are black and white; "
                "give them as --data.range=LOW,HIGH, such as 0,65535 for all of 16 bits"
            )

    def check_channels(self, channels: int) -> None:
        """Raises SettingError if `mean` or `std` is set for another number of channels."""
        for key in ("mean", "std"):
            value = getattr(self, key)
            if len(value) not in (0, channels):
                raise SettingError(
                    f"data.{key}={value}: the images have {counted(channels, 'channel')}; give "
                    f"{counted(channels, 'number')}"
                )


def check_classes(
    labels: np.ndarray, classes: Sequence[str], where: str, which: str = "all"
) -> None:
    """Rejects labels that are all of one class, as they can neither be learnt nor scored.

    Args:
        labels: [N]; -1 is ignored, and no labels at all are fine.
        classes: class names.
        where: the data set, for the message.
        which: the images that were checked, for the message.

    Raises:
        LabelError: only one class.
    """
    present = np.unique(labels[labels != UNLABELLED])
    if len(present) == 1:
        raise LabelError(
            f"{which} {len(labels):,} training images of {where} are of one class, "
            f"{classes[present[0]]!r}; give images of at least two classes, or set "
            "data.labels=none to train without labels"
        )


def held_out(labels: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """A fixed stratified split into training rows and test rows, both ascending.

    Args:
        labels: [N]; unlabelled rows (-1) stay in training.
        share: part of each class to hold out: at least one image, but never its last.
    """
    rng = np.random.default_rng(0)
    test = np.zeros(len(labels), bool)
    for label in np.unique(labels[labels != UNLABELLED]):
        rows = rng.permutation(np.flatnonzero(labels == label))
        count = min(max(1, round(share * len(rows))), len(rows) - 1)
        test[rows[:count]] = True
    return np.flatnonzero(~test), np.flatnonzero(test)


def statistics(
    images: Any, look: Callable[[Any], None] | None = None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 images [N, H, W, C], or whole pictures.

    In units of 255, to four digits, from at most 2,000 evenly spaced images. Sums are exact
    integers, so the results are the same on every machine.

    Args:
        images: the images.
        look: called with each block of those that are read.
    """
    count = min(len(images), _STATISTICS_FROM)
    rows = np.unique(np.linspace(0, len(images) - 1, count).astype(int))
    counts = np.zeros((images.shape[-1], 256), np.int64)
    for start in range(0, len(rows), _BLOCK):
        block = images[rows[start : start + _BLOCK]]
        if look:
            look(block)
        block = pixels_of(block)
        for channel in range(len(counts)):
            counts[channel] += np.bincount(block[..., channel].ravel(), minlength=256)
    values = np.arange(256)
    total = counts.sum(axis=1)
    mean = counts @ values / total
    variance = counts @ values**2 / total - mean**2
    std = np.maximum(np.sqrt(np.maximum(variance, 0.0)) / 255, 1e-3)
    return tuple(np.round(mean / 255, 4).tolist()), tuple(np.round(std, 4).tolist())
