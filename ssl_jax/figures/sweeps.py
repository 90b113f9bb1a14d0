"""Scores of a sweep: against one setting, or as a heat map of two."""

import statistics
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from ssl_jax.figures import style

_COLUMNS = 3
_WIDE_RANGE = 20  # a ratio of the largest to the smallest value that is shown on a log scale


def score_curves(
    name: str,
    labels: Sequence[str],
    titles: Sequence[str],
    values: Sequence[Sequence[Mapping[int, float]]],
    reference: Sequence[Sequence[float]] = (),
) -> Figure:
    """A panel for each score: the mean over seeds, and each seed as a thin line with dots.

    Numbers are placed to scale, logarithmically if they span more than a factor of 20; other values
    are evenly spaced and not joined by lines.

    Args:
        name: of the setting.
        labels: [n] its values.
        titles: [s] names of the scores.
        values: [s][n] for each value {seed: score}; may be empty.
        reference: [s] scores of the seeds of a run outside the sweep, drawn as a level.
    """
    positions, numeric = _positions(labels)
    order = np.argsort(positions)
    with style.styled():
        columns = min(_COLUMNS, len(titles))
        rows = -(-len(titles) // columns)
        figure, axes = style.panels(rows, columns, width=2.2 + 2.6 * columns, height=2.6)
        for i, (ax, title) in enumerate(zip(axes, titles)):
            cells = [values[i][k] for k in order]
            x = positions[order]
            line = "-" if numeric else "none"
            thin = dict(marker="o", color=style.QUIET, alpha=0.5, linewidth=0.8, linestyle=line)
            for seed in sorted({seed for cell in cells for seed in cell}):
                known = [k for k, cell in enumerate(cells) if seed in cell]
                ax.plot(x[known], [cells[k][seed] for k in known], **thin)
            known = [k for k, cell in enumerate(cells) if cell]
            means = [statistics.mean(cells[k].values()) for k in known]
            ax.plot(x[known], means, line, marker="D", markersize=5.0, color=style.colour(0))
            if reference and reference[i]:
                level = statistics.mean(reference[i])
                ax.axhline(level, color=style.QUIET, linewidth=1.0, linestyle=(0, (5, 2)))
                ax.annotate(
                    "reference",
                    (0.99, level),
                    xycoords=("axes fraction", "data"),
                    ha="right",
                    va="bottom",
                    fontsize=7.5,
                    color=style.QUIET,
                )
            ax.set(title=title, xlabel=name)
            _ticks(ax, labels, positions, numeric)
        for ax in axes[len(titles) :]:
            ax.axis("off")
    return figure


def _positions(labels: Sequence[str]) -> tuple[np.ndarray, bool]:
    """Where values lie on the axis, and whether they are numbers."""
    try:
        return np.array([float(label) for label in labels]), True
    except ValueError:
        return np.arange(len(labels), dtype=float), False


def _ticks(ax: Axes, labels: Sequence[str], positions: np.ndarray, numeric: bool) -> None:
    """A tick for each value."""
    if numeric and min(positions) > 0 and max(positions) > _WIDE_RANGE * min(positions):
        ax.set_xscale("log")
    if not numeric:
        ax.set_xlim(-0.5, len(labels) - 0.5)
    ax.set_xticks(positions, labels)
    ax.xaxis.set_minor_locator(NullLocator())
    if max(map(len, labels)) * len(labels) > 30:
        ax.tick_params("x", labelrotation=30)


def heat_maps(
    names: tuple[str, str],
    rows: Sequence[str],
    columns: Sequence[str],
    titles: Sequence[str],
    values: Sequence[Sequence[Sequence[Sequence[float]]]],
    reference: Sequence[Sequence[float]] = (),
) -> Figure:
    """A heat map for each score, with the mean over seeds in each cell.

    Args:
        names: of the settings of rows and columns.
        rows: [r] values of the first setting.
        columns: [c] values of the second one.
        titles: [s] names of the scores.
        values: [s][r][c] scores of the seeds of each cell; a cell may be empty.
        reference: [s] scores of the seeds of a run outside the sweep, named in the titles.
    """
    with style.styled():
        across = min(_COLUMNS, len(titles))
        down = -(-len(titles) // across)
        height = 1.2 + 0.45 * len(rows)
        figure, axes = style.panels(down, across, width=1.2 + 2.4 * across, height=height)
        for i, (ax, title) in enumerate(zip(axes, titles)):
            means = np.array(
                [[statistics.mean(c) if c else np.nan for c in row] for row in values[i]]
            )
            ax.imshow(means, cmap="viridis", aspect="auto")
            middle = (np.nanmin(means) + np.nanmax(means)) / 2 if np.isfinite(means).any() else 0.0
            for (y, x), mean in np.ndenumerate(means):
                text = f"{mean:.3f}" if np.isfinite(mean) else "-"
                dark = not mean > middle
                ax.text(x, y, text, ha="center", va="center", color="white" if dark else "black")
            if reference and reference[i]:
                title = f"{title} (reference {statistics.mean(reference[i]):.3f})"
            ax.set(title=title, xlabel=names[1], ylabel=names[0])
            ax.set_xticks(range(len(columns)), columns)
            ax.set_yticks(range(len(rows)), rows)
            ax.grid(visible=False)
        for ax in axes[len(titles) :]:
            ax.axis("off")
    return figure
