"""Nearest neighbours as pictures."""

import numpy as np
from matplotlib.patches import Rectangle
from PIL import Image

from ssl_jax.figures import style

_SIDE = 96  # pixels: larger images are shown at this size


def neighbour_grid(images, queries, neighbours, similarity, *, labels=None, names=()):
    """A row for each query: its image, then its neighbours, nearest first, with their similarity below.

    Where both classes are known a neighbour of the query's class has a green frame; another class has a red, dashed
    one, and a cross at its similarity (Local Aggregation's and CoNR's figures of neighbours).

    Args:
        images: [N, H, W, C] uint8, C = 1 or 3.
        queries: [Q] rows of `images`.
        neighbours: [Q, k] rows of `images`.
        similarity: [Q, k], such as cosines.
        labels: [N] int; -1 is unlabelled.
        names: of the classes.

    Raises:
        ValueError: shapes that do not go together.
    """
    images, queries, neighbours = np.asarray(images), np.asarray(queries), np.asarray(neighbours)
    similarity = np.asarray(similarity, np.float64)
    if images.ndim != 4 or images.dtype != np.uint8 or images.shape[-1] not in (1, 3):
        raise ValueError(f"images of shape {images.shape}, {images.dtype}: give uint8 of shape [N, H, W, 1 or 3]")
    if neighbours.ndim != 2 or neighbours.shape != similarity.shape or len(neighbours) != len(queries):
        raise ValueError(
            f"queries {queries.shape}, neighbours {neighbours.shape}, similarity {similarity.shape}: "
            "give [Q], [Q, k] and [Q, k]"
        )
    right = matches(queries, neighbours, labels)
    (rows, k), digits = neighbours.shape, 3 if similarity.min() > 0.9 else 2  # near 1 all would look the same
    with style.styled():
        wide, tall = k + 1.33, rows * 1.28 + 0.3  # in cells
        figure, (axes,) = style.panels(1, 1, height=style.WIDTH * tall / wide)
        axes.set(xlim=(-0.04, wide - 0.04), ylim=(tall - 0.3, -0.3), aspect="equal")
        axes.axis("off")
        for left, text in ((0.0, "query"), (1.25, "nearest first, with cosine similarity")):
            axes.text(left, -0.08, text, color=style.QUIET, fontsize=8.5, va="bottom")
        for row, query in enumerate(queries):
            _cell(axes, images[query], 0.0, row * 1.28)
            if labels is not None and labels[query] >= 0:
                _caption(axes, 0.0, row * 1.28, style.name_of(int(labels[query]), names))
            for column, other in enumerate(neighbours[row]):
                at = 1.25 + column, row * 1.28
                _cell(axes, images[other], *at)
                _judge(axes, *at, f"{similarity[row, column]:.{digits}f}", right[row, column])
    return figure


def matches(queries, neighbours, labels):
    """[Q, k] of 1 (same class), 0 (another), nan (not known)."""
    if labels is None:
        return np.full(neighbours.shape, np.nan)
    labels = np.asarray(labels)
    own, theirs = labels[queries][:, None], labels[neighbours]
    return np.where((own >= 0) & (theirs >= 0), own == theirs, np.nan)


def _cell(axes, image, left, top):
    if max(image.shape[:2]) > _SIDE:
        scale = _SIDE / max(image.shape[:2])
        size = (max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1))
        image = np.asarray(Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).resize(size))
        image = image.reshape(*image.shape[:2], -1)
    extent = (left + 0.04, left + 0.96, top + 0.96, top + 0.04)
    picture = image.repeat(3, -1) if image.shape[-1] == 1 else image
    axes.imshow(picture, extent=extent, interpolation="nearest", aspect="equal")


def _judge(axes, left, top, text, right):
    text = f"{text} \u00d7" if right == 0 else text
    known = style.RIGHT if right == 1 else style.WRONG if right == 0 else None
    if known:
        line = dict(edgecolor=known, linewidth=1.8, linestyle=(0, (3, 1.2)) if right == 0 else "solid")
        axes.add_patch(Rectangle((left + 0.03, top + 0.03), 0.94, 0.94, fill=False, **line))
    _caption(axes, left, top, text, known or style.QUIET)


def _caption(axes, left, top, text, colour="#111827"):
    axes.text(left + 0.5, top + 1.0, text, color=colour, fontsize=7.5, ha="center", va="top")
