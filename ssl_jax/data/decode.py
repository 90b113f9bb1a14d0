"""Image files to squares of one size."""

import collections
import dataclasses
import io
import itertools
import os
import stat
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")  # file names often claim another format
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
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class CorruptError(Exception):
    """An image exists but cannot be decoded; the message says why."""


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


def read(path: Path, side: int) -> np.ndarray:
    """The file as uint8 [side, side, 3]; see `decode`.

    Raises:
        SettingError: the file cannot be opened.
        CorruptError: see `decode`; also anything but a regular file, as reading a pipe or a device
            may never end.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise CorruptError("not a regular file")
        raw = path.read_bytes()
    except OSError as error:
        raise SettingError(f"{printable(path)} cannot be read ({error.strerror})") from error
    return decode(raw, side)


def decode(raw: bytes, side: int = 0, channels: int = 3) -> np.ndarray:
    """Decodes the bytes of an image file to uint8.

    Args:
        raw: contents of the file.
        side: side of the result in pixels (see `square`); 0 keeps the whole image.
        channels: 1 or 3, for whole images; squares always have 3.

    Returns:
        [side, side, 3], or [H, W, channels] if `side` is 0.

    Raises:
        CorruptError: empty, damaged, truncated, not an image, or too large.
    """
    if not raw:
        raise CorruptError("the file is empty")
    try:
        with Image.open(io.BytesIO(raw), formats=_FORMATS) as image:
            if side:
                # JPEG: decode at the smallest of the scales 1/1 .. 1/8 that is still large enough.
                image.draft(None, (side, side))
            image.load()
            if side:
                return square(image, side)
            width, height = image.size
            mode = {1: "L", 3: "RGB"}[channels]
            return np.array(image.convert(mode)).reshape(height, width, channels)
    except MemoryError:
        raise
    except Image.DecompressionBombError as error:
        raise CorruptError(f"more than {_MAX_PIXELS:,} pixels") from error
    except UnidentifiedImageError as error:
        raise CorruptError("not an image that Pillow can read") from error
    except Exception as error:  # Pillow's decoders raise all kinds for damaged files
        raise CorruptError(printable(error) or type(error).__name__) from error


def square(image: Image.Image, side: int) -> np.ndarray:
    """The central square of a picture, turned upright, as uint8 [side, side, 3].

    The short side is resized to `side` with Pillow's bicubic filter, which antialiases when
    shrinking (large pictures are first halved in steps, `reducing_gap`). Transparent parts become
    white; grey becomes three equal channels. Deviates from random crops of the original during
    training: a crop never sees anything outside the central square, nor more pixels than `side`.
    """
    turn = _TURNS.get(_orientation(image))
    image = _rgb(image)
    short = min(image.size)
    left, top = ((length - short) / 2 for length in image.size)
    box = (left, top, left + short, top + short)
    image = image.resize((side, side), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)
    return np.array(image if turn is None else image.transpose(turn))


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 if missing or unreadable."""
    try:
        return image.getexif().get(0x0112, 1)
    except Exception:  # damaged metadata must not cost the picture
        return 1


def _rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode as RGB: transparency over white, 16-bit grey scaled to 8 bits."""
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences Pillow's warnings (large images, odd metadata).

    Warning filters are global to the process: use this in the thread that starts the workers, not
    in the workers.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def cpus() -> int:
    """Number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def in_order(
    function: Callable[[_Item], _Result], items: Iterable[_Item]
) -> Iterator[Iterator[_Result]]:
    """Maps `function` over `items` with one thread per CPU, a few items ahead, in order.

    Leaving the block early cancels everything but the calls already running.

    Yields:
        An iterator over the results.
    """
    workers = cpus()
    remaining = iter(items)
    pool = ThreadPoolExecutor(workers)

    def results() -> Iterator[_Result]:
        first = itertools.islice(remaining, 4 * workers)
        ahead = collections.deque(pool.submit(function, item) for item in first)
        while ahead:
            yield ahead.popleft().result()
            ahead.extend(pool.submit(function, item) for item in itertools.islice(remaining, 1))

    Image.init()  # load Pillow's plugins here, not in all threads at once
    with _quiet():
        try:
            yield results()
        finally:
            pool.shutdown(cancel_futures=True)
