"""Numbers over epochs or neighbours, of several runs."""

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ssl_jax.figures import style

NAMES = (
    "train/loss",
    "eval/knn/top1",
    "eval/linear/top1",
    "eval/clustering/acc",
    "eval/clustering/nmi",
    "eval/clustering/ari",
)
# What a record's name means: title, unit, factor.
_MEANING = {
    "train/loss": ("training loss", "loss (of the method)", 1.0),
    "train/learning_rate": ("learning rate", "rate", 1.0),
    "speed/images_per_second": ("speed", "images per second", 1.0),
    "eval/knn/top1": ("kNN", "test images right (%)", 100.0),
    "eval/linear/top1": ("linear classifier", "test images right (%)", 100.0),
    "eval/clustering/acc": ("clustering accuracy", "images right (%)", 100.0),
    "eval/clustering/nmi": ("normalised mutual information", "NMI", 1.0),
    "eval/clustering/ari": ("adjusted Rand index", "ARI", 1.0),
}
_BASELINES = {"pixels": ("raw pixels", (0, (1, 1.5))), "untrained": ("untrained encoder", (0, (5, 2)))}
_POINTS = 600  # of a curve, at most


def training_curves(runs, names=NAMES):
    """A panel for each of the records' `names`, a line for each run, thin lines for the baselines.

    Names that no run has are left out. Baselines are the scores of raw pixels and of the untrained encoder: grey where
    all runs agree on them, in the run's colour otherwise.

    Args:
        runs: {run name: records}, as `metrics.read_records` gives them.
        names: of numbers in the records, such as "train/loss".

    Raises:
        ValueError: no run has any of them.
    """
    shown = [n for n in names if any(n in r for records in runs.values() for r in records)]
    if not shown:
        raise ValueError(f"no record has any of: {', '.join(names)}")
    last = max(r["epoch"] for records in runs.values() for r in records) or 1.0
    with style.styled():
        columns = min(3, len(shown))
        figure, axes = style.panels(-(-len(shown) // columns), columns, width=4.0 + 1.6 * columns, height=2.45)
        drawn = {}
        for ax, name in zip(axes, shown):
            title, unit, factor = _MEANING.get(name, (name, name.rpartition("/")[2], 1.0))
            for i, records in enumerate(runs.values()):
                x, y = series(records, name)
                look = dict(marker="o") if name.startswith("eval/") and len(x) <= 60 else {}
                ax.plot(*_thinned(x, y * factor), color=style.colour(i), **look)
            drawn |= _baselines(ax, runs, name, factor)
            ax.set(title=title, xlabel="epoch", ylabel=unit, xlim=(0, last * 1.02))
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5, min_n_ticks=1))
        for ax in axes[len(shown) :]:
            ax.axis("off")
        handles = [Line2D([], [], color=style.colour(i), label=n) for i, n in enumerate(runs)]
        grey = dict(color=style.QUIET, linewidth=1.0)
        handles += [Line2D([], [], label=label, linestyle=dash, **grey) for label, dash in drawn.items()]
        style.legend(figure, handles)
    return figure


def series(records, name: str):
    """Epochs [n] and values [n] of one number in the records of a run."""
    found = [(r["epoch"], r[name]) for r in records if isinstance(r.get(name), int | float)]
    return tuple(np.array(found, np.float64).reshape(-1, 2).T)


def _thinned(x, y):
    """At most so many points: each the mean of its stretch."""
    if len(x) <= _POINTS:
        return x, y
    parts = np.array_split(np.arange(len(x)), _POINTS)
    return np.array([x[p].mean() for p in parts]), np.array([y[p].mean() for p in parts])


def _baselines(ax, runs, name, factor):
    """Draws those there are; returns {label: line style}."""
    drawn = {}
    for prefix, (label, dash) in _BASELINES.items():
        found = [series(records, name.replace("eval/", prefix + "/", 1))[1] for records in runs.values()]
        found = {i: values[-1] * factor for i, values in enumerate(found) if len(values)}
        if not name.startswith("eval/") or not found:
            continue
        same = max(found.values()) - min(found.values()) < 1e-3 * factor
        for i, value in list(found.items())[: 1 if same else None]:
            ax.axhline(value, color=style.QUIET if same else style.colour(i), linewidth=0.9, linestyle=dash, zorder=1)
        drawn[label] = dash
    return drawn


def purity_curves(curves):
    """Share of an image's K nearest in its batch that are of its class, over K (CoNR, figure 2).

    Args:
        curves: {name: {K: purity}}, fractions.

    Raises:
        ValueError: there are none.
    """
    if not curves or not all(curves.values()):
        raise ValueError("no purities: give {name: {K: purity}} with at least one K each")
    with style.styled():
        figure, (ax,) = style.panels(1, 1, width=5.6, height=3.4)
        for i, (name, values) in enumerate(curves.items()):
            ks = sorted(values)
            look = dict(marker="o" if len(ks) <= 10 else "", label=name, color=style.colour(i))
            ax.plot(ks, [100.0 * values[k] for k in ks], **look)
        ax.set(xlabel="K, neighbours of an image in its batch", ylabel="neighbours of its class (%)", xlim=(0, None))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        style.legend(figure, ax.get_legend_handles_labels()[0])
    return figure


def of_evaluator(values) -> dict:
    """The scores of evaluation/purity.py ("contextual_kept_10") as `purity_curves` takes them."""
    curves = {title: {} for title in PURITY.values()}
    for name, value in values.items():
        kind, _, k = name.rpartition("_")
        curves[PURITY[kind]][int(k)] = value
    return {title: found for title, found in curves.items() if found}


PURITY = {
    "local": "by cosine",
    "local_kept": "by cosine, without those near a boundary",
    "contextual": "in context",
    "contextual_kept": "in context, without those near a boundary",
}
