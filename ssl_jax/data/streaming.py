"""Images that stay in their files and are decoded when they are asked for, so that nothing need be stored first."""

import dataclasses
import functools
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from ssl_jax.data.decode import CorruptError, cpus
from ssl_jax.data.source import Dataset, Images, statistics
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable


class Names(Sequence):
    """File names in one block of bytes, which takes a third of what a Python string for each does."""

    def __init__(self, names):
        encoded = [os.fsencode(name) for name in names]
        self._text, self._ends = b"".join(encoded), np.cumsum([0, *map(len, encoded)])

    def __len__(self):
        return len(self._ends) - 1

    def __getitem__(self, i):
        i = range(len(self))[i]
        return os.fsdecode(self._text[self._ends[i] : self._ends[i + 1]])


@dataclasses.dataclass(frozen=True, eq=False)
class Files:
    """Where N images come from: `names`, `shape` (H, W, C) and `read` as in `cache.Work`, and their `origin`."""

    names: Sequence[str]
    shape: tuple[int, int, int]
    read: Callable[[int], np.ndarray]
    origin: str

    def image(self, i: int) -> np.ndarray:
        """Decodes the i-th.

        Raises:
            SettingError: names the file.
        """
        try:
            return self.read(i)
        except CorruptError as error:
            name = printable(f"{self.origin}/{self.names[i]} cannot be read ({error})")
            raise SettingError(
                f"{name}; put it right and the same command goes on; data.store=cache with data.skip_corrupt=True "
                "leaves such files out"
            ) from None


class StreamedImages:
    """What reads like an array [N, H, W, C] of uint8 and decodes the rows that it is asked for.

    `images[rows]` and `images[row]` are numpy arrays; a slice is another `StreamedImages`, and `np.asarray` decodes
    all of it. A thread a CPU decodes. Goes to other processes as names of files, without open handles.
    """

    dtype, ndim = np.dtype(np.uint8), 4

    def __init__(self, files: Files, rows: np.ndarray):
        self._files, self._rows = files, rows

    @property
    def shape(self):
        return len(self._rows), *self._files.shape

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, rows):
        if isinstance(rows, slice):
            return StreamedImages(self._files, self._rows[rows])
        return self.read(rows) if np.ndim(rows) else self.read([rows])[0]

    def __array__(self, dtype=None, copy=None):
        return self.read(np.arange(len(self))).astype(dtype or self.dtype, copy=False)

    def name(self, row: int) -> str:
        """The file of an image."""
        return self._files.names[self._rows[row]]

    def read(self, rows, tell=None) -> np.ndarray:
        """uint8 [R, H, W, C]; given `tell`, one image after another, and `tell(row)` is called before each.

        Raises:
            SettingError: names the file that cannot be decoded.
        """
        # For good: Python's filters are the process's, and several threads read at once.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        Image.init()
        own, rows = self._rows[rows], np.arange(len(self))[rows]
        _, first, where = np.unique(own, return_index=True, return_inverse=True)
        images = np.empty((len(own), *self._files.shape), np.uint8)

        def decode(i):
            if tell:
                tell(rows[i])
            images[i] = self._files.image(int(own[i]))

        for _ in (map if tell else _threads().map)(decode, first):
            pass
        return images if len(first) == len(own) else images[first[where]]

    def followed_by(self, other: "StreamedImages") -> "StreamedImages":
        """These images, then others of the same files."""
        return StreamedImages(self._files, np.concatenate([self._rows, other._rows]))


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cpus(), thread_name_prefix="decode")


def dataset(source, origin: str, work) -> Dataset:
    """The data set of a `cache.Work` without its cache: the same images, labels and statistics.

    Where `data.mean` and `data.std` are not given, as many images as `statistics` needs are decoded now.

    Raises:
        SettingError: one of those cannot be decoded.
    """
    files = Files(work.names, work.shape, work.read, origin)
    rows = np.split(np.arange(len(work.names), dtype=np.int32), [work.train])
    train, test = (Images(StreamedImages(files, part), work.labels[part]) for part in rows)
    known = (source.mean, source.std) if source.mean and source.std else statistics(train.images)
    return Dataset(train, test, work.classes, *known, listed=lambda: work.names)
