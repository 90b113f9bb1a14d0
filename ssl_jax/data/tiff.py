"""TIFF files that Pillow cannot read: many bands, and numbers of other types."""

import importlib.util
import io
import logging
import math
from typing import Any

import numpy as np
from PIL import Image

from ssl_jax.data import deep
from ssl_jax.data.errors import CorruptError
from ssl_jax.settings.text import counted

# Pillow logs what it raises as well, which would be a line for each picture.
logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.CRITICAL)

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ORIENTATION = 274  # tag
_SAMPLES = 277
_MAX_BYTES = 2**30  # of one file's pixels


def packages() -> list[str]:
    """The installed packages that read special TIFF files."""
    return [name for name in ("tifffile", "imagecodecs") if importlib.util.find_spec(name)]


def is_special(raw: bytes, bands: int) -> bool:
    """Whether a picture is a TIFF file that Pillow cannot read, or of which `bands` asks more."""
    if not raw.startswith(_MAGIC):
        return False
    if bands > 4:
        return True
    try:
        with Image.open(io.BytesIO(raw), formats=("TIFF",)) as image:
            if deep.is_deep(image) and not deep.is_readable(image):
                return True
            count = len(image.getbands())
            if bands in (0, 1, 3) or count >= bands:
                return False
            pages = getattr(image, "n_frames", 1) if count == 1 else 1
            return bands <= max(samples(image), pages)
    except Exception:  # Pillow raises all kinds for what it does not know
        return True


def samples(image: Image.Image) -> int:
    """Bands of a picture that Pillow opened; of TIFF files those that it drops as well."""
    return max(len(image.getbands()), deep.tags(image).get(_SAMPLES, 1))


def is_deep(raw: bytes) -> bool:
    """Whether a special TIFF file has more than 8 bits per channel; False if it is unreadable."""
    try:
        import tifffile

        with tifffile.TiffFile(io.BytesIO(raw)) as file:
            return file.pages.first.dtype != np.uint8
    except Exception:  # named when it is decoded
        return False


def values(raw: bytes, bands: int) -> tuple[np.ndarray, int]:
    """The pixels of the first page of a TIFF file, read with the package tifffile.

    A file of one-band pages, as many programs store bands, is read as one picture if `bands` asks
    for more than one.

    Args:
        raw: the file.
        bands: as in `decode.decode`.

    Returns:
        values [H, W, C], with C = `bands`, or 1 or 3 for pictures in grey or colour; and the EXIF
        orientation.

    Raises:
        CorruptError: tifffile is not installed, the file has too few bands or too many values, or
            more bands than a picture in colour if `bands` asks for that.
        Exception: whatever tifffile raises for damaged files.
    """
    try:
        import tifffile
    except ImportError as error:
        raise CorruptError(
            "Pillow cannot read it; if it is a whole TIFF file, pip install 'ssl_jax[tiff]' helps"
        ) from error
    with tifffile.TiffFile(io.BytesIO(raw)) as file:
        page = file.pages.first
        if "S" not in page.axes and bands > 1 and len(file.series[0].shape) == 3:
            _check_size(file.series[0])
            pixels = file.series[0].asarray()
            # Bands are fewer than rows or columns.
            channels_first = pixels.shape[0] < pixels.shape[-1]
        else:
            _check_size(page)
            pixels = page.asarray()
            channels_first = page.axes.startswith("S")
        tag = page.tags.get(_ORIENTATION)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.dtype.kind not in "uif":
        raise CorruptError(f"pixels of shape {pixels.shape} and type {pixels.dtype} are no picture")
    if channels_first:
        pixels = np.moveaxis(pixels, 0, -1)
    return selected(pixels, bands), int(tag.value) if tag else 1


def _check_size(pages: Any) -> None:
    size = math.prod(pages.shape) * pages.dtype.itemsize
    if size > _MAX_BYTES:
        raise CorruptError(f"its pixels take {size:,} bytes, more than {_MAX_BYTES:,}")


def selected(pixels: np.ndarray, bands: int) -> np.ndarray:
    """The bands of `pixels` [H, W, C] that were asked for.

    Raises:
        CorruptError: there are too few, or more than a picture in colour if that was asked for.
    """
    count = pixels.shape[-1]
    if bands < 2:
        if count not in (1, 3):
            raise CorruptError(f"it has {count} bands; data.bands={count} reads them as they are")
        return pixels
    if bands == 3 and count == 1:
        return pixels
    if count < bands:
        raise CorruptError(f"it has {counted(count, 'band')}, but data.bands={bands}")
    return pixels[..., :bands]
