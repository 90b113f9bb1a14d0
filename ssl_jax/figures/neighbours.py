"""Nearest neighbours as pictures."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike
from PIL import Image

from ssl_jax.figures import style

_SIDE = 96  # pixels: larger images are shrunk to this
_ROW = 1.28  # height of a row, in cells
_FIRST = 1.25  # left edge of the first neighbour, in cells
_BLANK = "#F0F0F0"  # of a cell around an oblong image


def neighbour_grid(
    images: Any,
    queries: ArrayLike,
    neighbours: ArrayLike,
    similarity: ArrayLike,
    *,
    labels: ArrayLike | None = None,
    names: Sequence[str] = (),
) -> Figure:
    """One row per query: its image, then its neighbours, nearest first, with their similarities.

    If both classes are known, a neighbour of the query's class has a green frame; one of another
    class has a dashed orange frame, and a cross beside its similarity (as in the neighbour figures
    of Local Aggregation and CoNR).

    Args:
        images: [N, H, W, C] uint8, or a sequence of N images [H, W, C] of any shapes, or whole
            pictures as in `Dataset.train.images`; each is drawn in its own proportions, of more
            than three bands the first three.
        queries: [Q] rows of `images`.
        neighbours: [Q, k] rows of `images`.
        similarity: [Q, k], such as cosines.
        labels: [N] int; -1 is unlabelled.
        names: class names.

    Raises:
        ValueError: shapes that do not match.
    """
    queries = np.asarray(queries)
    neighbours = np.asarray(neighbours)
    similarity = np.asarray(similarity, np.float64)
    _check(queries, neighbours, similarity)
    pictures = {row: checked(images[row]) for row in {*queries.tolist(), *neighbours.flat}}
    right = matches(queries, neighbours, labels)
    rows, k = neighbours.shape
    digits = 3 if similarity.min() > 0.9 else 2  # with two, all would look the same near 1
    with style.styled():
        width = k + 1.33  # in cells
        height = rows * _ROW + 0.3
        figure, (axes,) = style.panels(1, 1, height=style.WIDTH * height / width)
        axes.set(xlim=(-0.04, width - 0.04), ylim=(height - 0.3, -0.3), aspect="equal")
        axes.axis("off")
        for left, text in ((0.0, "query"), (_FIRST, "nearest first, with cosine similarity")):
            axes.text(left, -0.08, text, color=style.QUIET, fontsize=8.5, va="bottom")
        for row, query in enumerate(queries):
            top = row * _ROW
            cell(axes, pictures[query], 0.0, top)
            if labels is not None and labels[query] >= 0:
                caption(axes, 0.0, top, style.name_of(int(labels[query]), names))
            for column, neighbour in enumerate(neighbours[row]):
                left = _FIRST + column
                cell(axes, pictures[neighbour], left, top)
                text = f"{similarity[row, column]:.{digits}f}"
                judge(axes, left, top, text, right[row, column])
    return figure


def checked(image: Any) -> np.ndarray:
    """One image as an array [H, W, C].

    Raises:
        ValueError: another shape or type.
    """
    image = np.asarray(image.as_seen() if hasattr(image, "as_seen") else image)
    if image.ndim != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ValueError(
            f"an image of shape {image.shape}, {image.dtype}: give uint8 of shape [H, W, C]"
        )
    return image


def _check(queries: np.ndarray, neighbours: np.ndarray, similarity: np.ndarray) -> None:
    same_shape = neighbours.shape == similarity.shape
    if neighbours.ndim != 2 or not same_shape or len(neighbours) != len(queries):
        raise ValueError(
            f"queries {queries.shape}, neighbours {neighbours.shape}, similarity "
            f"{similarity.shape}: give [Q], [Q, k] and [Q, k]"
        )


def matches(queries: np.ndarray, neighbours: np.ndarray, labels: ArrayLike | None) -> np.ndarray:
    """Whether neighbours are of the query's class, [Q, k]: 1 yes, 0 no, nan unknown."""
    if labels is None:
        return np.full(neighbours.shape, np.nan)
    labels = np.asarray(labels)
    query_labels = labels[queries][:, None]
    neighbour_labels = labels[neighbours]
    known = (query_labels >= 0) & (neighbour_labels >= 0)
    return np.where(known, query_labels == neighbour_labels, np.nan)


def cell(axes: Axes, image: np.ndarray, left: float, top: float) -> None:
    """Draws an image in the middle of its cell, as large as fits; the rest is pale."""
    height, width = image.shape[:2]
    image = image[..., : 3 if image.shape[-1] > 2 else 1]
    if max(image.shape[:2]) > _SIDE:
        scale = _SIDE / max(image.shape[:2])
        size = (max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1))
        picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
        image = np.asarray(picture.resize(size))
        image = image.reshape(*image.shape[:2], -1)
    if image.shape[-1] == 1:
        image = image.repeat(3, -1)
    if height != width:
        sides = (left + 0.04, left + 0.96)
        axes.fill_between(sides, top + 0.04, top + 0.96, color=_BLANK, linewidth=0, zorder=-1)
    across = 0.46 * width / max(height, width)
    down = 0.46 * height / max(height, width)
    extent = (left + 0.5 - across, left + 0.5 + across, top + 0.5 + down, top + 0.5 - down)
    axes.imshow(image, extent=extent, interpolation="nearest", aspect="equal")


def judge(axes: Axes, left: float, top: float, text: str, right: float) -> None:
    """Writes a number under a cell, with a frame and a colour by whether the class is right."""
    if right == 1:
        _frame(axes, left, top, style.RIGHT, "solid")
        caption(axes, left, top, text, style.RIGHT)
    elif right == 0:
        _frame(axes, left, top, style.WRONG, (0, (3, 1.2)))
        caption(axes, left, top, f"{text} \u00d7", style.WRONG)
    else:
        caption(axes, left, top, text, style.QUIET)


def _frame(
    axes: Axes, left: float, top: float, colour: str, dash: str | tuple[float, tuple[float, float]]
) -> None:
    look = dict(edgecolor=colour, linewidth=1.8, linestyle=dash)
    axes.add_patch(Rectangle((left + 0.03, top + 0.03), 0.94, 0.94, fill=False, **look))


def caption(axes: Axes, left: float, top: float, text: str, colour: str = "#111827") -> None:
    """Writes a few words under a cell."""
    axes.text(left + 0.5, top + 1.0, text, color=colour, fontsize=7.5, ha="center", va="top")
