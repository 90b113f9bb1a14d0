"""Image files to squares of one size."""

import dataclasses
import errno
import io
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from ssl_jax.data import deep, netpbm, tiff
from ssl_jax.data.errors import CorruptError
from ssl_jax.data.formats import formats
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import counted, printable

_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR)
_MAX_PIXELS = 178_956_970  # Pillow refuses to read more
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclasses.dataclass(frozen=True)
class Work:
    """N images to decode, training images first.

    Attributes:
        names: [N], for messages.
        labels: int32 [N]; -1: unlabelled.
        train: number of training images.
        shape: (H, W, C) of every image.
        read: decodes the i-th image to uint8 [H, W, C], or raises CorruptError. Runs in several
            threads; streamed data pickle it to other processes.
        classes: class names.
    """

    names: Sequence[str]
    labels: np.ndarray
    train: int
    shape: tuple[int, int, int]
    read: Callable[[int], np.ndarray]
    classes: tuple[str, ...]


def read(path: Path, side: int, bands: int = 0, limits: Sequence[float] = ()) -> np.ndarray:
    """The file as uint8 [side, side, C]; see `contents` and `decode`."""
    return decode(contents(path), side, bands=bands, limits=limits)


def contents(path: Path | str, first: int = -1) -> bytes:
    """The bytes of a regular file, or only the `first` of them.

    Raises:
        CorruptError: this file cannot be read: a broken link, access denied, or anything but a
            regular file, as reading a pipe or a device may never end.
        SettingError: no file can be read now, as too many are open or the memory is full.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise CorruptError("not a regular file")
        with open(path, "rb") as file:
            return file.read(first)
    except OSError as error:
        if error.errno in _PASSING:
            raise SettingError(f"{printable(path)} cannot be read ({error.strerror})") from error
        raise CorruptError(error.strerror or str(error)) from error


def decode(
    raw: bytes,
    side: int = 0,
    channels: int = 3,
    *,
    bands: int = 0,
    limits: Sequence[float] = (),
) -> np.ndarray:
    """Decodes the bytes of an image file to uint8; of several frames or pages, the first.

    Args:
        raw: contents of the file.
        side: side of the result in pixels (see `square`); 0 keeps the whole image.
        channels: 1 or 3, for whole images.
        bands: channels of squares; 0 and 3: colour, 1: grey, 2 or 4 and more: the first bands of
            the file, with nothing taken for transparency.
        limits: the values of pictures with more than 8 bits that become 0 and 255.

    Returns:
        [side, side, bands or 3], or [H, W, channels] if `side` is 0.

    Raises:
        CorruptError: empty, damaged, truncated, not an image, too large, too few bands, or more
            than 8 bits without `limits`.
    """
    if not raw:
        raise CorruptError("the file is empty")
    with _damage_named():
        if side and tiff.is_special(raw, bands):
            values, turn = tiff.values(raw, bands)
            return _square_of_bands(_shallow(values, bands, limits), side, bands, turn)
        if side and netpbm.is_deep(raw):
            values = tiff.selected(netpbm.values(raw), bands)
            return _square_of_bands(_shallow(values, bands, limits), side, bands, 1)
        with Image.open(io.BytesIO(raw), formats=formats()) as image:
            if side and deep.is_deep(image):
                pixels = _shallow(deep.values_of(image, raw), bands, limits)
                # Pillow turns TIFF files when it loads them.
                turn = 1 if image.format == "TIFF" else _orientation(image)
                return square(Image.fromarray(pixels), side, bands, turn)
            if side:
                # JPEG: decode at the smallest of the scales 1/1 .. 1/8 that is still large enough.
                image.draft(None, (side, side))
            image.load()
            if side:
                return square(image, side, bands)
            width, height = image.size
            mode = {1: "L", 3: "RGB"}[channels]
            return np.array(image.convert(mode)).reshape(height, width, channels)


def header(raw: bytes) -> tuple[bool, bool]:
    """Whether a picture has more than 8 bits per channel, and a band besides its colours.

    Args:
        raw: the whole file; of PNG and WebP files the first 26 bytes are enough.

    Returns:
        (deep, transparent, in most cases); both False for anything that cannot be read.
    """
    flags = deep.png_header(raw) or deep.webp_header(raw)
    if flags:
        return flags
    if tiff.is_special(raw, 0):
        return tiff.is_deep(raw), False
    if netpbm.is_deep(raw):
        return True, False
    try:
        with Image.open(io.BytesIO(raw), formats=formats()) as image:
            more = image.mode in ("RGBA", "LA") or tiff.samples(image) > len(image.getbands())
            return deep.is_deep(image), more
    except Exception:  # damaged files are named when they are decoded
        return False, False


def limits_of(raw: bytes, bands: int) -> tuple[float, float]:
    """Smallest and largest value of a picture with more than 8 bits, without transparency.

    Raises:
        CorruptError: it cannot be decoded.
    """
    with _damage_named():
        if tiff.is_special(raw, bands):
            return deep.limits(tiff.values(raw, bands)[0])
        if netpbm.is_deep(raw):
            return deep.limits(tiff.selected(netpbm.values(raw), bands))
        with Image.open(io.BytesIO(raw), formats=formats()) as image:
            values = deep.values_of(image, raw)
        return deep.limits(values[..., :-1] if deep.has_transparency(values, bands) else values)


@contextmanager
def _damage_named() -> Iterator[None]:
    """Turns what decoders raise for damaged files into CorruptError."""
    try:
        yield
    except (MemoryError, CorruptError):
        raise
    except Image.DecompressionBombError as error:
        raise CorruptError(f"more than {_MAX_PIXELS:,} pixels") from error
    except UnidentifiedImageError as error:
        raise CorruptError("not an image that Pillow can read") from error
    except Exception as error:  # decoders raise all kinds
        raise CorruptError(printable(error) or type(error).__name__) from error


def _shallow(values: np.ndarray, bands: int, limits: Sequence[float]) -> np.ndarray:
    """The values of a picture, of any shape, as uint8; see `decode`."""
    if values.dtype == np.uint8:
        return values
    if not limits:
        raise CorruptError(
            "it has more than 8 bits per channel, which its name or its neighbours hid; give "
            "data.range"
        )
    if values.dtype.kind == "f":
        deep.limits(values)  # names pictures without any finite value
    pixels = deep.scaled(values, *limits)
    if deep.has_transparency(values, bands):
        return deep.with_transparency(pixels, values)
    return pixels


def square(image: Image.Image, side: int, bands: int = 0, turn: int = 0) -> np.ndarray:
    """The central square of a picture, turned upright, as uint8 [side, side, bands or 3].

    The short side is resized to `side` with Pillow's bicubic filter, which antialiases when
    shrinking (large pictures are first halved in steps, `reducing_gap`). Transparent parts become
    white; grey becomes three equal channels. Deviates from random crops of the original during
    training: a crop never sees anything outside the central square, nor more pixels than `side`.

    Args:
        image: the picture.
        side: side of the square.
        bands: see `decode`.
        turn: the EXIF orientation; 0: that of `image`.

    Raises:
        CorruptError: the picture has fewer bands.
    """
    return _resized(_parts(image, bands), side, turn or _orientation(image))


def _square_of_bands(pixels: np.ndarray, side: int, bands: int, turn: int) -> np.ndarray:
    """The same of uint8 pixels [H, W, C] with any number of bands, nothing transparent."""
    count = pixels.shape[-1]
    parts = [Image.fromarray(np.ascontiguousarray(pixels[..., i])) for i in range(count)]
    if bands in (0, 1, 3):
        parts = _parts(parts[0] if count == 1 else Image.merge("RGB", parts), bands)
    return _resized(parts, side, turn)


def _resized(images: Sequence[Image.Image], side: int, turn: int) -> np.ndarray:
    """The central squares of equally large pictures, side by side as bands of one array."""
    transpose = _TURNS.get(turn)
    short = min(images[0].size)
    left, top = ((length - short) / 2 for length in images[0].size)
    box = (left, top, left + short, top + short)
    parts = []
    for part in images:
        part = part.resize((side, side), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)
        parts.append(part if transpose is None else part.transpose(transpose))
    if len(parts) == 1:
        return np.array(parts[0]).reshape(side, side, -1)
    return np.stack([np.asarray(part) for part in parts], axis=-1)


def _parts(image: Image.Image, bands: int) -> tuple[Image.Image, ...]:
    """A picture to resize: as one in colour or grey, or band by band."""
    if bands in (0, 3):
        return (_rgb(image),)
    if bands == 1:
        return (_rgb(image).convert("L"),)
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if len(image.getbands()) < bands:
        raise CorruptError(
            f"it has {counted(len(image.getbands()), 'band')}, but data.bands={bands}"
        )
    # Apart, as Pillow would weight the others by a fourth band.
    return image.split()[:bands]


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 if missing or unreadable."""
    try:
        return image.getexif().get(0x0112, 1)
    except Exception:  # damaged metadata must not cost the picture
        return 1


def _rgb(image: Image.Image) -> Image.Image:
    """A picture of 8 bits in any Pillow mode as RGB, with transparency over white."""
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
