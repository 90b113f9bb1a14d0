"""Image files to squares of one size: of the whole picture, or of its centre."""

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
from ssl_jax.data.whole import WholePictures, kept_part
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import counted, printable

_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR)
_MAX_PIXELS = 178_956_970  # Pillow refuses to read more
_ON_ITS_SIDE = (5, 6, 7, 8)  # orientations that swap width and height
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
        read: decodes the i-th image to uint8 [H, W, C], or to one of `WholePictures`; or raises
            CorruptError. Runs in several threads; streamed data pickle it to other processes.
        classes: class names.
        whole: whether `read` returns `WholePictures`.
    """

    names: Sequence[str]
    labels: np.ndarray
    train: int
    shape: tuple[int, int, int]
    read: Callable[[int], np.ndarray | WholePictures]
    classes: tuple[str, ...]
    whole: bool = False


def read(path: Path, side: int, bands: int = 0, limits: Sequence[float] = ()) -> np.ndarray:
    """The centre of the file as uint8 [side, side, C]; see `contents` and `decode`."""
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
    keep: str = "centre",
) -> np.ndarray | WholePictures:
    """Decodes the bytes of an image file to uint8; of several frames or pages, the first.

    Args:
        raw: contents of the file.
        side: side of the result in pixels (see `square`); 0 keeps the pixels as they are.
        channels: 1 or 3, for pixels as they are.
        bands: channels of squares; 0 and 3: colour, 1: grey, 2 or 4 and more: the first bands of
            the file, with nothing taken for transparency.
        limits: the values of pictures with more than 8 bits that become 0 and 255.
        keep: of squares, "centre" or "whole"; see `square`.

    Returns:
        [side, side, bands or 3], or [H, W, channels] if `side` is 0; or one of `WholePictures`.

    Raises:
        CorruptError: empty, damaged, truncated, not an image, too large, too few bands, or more
            than 8 bits without `limits`.
    """
    if not raw:
        raise CorruptError("the file is empty")
    with _damage_named():
        if side and tiff.is_special(raw, bands):
            values, turn = tiff.values(raw, bands)
            return square_of_bands(_shallow(values, bands, limits), side, bands, turn, keep)
        if side and netpbm.is_deep(raw):
            values = tiff.selected(netpbm.values(raw), bands)
            return square_of_bands(_shallow(values, bands, limits), side, bands, 1, keep)
        with Image.open(io.BytesIO(raw), formats=formats()) as image:
            if side and deep.is_deep(image):
                pixels = _shallow(deep.values_of(image, raw), bands, limits)
                # Pillow turns TIFF files when it loads them.
                turn = 1 if image.format == "TIFF" else _orientation(image)
                return square(Image.fromarray(pixels), side, bands, turn, keep)
            if side:
                width, height = image.size
                # JPEG: decode at the smallest of the scales 1/1 .. 1/8 that is still large enough.
                draft = image.draft(None, (side, side))
                image.load()
                if not draft:  # loading turns TIFF files, which may swap width and height
                    return square(image, side, bands, keep=keep)
                shrink = width / draft[1][2]
                return square(
                    image, side, bands, keep=keep, true_size=(width, height), shrink=shrink
                )
            image.load()
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


def square(
    image: Image.Image,
    side: int,
    bands: int = 0,
    turn: int = 0,
    keep: str = "centre",
    true_size: tuple[int, int] | None = None,
    shrink: float = 1.0,
) -> np.ndarray | WholePictures:
    """A picture, turned upright, as a square uint8 [side, side, bands or 3].

    "centre" keeps the central square: the short side is resized to `side`. Crops drawn from it
    never see anything outside. "whole" squeezes all of the picture into the square, up to
    `whole.LONGEST` times as long as wide, and tells its true size, so that crops are those of the
    picture itself. Pixels are resized with Pillow's bicubic filter, which antialiases when
    shrinking (large pictures are first halved in steps, `reducing_gap`). Transparent parts become
    white; grey becomes three equal channels.

    Args:
        image: the picture.
        side: side of the square.
        bands: see `decode`.
        turn: the EXIF orientation; 0: that of `image`.
        keep: "centre" or "whole".
        true_size: (width, height) of the file, if `image` was decoded at a smaller scale.
        shrink: pixels of the file that one of `image` stands for, along each axis; its last column
            and row may stand for fewer.

    Raises:
        CorruptError: the picture has fewer bands.
    """
    turn = turn or _orientation(image)
    return _resized(_parts(image, bands), side, turn, keep, true_size or image.size, shrink)


def square_of_bands(
    pixels: np.ndarray, side: int, bands: int = 0, turn: int = 1, keep: str = "centre"
) -> np.ndarray | WholePictures:
    """`square` of uint8 pixels [H, W, C] with any number of bands, nothing transparent."""
    count = pixels.shape[-1]
    parts = [Image.fromarray(np.ascontiguousarray(pixels[..., i])) for i in range(count)]
    if bands in (0, 1, 3):
        parts = _parts(parts[0] if count == 1 else Image.merge("RGB", parts), bands)
    return _resized(parts, side, turn, keep, parts[0].size, 1.0)


def _resized(
    images: Sequence[Image.Image],
    side: int,
    turn: int,
    keep: str,
    true_size: tuple[int, int],
    shrink: float,
) -> np.ndarray | WholePictures:
    """Squares of equally large pictures, side by side as bands of one array; see `square`."""
    transpose = _TURNS.get(turn)
    box = _central_square(*images[0].size)
    if keep == "whole" and true_size[0] != true_size[1]:  # pixels of squares are as with "centre"
        box = tuple(edge / shrink for edge in kept_part(*true_size))
    parts = []
    for part in images:
        part = part.resize((side, side), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)
        parts.append(part if transpose is None else part.transpose(transpose))
    if len(parts) == 1:
        pixels = np.array(parts[0]).reshape(side, side, -1)
    else:
        pixels = np.stack([np.asarray(part) for part in parts], axis=-1)
    if keep != "whole":
        return pixels
    size = true_size if turn in _ON_ITS_SIDE else true_size[::-1]
    if size[0] == size[1]:
        size = (side, side)
    return WholePictures(pixels, np.array(size, np.float32))


def _central_square(width: int, height: int) -> tuple[float, float, float, float]:
    """The box (left, top, right, bottom) of the largest central square."""
    short = min(width, height)
    left = (width - short) / 2
    top = (height - short) / 2
    return left, top, left + short, top + short


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
