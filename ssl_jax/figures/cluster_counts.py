"""Scores of numbers of clusters, to choose one of them."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, ScalarFormatter

from ssl_jax.figures import style

_TICKS = (2, 3, 5, 10, 20, 30, 50, 100)


def how_many(
    counts: Sequence[int],
    silhouette: Sequence[float],
    stability: Sequence[float],
    chosen: int,
    as_good: Sequence[int],
    title: str,
) -> Figure:
    """Silhouette and stability over the number of clusters, with the choice marked.

    Args:
        counts: [n] numbers of clusters, ascending.
        silhouette: [n] mean silhouettes.
        stability: [n] agreement of two halves.
        chosen: the choice.
        as_good: numbers that are about as good, with the choice.
        title: above the figure.
    """
    with style.styled():
        figure, axes = style.panels(1, 2, width=8.0, height=3.2)
        names = ("silhouette", "stability (agreement of two halves)")
        for i, (ax, name, values) in enumerate(zip(axes, names, (silhouette, stability))):
            ax.plot(counts, values, color=style.colour(i), marker="o")
            ax.axvline(
                chosen, color=style.QUIET, linewidth=0.9, linestyle=(0, (5, 2)), label="chosen"
            )
            good = np.isin(counts, as_good)
            ax.plot(
                np.asarray(counts)[good],
                np.asarray(values)[good],
                color=style.RIGHT,
                marker="o",
                markersize=6.0,
                linestyle="none",
                label="about as good as the choice",
            )
            ax.set(title=name, xlabel="K, number of clusters", xscale="log")
            low, high = counts[0], counts[-1]
            ax.set_xticks([x for x in _TICKS if low <= x <= high])
            ax.xaxis.set_minor_locator(NullLocator())
            ax.xaxis.set_major_formatter(ScalarFormatter())
        style.legend(figure, axes[0].get_legend_handles_labels()[0])
        figure.suptitle(title, fontsize=8.5, x=0.01, ha="left")
    return figure
