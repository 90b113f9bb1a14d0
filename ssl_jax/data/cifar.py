"""CIFAR-10 and CIFAR-100 from the official binary files, or from their .tar.gz archives."""

import gzip
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np

from ssl_jax.data import cache
from ssl_jax.data.source import Dataset, Images, Source
from ssl_jax.settings.paths import user_path
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
SITE = "https://www.cs.toronto.edu/~kriz/"
MD5 = {
    "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
    "cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8",
}
_MOST = 10**9  # bytes an archive may inflate to, several times the official ones
_CIFAR10 = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
_FINE = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile
cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp
lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom
oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake
spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
_COARSE = """
aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices
household_furniture insects large_carnivores large_man-made_outdoor_things
large_natural_outdoor_scenes large_omnivores_and_herbivores medium_mammals
non-insect_invertebrates people reptiles small_mammals trees vehicles_1 vehicles_2
"""


def cifar10(source: Source) -> Dataset:
    """CIFAR-10, [32, 32, 3] in the official order."""
    batches = [f"data_batch_{i}.bin" for i in range(1, 6)]
    files = dict.fromkeys([*batches, "test_batch.bin"], (10_000, (10,)))
    read = _reader(source, "cifar-10-batches-bin", "cifar-10-binary.tar.gz", files)
    images, labels = zip(*(_decoded(read(batch), column=0) for batch in batches))
    return Dataset(
        train=Images(np.concatenate(images), np.concatenate(labels)),
        test=Images(*_decoded(read("test_batch.bin"), column=0)),
        classes=_CIFAR10,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
    )


def cifar100(source: Source) -> Dataset:
    """CIFAR-100 with its 100 fine or 20 coarse labels, [32, 32, 3] in the official order."""
    files = {"train.bin": (50_000, (20, 100)), "test.bin": (10_000, (20, 100))}
    read = _reader(source, "cifar-100-binary", "cifar-100-binary.tar.gz", files)
    coarse = source.labels == "coarse"
    column = 0 if coarse else 1
    return Dataset(
        train=Images(*_decoded(read("train.bin"), column, label_bytes=2)),
        test=Images(*_decoded(read("test.bin"), column, label_bytes=2)),
        classes=tuple((_COARSE if coarse else _FINE).split()),
        mean=(0.5071, 0.4867, 0.4408),
        std=(0.2675, 0.2565, 0.2761),
    )


def _decoded(
    records: np.ndarray, column: int, label_bytes: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Images [n, 32, 32, 3] and labels [n] of binary records.

    A record is `label_bytes` bytes of labels, of which `column` is taken, then the pixels, channels
    first.
    """
    pixels = records[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(pixels), records[:, column].astype(np.int32)


def _reader(
    source: Source, inner: str, archive: str, files: Mapping[str, tuple[int, tuple[int, ...]]]
) -> Callable[[str], np.ndarray]:
    """A function that reads a file from `data.dir`, from `inner` in it or from the archive in it.

    Args:
        source: the settings.
        inner: folder of the files.
        archive: file name of the archive.
        files: file name to (number of records, number of classes of each label byte).

    Returns:
        A function from a name in `files` to its records, uint8 [records, bytes].
    """
    root, packed = _place(source, inner, archive)
    sizes = {name: count * (len(classes) + 3072) for name, (count, classes) in files.items()}
    member = _members(packed, {f"{inner}/{name}": size for name, size in sizes.items()})

    def read(name: str) -> np.ndarray:
        unpacked = next((p for p in (root / name, root / inner / name) if p.is_file()), None)
        place = unpacked or f"{packed}:{inner}/{name}"
        size = sizes[name]
        count, classes = files[name]
        try:
            if unpacked:
                length = unpacked.stat().st_size
                raw = unpacked.read_bytes() if length == size else b""
            elif packed.is_file():
                length, raw = member(f"{inner}/{name}")
            else:
                raise SettingError(
                    f"no {name} or {archive} in data.dir={printable(source.dir)}; "
                    f"data.download=True fetches {archive} from {PAGE}"
                )
        except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
            raise SettingError(
                printable(f"{place} cannot be read ({error}); fetch it again from {PAGE}")
            ) from error
        if length != size:
            raise SettingError(
                f"{place} has {length} bytes instead of {size}; fetch it again from {PAGE}"
            )
        records = np.frombuffer(raw, np.uint8).reshape(count, -1)
        if (records[:, : len(classes)] >= classes).any():
            raise SettingError(
                f"{place} is damaged (labels out of range); fetch it again from {PAGE}"
            )
        return records

    return read


def _members(packed: Path, sizes: Mapping[str, int]) -> Callable[[str], tuple[int, bytes]]:
    """A function from a member's name to its (length, bytes), in one pass over the archive.

    The function skips members that are not in `sizes`, and returns no bytes for members of another
    length. It raises `tarfile.ReadError` before inflating a member larger than all of `sizes`, or
    an archive of more than `_MOST` bytes.
    """

    def contents() -> Iterator[tuple[str, int, bytes]]:
        with _unpacked(packed) as unpacked:
            file = _Limited(unpacked, max(sizes.values()))
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for entry in tar:
                    file.check(entry.size, entry.offset_data)
                    if entry.isfile() and entry.name in sizes:
                        complete = entry.size == sizes[entry.name]
                        raw = tar.extractfile(entry).read() if complete else b""
                        yield entry.name, entry.size, raw

    remaining = contents()
    read = {}

    def member(name: str) -> tuple[int, bytes]:
        while name not in read:
            entry = next(remaining, None)
            if entry is None:
                raise tarfile.ReadError("the archive has no such file")
            entry_name, length, raw = entry
            read[entry_name] = length, raw
        return read[name]

    return member


def _unpacked(packed: Path) -> IO[bytes]:
    """The archive opened as a plain .tar, whether it is compressed or not."""
    with open(packed, "rb") as raw:
        compressed = raw.read(2) == b"\x1f\x8b"
    return gzip.open(packed) if compressed else open(packed, "rb")


class _Limited:
    """A file for `tarfile` that limits reads to `largest` bytes each, and to `_MOST` in all."""

    def __init__(self, file: IO[bytes], largest: int):
        self._file = file
        self._largest = largest
        self.tell = file.tell

    def check(self, size: int, start: int) -> None:
        """Raises `tarfile.ReadError` if `size` bytes from `start` exceed a limit."""
        if size > self._largest:
            raise tarfile.ReadError(
                f"a member has {size:,} bytes, but the largest file should have {self._largest:,}"
            )
        if start + size > _MOST:
            raise tarfile.ReadError(f"it holds more than {_MOST:,} bytes")

    def read(self, size: int) -> bytes:
        """The next `size` bytes."""
        self.check(size, self.tell())
        return self._file.read(size)

    def seek(self, place: int) -> int:
        """Moves to `place`, in bytes from the start."""
        self.check(0, place)
        return self._file.seek(place)


def _place(source: Source, inner: str, archive: str) -> tuple[Path, Path]:
    """The folder of the files, and the archive, which is fetched first if missing and allowed."""
    if not source.dir and not source.download:
        raise SettingError(
            f"data.dir is empty: give the folder that holds {inner}/ or {archive}, or "
            f"data.download=True to fetch it from {PAGE}"
        )
    root = user_path(source.dir, "data.dir") if source.dir else cache.root(source) / "downloads"
    if root.name.endswith(".tar.gz"):
        return root, root
    first = "data_batch_1.bin" if inner == "cifar-10-batches-bin" else "train.bin"
    unpacked = (root / inner).is_dir() or (root / first).is_file()
    if source.download and not unpacked:
        _fetch(archive, root)
    return root, root / archive


def _fetch(archive: str, folder: Path) -> None:
    """Downloads the archive into `folder`, unless it is there with the right checksum.

    Raises:
        SettingError: no connection, a wrong checksum, or a folder that cannot be written; no
            partial file remains.
    """
    import pooch

    pooch.get_logger().setLevel("WARNING")
    url = SITE + archive
    if not (folder / archive).exists():
        print(f"fetching {url} into {folder}", file=sys.stderr)
    try:
        pooch.retrieve(url, f"md5:{MD5[archive]}", archive, folder, progressbar=sys.stderr.isatty())
    except ValueError as error:
        raise SettingError(
            f"{url} was fetched, but its checksum is wrong; try again, or see {PAGE}"
        ) from error
    except OSError as error:  # includes the exceptions of requests
        reason = error.strerror or type(error).__name__
        response = getattr(error, "response", None)
        if response is not None:
            reason = f"HTTP status {response.status_code}"
            response.close()  # pooch leaves it open
        raise SettingError(
            f"{url} cannot be fetched into {folder} ({reason}); fetch it by other means and give "
            "its folder as data.dir"
        ) from error
