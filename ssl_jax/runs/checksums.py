"""Checksums of a finished checkpoint: a bit that flips on the disk is noticed, and not trained on."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ssl_jax.runtime.atomic_file import write_atomically

FILE = "checksums.json"
_THREADS = 4


def write(folder: Path) -> None:
    """Writes the SHA-256 of every file below `folder` into its `checksums.json`.

    Reading a file that was just written costs about 0.6 s a gigabyte on one core.
    """
    digests = _digests(folder, _files(folder))
    write_atomically(folder / FILE, json.dumps({"sha256": digests}, indent=1) + "\n")


def exist(folder: Path) -> bool:
    """Whether there are any; runs of earlier versions wrote none."""
    return (folder / FILE).exists()


def damage(folder: Path) -> str:
    """What is no longer as it was written, in a few words; empty where everything is."""
    try:
        expected = json.loads((folder / FILE).read_text("utf-8"))["sha256"]
        names = list(expected)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return f"{FILE} cannot be read"
    if lost := [name for name in names if not (folder / name).is_file()]:
        return f"{lost[0]} is missing"
    try:
        found = _digests(folder, names)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return next((f"{name} has changed" for name in names if found[name] != expected[name]), "")


def _files(folder: Path) -> list[str]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != FILE)
    return sorted(str(path.relative_to(folder)) for path in paths)


def _digests(folder: Path, names) -> dict[str, str]:
    """name -> SHA-256; hashing leaves Python's lock, so threads help."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(names, pool.map(lambda name: _digest(folder / name), names)))


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
