"""SwAV's prototypes: how evenly they are used."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from ssl_jax.figures import style
from ssl_jax.figures.curves import series


def prototypes(codes: ArrayLike, *, records: Sequence[Mapping[str, Any]] = ()) -> Figure:
    """The number of images that prefer each prototype, and how codes and usage evolve in training.

    Args:
        codes: [N, K] codes or scores of the images; only each row's largest entry counts.
        records: records of metrics.jsonl. Used are `train/code_entropy` (mean entropy of a code
            over ln K: 0 one-hot, 1 uniform) and `train/prototypes_used` (share of the prototypes
            that a batch could use).

    Raises:
        ValueError: `codes` is not a non-empty table.
    """
    sizes = usage(codes)
    entropy = series(records, "train/code_entropy")
    used = series(records, "train/prototypes_used")
    over_training = bool(len(entropy[0]) or len(used[0]))
    columns = 2 if over_training else 1
    width = style.WIDTH if over_training else 5.6
    with style.styled():
        figure, axes = style.panels(1, columns, height=2.9, width=width)
        _bars(axes[0], sizes)
        if over_training:
            axes[1].plot(*entropy, color=style.PALETTE[0], label="entropy of a code / ln K")
            axes[1].plot(*used, color=style.PALETTE[1], label="prototypes used by a batch")
            axes[1].set(title="over training", xlabel="epoch", ylabel="share", ylim=(0, 1.05))
            axes[1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            axes[1].legend()
    return figure


def _bars(ax: Axes, sizes: np.ndarray) -> None:
    """Draws the images of each prototype, most used first, and the level of uniform use."""
    count = len(sizes)
    uniform = sizes.sum() / count
    edges = np.arange(count + 1) + 0.5
    ax.stairs(np.sort(sizes)[::-1], edges, fill=True, color=style.PALETTE[0])
    ax.axhline(
        uniform,
        color=style.PALETTE[1],
        linestyle="--",
        linewidth=1.2,
        label=f"if evenly used: {uniform:.1f}",
    )
    ax.set(
        xlabel="prototype, most used first",
        ylabel="images that prefer it",
        xlim=(0.5, count + 0.5),
    )
    ax.set_title(f"{int((sizes > 0).sum())} of {count} in use, perplexity {perplexity(sizes):.0f}")
    ax.legend()


def usage(codes: ArrayLike) -> np.ndarray:
    """The number of rows of `codes` [N, K] that have their largest entry in each column, [K]."""
    codes = np.asarray(codes)
    if codes.ndim != 2 or not codes.size:
        raise ValueError(f"codes of shape {codes.shape}: give [N, K]")
    return np.bincount(codes.argmax(1), minlength=codes.shape[1])


def perplexity(sizes: np.ndarray) -> float:
    """exp(entropy of the shares): the number of equally used prototypes with the same entropy."""
    share = sizes[sizes > 0] / sizes.sum()
    return float(np.exp(-np.sum(share * np.log(share))))
