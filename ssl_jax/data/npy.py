"""Headers of .npy files, checked before any of the array is read."""

import dataclasses
import io
import math
import struct
from pathlib import Path
from typing import IO

import numpy as np

_MAX_HEADER = 10_000  # bytes, numpy's own limit
_PARSERS = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}


@dataclasses.dataclass(frozen=True)
class Header:
    """An array's shape, dtype and memory order, and the `offset` in bytes of its first value."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes of the whole file, as an exact integer."""
        return self.offset + math.prod(self.shape) * self.dtype.itemsize


def read_header(file: IO[bytes]) -> Header:
    """Reads the header of an open .npy file, and nothing after it.

    Raises:
        ValueError: not a .npy header, or one longer than numpy reads.
    """
    start = file.read(8)
    if start[:6] != np.lib.format.MAGIC_PREFIX or len(start) < 8:
        raise ValueError("it is not a .npy array")
    if start[6] not in _PARSERS:
        raise ValueError(f"its .npy version is {start[6]}")
    width = 2 if start[6] == 1 else 4
    raw = file.read(width)
    if len(raw) < width:
        raise ValueError("its header is truncated")
    (length,) = struct.unpack("<H" if width == 2 else "<I", raw)
    if length > _MAX_HEADER:
        raise ValueError(f"its header has {length:,} bytes, more than {_MAX_HEADER:,}")
    text = file.read(length)
    try:
        shape, fortran, dtype = _PARSERS[start[6]](io.BytesIO(raw + text))
    except Exception as error:  # numpy passes on whatever Python's parser raises
        raise ValueError("its header is damaged") from error
    if any(type(side) is not int or side < 0 for side in shape):
        raise ValueError("its header is damaged")
    return Header(shape, dtype, fortran, len(start) + width + length)


def header_of(path: Path) -> Header:
    """The header of a .npy file whose size matches its header to the byte.

    Raises:
        OSError: the file cannot be opened.
        ValueError: not a regular file, not a .npy array, or another size.
    """
    if not path.is_file():
        raise ValueError("not a regular file")
    with open(path, "rb") as file:
        header = read_header(file)
    if path.stat().st_size != header.nbytes:
        raise ValueError("its size does not match its header")
    return header
