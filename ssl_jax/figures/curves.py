"""Numbers of several runs over epochs or neighbours."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
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
SIGNS = ("train/spread", "train/prototypes_used", "train/clusters_used", "refresh/clusters_used")
# Title, axis label and factor of each name.
_MEANING = {
    "train/loss": ("training loss", "loss (method-specific)", 1.0),
    "train/learning_rate": ("learning rate", "rate", 1.0),
    "speed/images_per_second": ("speed", "images per second", 1.0),
    "train/spread": ("spread of the embeddings", "spread (0: one point)", 1.0),
    "train/prototypes_used": ("prototypes in use", "share of a batch's most (%)", 100.0),
    "train/clusters_used": ("clusters in use", "effective share (%)", 100.0),
    "refresh/clusters_used": ("clusters in use", "effective share (%)", 100.0),
    "eval/knn/top1": ("kNN", "test accuracy (%)", 100.0),
    "eval/linear/top1": ("linear classifier", "test accuracy (%)", 100.0),
    "eval/clustering/acc": ("clustering accuracy", "accuracy (%)", 100.0),
    "eval/clustering/nmi": ("normalised mutual information", "NMI", 1.0),
    "eval/clustering/ari": ("adjusted Rand index", "ARI", 1.0),
}
_DOTTED = (0, (1, 1.5))
_DASHED = (0, (5, 2))
_BASELINES = {
    "pixels": ("raw pixels", _DOTTED),
    "untrained": ("untrained encoder", _DASHED),
}
_MAX_POINTS = 600  # of a curve
_Records = Sequence[Mapping[str, Any]]
_Dash = tuple[float, tuple[float, float]]


def training_curves(runs: Mapping[str, _Records], names: Sequence[str] = NAMES) -> Figure:
    """One panel per name, one line per run, thin lines for the baselines.

    Names that no run has are left out. Baselines are the scores of raw pixels and of the untrained
    encoder: grey if all runs agree on them, else in the run's colour.

    Args:
        runs: {run name: records}, as from `metrics.read_records`.
        names: keys of numbers in the records, such as "train/loss".

    Raises:
        ValueError: no run has any of them.
    """
    shown = [n for n in names if any(n in r for records in runs.values() for r in records)]
    if not shown:
        raise ValueError(f"no record has any of: {', '.join(names)}")
    last = max(r["epoch"] for records in runs.values() for r in records) or 1.0
    with style.styled():
        columns = min(3, len(shown))
        figure, axes = style.panels(
            -(-len(shown) // columns), columns, width=4.0 + 1.6 * columns, height=2.45
        )
        dashes = {}
        for ax, name in zip(axes, shown):
            title, label, factor = _MEANING.get(name, (name, name.rpartition("/")[2], 1.0))
            for i, records in enumerate(runs.values()):
                x, y = series(records, name)
                marker = dict(marker="o") if name.startswith("eval/") and len(x) <= 60 else {}
                ax.plot(*_thinned(x, y * factor), color=style.colour(i), **marker)
            dashes |= _baselines(ax, runs, name, factor)
            ax.set(title=title, xlabel="epoch", ylabel=label, xlim=(0, last * 1.02))
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5, min_n_ticks=1))
        for ax in axes[len(shown) :]:
            ax.axis("off")
        handles = [Line2D([], [], color=style.colour(i), label=n) for i, n in enumerate(runs)]
        grey = dict(color=style.QUIET, linewidth=1.0)
        for label, dash in dashes.items():
            handles.append(Line2D([], [], label=label, linestyle=dash, **grey))
        style.legend(figure, handles)
    return figure


def series(records: Iterable[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Epochs [n] and values [n] of one number in the records of a run."""
    points = [(r["epoch"], r[name]) for r in records if isinstance(r.get(name), int | float)]
    epochs, values = np.array(points, np.float64).reshape(-1, 2).T
    return epochs, values


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most `_MAX_POINTS` points, each the mean of a stretch of the curve."""
    if len(x) <= _MAX_POINTS:
        return x, y
    parts = np.array_split(np.arange(len(x)), _MAX_POINTS)
    return np.array([x[p].mean() for p in parts]), np.array([y[p].mean() for p in parts])


def _baselines(
    ax: Axes, runs: Mapping[str, _Records], name: str, factor: float
) -> dict[str, _Dash]:
    """Draws the baselines that exist; returns {label: line style}."""
    if not name.startswith("eval/"):
        return {}
    drawn = {}
    for prefix, (label, dash) in _BASELINES.items():
        levels = {}
        for i, records in enumerate(runs.values()):
            _, values = series(records, name.replace("eval/", f"{prefix}/", 1))
            if len(values):
                levels[i] = values[-1] * factor
        if not levels:
            continue
        same = max(levels.values()) - min(levels.values()) < 1e-3 * factor
        for i, level in list(levels.items())[: 1 if same else None]:
            ax.axhline(
                level,
                color=style.QUIET if same else style.colour(i),
                linewidth=0.9,
                linestyle=dash,
                zorder=1,
            )
        drawn[label] = dash
    return drawn


def purity_curves(curves: Mapping[str, Mapping[int, float]]) -> Figure:
    """The share of same-class images among the K nearest in the batch, over K (CoNR, figure 2).

    Args:
        curves: {name: {K: purity}}, fractions.

    Raises:
        ValueError: there are none.
    """
    if not curves or not all(curves.values()):
        raise ValueError("no purities: give {name: {K: purity}} with at least one K each")
    with style.styled():
        figure, (ax,) = style.panels(1, 1, width=5.6, height=3.4)
        for i, (name, purities) in enumerate(curves.items()):
            ks = sorted(purities)
            ax.plot(
                ks,
                [100.0 * purities[k] for k in ks],
                marker="o" if len(ks) <= 10 else "",
                label=name,
                color=style.colour(i),
            )
        ax.set(
            xlabel="K, neighbours of an image in its batch",
            ylabel="same-class neighbours (%)",
            xlim=(0, None),
        )
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        style.legend(figure, ax.get_legend_handles_labels()[0])
    return figure


def of_evaluator(values: Mapping[str, float]) -> dict[str, dict[int, float]]:
    """The scores of evaluation/purity.py ("contextual_kept_10") as curves for `purity_curves`."""
    curves = {title: {} for title in PURITY.values()}
    for name, value in values.items():
        kind, _, k = name.rpartition("_")
        curves[PURITY[kind]][int(k)] = value
    return {title: purities for title, purities in curves.items() if purities}


PURITY = {
    "local": "by cosine",
    "local_kept": "by cosine, without those near a boundary",
    "contextual": "in context",
    "contextual_kept": "in context, without those near a boundary",
}
