"""PGM and PPM files of more than 8 bits, of which Pillow changes or drops bits."""

import math
import re

import numpy as np

from ssl_jax.data.errors import CorruptError

_GAP = rb"(?:\s|#[^\n]*\n)+"
_NUMBER = rb"(\d{1,9})"
_HEADER = re.compile(rb"P([56])" + (_GAP + _NUMBER) * 3 + rb"(?:#[^\n]*\n)?\s")
_CHANNELS = {b"5": 1, b"6": 3}
_START = 4096  # bytes that hold a header with its comments
_MAX_PIXELS = 178_956_970  # as Pillow


def is_deep(raw: bytes) -> bool:
    """Whether a file is a binary PGM or PPM picture with more than 8 bits."""
    header = _HEADER.match(raw[:_START])
    return header is not None and 255 < int(header[4]) <= 65535


def values(raw: bytes) -> np.ndarray:
    """The numbers of a deep picture as they are in the file, uint16 [H, W, 1 or 3].

    Raises:
        CorruptError: no such file, or it is cut off or too large.
    """
    header = _HEADER.match(raw[:_START])
    if not header:
        raise CorruptError("not a PGM or PPM file")
    width, height = int(header[2]), int(header[3])
    shape = (height, width, _CHANNELS[header[1]])
    if width * height > _MAX_PIXELS:
        raise CorruptError(f"more than {_MAX_PIXELS:,} pixels")
    if not width * height or len(raw) < header.end() + 2 * math.prod(shape):
        raise CorruptError("the file is truncated")
    pixels = np.frombuffer(raw, ">u2", math.prod(shape), header.end())
    return pixels.reshape(shape).astype(np.uint16)
