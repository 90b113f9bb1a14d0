"""CIFAR-10 and CIFAR-100 from the official binary files, or from the .tar.gz that holds them."""

import sys
import tarfile
import zlib
from pathlib import Path

import numpy as np

from ssl_jax.data import cache
from ssl_jax.data.source import Dataset, Images
from ssl_jax.settings.resolve import SettingError

PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
SITE = "https://www.cs.toronto.edu/~kriz/"
MD5 = {
    "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
    "cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8",
}
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
    read = _reader(source, "cifar-10-batches-bin", "cifar-10-binary.tar.gz")
    batches = [read(f"data_batch_{i}.bin", 10_000, (10,)) for i in range(1, 6)]
    train = Images(*(np.concatenate(parts) for parts in zip(*(_columns(b, 0) for b in batches))))
    test = Images(*_columns(read("test_batch.bin", 10_000, (10,)), 0))
    return Dataset(train, test, _CIFAR10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


def cifar100(source) -> Dataset:
    """CIFAR-100 with its 100 fine or 20 coarse labels, [32, 32, 3] in the official order."""
    read = _reader(source, "cifar-100-binary", "cifar-100-binary.tar.gz")
    column = 0 if source.labels == "coarse" else 1
    train, test = (
        Images(*_columns(read(f"{s}.bin", n, (20, 100)), column, 2)) for s, n in (("train", 50_000), ("test", 10_000))
    )
    return Dataset(
        train, test, tuple((_COARSE, _FINE)[column].split()), (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
    )


def _columns(records, column, label_bytes=1):
    """Images [n, 32, 32, 3] and labels [n] of binary records: label bytes, then channels-first pixels."""
    pixels = records[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(pixels), records[:, column].astype(np.int32)


def _reader(source, inner, archive):
    """A function that reads one member file, from `data.dir`, the folder `inner` in it or the archive in it.

    It takes the file's name, the number of its records and, for each label byte, the number of classes.
    """
    root, packed = _place(source, inner, archive)
    member = _members(packed)

    def read(name, count, classes):
        plain = next((p for p in (root / name, root / inner / name) if p.is_file()), None)
        where = plain or f"{packed}:{inner}/{name}"
        try:
            if plain:
                raw = plain.read_bytes()
            elif packed.is_file():
                raw = member(f"{inner}/{name}")
            else:
                raise SettingError(
                    f"no {name} or {archive} in data.dir={source.dir}; data.download=True fetches {archive} from {PAGE}"
                )
        except (KeyError, OSError, EOFError, zlib.error, tarfile.TarError) as error:
            raise SettingError(f"{where} cannot be read ({error}); fetch it again from {PAGE}") from error
        size = count * (len(classes) + 3072)
        if len(raw) != size:
            raise SettingError(f"{where} has {len(raw)} bytes instead of {size}; fetch it again from {PAGE}")
        records = np.frombuffer(raw, np.uint8).reshape(count, -1)
        if (records[:, : len(classes)] >= classes).any():
            raise SettingError(f"{where} is damaged, labels are out of range; fetch it again from {PAGE}")
        return records

    return read


def _members(packed):
    """A function from a member's name to its bytes, which goes through the archive once however many are asked for."""
    found = {}

    def contents():
        with tarfile.open(packed) as tar:
            for entry in tar:
                if entry.isfile():
                    yield entry.name, tar.extractfile(entry).read()

    rest = contents()

    def member(name):
        while name not in found:
            own, raw = next(rest, (None, None))
            if own is None:
                raise KeyError(name)
            found[own] = raw
        return found[name]

    return member


def _place(source, inner, archive) -> tuple[Path, Path]:
    """The folder where the files are looked for, and the archive; fetched first if wished and missing."""
    if not source.dir and not source.download:
        raise SettingError(
            f"data.dir is empty: give the folder that holds {inner}/ or {archive}, or data.download=True to fetch it "
            f"from {PAGE}"
        )
    root = Path(source.dir).expanduser() if source.dir else cache.root(source) / "downloads"
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
