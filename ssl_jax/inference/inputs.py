"""Images for an encoder in whatever form a notebook has them: arrays, pictures or their files."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ssl_jax.data import array_forms, deep
from ssl_jax.data.channels import COLOUR, GREY, MappedImages, as_channels
from ssl_jax.data.whole import WholePictures
from ssl_jax.inference import hand_made
from ssl_jax.inference.hand_made import Reading
from ssl_jax.inference.images import prepared
from ssl_jax.settings.paths import user_path
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

_SLACK = 1e-3  # how far rounding may lead out of 0..1
_TEXT = "OUST"  # kinds of numpy's types whose arrays are lists: objects, text, bytes
_ALPHA = 4  # channels of a picture that may have been [H, W, 4]


@dataclasses.dataclass(frozen=True)
class Takes:
    """What an encoder takes.

    Attributes:
        channels: of its images.
        limits: the values that become 0 and 255, of images with more than 8 bits; else empty.
        reading: how it reads pictures.
        unit: whether floats of 0..1 are given, and stand for 0 to 255.
    """

    channels: int
    limits: tuple[float, ...]
    reading: Reading
    unit: bool = False


def as_images(images: Any, takes: Takes) -> Any:
    """Images in any form as uint8 [N, H, W, C], or `WholePictures` of them, when they are read.

    See `Encoder.__call__` for the forms.

    Args:
        images: as they were given.
        takes: what the encoder takes.

    Raises:
        ValueError: another form, or one that could mean two things; says what to give.
    """
    if _is_array(images):
        return _of_array(images, takes)
    if isinstance(images, WholePictures) and images.ndim == 3:
        return prepared(hand_made.stacked([images]), takes.channels, takes.limits)
    if isinstance(images, (str, Path)) or hand_made.is_picture(images):
        return _of_list([images], takes)
    scalar = getattr(images, "ndim", 1) == 0
    if scalar or isinstance(images, (bytes, Mapping, Set)) or not isinstance(images, Iterable):
        raise ValueError(
            f"images of type {type(images).__name__}: give an array, or a list of pictures, paths "
            "or arrays"
        )
    return _of_list(images, takes)


def _is_array(images: Any) -> bool:
    """Whether images are one array or anything that is indexed like one, of two or more axes."""
    axes = getattr(images, "ndim", 0)
    return axes > 1 and not (isinstance(images, WholePictures) and axes == 3)


def _of_array(images: Any, takes: Takes) -> Any:
    """The same for one array [N, H, W, C] or [N, H, W]."""
    if not isinstance(images.dtype, np.dtype):  # PyTorch's, for one
        images = hand_made.as_array(images)
    _check_axes(images.shape, takes.channels)
    if images.ndim == 3:
        images = _with_channel(images)
    if not takes.unit:
        return prepared(images, takes.channels, takes.limits)
    _check_floats(images.dtype)
    scaled = MappedImages(images, _from_unit, images.shape[-1])
    return prepared(scaled, takes.channels)


def _check_axes(shape: Sequence[int], channels: int) -> None:
    """Checks that a shape can mean one thing only.

    Raises:
        ValueError: it is that of one picture, or may be, or has the channels first.
    """
    text = f"images of shape {tuple(shape)}"
    if len(shape) == 2:
        raise ValueError(f"{text}: one grey picture is images[None]")
    if len(shape) == 3 and shape[-1] in (GREY, COLOUR, _ALPHA, channels):
        raise ValueError(
            f"{text}: one picture [H, W, C] is images[None], grey pictures [N, H, W] are "
            "images[..., None]"
        )
    if len(shape) == 3 and shape[0] == COLOUR:
        raise ValueError(
            f"{text}: three grey pictures are images[..., None], one colour picture [C, H, W] is "
            "images.transpose(1, 2, 0)[None]"
        )
    last_fits = shape[-1] in (GREY, COLOUR, channels)
    if len(shape) == 4 and not last_fits and array_forms.is_channels_first(shape):
        raise ValueError(f"{text}: channels go last, numpy.moveaxis(images, 1, -1) puts them there")


def _with_channel(images: Any) -> Any:
    """Grey images [N, H, W] as [N, H, W, 1]."""
    if isinstance(images, (np.ndarray, jax.Array)):
        return images[..., None]
    return _Grey(images)


class _Grey:
    """Grey images [N, H, W], of anything that is indexed by rows, as [N, H, W, 1] when read."""

    ndim = 4

    def __init__(self, images: Any):
        self._images = images
        self.dtype = images.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self._images.shape, GREY)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, rows: Any) -> np.ndarray:
        return np.asarray(self._images[rows])[..., None]


def _check_floats(dtype: Any) -> None:
    if getattr(dtype, "kind", "") != "f" and str(dtype) != "bfloat16":
        raise ValueError(f"unit=True is for floats of 0..1, the images are {dtype}; leave it out")


def _from_unit(images: np.ndarray) -> np.ndarray:
    """Floats of 0..1 as uint8.

    Raises:
        ValueError: values outside 0..1, or that are not finite.
    """
    values = images.astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError("images hold values that are not finite; replace NaN and infinity")
    low = float(values.min())
    high = float(values.max())
    if low < -_SLACK or high > 1 + _SLACK:
        raise ValueError(
            f"unit=True is for values in 0..1, the images hold {low:g} to {high:g}; undo a "
            "normalisation (images * std + mean), divide by the largest possible value, or give "
            "uint8"
        )
    return deep.scaled(values, 0.0, 1.0)


def _of_list(items: Iterable[Any], takes: Takes) -> Any:
    """The same for pictures one by one: paths, Pillow's pictures, arrays, whole pictures."""
    items = list(items)
    if not items:
        raise ValueError("there are no images; give at least one")
    if all(isinstance(item, WholePictures) for item in items):
        return prepared(hand_made.stacked(items), takes.channels, takes.limits)
    if all(isinstance(item, (list, tuple)) for item in items):
        return _of_nested(items, takes)
    places = [f"image {i}" for i in range(len(items))]
    items = [_item(item, place) for item, place in zip(items, places)]
    given = hand_made.HandMade(items, places, takes.reading, takes.limits, takes.channels)
    given.check(takes.unit)
    if takes.unit:
        given = given.with_arrays(_from_unit)
    return as_channels(given, takes.channels)


def _of_nested(items: list[Any], takes: Takes) -> Any:
    """The same for lists of lists of numbers."""
    try:
        images = np.asarray(items)
    except ValueError as error:
        raise ValueError("lists of numbers of several shapes; give arrays") from error
    if images.ndim < 2 or images.dtype.kind in _TEXT:
        raise ValueError("lists of lists; give a list of pictures, paths or arrays")
    return _of_array(images, takes)


def _item(item: Any, place: str) -> Any:
    """One of a list as a picture, a path or an array.

    Raises:
        ValueError: anything else, or a file that does not exist.
    """
    if isinstance(item, (str, Path)):
        return _file(item, place)
    if hand_made.is_picture(item):
        return item
    if hasattr(item, "__array__") and not isinstance(item, (np.generic, WholePictures)):
        return hand_made.as_array(item)
    raise ValueError(f"{place} is of type {type(item).__name__}; give pictures, paths or arrays")


def _file(item: str | Path, place: str) -> Path:
    if "://" in str(item):
        raise ValueError(f"{place}: {printable(item)} is an address; give a path to a file")
    try:
        path = user_path(item, place)
    except SettingError as error:
        raise ValueError(str(error)) from error
    if path.is_dir():
        raise ValueError(
            f"{place}: {printable(path)} is a folder; give files, such as "
            "sorted(Path(folder).glob('*.jpg')), or use ssl_jax.assign"
        )
    if not path.exists():
        raise ValueError(f"{place}: there is no file {printable(path)}; give a path that exists")
    return path
