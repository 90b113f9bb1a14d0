"""What the head of a .npy file says of its array, before any of the array is read."""

import dataclasses
import io
import math
import struct
from pathlib import Path

import numpy as np

_LONGEST = 10_000  # characters of a header, as numpy has it
_PARSERS = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}


@dataclasses.dataclass(frozen=True)
class Header:
    """Of an array: its shape, dtype and order, and the `offset` in bytes at which its numbers begin."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes of the whole file; exact, however large."""
        return self.offset + math.prod(self.shape) * self.dtype.itemsize


def read_header(file) -> Header:
    """The header of an open .npy file, of which no more than the header is read.

    Raises:
        ValueError: it is none, or longer than numpy reads.
    """
    start = file.read(8)
    if start[:6] != np.lib.format.MAGIC_PREFIX or len(start) < 8:
        raise ValueError("it is no .npy array")
    if start[6] not in _PARSERS:
        raise ValueError(f"it is .npy of version {start[6]}")
    width = 2 if start[6] == 1 else 4
    raw = file.read(width)
    if len(raw) < width:
        raise ValueError("its header is cut short")
    (length,) = struct.unpack("<H" if width == 2 else "<I", raw)
    if length > _LONGEST:
        raise ValueError(f"its header has {length:,} characters; at most {_LONGEST:,} are read")
    text = file.read(length)
    try:
        shape, fortran, dtype = _PARSERS[start[6]](io.BytesIO(raw + text))
    except Exception as error:  # numpy lets through what Python's parser raises
        raise ValueError("its header is damaged") from error
    if any(type(side) is not int or side < 0 for side in shape):
        raise ValueError("its header is damaged")
    return Header(shape, dtype, fortran, len(start) + width + length)


def header_of(path: Path) -> Header:
    """The header of a .npy file that is as long as its header says, to the byte.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is no regular file, no such array, or of another length.
    """
    if not path.is_file():
        raise ValueError("not a regular file")
    with open(path, "rb") as file:
        header = read_header(file)
    if path.stat().st_size != header.nbytes:
        raise ValueError("its length is not what its header says")
    return header
