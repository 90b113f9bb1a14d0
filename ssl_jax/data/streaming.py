"""Images that stay in their files and are decoded on demand, so nothing is stored first."""

import dataclasses
import functools
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from ssl_jax.data import whole
from ssl_jax.data.decode import CorruptError, Work
from ssl_jax.data.parallel import cpus
from ssl_jax.data.source import Dataset, Images, Source, statistics
from ssl_jax.data.whole import WholePictures
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

_SIZE_BYTES = 8  # a height and a width, float32
_SAMPLE = 200  # pictures looked at for their shapes where no statistics are needed


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
        names, shape, read, whole: as in `decode.Work`.
        origin: where the images come from, for messages.
    """

    names: Sequence[str]
    shape: tuple[int, int, int]
    read: Callable[[int], np.ndarray | WholePictures]
    origin: str
    whole: bool = False

    def image(self, i: int) -> np.ndarray | WholePictures:
        """Decodes the i-th image, uint8 [H, W, C], or one of `WholePictures`.

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

    `images[rows]` and `images[row]` are numpy arrays (or `WholePictures`), a slice is another
    `StreamedImages`, and `np.asarray` decodes everything. Decoding uses one thread per CPU. Pickles
    as file names, without open handles.

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

    @property
    def row_bytes(self) -> int:
        """Bytes of one decoded image, and of its true size."""
        return math.prod(self._files.shape) + (_SIZE_BYTES if self._files.whole else 0)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(
        self, rows: int | slice | np.ndarray
    ) -> "np.ndarray | WholePictures | StreamedImages":
        if isinstance(rows, slice):
            return StreamedImages(self._files, self._rows[rows])
        return self.read(rows) if np.ndim(rows) else self.read([rows])[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        images = np.asarray(self.read(np.arange(len(self))))  # whole pictures refuse
        return images.astype(dtype or self.dtype, copy=False)

    def name(self, row: int) -> str:
        """The file name of an image."""
        return self._files.names[self._rows[row]]

    def read(
        self, rows: np.ndarray | Sequence[int], tell: Callable[[int], None] | None = None
    ) -> np.ndarray | WholePictures:
        """Decodes rows to uint8 [R, H, W, C], or `WholePictures`.

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
        if self._files.whole:
            images = WholePictures(images, np.empty((len(file_rows), 2), np.float32))

        def decode(i: int) -> None:
            if tell:
                tell(rows[i])
            image = self._files.image(int(file_rows[i]))
            if isinstance(images, WholePictures):
                images.pixels[i] = image.pixels
                images.sizes[i] = image.sizes
            else:
                images[i] = image

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
    files = Files(work.names, work.shape, work.read, origin, work.whole)
    parts = np.split(np.arange(len(work.names), dtype=np.int32), [work.train])
    train, test = (Images(StreamedImages(files, rows), work.labels[rows]) for rows in parts)
    sizes = []

    def look(block: Any) -> None:
        if isinstance(block, WholePictures):
            sizes.append(block.sizes)

    if source.mean and source.std:
        mean = source.mean
        std = source.std
        if work.whole:
            count = min(len(train), _SAMPLE)
            look(train.images[np.linspace(0, len(train) - 1, count).astype(int)])
    else:
        mean, std = statistics(train.images, look)
    notes = ()
    if sizes:
        sizes = np.concatenate(sizes)
        notes = whole.note_on_cut(sizes, f"{len(sizes):,} images looked at")
    return Dataset(train, test, work.classes, mean, std, notes, listed=lambda: work.names)
