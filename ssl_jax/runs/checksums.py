"""Checksums of a finished checkpoint, so that a bit flipped on disk is not trained on."""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ssl_jax.runtime.atomic_file import write_atomically

FILE = "checksums.json"
_THREADS = 4


def write(folder: Path) -> None:
    """Writes the SHA-256 of every file below `folder` into its `checksums.json`.

    Reading back a file just written costs about 0.6 s per gigabyte on one core.
    """
    digests = _digests(folder, _files(folder))
    write_atomically(folder / FILE, json.dumps({"sha256": digests}, indent=1) + "\n")


def exist(folder: Path) -> bool:
    """Whether `folder` has checksums; runs of earlier versions wrote none."""
    return (folder / FILE).exists()


def damage(folder: Path) -> str:
    """The first file that has changed or is missing, in a few words; empty if all are intact."""
    try:
        expected = json.loads((folder / FILE).read_text("utf-8"))["sha256"]
        names = list(expected)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return f"{FILE} cannot be read"
    if missing := [name for name in names if not (folder / name).is_file()]:
        return f"{missing[0]} is missing"
    try:
        digests = _digests(folder, names)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return next((f"{name} has changed" for name in names if digests[name] != expected[name]), "")


def _files(folder: Path) -> list[str]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != FILE)
    return sorted(str(path.relative_to(folder)) for path in paths)


def _digests(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """name -> SHA-256, in threads: hashing releases the GIL."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(names, pool.map(lambda name: _digest(folder / name), names)))


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
