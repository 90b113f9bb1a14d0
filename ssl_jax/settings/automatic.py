"""Settings that follow from the images, for the recipes `:folder` and `:array`.

Where `automatic` is set, a 0 (or an empty `model.stem`) of the settings in `RULES` is replaced once
the images are known; any other number was given by the user and stays. Afterwards `automatic` is
off: a run's config.json, its stages, and all commands on it see the same numbers.

The published recipes are the upper end: with 100,000 images batch, queue, prototypes and neighbours
are those of the method's CIFAR or ImageNet recipe. Fewer images get smaller ones, so that an epoch
has enough steps, and neighbours and clusters enough images. docs/methods.md has the rules as a
table.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from ssl_jax.settings.dotted import matching, replaced, value_at
from ssl_jax.settings.resolve import SettingError, convert


@dataclasses.dataclass(frozen=True)
class ImageFacts:
    """What the rules know of the images.

    Attributes:
        count: N, the number of training images.
        classes: C, the number of classes; 0 if there are none.
        side: of the stored images in pixels, the shorter one.
    """

    count: int
    classes: int
    side: int


MANY = ImageFacts(count=100_000, classes=10, side=224)  # get the published numbers
Settings = Mapping[str, Any]
Rule = Callable[[ImageFacts, Settings], int | float | str]

# The batch of each method's recipe: SwAV's for one machine, else CIFAR-10's.
_BATCHES = dict(
    swav=256,
    byol=512,
    simsiam=512,
    moco=512,
    instance=128,
    local_aggregation=128,
    anchor_neighbourhood=128,
)


def large_view(images: ImageFacts, settings: Settings) -> int:
    """The stored side up to 64; above, three quarters of it in steps of 16, from 64 to 96.

    96 of 256 as of the whole pictures that the recipes store, whose crops are rarely enlarged.
    """
    if images.side <= 64:
        return images.side
    return min(max(16 * round(images.side * 0.75 / 16), 64), 96)


def small_view(images: ImageFacts, settings: Settings) -> int:
    """Half the side of the largest view, as 48 of 96 (the paper has 96 of 224)."""
    others = [name for name in settings["augment"] if name != "small"]
    sizes = [_whole(settings, f"augment.{name}.size") for name in others]
    largest = max([size or large_view(images, settings) for size in sizes], default=0)
    return max((largest or large_view(images, settings)) // 2, 1)


def stem(images: ImageFacts, settings: Settings) -> str:
    """The CIFAR stem for images of up to 64 pixels, which ImageNet's would shrink too soon."""
    return "cifar" if images.side <= 64 else "imagenet"


def batch_size(images: ImageFacts, settings: Settings) -> int:
    """A power of two of at most N / 20, for 20 steps an epoch; from 16 to the recipe's.

    CoNR's batch is 256 in its paper. Fewer than 16 images make one batch.
    """
    largest = _BATCHES.get(settings["method"]["name"], 256)
    if settings["positives"]["name"] != "instance":
        largest = min(largest, 256)
    power_of_two = 2 ** math.floor(math.log2(max(images.count / 20, 16)))
    return min(power_of_two, largest, images.count)


def bn_groups(images: ImageFacts, settings: Settings) -> int:
    """Groups of 32 images as on MoCo's devices, but from 2 to 8; one for fewer than 16 images.

    With one group, queries can recognise their keys by the statistics of the batch.
    """
    batch = _whole(settings, "batch_size")
    most = min(max(batch // 32, 2), 8) if batch >= 16 else 1
    return max(groups for groups in range(1, most + 1) if batch % groups == 0)


def prototypes(images: ImageFacts, settings: Settings) -> int:
    """Ten per class, one per 33 images, or 128 (few collapse), whichever is most.

    At most the paper's 3,000, which 100,000 images get, and one per four images.
    """
    wanted = max(10 * images.classes, images.count // 33, 128)
    return min(wanted, 3000, max(images.count // 4, 2))


def swav_queue(images: ImageFacts, settings: Settings) -> int:
    """Fifteen batches, the paper's 3,840 of 256, if codes need them; else 0, no queue.

    They do if there are more than two prototypes for each image of the batch. The queue should hold
    at most a tenth of the images, and be in use for half of the run.
    """
    batch = _whole(settings, "batch_size")
    length = 15 * batch
    starts = convert(value_at(settings, "method.queue_starts_epoch"), float, "queue_starts_epoch")
    needed = _whole(settings, "method.prototypes") > 2 * batch
    fits = 10 * length <= images.count and settings["epochs"] > 2 * (starts + 1)
    return length if needed and fits else 0


def moco_queue(images: ImageFacts, settings: Settings) -> int:
    """Keys of a quarter of the images, in whole steps; from one step to CIFAR's 4,096.

    A longer one often holds the image itself as one of its negatives.
    """
    views = 2 if settings["method"].get("symmetric") is True else 1
    step = views * _whole(settings, "batch_size")
    longest = min(images.count // 4 * views, 4096)
    return max(longest // max(step, 1), 1) * step


def aggregation_clusters(images: ImageFacts, settings: Settings) -> int:
    """43 images in each, as the paper's 30,000 clusters of ImageNet, and at most 30,000.

    At least three per class (of ten, if unknown) where these have four images each.
    """
    as_published = round(images.count * 30_000 / 1_281_167)
    several = min(3 * (images.classes or 10), images.count // 4)
    return min(max(as_published, several, 2), 30_000)


def background(images: ImageFacts, settings: Settings) -> int:
    """A third of the images, from 16 to the paper's 4,096."""
    return min(max(images.count // 3, 16), images.count, 4096)


def close_neighbours(images: ImageFacts, settings: Settings) -> int:
    """Ten, or a quarter of fewer than 40 images."""
    return max(min(images.count // 4, 10), 2)


def anchor_neighbours(images: ImageFacts, settings: Settings) -> int:
    """One, as published, however many images."""
    return 1


def batch_neighbours(images: ImageFacts, settings: Settings) -> int:
    """As many as a batch has images of a class (of ten, if unknown), from 3 to CoNR's 10.

    Fewer than the batch, in any case.

    Raises:
        SettingError: no image of a batch would have a neighbour.
    """
    batch = _whole(settings, "batch_size")
    if images.count < 3:
        raise SettingError(
            f"{images.count} training images are too few for CoNR: give at least three, better "
            "some dozens"
        )
    if batch < 3:
        raise SettingError(f"batch_size={batch} is too small for CoNR: give at least 3")
    of_a_class = batch // (images.classes or 10)
    return max(min(max(of_a_class, 3), 10, batch - 1), 2)


def reciprocal_neighbours(images: ImageFacts, settings: Settings) -> int:
    """CoNR's 2: the image and one neighbour."""
    return 2


def boundary_clusters(images: ImageFacts, settings: Settings) -> int:
    """The number of classes; without them a hundred images each, from 2 to 20 clusters."""
    return images.classes or min(max(images.count // 100, 2), 20)


def warmup_epochs(images: ImageFacts, settings: Settings) -> float:
    """BYOL: a twentieth of the run, as in its CIFAR recipe (50 of 1,000 epochs); others: none."""
    return settings["epochs"] / 20 if settings["method"]["name"] == "byol" else 0.0


def knn(images: ImageFacts, settings: Settings) -> int:
    """One in 75 images, from 5 to the published 200; at most the images of a class."""
    of_a_class = images.count // max(images.classes, 1)
    return max(min(max(images.count // 75, 5), 200, of_a_class), 1)


# In this order: later rules read what earlier ones chose. Patterns as in `dotted.matching`.
RULES: dict[str, Rule] = {
    "batch_size": batch_size,
    "model.bn_groups": bn_groups,
    "method[swav].prototypes": prototypes,
    "method[swav].queue_length": swav_queue,
    "method[moco].queue_length": moco_queue,
    "method[local_aggregation].clusters": aggregation_clusters,
    "method[local_aggregation].background": background,
    "method[local_aggregation].close_neighbours": close_neighbours,
    "method[anchor_neighbourhood].neighbours": anchor_neighbours,
    "positives[contextual].k": batch_neighbours,
    "positives[contextual].k1": batch_neighbours,
    "positives[contextual].k2": reciprocal_neighbours,
    "positives[neighbours].k": batch_neighbours,
    "positives[contextual].boundary.clusters": boundary_clusters,
    "positives[neighbours].boundary.clusters": boundary_clusters,
    "optim.schedule.warmup_epochs": warmup_epochs,
    "evals.*[knn].k": knn,
    "augment.small.size": small_view,
    "augment.*.size": large_view,
    "model.stem": stem,
}


def resolved(settings: Settings, images: ImageFacts) -> tuple[dict[str, Any], str]:
    """Complete settings with all automatic ones chosen, and a note on the numbers.

    Args:
        settings: of a config, complete; without `automatic` they are returned as they are.
        images: what is known of the images.

    Raises:
        SettingError: there are fewer than two images, or a setting that a rule reads has the wrong
            type.
    """
    if not settings["automatic"]:
        return dict(settings), ""
    if images.count < 2:
        raise SettingError(f"{images.count} training images: give at least two, better some dozens")
    chosen = {}
    for pattern, rule in RULES.items():
        for name in _unset(settings, pattern):
            chosen[name] = rule(images, settings)
            settings = replaced(settings, name, chosen[name])
    classes = f"{images.classes:,} classes" if images.classes else "no classes"
    values = ", ".join(f"{name} {value}" for name, value in chosen.items() if value)
    note = f"chosen for {images.count:,} images of {classes}: {values}" if values else ""
    return {**settings, "automatic": False}, note


def as_recorded(settings: Settings, record: Settings) -> dict[str, Any]:
    """`settings` with the numbers that were chosen when the run in `record` started.

    Later rules, or other images, do not change a run.

    Args:
        settings: of a config, complete.
        record: complete settings of the run that is resumed; if it is another config's, which lacks
            a setting, `settings` are returned as they are.
    """
    if not settings["automatic"] or record.get("automatic"):
        return dict(settings)
    names = [name for pattern in RULES for name in _unset(settings, pattern)]
    values = {name: value_at(record, name) for name in names}
    if None in values.values():
        return dict(settings)
    whole = dict(settings)
    for name, value in values.items():
        whole = replaced(whole, name, value)
    return {**whole, "automatic": False}


def _unset(settings: Settings, pattern: str) -> list[str]:
    """The settings that match a pattern and are 0 or empty."""
    values = {name: value_at(settings, name) for name in matching(settings, pattern)}
    return [
        name
        for name, value in values.items()
        if value == "" or (type(value) in (int, float) and value == 0)
    ]


def _whole(settings: Settings, name: str) -> int:
    """The whole number of a setting that a rule reads."""
    return convert(value_at(settings, name), int, name)
