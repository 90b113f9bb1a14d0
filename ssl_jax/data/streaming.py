"""Images that stay in their files and are decoded on demand, so nothing is stored first."""

import dataclasses
import functools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from ssl_jax.data.decode import CorruptError, Work
from ssl_jax.data.parallel import cpus
from ssl_jax.data.source import Dataset, Images, Source, statistics
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable


class Names(Sequence):
    """File names in one block of bytes, a third of the memory of Python strings."""

    def __init__(self, names: Iterable[str]):
        encoded = [os.fsencode(name) for name in names]
        self._text = b"".join(encoded)
        self._ends = np.cumsum([0, *map(len, encoded)])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, i: int) -> str:
        i = range(len(self))[i]
        return os.fsdecode(self._text[self._ends[i] : self._ends[i + 1]])

    def __iter__(self) -> Iterator[str]:  # three times as fast as by rows
        start = 0
        for end in self._ends[1:].tolist():
            yield os.fsdecode(self._text[start:end])
            start = end


@dataclasses.dataclass(frozen=True, eq=False)
class Files:
    """N images by their files.

    Attributes:
        names, shape, read: as in `decode.Work`.
        origin: where the images come from, for messages.
    """

    names: Sequence[str]
    shape: tuple[int, int, int]
    read: Callable[[int], np.ndarray]
    origin: str

    def image(self, i: int) -> np.ndarray:
        """Decodes the i-th image, uint8 [H, W, C].

        Raises:
            SettingError: a file that cannot be decoded; names it.
        """
        try:
            return self.read(i)
        except CorruptError as error:
            name = printable(f"{os.path.join(self.origin, self.names[i])} cannot be read ({error})")
            raise SettingError(
                f"{name}; replace it and rerun the same command to resume; data.store=cache with "
                "data.skip_corrupt=True skips such files"
            ) from None


class StreamedImages:
    """Reads like a uint8 array [N, H, W, C], and decodes rows on demand.

    `images[rows]` and `images[row]` are numpy arrays, a slice is another `StreamedImages`, and
    `np.asarray` decodes everything. Decoding uses one thread per CPU. Pickles as file names,
    without open handles.

    Args:
        files: where the images come from.
        rows: [N] of `files`, in the order of this array.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, files: Files, rows: np.ndarray):
        self._files = files
        self._rows = rows

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self._rows), *self._files.shape

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: int | slice | np.ndarray) -> "np.ndarray | StreamedImages":
        if isinstance(rows, slice):
            return StreamedImages(self._files, self._rows[rows])
        return self.read(rows) if np.ndim(rows) else self.read([rows])[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.read(np.arange(len(self))).astype(dtype or self.dtype, copy=False)

    def name(self, row: int) -> str:
        """The file name of an image."""
        return self._files.names[self._rows[row]]

    def read(
        self, rows: np.ndarray | Sequence[int], tell: Callable[[int], None] | None = None
    ) -> np.ndarray:
        """Decodes rows to uint8 [R, H, W, C].

        Args:
            rows: [R], may repeat.
            tell: called with each row before it is decoded; images are then decoded one by one.

        Raises:
            SettingError: a file that cannot be decoded; names it.
        """
        # Not reset: warning filters are global to the process, and several threads read at once.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        Image.init()
        file_rows = self._rows[rows]
        rows = np.arange(len(self))[rows]
        _, first, inverse = np.unique(file_rows, return_index=True, return_inverse=True)
        images = np.empty((len(file_rows), *self._files.shape), np.uint8)

        def decode(i: int) -> None:
            if tell:
                tell(rows[i])
            images[i] = self._files.image(int(file_rows[i]))

        run = map if tell else _threads().map
        for _ in run(decode, first):
            pass
        return images if len(first) == len(file_rows) else images[first[inverse]]

    def followed_by(self, other: "StreamedImages") -> "StreamedImages":
        """These images, then others from the same files."""
        return StreamedImages(self._files, np.concatenate([self._rows, other._rows]))


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cpus(), thread_name_prefix="decode")


def dataset(source: Source, origin: str, work: Work) -> Dataset:
    """The same images, labels and statistics as `cache.dataset`, without a cache.

    Unless `data.mean` and `data.std` are set, the images that `statistics` needs are decoded now.

    Raises:
        SettingError: one of them cannot be decoded.
    """
    files = Files(work.names, work.shape, work.read, origin)
    parts = np.split(np.arange(len(work.names), dtype=np.int32), [work.train])
    train, test = (Images(StreamedImages(files, rows), work.labels[rows]) for rows in parts)
    if source.mean and source.std:
        mean = source.mean
        std = source.std
    else:
        mean, std = statistics(train.images)
    return Dataset(train, test, work.classes, mean, std, listed=lambda: work.names)
