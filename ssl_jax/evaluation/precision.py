"""Average precision of a ranking of images: how far up those are that show a class."""

import numpy as np
from jaxtyping import Bool, Float

from ssl_jax.ops.types import Numbers

_LEVELS = np.arange(11) / 10  # recalls of the 11-point average


def curve(
    scores: Float[Numbers, " N"], positive: Bool[Numbers, " N"]
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """Precision and recall of the k images with the highest scores, for k = 1 .. N.

    Images of equal scores stay in their order.

    Args:
        scores: of N images.
        positive: whether they show the class; some do.

    Returns:
        precision [N] and recall [N].

    Raises:
        ValueError: none shows the class, so that recall is undefined.
    """
    positive = np.asarray(positive, bool)
    if not positive.any():
        raise ValueError("no image shows the class")
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    hits = np.cumsum(positive[order])
    return hits / np.arange(1, len(hits) + 1), hits / hits[-1]


def area(scores: Float[Numbers, " N"], positive: Bool[Numbers, " N"]) -> float:
    """Area under the interpolated curve: PASCAL VOC's average precision since 2010.

    The precision at a recall is the highest at that recall or beyond (Everingham et al. 2015,
    section 3.5.1). VISSL's scripts for VOC07 compute this one; scikit-learn's
    `average_precision_score` does not interpolate, and is smaller.

    Args, raises: as `curve`.
    """
    precision, recall = curve(scores, positive)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * highest))


def eleven_points(scores: Float[Numbers, " N"], positive: Bool[Numbers, " N"]) -> float:
    """Mean of the interpolated precision at the recalls 0, 0.1, .., 1: VOC2007's own.

    Everingham et al. 2010, section 4.2.

    Args, raises: as `curve`.
    """
    precision, recall = curve(scores, positive)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    # 0.3 is a recall of 3 of 10 images, whatever the rounding
    first = np.searchsorted(recall, _LEVELS - 1e-9)
    return float(np.mean(highest[first]))
