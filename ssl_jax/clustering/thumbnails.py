"""Thumbnails of clusters: which pictures are shown, and sprite sheets of them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ssl_jax.clustering.contact_sheet import SHARP, fitted
from ssl_jax.clustering.placement import ClusterAssignment
from ssl_jax.data.whole import as_seen

SIDE = 96  # pixels of a thumbnail's longer side, and of its cell on a sprite sheet
COLUMNS = 8  # of a sprite sheet
TYPICAL = 24  # most thumbnails of each kind in a cluster
BORDERLINE = 16
FAR = 16
MOST = 12_000  # thumbnails of all clusters together, unless that leaves less than FEWEST each
FEWEST = 14
CLUSTERS = 1_000  # clusters that have thumbnails, largest first
_GROUND = (128, 128, 128)
_QUALITY = 85  # of JPEG


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Rows of the pictures of a cluster that are shown; no row is in two of them.

    Attributes:
        typical: the most similar to the cluster's centre, most similar first.
        borderline: of the others, those with the smallest margin, smallest first.
        far: of the others, the least similar, least similar first.
    """

    typical: np.ndarray
    borderline: np.ndarray
    far: np.ndarray

    @property
    def rows(self) -> np.ndarray:
        """All of them, in this order."""
        return np.concatenate([self.typical, self.borderline, self.far])


def most_per_cluster(clusters: int) -> int:
    """The most thumbnails that each of a number of clusters gets."""
    full = TYPICAL + BORDERLINE + FAR
    return int(np.clip(MOST // max(clusters, 1), FEWEST, full))


def chosen(assignment: ClusterAssignment, members: np.ndarray, most: int) -> Chosen:
    """Chooses at most `most` of a cluster's pictures, in the proportions of the constants above.

    Args:
        assignment: of all pictures.
        members: rows of the cluster, most typical first.
        most: up to as many, all are typical ones if the cluster has no more than fit there.
    """
    full = TYPICAL + BORDERLINE + FAR
    typical = max(most * TYPICAL // full, 1)
    borderline = most * BORDERLINE // full
    first = members[:typical]
    rest = members[typical:]
    by_margin = rest[np.argsort(assignment.margin[rest], kind="stable")]
    between = by_margin[:borderline]
    rest = rest[~np.isin(rest, between)]
    return Chosen(first, between, rest[::-1][: most - typical - borderline])


def write_sprite(pictures: Sequence[Any], path: Path) -> tuple[Path, list[tuple[int, int]]]:
    """Writes pictures [H, W, C] as a sprite sheet: one cell of SIDE pixels each, in reading order.

    A picture has its true proportions and stands in the upper left corner of its cell. Sheets of
    small pictures, which keep hard edges, are PNG files, others JPEG.

    Args:
        pictures: one or more, as `contact_sheet.sheet` takes them.
        path: of the sheet, without a suffix.

    Returns:
        the path, and width and height of each thumbnail.
    """
    pictures = [as_seen(picture) for picture in pictures]
    small = all(max(picture.shape[:2]) < SHARP for picture in pictures)
    rows = -(-len(pictures) // COLUMNS)
    columns = min(len(pictures), COLUMNS)
    sprite = Image.new("RGB", (columns * SIDE, rows * SIDE), _GROUND)
    sizes = []
    for i, picture in enumerate(pictures):
        image = fitted(picture, SIDE)
        sizes.append(image.size)
        sprite.paste(image, (i % COLUMNS * SIDE, i // COLUMNS * SIDE))
    if small:
        path = path.with_suffix(".png")
        sprite.save(path)
    else:
        path = path.with_suffix(".jpg")
        sprite.save(path, quality=_QUALITY, subsampling=0)
    return path, sizes
