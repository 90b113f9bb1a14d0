"""Grey images for runs of three channels, and colour images for runs of one."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.data.luma import luma
from ssl_jax.data.source import Dataset, statistics
from ssl_jax.data.whole import WholePictures, pixels_of, with_pixels
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import counted

GREY = 1
COLOUR = 3
_BLOCK = 1024  # images converted at once
_FIXED = ("digits", "cifar10", "cifar100")  # data sets whose channels no setting changes


class MappedImages:
    """Images [N, H, W, C] that are computed from others whenever they are read.

    Reads like a uint8 array: `images[rows]` and `images[row]` are numpy arrays (or whole pictures,
    if those are), a slice is another `MappedImages`, and `np.asarray` computes everything.

    Args:
        images: [N, H, W, ...], anything that can be indexed by rows.
        function: takes rows of `images` [R, H, W, ...] and returns uint8 [R, H, W, C].
        channels: C.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, images: Any, function: Callable[[Any], np.ndarray], channels: int):
        self._images = images
        self._function = function
        self._channels = channels

    @property
    def shape(self) -> tuple[int, int, int, int]:
        count, height, width = self._images.shape[:3]
        return count, height, width, self._channels

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(
        self, rows: int | slice | np.ndarray
    ) -> "np.ndarray | WholePictures | MappedImages":
        if isinstance(rows, slice):
            return MappedImages(self._images[rows], self._function, self._channels)
        if np.ndim(rows):
            return with_pixels(self._images[rows], self._applied)
        return self[np.array([rows])][0]

    def _applied(self, images: Any) -> np.ndarray:
        return self._function(np.asarray(images))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = np.empty(self.shape, np.uint8)
        for start in range(0, len(self), _BLOCK):
            rows = np.arange(start, min(start + _BLOCK, len(self)))
            whole[rows] = self[rows]
        return whole.astype(dtype or self.dtype, copy=False)


def shown(images: np.ndarray) -> np.ndarray:
    """Images [..., C] as colour [..., 3] to look at: the first three channels, or one repeated."""
    images = np.asarray(images)
    if images.shape[-1] >= COLOUR:
        return images[..., :COLOUR]
    return np.repeat(images[..., :1], COLOUR, axis=-1)


def convertible(channels: int, wanted: int) -> bool:
    """Whether images of `channels` channels can be those of `wanted`: grey and colour can."""
    return channels == wanted or {channels, wanted} == {GREY, COLOUR}


def as_channels(images: Any, channels: int) -> Any:
    """Images [N, H, W, C] with another number of channels, grey or colour; see `convertible`.

    Grey becomes three equal channels, which for numpy arrays takes no memory. Colour becomes grey
    when it is read, except for arrays on a device.

    Args:
        images: uint8; on the device or on the host, decoded or not.
        channels: 1 or 3, unless the images have them already.

    Raises:
        ValueError: images that are neither grey nor colour.
    """
    count, height, width, present = images.shape
    if present == channels:
        return images
    if isinstance(images, WholePictures):
        return with_pixels(images, functools.partial(as_channels, channels=channels))
    if not convertible(present, channels):
        raise ValueError(f"images of {counted(present, 'channel')} cannot have {channels}")
    if isinstance(images, jax.Array):
        if channels == GREY:
            return jax.jit(luma)(images)
        return jnp.broadcast_to(images, (count, height, width, channels))
    if channels == GREY:
        return MappedImages(images, luma, GREY)
    if isinstance(images, np.ndarray):
        return np.broadcast_to(images, (count, height, width, channels))
    return MappedImages(images, shown, COLOUR)


def converted(dataset: Dataset, channels: int) -> Dataset:
    """The data set with as many channels as a run takes; `note` says so.

    Arrays in memory stay arrays, so that they can lie on the devices; memory maps and streamed
    images are converted when they are read.

    Args:
        dataset: grey or colour images, unless they have these channels already.
        channels: of the images that the run was trained on.

    Raises:
        ValueError: the data have neither these channels nor grey or colour.
    """
    present = dataset.train.images.shape[-1]
    if present == channels:
        return dataset
    train, test = (
        dataclasses.replace(split, images=_kept_in_memory(split.images, channels))
        for split in (dataset.train, dataset.test)
    )
    if channels == COLOUR:
        mean = dataset.mean * COLOUR
        std = dataset.std * COLOUR
    else:
        mean, std = statistics(train.images)
    return dataclasses.replace(dataset, train=train, test=test, mean=mean, std=std)


def _kept_in_memory(images: Any, channels: int) -> Any:
    """`as_channels`, computed now if the images are an array in memory."""
    pixels = pixels_of(images)
    in_memory = isinstance(pixels, np.ndarray) and not isinstance(pixels, np.memmap)
    images = as_channels(images, channels)
    return with_pixels(images, np.asarray) if in_memory else images


def note(channels: int, wanted: int) -> str:
    """A sentence that says how images are converted for a run; empty if they are not."""
    if channels == wanted:
        return ""
    become = "grey" if wanted == GREY else "three equal channels"
    present = counted(channels, "channel")
    return f"the images have {present}, the encoder {wanted}: converted to {become}"


def check(name: str, channels: int, wanted: int) -> None:
    """Checks that a run can take images of other data.

    Args:
        name: `data.name` of the data.
        channels: of their images.
        wanted: channels of the images that the run was trained on.

    Raises:
        SettingError: neither the same number, nor grey and colour.
    """
    if convertible(channels, wanted):
        return
    present = counted(channels, "channel")
    message = f"data.name={name!r} has {present}, the encoder was trained on {wanted}"
    if name not in _FIXED and not name.startswith("tfds:") and "." not in name:
        message += f"; data.bands={wanted} reads {_bands(wanted)}, if the data have them"
    raise SettingError(message)


def _bands(count: int) -> str:
    """What `data.bands` of this number reads."""
    return {GREY: "grey", COLOUR: "colour"}.get(count, f"the first {count} bands")
