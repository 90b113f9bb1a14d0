"""Ten-crop testing: the mean of the class probabilities over ten crops of each test image."""

from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ssl_jax.interface import Split, TenCrops

Classifier = Callable[[Float[Array, "B D"]], Float[Array, "B C"]]
"""Scores of the classes, before the softmax, for rows of one feature."""

Key = TypeVar("Key", bound=Hashable)


def crops_of(split: Split, crop: float) -> TenCrops | None:
    """The ten crops of a split; None if `crop` is 0, or for raw pixels, which have none."""
    return split.ten_crops if crop else None


def mean_probabilities(
    ten_crops: TenCrops, crop: float, classifiers: Mapping[Key, tuple[str, Classifier]]
) -> dict[Key, Float[np.ndarray, "N C"]]:
    """Class probabilities of each image: means over its crops of the softmax of the scores.

    As in Local Aggregation's released code. One pass over the images serves all classifiers.

    Args:
        ten_crops: of a `Split`.
        crop: side of the crops, as a share of an image's short side.
        classifiers: (feature, scores) by any key.
    """
    features = tuple(dict.fromkeys(feature for feature, _ in classifiers.values()))
    parts = {key: [] for key in classifiers}
    for block in ten_crops(features, crop):
        for key, (feature, classifier) in classifiers.items():
            x = jnp.asarray(block[feature])
            images, crops, dim = x.shape
            shares = jax.nn.softmax(classifier(x.reshape(-1, dim)), axis=-1)
            parts[key].append(np.asarray(shares.reshape(images, crops, -1).mean(1)))
    return {key: np.concatenate(part) for key, part in parts.items()}
