"""What the rounds of Anchor Neighbourhood Discovery find."""

import numpy as np
from matplotlib.ticker import MaxNLocator

from ssl_jax.figures import style
from ssl_jax.figures.curves import series


def rounds(runs):
    """Quality of neighbourhoods over the epochs, and, round by round, anchors and their entropy (Huang et al. 2019).

    Quality is the share of neighbours of an image's class: of each image's nearest by the embedding as it is, and
    (dashed, with marks) of the round's frozen anchors. Entropy is of each image's similarities to the whole bank; its
    bands reach from the least to the largest.

    Args:
        runs: {run name: records}, as `metrics.read_records` gives them.

    Raises:
        ValueError: no run has any of it.
    """
    found = {name: table(records) for name, records in runs.items()}
    quality = any(len(series(r, f"eval/neighbourhood/{n}")[0]) for r in runs.values() for n in ("all", "anchors"))
    if not quality and not any(len(t["round"]) for t in found.values()):
        raise ValueError("no record has eval/neighbourhood/all or refresh/anchors, as Anchor Neighbourhood has")
    with style.styled():
        figure, axes = style.panels(1, 3, width=style.WIDTH + 1.6, height=2.9)
        for i, (name, records) in enumerate(runs.items()):
            _quality(axes[0], records, found[name], style.colour(i), name, len(runs) > 1)
            _entropy(axes[1], found[name], style.colour(i) if len(runs) > 1 else None)
            own = found[name]
            axes[2].plot(own["round"], own["anchors"], marker="o", color=style.colour(i))
        axes[0].set(title="quality of neighbourhoods", xlabel="epoch", ylabel="neighbours of the class (%)")
        axes[1].set(title="entropy of similarities", xlabel="round", ylabel="entropy (nats)")
        axes[2].set(title="anchors", xlabel="round", ylabel="images that are anchors", ylim=(0, None))
        axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
        last = max((t["round"].max() for t in found.values() if len(t["round"])), default=1)
        for ax in axes[1:]:
            ax.set(xlim=(0.5, last + 0.5))
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
        for ax in axes[:2]:
            if ax.get_legend_handles_labels()[0]:
                ax.legend(loc="best")
    return figure


def table(records) -> dict:
    """The refreshes of a run by name: "epoch", "round", "anchors", "entropy_mean", ...; nan where there is none."""
    names = ["round", "anchors", "entropy_mean"]
    names += [f"entropy_{part}_{end}" for part in ("anchors", "instances") for end in ("min", "max")]
    own = [r for r in records if "refresh/anchors" in r]
    values = {n: np.array([r.get(f"refresh/{n}", np.nan) for r in own], np.float64) for n in names}
    return values | {"epoch": np.array([r["epoch"] for r in own], np.float64)}


def _quality(ax, records, own, colour, name, several):
    for epoch in own["epoch"]:
        ax.axvline(epoch, color=style.QUIET, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
    x, y = series(records, "eval/neighbourhood/all")
    ax.plot(x, 100 * y, color=colour, label=f"{name}: all" if several else "all images")
    x, y = series(records, "eval/neighbourhood/anchors")
    look = dict(color=colour, linestyle="--", marker="o")
    ax.plot(x, 100 * y, label=f"{name}: anchors" if several else "anchors, frozen", **look)


def _entropy(ax, own, colour):
    at = own["round"]
    parts = [("anchors", colour or style.PALETTE[0]), ("instances", colour or style.PALETTE[1])]
    for part, shade in parts:
        low, high = own[f"entropy_{part}_min"], own[f"entropy_{part}_max"]
        label = {"anchors": "anchors", "instances": "single images"}[part] if not colour else None
        ax.fill_between(at, low, high, color=shade, alpha=0.18, linewidth=0)
        ax.errorbar(at, (low + high) / 2, (high - low) / 2, fmt="none", color=shade, capsize=3, label=label)
    ax.plot(at, own["entropy_mean"], color=colour or "#111827", marker="o", label=None if colour else "mean of all")
