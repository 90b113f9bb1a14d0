"""Files of arrays, .npz and .npy: which arrays they hold, by their headers, and their values."""

import contextlib
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from ssl_jax.data import npy, splits
from ssl_jax.settings.machine import memory
from ssl_jax.settings.paths import user_path
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

IMAGES = "images"
LABELS = "labels"
CLASSES = "classes"
_IMAGE_WORDS = ("images", "image", "imgs", "img", "x", "data")
_LABEL_WORDS = ("labels", "label", "targets", "target", "y")
_CLASS_KEYS = ("classes", "class_names", "label_names")
_PREFIXES = {splits.TRAIN: "", splits.VALIDATION: "val_", splits.TEST: "test_"}
_POSITIONAL = {"arr_0": IMAGES, "arr_1": LABELS}  # np.savez(FILE, images, labels)
_MAX_KEY_TEXT = 200  # characters of the file's keys in a message
_EXPECTED = (
    "expected images and optionally labels, val_images, val_labels, test_images, test_labels, "
    "classes; or Keras' x_train, y_train, x_test, y_test; or MedMNIST's train_images, ..."
)


@dataclass(frozen=True)
class Arrays:
    """The arrays of a data set, by role: "images", "labels", "val_images", ..., "classes".

    Attributes:
        path: the file or folder.
        keys: what the file calls them.
        headers: their shapes and types.
        read: an array; of a .npy file as a memory map.
        files: the .npy file of each; empty for arrays in one archive.
    """

    path: Path
    keys: Mapping[str, str]
    headers: Mapping[str, npy.Header]
    read: Callable[[str], np.ndarray]
    files: Mapping[str, Path]


def roles(names: Iterable[str]) -> dict[str, str] | None:
    """The name of the array in each role; None if a name has no role, or two have the same."""
    names = list(names)
    if set(names) <= set(_POSITIONAL):
        named = {_POSITIONAL[name]: name for name in names}
    else:
        named = {_role(name): name for name in names}
    return named if "" not in named and len(named) == len(names) and IMAGES in named else None


def _role(name: str) -> str:
    """The role of an array's name such as "x_train" or "test_labels"; "" if it has none."""
    name = name.lower()
    if name in _CLASS_KEYS:
        return CLASSES
    words = name.split("_")
    split = next((word for word in words if splits.split_of(word) in _PREFIXES), "")
    if split:
        words.remove(split)
    rest = "_".join(words)
    for kind, known in ((IMAGES, _IMAGE_WORDS), (LABELS, _LABEL_WORDS)):
        if rest in known:
            return _PREFIXES.get(splits.split_of(split), "") + kind
    return ""


@contextlib.contextmanager
def opened(directory: str, labelled: bool) -> Iterator[Arrays]:
    """The arrays in data.dir: a .npz file, a folder with one, a .npy file, or a folder of these.

    Args:
        directory: the setting.
        labelled: whether labels and class names are wanted.

    Raises:
        SettingError: no such file, or one that cannot be used.
    """
    path = _path(directory)
    if path.is_dir():
        files = {file.stem: file for file in _files(path, "npy")}
        yield _of_files(path, files, labelled)
    elif path.suffix.lower() == ".npy" or _is_array(path):
        yield _of_files(path, {IMAGES: path}, labelled)
    else:
        with contextlib.ExitStack() as stack:
            with _readable(path):
                archive = stack.enter_context(zipfile.ZipFile(path))
                arrays = _of_archive(path, archive, labelled)
            yield arrays


def _path(directory: str) -> Path:
    """The file, or the folder of .npy files, that data.dir names."""
    if not directory:
        raise SettingError(
            "data.dir is empty: give the .npz file of the arrays, as in --config.data.dir=FILE.npz"
        )
    path = user_path(directory, "data.dir")
    shown = printable(directory)
    if path.is_dir():
        archives = _files(path, "npz")
        if len(archives) == 1:
            return archives[0]
        if not archives and _files(path, "npy"):
            return path
        raise SettingError(
            f"data.dir={shown} holds {len(archives)} .npz files; give one of them, or a folder "
            "with exactly one, or with images.npy"
        )
    if not path.is_file():
        raise SettingError(
            f"data.dir={shown}: no such file or folder; give a .npz file, or the images as .npy"
        )
    return path


def _files(folder: Path, ending: str) -> list[Path]:
    files = folder.glob(f"*.{ending}")
    return sorted(p for p in files if not p.name.startswith(".") and p.is_file())


def _is_array(path: Path) -> bool:
    """Whether the file is a single array, whatever its name."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return file.read(6) == np.lib.format.MAGIC_PREFIX
    return False


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns errors of reading in the block into one line that names the file."""
    kind = ".npy" if path.suffix.lower() == ".npy" else ".npz"
    try:
        yield
    except (
        OSError,
        EOFError,
        ValueError,
        NotImplementedError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise SettingError(
            f"{printable(path)} is not a readable {kind} file ({printable(error)}); save it again"
        ) from error


def _named(path: Path, names: list[str], labelled: bool) -> dict[str, str]:
    """`roles`, without labels and class names if they are not wanted."""
    named = roles(names)
    if named is None:
        shown = printable(", ".join(names))
        if len(shown) > _MAX_KEY_TEXT:
            shown = f"{shown[:_MAX_KEY_TEXT]}..."
        raise SettingError(f"{printable(path)} has the keys {shown}; {_EXPECTED}")
    return {role: name for role, name in named.items() if labelled or role.endswith(IMAGES)}


def _of_files(path: Path, files: Mapping[str, Path], labelled: bool) -> Arrays:
    keys = _named(path, list(files), labelled)
    files = {role: files[name] for role, name in keys.items()}
    headers = {}
    for role, file in files.items():
        with _readable(file):
            headers[role] = npy.header_of(file)
        _check_type(path, keys[role], headers[role])

    def read(role: str) -> np.ndarray:
        with _readable(files[role]):
            return np.load(files[role], mmap_mode="r", allow_pickle=False)

    return Arrays(path, keys, headers, read, files)


def _of_archive(path: Path, archive: zipfile.ZipFile, labelled: bool) -> Arrays:
    infos = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    names = [info.filename.removesuffix(".npy") for info in archive.infolist()]
    keys = _named(path, names, labelled)
    headers = {role: _member_header(path, key, archive, infos[key]) for role, key in keys.items()}
    total = sum(header.nbytes for header in headers.values())
    available = memory()
    if total > available:
        raise SettingError(
            f"{printable(path)} holds {total:,} bytes of arrays, but this machine has "
            f"{available:,} bytes of memory; save the images as images.npy in a folder, which is "
            "not read whole, or save fewer"
        )

    def read(role: str) -> np.ndarray:
        with _readable(path), archive.open(infos[keys[role]]) as member:
            return np.lib.format.read_array(member, allow_pickle=False)

    return Arrays(path, keys, headers, read, {})


def _member_header(
    path: Path, key: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo
) -> npy.Header:
    """The header of an array; only it is inflated, so members of any size are checked quickly.

    Raises:
        SettingError: the member is encrypted, compressed as numpy never does, not an array, an
            array of Python objects, or not as long as its header says.
    """
    shown = f"{printable(path)}: {printable(key)}"
    if info.flag_bits & 1:
        raise SettingError(f"{shown} is encrypted; save it again with np.savez")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise SettingError(
            f"{shown} has a compression that numpy never writes; save it again with "
            "np.savez_compressed"
        )
    with archive.open(info) as member:
        header = _header(shown, member)
    _check_type(path, key, header)
    if header.nbytes != info.file_size:
        raise SettingError(
            f"{shown} has {info.file_size:,} bytes, but its header says {header.nbytes:,}; save "
            "it again"
        )
    return header


def _header(shown: str, member: IO[bytes]) -> npy.Header:
    try:
        return npy.read_header(member)
    except ValueError as error:
        raise SettingError(
            f"{shown} cannot be read ({error}); save it again with np.savez"
        ) from error


def _check_type(path: Path, key: str, header: npy.Header) -> None:
    if header.dtype.hasobject:
        raise SettingError(
            f"{printable(path)}: {printable(key)} holds Python objects; save plain numbers or text "
            "(np.asarray(..., dtype))"
        )
