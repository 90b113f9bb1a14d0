"""lightly's transforms in torch's DataLoader: PIL and torchvision, image by image."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from lightly.transforms import BYOLTransform, BYOLView1Transform, BYOLView2Transform, SwaVTransform
from peers import made_up
from PIL import Image
from torch.utils.data import DataLoader, Dataset


class Pictures(Dataset):
    """Random images, transformed."""

    def __init__(self, count: int, size: int, transform: Callable[[Image.Image], Any]) -> None:
        self.images = made_up.images(count, size)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Any:
        return self.transform(Image.fromarray(self.images[i]))


class Rows:
    """Batch sampler of `count` batches, where `count` is set before each pass."""

    def __init__(self, images: int, batch: int) -> None:
        self.images = images
        self.batch = batch
        self.count = 0

    def __iter__(self) -> Iterator[list[int]]:
        for i in range(self.count):
            yield [(i * self.batch + j) % self.images for j in range(self.batch)]


class Loader:
    """Batches of views on the device. Worker processes rest between the calls of `batches`."""

    def __init__(
        self, recipe: Mapping[str, Any], batch: int, workers: int, device: torch.device
    ) -> None:
        images = 2 * batch
        size = recipe["image"]
        self.rows = Rows(images, batch)
        self.device = device
        self.workers = workers
        self.loader = DataLoader(
            Pictures(images, size, transform(recipe)),
            batch_sampler=self.rows,
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=1 if workers else None,
            pin_memory=device.type == "cuda",
        )

    def batches(self, count: int) -> Iterator[list[torch.Tensor]]:
        """`count` batches, each a list of [B, 3, size, size]."""
        self.rows.count = count
        for views in self.loader:
            yield [view.to(self.device, non_blocking=True) for view in views]


def transform(recipe: Mapping[str, Any]) -> BYOLTransform | SwaVTransform:
    """lightly's transform with the settings of our views."""
    mean, std = recipe["statistics"]
    views = recipe["views"]
    shared = dict(cj_strength=1.0, normalize={"mean": mean, "std": std})
    first = views[0]
    names = dict(
        cj_prob="jitter",
        cj_bright="brightness",
        cj_contrast="contrast",
        cj_sat="saturation",
        cj_hue="hue",
        random_gray_scale="grayscale",
        gaussian_blur="blur",
        hf_prob="flip",
    )
    settings = shared | {theirs: first[name] for theirs, name in names.items()}
    if "predictor" in recipe["method"]:
        settings |= dict(
            input_size=first["size"],
            min_scale=first["scale"][0],
            solarization_prob=first["solarize"],
        )
        return BYOLTransform(BYOLView1Transform(**settings), BYOLView2Transform(**settings))
    crops = {"crop_sizes": "size", "crop_counts": "count"}
    crops = {theirs: tuple(view[name] for view in views) for theirs, name in crops.items()}
    for i, name in enumerate(("crop_min_scales", "crop_max_scales")):
        crops[name] = tuple(view["scale"][i] for view in views)
    return SwaVTransform(**settings | crops)
