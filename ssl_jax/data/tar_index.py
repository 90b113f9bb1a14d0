"""What a tar file of WebDataset holds: where its pictures are, and their labels."""

import json
import os
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO

from ssl_jax.data.formats import ending, suffixes
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

FORMAT = 1  # raise it when the same file would give another index
LABELS = ("cls", "json", "txt")  # endings of members with labels
LONGEST = 200  # characters of a class name
_BLOCK = 512  # bytes, tar's unit
_MAX_LABEL = 2**20  # bytes of a member with a label
_JSON_KEYS = ("label", "class", "cls")
_MAGIC = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
    b"\x04\x22\x4d\x18": "unlz4",
}
_Place = tuple[str, int, int]  # name of a member, offset and size in bytes


def index(path: Path) -> dict[str, Any]:
    """The index of a tar file, as JSON; reads its headers and labels.

    Members belong together if their paths agree up to the first dot of the file name (their key).
    The one that ends in a format of pictures is the picture. Hidden members are ignored.

    Returns:
        "places": name, offset and size in bytes of each picture; "labels": for each of LABELS the
        texts of the labels, None where there is none; "others": number of other members by ending.

    Raises:
        SettingError: the file is compressed, damaged, or cannot be read.
    """
    try:
        with open(path, "rb") as file:
            _check_magic(path, file.read(6))
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                groups, others = _groups(tar)
                _check_end(file, tar.offset)
            places = []
            labels = {kind: [] for kind in LABELS}
            for group in groups.values():
                picture = _picture(group)
                if picture:
                    places.append(group.pop(picture))
                    for kind in LABELS:
                        labels[kind].append(_label(file, kind, group))
                others.update(ending(name) for name, _, _ in group.values())
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise SettingError(
            f"{printable(path)} is a damaged tar file ({printable(error)}); fetch it or make it "
            "again"
        ) from error
    except OSError as error:
        raise SettingError(
            f"{printable(path)} cannot be read ({error.strerror or error})"
        ) from error
    return {"places": places, "labels": labels, "others": others}


def _check_magic(path: Path, start: bytes) -> None:
    """Rejects compressed files, in which no member can be found by its offset."""
    for magic, command in _MAGIC.items():
        if start.startswith(magic):
            raise SettingError(
                f"{printable(path)} is compressed; unpack it to a plain .tar file ({command})"
            )


def _groups(tar: tarfile.TarFile) -> tuple[dict[str, dict[str, _Place]], Counter[str]]:
    """Regular members by key and ending, in the file's order; and the number of others."""
    groups: dict[str, dict[str, _Place]] = {}
    others: Counter[str] = Counter()
    while True:
        member = tar.next()
        if member is None:
            return groups, others
        tar.members.clear()  # there may be millions
        folder, base = os.path.split(os.path.normpath(member.name))
        if base.startswith(".") or member.isdir():
            continue
        if not member.isreg() or member.issparse():
            others[ending(base)] += 1
            continue
        key, _, kind = base.partition(".")
        group = groups.setdefault(os.path.join(folder, key), {})
        if kind.lower() in group:
            others[ending(base)] += 1  # as tar itself does, the last of a name replaces the others
        group[kind.lower()] = (os.path.join(folder, base), member.offset_data, member.size)


def _check_end(file: BinaryIO, offset: int) -> None:
    """Checks that a tar file ends where its members end: tarfile stops at damage without a word.

    Raises:
        ValueError: it does not.
    """
    file.seek(offset)
    block = file.read(_BLOCK)
    if not block:
        raise ValueError("it has no end mark, as if it were cut off")
    if block.strip(b"\0"):
        raise ValueError(f"byte {offset:,} is no header")
    while block:
        block = file.read(2**20)
        if block.strip(b"\0"):
            raise ValueError("members follow its end mark, as if tar files were joined")


def _picture(group: dict[str, _Place]) -> str:
    """The ending of the picture in a group; "" if there is none.

    Of "jpg" and "mask.png" it is the former.
    """
    known = suffixes()
    plain = [kind for kind in group if f".{kind}" in known]
    compound = [kind for kind in group if f".{kind.rpartition('.')[2]}" in known]
    return next(iter([*plain, *compound]), "")


def _label(file: BinaryIO, kind: str, group: dict[str, _Place]) -> str | None:
    """The text of a label, which leaves the group; None if there is none, and of no use."""
    if kind not in group:
        return None
    _, offset, size = group[kind]
    if size > _MAX_LABEL:
        return None
    file.seek(offset)
    raw = file.read(size)
    text = raw.decode("utf-8", "replace").strip()
    if kind == "json":
        text = _json_label(text)
    if text is not None:
        del group[kind]
        return text[: LONGEST + 1]
    return None


def _json_label(text: str) -> str | None:
    try:
        facts = json.loads(text)
    except ValueError:
        return None
    for key in _JSON_KEYS:
        if isinstance(facts, dict) and isinstance(facts.get(key), (str, int, float)):
            return str(facts[key])
    return None
