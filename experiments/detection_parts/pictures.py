"""Pictures of VOC as tensors, in an order that a resumed training repeats."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from detection_parts.voc import Picture

if TYPE_CHECKING:
    import torch

Key = tuple[int, int]  # iteration, or -1 in testing, and place of the picture


class Pictures:
    """Loads pictures by key; worker processes of torch's DataLoader hold copies of it."""

    def __init__(self, pictures: Sequence[Picture], seed: int) -> None:
        self._pictures = pictures
        self._seed = seed

    def __getitem__(self, key: Key) -> tuple["torch.Tensor", dict[str, "torch.Tensor"]]:
        """A picture [3, H, W] in 0..1 with the boxes and classes (from 1) of its objects.

        In training half of the pictures are mirrored, by a coin of the seed, iteration and place.
        """
        import torch
        from PIL import Image

        iteration, place = key
        picture = self._pictures[place]
        with Image.open(picture.path) as image:
            pixels = np.asarray(image.convert("RGB"))
        boxes = picture.boxes
        if iteration >= 0 and np.random.default_rng((self._seed, *key)).random() < 0.5:
            pixels = pixels[:, ::-1]
            boxes = boxes.copy()
            boxes[:, [0, 2]] = picture.width - boxes[:, [2, 0]]
        tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        target = {"boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(picture.labels + 1)}
        return tensor.float().div(255), target


class Order:
    """The keys of each iteration's pictures: one random order of all pictures after another.

    It is a function of seed and iteration, so a resumed training sees the same pictures.
    """

    def __init__(self, count: int, batch: int, seed: int, iterations: range) -> None:
        self._count = count
        self._batch = batch
        self._seed = seed
        self._iterations = iterations

    def __len__(self) -> int:
        return len(self._iterations)

    def __iter__(self) -> Iterator[list[Key]]:
        epoch = -1
        order = np.arange(0)
        for iteration in self._iterations:
            keys = []
            for position in range(iteration * self._batch, (iteration + 1) * self._batch):
                if position // self._count != epoch:
                    epoch = position // self._count
                    order = np.random.default_rng((self._seed, epoch)).permutation(self._count)
                keys.append((iteration, int(order[position % self._count])))
            yield keys


def loader(
    pictures: Pictures, keys: Order | list[list[Key]], workers: int
) -> "torch.utils.data.DataLoader":
    """Lists of (picture, target), one for each list of `keys`, loaded by `workers` processes."""
    import torch

    return torch.utils.data.DataLoader(
        pictures,
        batch_sampler=keys,
        num_workers=workers,
        collate_fn=list,
        # JAX has threads, which a fork would copy in an unknown state.
        multiprocessing_context="spawn" if workers else None,
    )
