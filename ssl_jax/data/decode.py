"""Image files to squares of one size."""

import collections
import io
import itertools
import os
import stat
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")  # files are often named for another format than they have
_MOST_PIXELS = 178_956_970  # above this Pillow refuses to read
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class CorruptError(Exception):
    """An image that is there but cannot be decoded; the message says why."""


def read(path: Path, side: int) -> np.ndarray:
    """The file as uint8 [side, side, 3]; see `decode`.

    Raises:
        SettingError: the file cannot be opened at all.
        CorruptError: it is no regular file, or as `decode` says. A pipe or a device could be read for ever.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise CorruptError("not a regular file")
        raw = path.read_bytes()
    except OSError as error:
        raise SettingError(f"{printable(path)} cannot be read ({error.strerror})") from error
    return decode(raw, side)


def decode(raw: bytes, side: int = 0, channels: int = 3) -> np.ndarray:
    """An image file's bytes as uint8: [side, side, 3], see `square`; with side=0 whole, [H, W, channels].

    Raises:
        CorruptError: empty, damaged, cut short, no image, or too large.
    """
    if not raw:
        raise CorruptError("the file is empty")
    try:
        with Image.open(io.BytesIO(raw), formats=_FORMATS) as image:
            if side:
                image.draft(None, (side, side))  # JPEG: decoded at the smallest of 1/1 .. 1/8 that is no smaller
            image.load()
            if side:
                return square(image, side)
            return np.array(image.convert({1: "L", 3: "RGB"}[channels])).reshape(*image.size[::-1], channels)
    except MemoryError:
        raise
    except Image.DecompressionBombError as error:
        raise CorruptError(f"more than {_MOST_PIXELS:,} pixels") from error
    except UnidentifiedImageError as error:
        raise CorruptError("not an image that Pillow can read") from error
    except Exception as error:  # Pillow's decoders raise all kinds for damaged files
        raise CorruptError(printable(error) or type(error).__name__) from error


def square(image: Image.Image, side: int) -> np.ndarray:
    """The central square of a picture, turned upright, as uint8 [side, side, 3].

    The short side becomes `side` by Pillow's bicubic filter, which is antialiased when it shrinks (large pictures are
    first halved in steps, `reducing_gap`); transparent parts become white; grey becomes three equal channels.
    Deviates from cropping the original at random during training: a crop never sees what lies outside the central
    square, nor more pixels than `side`.
    """
    turn = _TURNS.get(_orientation(image))
    image = _rgb(image)
    short = min(image.size)
    left, top = ((length - short) / 2 for length in image.size)
    box = (left, top, left + short, top + short)
    image = image.resize((side, side), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)
    return np.array(image if turn is None else image.transpose(turn))


def _orientation(image):
    """The EXIF orientation, 1 to 8; 1 where there is none or it cannot be read."""
    try:
        return image.getexif().get(0x0112, 1)
    except Exception:  # a picture need not suffer from a damaged note about it
        return 1


def _rgb(image):
    """Any mode of Pillow's as RGB: over white where it is transparent, 16 bits of grey scaled to 8."""
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


@contextmanager
def _quiet():
    """Pillow's warnings (large images, odd metadata) off.

    Python's filters are the process's, so this is for the one thread that starts the workers, not for the workers.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def in_order(function, items):
    """An iterator over `function(item)` of every item in turn, by a thread per CPU that work a few items ahead.

    When the block is left early no more than those few are still worked on.
    """
    workers, items = cpus(), iter(items)
    pool = ThreadPoolExecutor(workers)

    def results():
        ahead = collections.deque(pool.submit(function, i) for i in itertools.islice(items, 4 * workers))
        while ahead:
            yield ahead.popleft().result()
            ahead.extend(pool.submit(function, i) for i in itertools.islice(items, 1))

    Image.init()  # loads Pillow's plugins, which the threads should not do at once
    with _quiet():
        try:
            yield results()
        finally:
            pool.shutdown(cancel_futures=True)
