"""Examples of a prepared tfds data set: position, label and pixels of each image."""

from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl_jax.data import cache
from ssl_jax.data.decode import CorruptError, decode
from ssl_jax.data.source import UNLABELLED, Source
from ssl_jax.data.whole import WholePictures
from ssl_jax.settings.text import printable


class Places(Sequence):
    """The position of each image, as "train[17]".

    Args:
        counts: number of examples of each split.
        rows: [N] of each image, counted through all splits in the order of `counts`.
    """

    def __init__(self, counts: dict[str, int], rows: np.ndarray):
        self._counts = counts
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: int) -> str:
        split, row = self.place(i)
        return f"{split}[{row}]"

    def place(self, i: int) -> tuple[str, int]:
        """The split of the i-th image, and its row in it."""
        row = int(self._rows[i])
        for part, count in self._counts.items():
            if row < count:
                return part, row
            row -= count
        raise IndexError(i)


class Reader:
    """Reads the i-th image. Pickles without open splits: other processes open their own.

    Args:
        folder: of the prepared data set.
        places: where the images are.
        shape: (H, W, C) of the result.
        size: side of square images.
        keep: what of the pictures these show, see `decode.square`.
        opened: the open splits; others are opened when needed.
    """

    def __init__(
        self,
        folder: Path,
        places: Places,
        shape: tuple[int, int, int],
        size: int,
        keep: str,
        opened: MutableMapping[str, Any],
    ):
        self._folder = folder
        self._places = places
        self._shape = shape
        self._size = size
        self._keep = keep
        self._opened = opened

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": {}}

    def __call__(self, i: int) -> np.ndarray | WholePictures:
        """The image, uint8 [H, W, C], or one of `WholePictures`.

        Raises:
            CorruptError: the record or its image is damaged.
        """
        part, row = self._places.place(i)
        try:
            if part not in self._opened:
                self._opened[part] = examples(builder(self._folder), part)
            raw = self._opened[part][row]["image"]
        except Exception as error:  # array_record raises all kinds for missing and damaged files
            raise CorruptError(printable(error)) from error
        return _image(raw, self._shape, self._size, self._keep)


def _image(
    raw: bytes, shape: tuple[int, int, int], size: int, keep: str
) -> np.ndarray | WholePictures:
    if shape == (size, size, 3):
        return decode(raw, size, keep=keep)
    image = decode(raw, channels=shape[2])
    if image.shape != shape:
        raise CorruptError(f"its shape is {image.shape} instead of {shape}")
    return image


def builder(folder: Path) -> Any:
    """The tfds builder of the data set in `folder`."""
    import tensorflow_datasets

    return tensorflow_datasets.builder_from_directory(str(folder))


def examples(builder: Any, part: str) -> Sequence[dict[str, Any]]:
    """A split's examples by row; images are the bytes of their files."""
    import tensorflow_datasets

    return builder.as_data_source(
        part, decoders={"image": tensorflow_datasets.decode.SkipDecoding()}
    )


def labels(
    source: Source, split: Sequence[dict[str, Any]], key: str | None, facts: Any, title: str
) -> np.ndarray:
    """Labels int32 [N] of the examples `split`, cached: reading them reads the whole split.

    Args:
        source: the settings.
        split: the examples.
        key: name of the label in an example; None: unlabelled.
        facts: everything the labels depend on, as JSON.
        title: the split, for messages.
    """
    if not key:
        return np.full(len(split), UNLABELLED, np.int32)
    doing = f"reading {len(split):,} labels of {title}"

    def read() -> np.ndarray:
        values = np.empty(len(split), np.int32)
        with cache.progress(len(split), doing) as advance:
            for i in range(len(split)):
                values[i] = int(split[i][key])
                advance()
        return values

    return cache.kept(source, "labels", [facts, key], read, doing, len(split))
