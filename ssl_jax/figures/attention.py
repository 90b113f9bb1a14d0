"""What an encoder looks at in a few images, over training (Anchor Neighbourhood Discovery)."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from ssl_jax.figures import style
from ssl_jax.figures.neighbours import caption, cell, checked
from ssl_jax.ops.grad_cam import resized

_LINE = 1.26  # height of a line of pictures, in cells
_TOP = 0.55  # above them, in cells
_FIRST = 1.2  # left edge of the first heat map, in cells
_COLOURS = "inferno"
_COVER = 0.6  # opacity of heat over a picture
_SIDE = 96  # pixels of a drawn heat map


def attention_dynamics(
    pictures: ArrayLike,
    heat: Sequence[ArrayLike],
    cosine: ArrayLike,
    titles: Sequence[str],
    *,
    names: Sequence[str] = (),
    proportions: ArrayLike | None = None,
) -> Figure:
    """Where an encoder looks in a few pictures over training, AND's "learning attention dynamics".

    One row per image: the picture, then its heat map at each time with the cosine below.

    Every map is drawn from 0 to its own maximum: maps show where, not how much. A map that is 0
    everywhere stays black.

    Args:
        pictures: [n, S, S, C] uint8, as the encoder sees them.
        heat: T arrays [n, h, w], not negative; see `ops.grad_cam`.
        cosine: [T, n] what the heat is of.
        titles: [T] of the columns.
        names: [n] of the rows.
        proportions: [n] height over width of what a picture shows; 1 if None.

    Raises:
        ValueError: shapes that do not match.
    """
    pictures = np.asarray(pictures)
    maps = [np.asarray(x, np.float32) for x in heat]
    cosine = np.asarray(cosine)
    count = len(pictures)
    fits = bool(maps) and all(x.ndim == 3 and len(x) == count for x in maps)
    if not fits or cosine.shape != (len(maps), count) or len(titles) != len(maps):
        raise ValueError(
            f"pictures {pictures.shape}, heat {[x.shape for x in maps]}, cosine {cosine.shape}, "
            f"{len(titles)} titles: give [n, S, S, C], T times [n, h, w], [T, n] and T titles"
        )
    ratios = np.ones(count) if proportions is None else np.asarray(proportions)
    width = _FIRST + len(maps)
    height = _TOP + count * _LINE
    inches = min(style.WIDTH, 1.25 * width)
    with style.styled():
        figure, (axes,) = style.panels(1, 1, width=inches, height=inches * height / width)
        axes.set(xlim=(-0.04, width), ylim=(height - _TOP, -_TOP), aspect="equal")
        axes.axis("off")
        for column, title in enumerate(titles):
            axes.text(_FIRST + column + 0.5, -0.06, title, fontsize=8, ha="center", va="bottom")
        for row, picture in enumerate(pictures):
            top = row * _LINE
            shown = checked(picture)
            cell(axes, _shaped(shown, ratios[row]), 0.0, top)
            if names:
                caption(axes, 0.0, top, names[row], style.QUIET)
            grey = shown[..., :3].mean(axis=-1, keepdims=True).astype(np.uint8)
            for column, x in enumerate(maps):
                left = _FIRST + column
                cell(axes, _shaped(grey, ratios[row]), left, top)
                _cover(axes, x[row], axes.images[-1].get_extent())
                caption(axes, left, top, f"{cosine[column, row]:.2f}")
        scale = ScalarMappable(mpl.colors.Normalize(0, 1), _COLOURS)
        bar = figure.colorbar(
            scale, ax=axes, orientation="horizontal", fraction=0.02, pad=0.01, aspect=40
        )
        bar.set_ticks([0, 1], labels=["0", "maximum of the map"])
        bar.outline.set_visible(False)
    return figure


def _shaped(picture: np.ndarray, ratio: float) -> np.ndarray:
    """A picture [S, S, C] as one of the proportions `ratio`, by repeating rows or columns."""
    height, width = picture.shape[:2]
    if abs(ratio - height / width) < 1e-6:
        return picture
    side = max(height, width, _SIDE)
    rows = max(round(side * min(1.0, ratio)), 1)
    columns = max(round(side * min(1.0, 1 / ratio)), 1)
    down = np.arange(rows) * height // rows
    across = np.arange(columns) * width // columns
    return picture[down][:, across]


def _cover(axes: Axes, heat: np.ndarray, extent: tuple[float, ...]) -> None:
    """Draws heat over the picture at `extent`."""
    relative = heat / max(float(heat.max()), 1e-30)
    drawn = np.asarray(resized(relative, _SIDE, _SIDE))
    axes.imshow(
        drawn, cmap=_COLOURS, vmin=0, vmax=1, alpha=_COVER, extent=extent, interpolation="nearest"
    )
