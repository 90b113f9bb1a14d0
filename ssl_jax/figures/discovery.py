"""The rounds of Anchor Neighbourhood Discovery."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ssl_jax.figures import style
from ssl_jax.figures.curves import series

_Records = Sequence[Mapping[str, Any]]


def rounds(runs: Mapping[str, _Records]) -> Figure:
    """Neighbourhood quality over epochs; anchors and their entropy by round (Huang et al. 2019).

    Quality is the share of neighbours of an image's class: of each image's nearest by the current
    embedding, and (dashed, with markers) of the round's frozen anchors. Entropy is of each image's
    similarities to the whole bank; bands show minimum and maximum.

    Args:
        runs: {run name: records}, as from `metrics.read_records`.

    Raises:
        ValueError: no run has any of this.
    """
    tables = {name: table(records) for name, records in runs.items()}
    quality = any(
        len(series(records, f"eval/neighbourhood/{name}")[0])
        for records in runs.values()
        for name in ("all", "anchors")
    )
    if not quality and not any(len(t["round"]) for t in tables.values()):
        raise ValueError(
            "no record has eval/neighbourhood/all or refresh/anchors, as Anchor Neighbourhood has"
        )
    several = len(runs) > 1
    with style.styled():
        figure, axes = style.panels(1, 3, width=style.WIDTH + 1.6, height=2.9)
        for i, (name, records) in enumerate(runs.items()):
            refreshes = tables[name]
            colour = style.colour(i)
            _quality(axes[0], records, refreshes, colour, name, several)
            _entropy(axes[1], refreshes, colour if several else None)
            axes[2].plot(refreshes["round"], refreshes["anchors"], marker="o", color=colour)
        last = max((t["round"].max() for t in tables.values() if len(t["round"])), default=1)
        _label(axes, last)
    return figure


def _label(axes: Sequence[Axes], last_round: float) -> None:
    axes[0].set(title="neighbourhood quality", xlabel="epoch", ylabel="same-class neighbours (%)")
    axes[1].set(title="entropy of similarities", xlabel="round", ylabel="entropy (nats)")
    axes[2].set(title="anchors", xlabel="round", ylabel="images that are anchors", ylim=(0, None))
    axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    for ax in axes[1:]:
        ax.set(xlim=(0.5, last_round + 0.5))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    for ax in axes[:2]:
        if ax.get_legend_handles_labels()[0]:
            ax.legend(loc="best")


def table(records: Iterable[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """The refreshes of a run, by name: "epoch", "round", "anchors", "entropy_mean", ...

    Each array has one value per refresh; missing values are nan.
    """
    names = ["round", "anchors", "entropy_mean"]
    for part in ("anchors", "instances"):
        names += [f"entropy_{part}_min", f"entropy_{part}_max"]
    refreshes = [r for r in records if "refresh/anchors" in r]
    columns = {"epoch": np.array([r["epoch"] for r in refreshes], np.float64)}
    for name in names:
        values = [r.get(f"refresh/{name}", np.nan) for r in refreshes]
        columns[name] = np.array(values, np.float64)
    return columns


def _quality(
    ax: Axes,
    records: _Records,
    refreshes: Mapping[str, np.ndarray],
    colour: str,
    name: str,
    several: bool,
) -> None:
    for epoch in refreshes["epoch"]:
        ax.axvline(epoch, color=style.QUIET, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
    x, y = series(records, "eval/neighbourhood/all")
    ax.plot(x, 100 * y, color=colour, label=f"{name}: all" if several else "all images")
    x, y = series(records, "eval/neighbourhood/anchors")
    label = f"{name}: anchors" if several else "frozen anchors"
    ax.plot(x, 100 * y, label=label, color=colour, linestyle="--", marker="o")


def _entropy(ax: Axes, refreshes: Mapping[str, np.ndarray], colour: str | None) -> None:
    """Draws ranges and mean of the entropies, with a legend unless `colour` stands for the run."""
    x = refreshes["round"]
    parts = (("anchors", "anchors", 0), ("instances", "single images", 1))
    for part, label, i in parts:
        low = refreshes[f"entropy_{part}_min"]
        high = refreshes[f"entropy_{part}_max"]
        shade = colour or style.PALETTE[i]
        ax.fill_between(x, low, high, color=shade, alpha=0.18, linewidth=0)
        ax.errorbar(
            x,
            (low + high) / 2,
            (high - low) / 2,
            fmt="none",
            color=shade,
            capsize=3,
            label=None if colour else label,
        )
    ax.plot(
        x,
        refreshes["entropy_mean"],
        color=colour or "#111827",
        marker="o",
        label=None if colour else "mean of all",
    )
