"""Pictures given one by one, each turned into a square as a folder's are."""

import dataclasses
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from ssl_jax.data import decode, deep
from ssl_jax.data.channels import convertible
from ssl_jax.data.errors import CorruptError
from ssl_jax.data.parallel import in_order
from ssl_jax.data.whole import WholePictures
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

_NUMBERS = "iuf"  # kinds of numpy's types that a range can scale
_ORIENTATION = 0x0112  # EXIF's tag


@dataclasses.dataclass(frozen=True)
class Reading:
    """How an encoder reads pictures: as the folder that it was trained on, if it was on one.

    Attributes:
        side: side in pixels of the squares that they are stored as (`data.size`).
        bands: their channels, see `Source`.
        keep: what of them is kept, see `Source`.
    """

    side: int
    bands: int = 0
    keep: str = "whole"


class HandMade:
    """Pictures of any shapes and sizes, read as uint8 [N, S, S, C] on demand.

    Indexed by rows, like the images of a data set: `pictures[rows]` are `WholePictures`, or arrays
    if only the central square is kept.

    Args:
        items: [N] a path, a picture of Pillow's, or an array [H, W] or [H, W, C] each.
        places: [N] what each is called in messages.
        reading: how they are read.
        limits: the values of pictures with more than 8 bits that become 0 and 255; or empty.
        channels: of the images that the encoder takes.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(
        self,
        items: Sequence[Any],
        places: Sequence[str],
        reading: Reading,
        limits: Sequence[float],
        channels: int,
    ):
        self._items = items
        self._places = places
        self._reading = reading
        self._limits = limits
        self._channels = channels
        self._lock = threading.Lock()

    @property
    def shape(self) -> tuple[int, int, int, int]:
        side = self._reading.side
        return len(self._items), side, side, self._reading.bands or 3

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray | WholePictures:
        with in_order(self._square, np.asarray(rows).tolist()) as squares:
            return stacked(list(squares))

    def check(self, unit: bool) -> None:
        """Checks the arrays among the pictures.

        Args:
            unit: whether floats of 0..1 are expected.

        Raises:
            ValueError: an array of another shape or type, or nothing but files with `unit`.
        """
        arrays = 0
        for item, place in zip(self._items, self._places):
            if isinstance(item, np.ndarray):
                arrays += 1
                self._check_array(item, place, unit)
        if unit and arrays < len(self._items):
            raise ValueError("unit=True is for arrays of floats, not for pictures; leave it out")

    def with_arrays(self, function: Callable[[np.ndarray], np.ndarray]) -> "HandMade":
        """The same, with `function` of the arrays among them."""
        items = [function(x) if isinstance(x, np.ndarray) else x for x in self._items]
        return HandMade(items, self._places, self._reading, self._limits, self._channels)

    def _check_array(self, pixels: np.ndarray, place: str, unit: bool) -> None:
        shape = pixels.shape
        fits = len(shape) == 2 or (len(shape) == 3 and convertible(shape[-1], self._channels))
        if not fits or 0 in shape:
            raise ValueError(
                f"{place} has shape {shape}; give pictures [H, W] or [H, W, {self._channels}]"
            )
        if unit and pixels.dtype.kind != "f":
            raise ValueError(
                f"unit=True is for floats of 0..1, {place} is {pixels.dtype}; leave it out"
            )
        scalable = self._limits and pixels.dtype.kind in _NUMBERS
        if not unit and pixels.dtype != np.uint8 and not scalable:
            raise ValueError(
                f"{place} is of type {pixels.dtype}: give uint8 in 0..255; floats of 0..1 with "
                "unit=True"
            )

    def _square(self, row: int) -> np.ndarray | WholePictures:
        """One picture as a square.

        Raises:
            ValueError: it cannot be read.
        """
        item = self._items[row]
        place = self._places[row]
        if isinstance(item, Path):
            place = f"{place}, {printable(item)},"
        try:
            return self._read(item)
        except (CorruptError, SettingError, ValueError, OSError) as error:
            raise ValueError(f"{place} cannot be read ({printable(error)})") from error

    def _read(self, item: Any) -> np.ndarray | WholePictures:
        reading = self._reading
        if isinstance(item, np.ndarray):
            pixels = item[..., None] if item.ndim == 2 else item
            if pixels.dtype != np.uint8:
                pixels = deep.scaled(pixels, *self._limits)
            return decode.square_of_bands(pixels, reading.side, reading.bands, keep=reading.keep)
        if isinstance(item, Path):
            raw = decode.contents(item)
        else:
            with self._lock:  # the same picture may be given twice
                raw = _file_of(item)
                if raw is None:
                    item.load()
        if raw is not None:
            self._check_depth(decode.header(raw)[0])
            return decode.decode(
                raw, reading.side, bands=reading.bands, limits=self._limits, keep=reading.keep
            )
        turn = 0
        if item.mode[0] in "IF":
            self._check_depth(True)
            turn = item.getexif().get(_ORIENTATION, 1)
            item = Image.fromarray(deep.scaled(np.asarray(item), *self._limits))
        return decode.square(item, reading.side, reading.bands, turn, reading.keep)

    def _check_depth(self, is_deep: bool) -> None:
        if is_deep and not self._limits:
            raise CorruptError(
                "it has more than 8 bits; encoder = dataclasses.replace(encoder, range=(black, "
                "white)) scales such pictures"
            )


def _file_of(image: Image.Image) -> bytes | None:
    """The file of an opened picture that is not loaded yet, so it still is what the file holds.

    Files are decoded as those of a folder: with all their bits, and large JPEGs at a smaller scale.
    """
    file = getattr(image, "fp", None)
    is_unread = isinstance(image, ImageFile.ImageFile) and getattr(image, "_im", image) is None
    if file is None or not is_unread or image.tell():
        return None
    place = file.tell()
    file.seek(0)
    raw = file.read()
    file.seek(place)
    return raw


def is_picture(item: Any) -> bool:
    """Whether this is a picture of Pillow's."""
    return isinstance(item, Image.Image)


def as_array(item: Any) -> np.ndarray:
    """Anything like an array as one of numpy's.

    Raises:
        ValueError: it is none.
    """
    try:
        return np.asarray(item)
    except Exception as error:  # PyTorch's on another device, or that want gradients
        kind = f"{type(item).__module__}.{type(item).__name__}"
        raise ValueError(f"images of type {kind} are no array ({printable(error)})") from error


def stacked(squares: Sequence[Any]) -> np.ndarray | WholePictures:
    """Squares of one size as one array [N, S, S, C], or as `WholePictures` if they are those."""
    if not isinstance(squares[0], WholePictures):
        return np.stack(squares)
    pixels = [np.asarray(square.pixels) for square in squares]
    shapes = {array.shape for array in pixels}
    if len(shapes) > 1:
        raise ValueError(f"whole pictures of several shapes, {sorted(shapes)}; give those of one")
    return WholePictures(np.stack(pixels), np.stack([np.asarray(x.sizes) for x in squares]))
