"""The forms that arrays of images have: order of axes, number of channels, type and range."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from ssl_jax.data import deep
from ssl_jax.data.luma import luma
from ssl_jax.settings import ranges

KNOWN = ((0.0, 1.0), (0.0, 255.0))  # ranges that are taken as such, whatever values occur
_BLOCK_BYTES = 2**24  # converted at once
_SURE = (1, 3)  # channels that need no guess
_COLOUR = (3, 4)  # channels whose first three are red, green and blue
_PICTURE = (1, 3, 4)  # channels of one picture [H, W, C]
_WIDE = 16  # pixels: a picture this wide is not a column of pixels
_SLACK = 1e-3  # how far rounding may lead out of 0..1
_DIM = 127  # values up to this are not in 0..255


@dataclasses.dataclass(frozen=True)
class Form:
    """How stored images become uint8 [n, H, W, C].

    Attributes:
        channels_first: whether they are stored as [n, C, H, W].
        bands: `Source.bands`.
        limits: the values that become 0 and 255; empty for uint8 that stays as it is.
    """

    channels_first: bool = False
    bands: int = 0
    limits: tuple[float, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether stored uint8 images [n, H, W] or [n, H, W, C] are used as they are."""
        return not (self.channels_first or self.bands or self.limits)

    def __call__(self, stored: np.ndarray) -> np.ndarray:
        """Stored images as uint8 [n, H, W, C], C-contiguous."""
        images = self.selected(stored)
        if self.limits:
            images = deep.scaled(images, *self.limits)
        if self.bands == 1 and images.shape[-1] == 3:
            images = luma(images)
        elif self.bands == 3 and images.shape[-1] == 1:
            images = np.repeat(images, 3, axis=-1)
        return np.ascontiguousarray(images)

    def selected(self, stored: np.ndarray) -> np.ndarray:
        """The stored values [n, H, W, c] of the bands that are read."""
        images = stored[..., None] if stored.ndim == 3 else stored
        if self.channels_first:
            images = np.moveaxis(images, 1, -1)
        count = self.bands or images.shape[-1]
        if count == 1 and images.shape[-1] in _COLOUR:
            count = 3  # for the luma
        return images[..., :count]


def is_channels_first(shape: Sequence[int]) -> bool:
    """Whether arrays of a shape hold [N, C, H, W].

    [N, H, W, C] is the rule, also where the shape leaves it open ([N, 8, 8, 8]). [N, C, H, W] are
    arrays whose last axis is not 1 or 3, and whose second is 1 or 3, or differs from two equal
    ones, or is shorter than both.
    """
    if len(shape) != 4:
        return False
    _, first, middle, last = shape
    if last in _SURE:
        return False
    if first in _SURE:
        return True
    if middle == last:
        return first != last
    return first != middle and first < min(middle, last)


def shape_of(shape: Sequence[int]) -> tuple[int, int, int]:
    """(H, W, C) of images stored as [N, H, W], [N, H, W, C] or [N, C, H, W]."""
    if len(shape) == 3:
        return shape[1], shape[2], 1
    _, first, middle, last = shape
    return (middle, last, first) if is_channels_first(shape) else (first, middle, last)


def is_picture(shape: Sequence[int]) -> bool:
    """Whether three axes are one picture [H, W, C] rather than N grey ones."""
    return len(shape) == 3 and shape[2] in _PICTURE and min(shape[:2]) >= _WIDE


def bands_fit(channels: int, bands: int) -> bool:
    """Whether images of so many channels have `bands` to read."""
    return bands <= channels or (bands == 3 and channels == 1)


def limits_of(low: float, high: float) -> tuple[float, float]:
    """The values that become black and white, for images whose values run from `low` to `high`.

    0..1 and 0..255 are taken as such; 0..255 only if some value is in its upper half, as other
    ranges would be left with few levels.
    """
    if low >= -_SLACK and high <= 1 + _SLACK:
        return KNOWN[0]
    if low >= 0 and _DIM < high <= 255:
        return KNOWN[1]
    return float(low), float(high) if high > low else float(low) + 1.0


def ends(stored: np.ndarray, rows: np.ndarray, form: Form) -> tuple[float, float]:
    """Smallest and largest value of the images `rows`, without images that `spoilt` finds."""
    low = np.inf
    high = -np.inf
    for block in blocks(stored, rows):
        values = form.selected(stored[block])
        values = values[~spoilt(values)]
        if values.size:
            low = min(low, float(values.min()))
            high = max(high, float(values.max()))
    return (low, high) if low <= high else (0.0, 1.0)


def peak(stored: np.ndarray, rows: np.ndarray, form: Form, enough: float) -> float:
    """Largest value of the images `rows`; reading ends at the first block with one of `enough`."""
    largest = -np.inf
    for block in blocks(stored, rows):
        largest = max(largest, float(form.selected(stored[block]).max()))
        if largest >= enough:
            break
    return largest


def spoilt(values: np.ndarray) -> np.ndarray:
    """Whether images [n, ...] hold values that are no finite float32, bool [n]."""
    if values.dtype.kind != "f":
        return np.zeros(len(values), bool)
    finite = np.isfinite(values)
    if values.itemsize > 4:
        finite &= np.abs(values) <= ranges.FLOAT32
    return ~finite.all(tuple(range(1, values.ndim)))


def converted(stored: np.ndarray, form: Form) -> np.ndarray:
    """All images as uint8 [N, H, W, C], block by block."""
    first = form(stored[:1])
    images = np.empty((len(stored), *first.shape[1:]), np.uint8)
    for block in blocks(stored, np.arange(len(stored))):
        images[block] = form(stored[block])
    return images


def blocks(stored: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
    """`rows` [R] in blocks of a few megabytes of stored images."""
    size = max(1, _BLOCK_BYTES // max(1, stored[:1].nbytes))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
