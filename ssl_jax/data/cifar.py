"""CIFAR-10 and CIFAR-100 from the official binary files, or from the .tar.gz that holds them."""

import gzip
import sys
import tarfile
import zlib
from pathlib import Path

import numpy as np

from ssl_jax.data import cache
from ssl_jax.data.source import Dataset, Images
from ssl_jax.settings.paths import user_path
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
SITE = "https://www.cs.toronto.edu/~kriz/"
MD5 = {
    "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
    "cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8",
}
_MOST = 10**9  # bytes that an archive may inflate to, several times those of the real ones
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_FINE = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
_COARSE = """
aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices
household_furniture insects large_carnivores large_man-made_outdoor_things large_natural_outdoor_scenes
large_omnivores_and_herbivores medium_mammals non-insect_invertebrates people reptiles small_mammals trees
vehicles_1 vehicles_2
"""


def cifar10(source) -> Dataset:
    """CIFAR-10, [32, 32, 3] in the official order."""
    batches = [f"data_batch_{i}.bin" for i in range(1, 6)]
    files = dict.fromkeys([*batches, "test_batch.bin"], (10_000, (10,)))
    read = _reader(source, "cifar-10-batches-bin", "cifar-10-binary.tar.gz", files)
    train = Images(*(np.concatenate(parts) for parts in zip(*(_columns(read(b), 0) for b in batches))))
    test = Images(*_columns(read("test_batch.bin"), 0))
    return Dataset(train, test, _CIFAR10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


def cifar100(source) -> Dataset:
    """CIFAR-100 with its 100 fine or 20 coarse labels, [32, 32, 3] in the official order."""
    files = {"train.bin": (50_000, (20, 100)), "test.bin": (10_000, (20, 100))}
    read = _reader(source, "cifar-100-binary", "cifar-100-binary.tar.gz", files)
    column = 0 if source.labels == "coarse" else 1
    train, test = (Images(*_columns(read(name), column, 2)) for name in files)
    return Dataset(
        train, test, tuple((_COARSE, _FINE)[column].split()), (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
    )


def _columns(records, column, label_bytes=1):
    """Images [n, 32, 32, 3] and labels [n] of binary records: label bytes, then channels-first pixels."""
    pixels = records[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(pixels), records[:, column].astype(np.int32)


def _reader(source, inner, archive, files):
    """A function that reads one of `files`, from `data.dir`, the folder `inner` in it or the archive in it.

    Args:
        source: the settings.
        inner: folder of the files.
        archive: that holds them.
        files: name to (records, classes of each label byte).
    """
    root, packed = _place(source, inner, archive)
    sizes = {name: count * (len(classes) + 3072) for name, (count, classes) in files.items()}
    member = _members(packed, {f"{inner}/{name}": size for name, size in sizes.items()})

    def read(name):
        plain = next((p for p in (root / name, root / inner / name) if p.is_file()), None)
        where, size, (count, classes) = plain or f"{packed}:{inner}/{name}", sizes[name], files[name]
        try:
            if plain:
                length = plain.stat().st_size
                raw = plain.read_bytes() if length == size else b""
            elif packed.is_file():
                length, raw = member(f"{inner}/{name}")
            else:
                raise SettingError(
                    f"no {name} or {archive} in data.dir={printable(source.dir)}; data.download=True fetches {archive} "
                    f"from {PAGE}"
                )
        except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
            raise SettingError(printable(f"{where} cannot be read ({error}); fetch it again from {PAGE}")) from error
        if length != size:
            raise SettingError(f"{where} has {length} bytes instead of {size}; fetch it again from {PAGE}")
        records = np.frombuffer(raw, np.uint8).reshape(count, -1)
        if (records[:, : len(classes)] >= classes).any():
            raise SettingError(f"{where} is damaged, labels are out of range; fetch it again from {PAGE}")
        return records

    return read


def _members(packed, sizes):
    """A function from a member's name to its (length, bytes), which goes through the archive once for all of them.

    Nothing is kept of members that are not in `sizes`, or have another length there than in the archive: their bytes
    are empty. A member larger than all of `sizes`, or an archive of more than `_MOST` bytes, is a `tarfile.ReadError`
    before it is inflated.
    """
    found = {}

    def contents():
        with _unpacked(packed) as unpacked:
            file = _Limited(unpacked, max(sizes.values()))
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for entry in tar:
                    file.check(entry.size, entry.offset_data)
                    if entry.isfile() and entry.name in sizes:
                        right = entry.size == sizes[entry.name]
                        yield entry.name, (entry.size, tar.extractfile(entry).read() if right else b"")

    rest = contents()

    def member(name):
        while name not in found:
            own, content = next(rest, (None, None))
            if own is None:
                raise tarfile.ReadError("the archive has no such file")
            found[own] = content
        return found[name]

    return member


def _unpacked(packed):
    """The open archive as a plain .tar, whether it is zipped or not."""
    with open(packed, "rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
    return gzip.open(packed) if zipped else open(packed, "rb")


class _Limited:
    """A file for `tarfile` of which no more than `largest` bytes are read at once, and no more than `_MOST` in all."""

    def __init__(self, file, largest: int):
        self._file, self._largest = file, largest
        self.tell = file.tell

    def check(self, size: int, start: int) -> None:
        """Raises a `tarfile.ReadError` where `size` bytes from `start` on would be too much."""
        if size > self._largest:
            raise tarfile.ReadError(f"a part of it has {size:,} bytes, its largest file should have {self._largest:,}")
        if start + size > _MOST:
            raise tarfile.ReadError(f"it holds more than {_MOST:,} bytes")

    def read(self, size: int) -> bytes:
        """The next `size` bytes."""
        self.check(size, self.tell())
        return self._file.read(size)

    def seek(self, place: int) -> int:
        """Goes to a place from the start."""
        self.check(0, place)
        return self._file.seek(place)


def _place(source, inner, archive) -> tuple[Path, Path]:
    """The folder where the files are looked for, and the archive; fetched first if wished and missing."""
    if not source.dir and not source.download:
        raise SettingError(
            f"data.dir is empty: give the folder that holds {inner}/ or {archive}, or data.download=True to fetch it "
            f"from {PAGE}"
        )
    root = user_path(source.dir, "data.dir") if source.dir else cache.root(source) / "downloads"
    if root.name.endswith(".tar.gz"):
        return root, root
    first = "data_batch_1.bin" if inner == "cifar-10-batches-bin" else "train.bin"
    unpacked = (root / inner).is_dir() or (root / first).is_file()
    if source.download and not unpacked:
        _fetch(archive, root)
    return root, root / archive


def _fetch(archive, folder):
    """The archive into `folder`, checked; one that is whole stays, without a look at the network.

    Raises:
        SettingError: no connection, a wrong checksum, or a folder that cannot be written; nothing partial stays.
    """
    import pooch

    pooch.get_logger().setLevel("WARNING")
    url = SITE + archive
    if not (folder / archive).exists():
        print(f"fetching {url} into {folder}", file=sys.stderr)
    try:
        pooch.retrieve(url, f"md5:{MD5[archive]}", archive, folder, progressbar=sys.stderr.isatty())
    except ValueError as error:
        raise SettingError(f"{url} was fetched, but its checksum is wrong; try again, or see {PAGE}") from error
    except OSError as error:  # those of requests too
        reason, response = error.strerror or type(error).__name__, getattr(error, "response", None)
        if response is not None:
            reason = f"HTTP status {response.status_code}"
            response.close()  # pooch leaves it open
        raise SettingError(
            f"{url} cannot be fetched into {folder} ({reason}); fetch it by other means and give its folder as data.dir"
        ) from error
