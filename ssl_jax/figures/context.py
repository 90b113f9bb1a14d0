"""Two kinds of neighbours of the same images, one above the other (CoNR)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from ssl_jax.figures import style
from ssl_jax.figures.neighbours import caption, cell, checked, judge, matches

_LINE = 1.5  # height of a line of neighbours, in cells
_SPACE = 0.35  # between queries, in cells
_FIRST = 1.5  # left edge of the first neighbour, in cells


def neighbour_comparison(
    images: Any,
    queries: ArrayLike,
    neighbours: Mapping[str, ArrayLike],
    distances: Mapping[str, ArrayLike],
    *,
    labels: ArrayLike | None = None,
    names: Sequence[str] = (),
) -> Figure:
    """Each query's neighbours of several kinds, a line for each kind (CoNR, figures 1b and 5).

    Neighbours of the query's class have a green frame, others a dashed orange frame and a cross
    beside their distance. The name of a line says how many are right.

    Args:
        images: [N, H, W, C] uint8, or anything that `neighbour_grid` takes.
        queries: [Q] rows of `images`.
        neighbours: {kind: [Q, k] rows of `images`}, nearest first.
        distances: {kind: [Q, k]}.
        labels: [N] int; -1 is unlabelled.
        names: class names.

    Raises:
        ValueError: shapes that do not match.
    """
    queries = np.asarray(queries)
    index = {kind: np.asarray(rows) for kind, rows in neighbours.items()}
    lengths = {kind: np.asarray(values, np.float64) for kind, values in distances.items()}
    k = _width(queries, index, lengths)
    rows = {*queries.tolist(), *np.concatenate([x.ravel() for x in index.values()]).tolist()}
    pictures = {row: checked(images[row]) for row in rows}
    right = {kind: matches(queries, x, labels) for kind, x in index.items()}
    block = len(index) * _LINE + _SPACE
    width = _FIRST + k
    height = len(queries) * block
    with style.styled():
        figure, (axes,) = style.panels(1, 1, height=style.WIDTH * height / width)
        axes.set(xlim=(-0.04, width), ylim=(height - _SPACE, -_SPACE), aspect="equal")
        axes.axis("off")
        for i, query in enumerate(queries):
            top = i * block
            cell(axes, pictures[query], 0.0, top)
            if labels is not None and np.asarray(labels)[query] >= 0:
                label = int(np.asarray(labels)[query])
                caption(axes, 0.0, top, style.name_of(label, names))
            for line, (kind, x) in enumerate(index.items()):
                place = top + line * _LINE
                heading = kind + _score(right[kind][i])
                axes.text(
                    _FIRST, place - 0.02, heading, color=style.QUIET, fontsize=7.5, va="bottom"
                )
                for column, row in enumerate(x[i]):
                    left = _FIRST + column
                    cell(axes, pictures[row], left, place)
                    text = f"{lengths[kind][i, column]:.2f}"
                    judge(axes, left, place, text, right[kind][i, column])
    return figure


def _score(right: np.ndarray) -> str:
    """How many of a line's neighbours are right, of those whose class is known: ": 7 of 10"."""
    known = right[~np.isnan(right)]
    return f": {int(known.sum())} of {len(known)} right" if len(known) else ""


def _width(
    queries: np.ndarray, index: Mapping[str, np.ndarray], lengths: Mapping[str, np.ndarray]
) -> int:
    """The number of neighbours k, the same for all kinds.

    Raises:
        ValueError: shapes that do not match.
    """
    shapes = {x.shape for x in (*index.values(), *lengths.values())}
    shape = next(iter(shapes), ())
    if len(shapes) != 1 or index.keys() != lengths.keys() or shape[:1] != queries.shape:
        raise ValueError(
            f"queries {queries.shape}, neighbours and distances of shapes {sorted(shapes)}: give "
            "[Q], and [Q, k] of each kind"
        )
    return shape[1]
