"""Data sets as uint8 arrays in memory, in a fixed order: row i is image i for good."""

import dataclasses
import tarfile
import zlib
from pathlib import Path

import numpy as np

from ssl_jax.settings import SettingError

UNLABELLED = -1


@dataclasses.dataclass(frozen=True)
class Images:
    """One split: `images` uint8 [N, H, W, C] and `labels` int32 [N] (-1: unlabelled)."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self):
        return len(self.images)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Training and test images, class names, and the channel statistics that views are normalised with."""

    train: Images
    test: Images
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load(name: str, *, folder: str = "", limit: int = 0, labels: str = "fine") -> Dataset:
    """The data set `name`.

    Args:
        name: a key of `LOADERS`.
        folder: where the files are (`data.dir`), for those that need any.
        limit: keep the first `limit` training images; 0 keeps all.
        labels: "fine" or "coarse", for CIFAR-100.

    Raises:
        SettingError: unknown name, missing or damaged files (which, and where they come from).
    """
    if name not in LOADERS:
        raise SettingError(f"data.name={name!r} is not known; choose one of: {', '.join(LOADERS)}")
    if labels not in ("fine", "coarse"):
        raise SettingError(f"data.labels={labels!r}: choose fine or coarse")
    dataset = LOADERS[name](folder, labels)
    if not 0 <= limit <= len(dataset.train):
        raise SettingError(f"data.limit={limit}: {name} has {len(dataset.train)} training images; 0 takes all")
    train = Images(*(a[: limit or None] for a in (dataset.train.images, dataset.train.labels)))
    return dataclasses.replace(dataset, train=train)


def _digits(folder, labels) -> Dataset:
    """scikit-learn's 1,797 handwritten digits, 8x8 grey, with a fixed stratified 80/20 split."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    rows = train_test_split(np.arange(len(images)), test_size=0.2, stratify=digits.target, random_state=0)
    train, test = (Images(images[r], digits.target[r].astype(np.int32)) for r in rows)
    return Dataset(train, test, tuple("0123456789"), (0.305,), (0.376,))


CIFAR_SOURCE = "https://www.cs.toronto.edu/~kriz/cifar.html"


def _cifar10(folder, labels) -> Dataset:
    """CIFAR-10 from the official binary files, or the .tar.gz that holds them."""
    read = _cifar_reader(folder, "cifar-10-batches-bin", "cifar-10-binary.tar.gz")
    batches = [read(f"data_batch_{i}.bin", 10_000, 1) for i in range(1, 6)]
    train = Images(*(np.concatenate(parts) for parts in zip(*(_columns(b, 0) for b in batches))))
    classes = tuple(["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"])
    test = Images(*_columns(read("test_batch.bin", 10_000, 1), 0))
    return Dataset(train, test, classes, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


def _cifar100(folder, labels) -> Dataset:
    """CIFAR-100 with its 100 fine or 20 coarse labels, from the official binary files or their .tar.gz."""
    read = _cifar_reader(folder, "cifar-100-binary", "cifar-100-binary.tar.gz")
    column = ("coarse", "fine").index(labels)
    train, test = (
        Images(*_columns(read(f"{s}.bin", n, 2), column, 2)) for s, n in (("train", 50_000), ("test", 10_000))
    )
    classes = tuple(str(i) for i in range((20, 100)[column]))
    return Dataset(train, test, classes, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))


def _columns(records, column, label_bytes=1):
    """Images [n, 32, 32, 3] and labels [n] of binary records: label bytes, then channels-first pixels."""
    pixels = records[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(pixels), records[:, column].astype(np.int32)


def _cifar_reader(folder, inner, archive):
    """A function that reads one member file, from `folder`, `folder/inner` or the archive in `folder`."""
    root = Path(folder).expanduser()
    if not folder:
        raise SettingError(f"data.dir is empty: give the folder that holds {inner}/ or {archive} ({CIFAR_SOURCE})")
    if root.is_file() and root.name.endswith(".tar.gz"):
        packed = root
    else:
        packed = root / archive

    def read(name, count, label_bytes):
        plain = next((p for p in (root / name, root / inner / name) if p.is_file()), None)
        if plain:
            raw, where = plain.read_bytes(), plain
        elif packed.is_file():
            where = f"{packed}:{inner}/{name}"
            try:
                with tarfile.open(packed) as tar:
                    raw = tar.extractfile(f"{inner}/{name}").read()
            except (KeyError, OSError, EOFError, zlib.error, tarfile.TarError) as error:
                raise SettingError(f"{where} cannot be read ({error}); fetch it again from {CIFAR_SOURCE}") from error
        else:
            raise SettingError(f"no {name} or {archive} in data.dir={folder}; fetch {archive} from {CIFAR_SOURCE}")
        size = count * (label_bytes + 3072)
        if len(raw) != size:
            raise SettingError(f"{where} has {len(raw)} bytes instead of {size}; fetch it again from {CIFAR_SOURCE}")
        return np.frombuffer(raw, np.uint8).reshape(count, -1)

    return read


LOADERS = {"digits": _digits, "cifar10": _cifar10, "cifar100": _cifar100}
