"""Pictures and arrays of more than 8 bits: their values, and how these become 8 bits."""

import io
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ssl_jax.data.errors import CorruptError

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_HEADER = 26  # bytes up to the colour type
_ALPHA = (4, 6)  # PNG's colour types with transparency
_GREY_ALPHA = "LA;16B"
_BITS = 258  # TIFF tags
_PLANES = 284
_SEPARATE = 2
_OTHER_ORDER = {"B": "L", "L": "B"}
_MASK = 65535  # opaque, in 16 bits


def scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """`values` of any shape and type as uint8: `low` and below become 0, `high` and above 255.

    What is not a number becomes 0.
    """
    low = float(low)
    span = float(high) - low
    share = (values.astype(np.float64).clip(low, high) - low) / (span or 1.0)
    return np.floor(np.nan_to_num(share) * 255 + 0.5).astype(np.uint8)


def png_header(head: bytes) -> tuple[bool, bool] | None:
    """Whether a PNG file has more than 8 bits per channel, and whether it has transparency.

    Args:
        head: the start of the file, at least 26 bytes; None is returned for other files.
    """
    if not head.startswith(_PNG) or len(head) < _PNG_HEADER:
        return None
    return head[24] > 8, head[25] in _ALPHA


def webp_header(head: bytes) -> tuple[bool, bool] | None:
    """The same of a WebP file, which always has 8 bits."""
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP" or len(head) < _PNG_HEADER:
        return None
    if head[12:16] == b"VP8X":
        return False, bool(head[20] & 0x10)
    return False, head[12:16] == b"VP8L" and bool(head[24] & 0x10)


def is_deep(image: Image.Image) -> bool:
    """Whether an opened picture, not loaded yet, has more than 8 bits per channel."""
    if image.mode[0] in "IF" or ";16" in _raw_mode(image):
        return True
    return max(tags(image).get(_BITS, (1,))) > 8


def is_readable(image: Image.Image) -> bool:
    """Whether `values_of` can read all bits of an opened deep picture, not loaded yet."""
    if image.mode[0] in "IF":
        return True
    if tags(image).get(_PLANES) == _SEPARATE:
        return False
    mode = _raw_mode(image)
    return mode == _GREY_ALPHA or (
        image.mode in ("RGB", "RGBA") and mode.startswith(f"{image.mode};16")
    )


def values_of(image: Image.Image, raw: bytes) -> np.ndarray:
    """All bits of a deep picture, [H, W] or [H, W, C]; a last of 2 or 4 channels is transparency.

    Args:
        image: opened from `raw`, not loaded yet.
        raw: the file.

    Raises:
        CorruptError: a kind of picture that Pillow reads with 8 bits only.
    """
    mode = _raw_mode(image)
    if not is_readable(image):
        raise CorruptError(
            f"its {mode} pixels can only be read with 8 bits; save it as RGB or grey with 16 bits"
        )
    if image.mode[0] in "IF":
        values = np.asarray(image)
        return values.view(np.uint32) if mode == "I;32N" else values
    if mode == _GREY_ALPHA:
        parts = _in_mode(raw, "RGBA").astype(np.uint16)  # high and low byte of grey, then of alpha
        return parts[..., ::2] * 256 + parts[..., 1::2]
    order = mode[-1]
    if order == "N":
        order = "L" if sys.byteorder == "little" else "B"
    # Pillow keeps one byte of each pair: the high one, or, told the other byte order, the low one.
    high = _in_mode(raw, f"{image.mode};16{order}")
    low = _in_mode(raw, f"{image.mode};16{_OTHER_ORDER[order]}")
    return high.astype(np.uint16) * 256 + low


def with_transparency(pixels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """`pixels` [H, W, C] uint8, scaled from `values`, with the last channel as transparency."""
    opacity = scaled(values[..., -1:], 0, _MASK)
    return np.concatenate([pixels[..., :-1], opacity], axis=-1)


def has_transparency(values: np.ndarray, bands: int) -> bool:
    """Whether the last channel of a deep picture is transparency, and is not asked for."""
    return values.ndim == 3 and values.shape[-1] in (2, 4) and values.shape[-1] != bands


def limits(values: np.ndarray) -> tuple[float, float]:
    """Smallest and largest finite value.

    Raises:
        CorruptError: there is none.
    """
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise CorruptError("it has no finite values")
    return float(finite.min()), float(finite.max())


def tags(image: Image.Image) -> Any:
    """The tags of a TIFF picture; none of others."""
    return getattr(image, "tag_v2", {})


def _raw_mode(image: Image.Image) -> str:
    """How the file stores pixels, in Pillow's words, such as "RGB;16B"."""
    if not image.tile:
        return ""
    arguments = image.tile[0][3]
    mode = arguments[0] if isinstance(arguments, Sequence) and arguments else ""
    return arguments if isinstance(arguments, str) else str(mode)


def _in_mode(raw: bytes, mode: str) -> np.ndarray:
    """The picture as uint8, with the file's pixels taken for `mode`."""
    with Image.open(io.BytesIO(raw)) as image:
        tiles = []
        for codec, extents, offset, arguments in image.tile:
            tuple_like = not isinstance(arguments, str)
            changed = (mode, *arguments[1:]) if tuple_like else mode
            tiles.append(type(image.tile[0])(codec, extents, offset, changed))
        image.tile = tiles
        return np.asarray(image)
