"""Examples of a prepared tfds data set: where each image is, its label, its pixels."""

from collections.abc import Sequence

import numpy as np

from ssl_jax.data import cache
from ssl_jax.data.decode import CorruptError, decode
from ssl_jax.data.source import UNLABELLED
from ssl_jax.settings.text import printable


class Places(Sequence):
    """Where each image is, as "train[17]": `rows` [N] of all splits one behind the other, with `counts` of each."""

    def __init__(self, counts: dict[str, int], rows: np.ndarray):
        self._counts, self._rows = counts, rows

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, i):
        return "{}[{}]".format(*self.place(i))

    def place(self, i: int) -> tuple[str, int]:
        """The split of the i-th image, and its row there."""
        row = int(self._rows[i])
        for part, count in self._counts.items():
            if row < count:
                return part, row
            row -= count
        raise IndexError(i)


class Reader:
    """Gives the i-th image. Pickled without the open splits: another process opens them for itself."""

    def __init__(self, folder, places: Places, shape, size: int, opened):
        self._folder, self._places, self._shape, self._size, self._opened = folder, places, shape, size, opened

    def __getstate__(self):
        return self.__dict__ | {"_opened": {}}

    def __call__(self, i: int) -> np.ndarray:
        """uint8 [H, W, C].

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
        return _image(raw, self._shape, self._size)


def _image(raw, shape, size) -> np.ndarray:
    if shape == (size, size, 3):
        return decode(raw, size)
    image = decode(raw, channels=shape[2])
    if image.shape != shape:
        raise CorruptError(f"its shape is {image.shape} instead of {shape}")
    return image


def builder(folder):
    """What tfds knows of the data set in `folder`."""
    import tensorflow_datasets

    return tensorflow_datasets.builder_from_directory(str(folder))


def examples(builder, part):
    """A split's examples by their row, images as the bytes of their files."""
    import tensorflow_datasets

    return builder.as_data_source(part, decoders={"image": tensorflow_datasets.decode.SkipDecoding()})


def labels(source, split, key, facts, title: str) -> np.ndarray:
    """int32 [N] of the examples `split`. They lie beside the images, so all is read for them; but only once."""
    if not key:
        return np.full(len(split), UNLABELLED, np.int32)

    doing = f"reading {len(split):,} labels of {title}"

    def read():
        with cache.progress(len(split), doing) as advance:
            return np.array([(int(split[i][key]), advance())[0] for i in range(len(split))], np.int32)

    return cache.kept(source, "labels", [facts, key], read, doing, len(split))
