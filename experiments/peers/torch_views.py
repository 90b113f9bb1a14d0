"""lightly's transforms behind torch's DataLoader: PIL and torchvision, image by image."""

from lightly.transforms import BYOLTransform, BYOLView1Transform, BYOLView2Transform, SwaVTransform
from peers import made_up
from PIL import Image
from torch.utils.data import DataLoader, Dataset


class Pictures(Dataset):
    """Random images, transformed."""

    def __init__(self, count, size, transform):
        self.images, self.transform = made_up.images(count, size), transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.transform(Image.fromarray(self.images[i]))


class Rows:
    """Which images are in which batch; `count` batches, as many as are wanted next."""

    def __init__(self, images, batch):
        self.images, self.batch, self.count = images, batch, 0

    def __iter__(self):
        for i in range(self.count):
            yield [(i * self.batch + j) % self.images for j in range(self.batch)]


class Loader:
    """Batches of views on the device. Worker processes rest between the calls of `batches`."""

    def __init__(self, recipe, batch, workers, device):
        images, size = 2 * batch, recipe["image"]
        self.rows, self.device, self.workers = Rows(images, batch), device, workers
        settings = dict(num_workers=workers, persistent_workers=workers > 0, pin_memory=device.type == "cuda")
        settings |= dict(prefetch_factor=1) if workers else {}
        self.loader = DataLoader(Pictures(images, size, transform(recipe)), batch_sampler=self.rows, **settings)

    def batches(self, count):
        """So many batches, each a list of [B, 3, size, size]."""
        self.rows.count = count
        for views in self.loader:
            yield [view.to(self.device, non_blocking=True) for view in views]


def transform(recipe):
    """lightly's transform with the settings of our views."""
    mean, std = recipe["statistics"]
    views, shared = recipe["views"], dict(cj_strength=1.0, normalize={"mean": mean, "std": std})
    first = views[0]
    names = dict(cj_prob="jitter", cj_bright="brightness", cj_contrast="contrast", cj_sat="saturation", cj_hue="hue")
    names |= dict(random_gray_scale="grayscale", gaussian_blur="blur", hf_prob="flip")
    own = lambda view: shared | {theirs: view[name] for theirs, name in names.items()}
    if "predictor" in recipe["method"]:
        size = dict(input_size=first["size"], min_scale=first["scale"][0])
        kinds = (BYOLView1Transform, BYOLView2Transform)
        one, two = (kind(**own(first) | size | dict(solarization_prob=first["solarize"])) for kind in kinds)
        return BYOLTransform(one, two)
    crops = {"crop_sizes": "size", "crop_counts": "count"}
    crops = {theirs: tuple(view[name] for view in views) for theirs, name in crops.items()}
    for i, name in enumerate(("crop_min_scales", "crop_max_scales")):
        crops[name] = tuple(view["scale"][i] for view in views)
    return SwaVTransform(**own(first) | crops)
