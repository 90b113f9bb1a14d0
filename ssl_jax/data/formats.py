"""The picture formats that can be read here, by the endings of their files."""

import contextlib
import functools
import os
from collections.abc import Mapping

from PIL import features

# Endings of file names, in lower case, and Pillow's names of the formats. File names often claim
# another format than the file has.
_ENDINGS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif"),
}
_REMEDIES = {"HEIF": "pip install 'ssl_jax[heic]'", "AVIF": "pip install --upgrade pillow"}
_LONGEST = 10  # characters of an ending
_MOST = 8  # endings named in a message


@functools.cache
def formats() -> tuple[str, ...]:
    """Pillow's names of the formats that can be read here.

    AVIF needs a Pillow that was built with it, HEIC the package pillow-heif (the extra `heic`).
    """
    available = [name for name in _ENDINGS if name not in _REMEDIES]
    if features.check("avif"):
        available.append("AVIF")
    with contextlib.suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
        available.append("HEIF")
    return tuple(available)


def suffixes() -> tuple[str, ...]:
    """Endings of the files that can be read here, in lower case."""
    return tuple(ending for name in formats() for ending in _ENDINGS[name])


def ending(name: str) -> str:
    """The ending of a file name in lower case, such as ".txt"; "" without one.

    Numbers ("scan.0001") and sentences ("Mr. Smith") are not endings.
    """
    text = os.path.splitext(name)[1][1:].lower()
    plausible = text.isalnum() and not text.isdigit() and len(text) <= _LONGEST
    return f".{text}" if plausible else ""


def counted(left_out: Mapping[str, int]) -> str:
    """Files by their ending in words: ".txt 7, .pdf 1, 3 without ending"."""
    ordered = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{key} {count:,}" if key else f"{count:,} without ending" for key, count in ordered]
    if len(parts) > _MOST:
        rest = sum(count for _, count in ordered[_MOST - 1 :])
        parts = [*parts[: _MOST - 1], f"{rest:,} others"]
    return ", ".join(parts)


def remedies(left_out: Mapping[str, int]) -> list[str]:
    """Notes on files that are left out only because a package is missing."""
    notes = []
    for name, remedy in _REMEDIES.items():
        present = [key for key in _ENDINGS[name] if left_out.get(key)]
        if present and name not in formats():
            count = sum(left_out[key] for key in present)
            files = "file is" if count == 1 else "files are"
            notes.append(f"{count:,} {'/'.join(present)} {files} left out; to read them: {remedy}")
    return notes
