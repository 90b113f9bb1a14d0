"""How dense features are, near by and further away (Local Aggregation)."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from ssl_jax.figures import style
from ssl_jax.interface import no_progress
from ssl_jax.ops.neighbours import nearest
from ssl_jax.ops.vectors import unit

_CHUNK = 1024  # rows whose neighbours are searched at a time
_TABLE = 2**28  # similarities held at a time, a gigabyte


def local_and_background(
    features: ArrayLike,
    *,
    k: int = 30,
    background: Sequence[int] = (),
    rows: ArrayLike | None = None,
    chunk: int = _CHUNK,
    report: Callable[[str], Any] = no_progress,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean inner product of each row with its k nearest others, and with its background.

    Local Aggregation's densities (Zhuang et al. 2019, its figure of both over ImageNet's 1.28
    million training images). The caption does not give the ranks; we take the 30 nearest, and the
    1000th to the 4096th. Smaller sets use smaller ranks; see `background_ranks`.

    Rows are compared with all others `chunk` at a time: besides the features, memory holds
    chunk x N similarities, at most a gigabyte.

    Args:
        features: [N, D] unit rows.
        k: number of local neighbours, without the row itself.
        background: first and last rank, from 1 (the nearest other row), both included.
        rows: [M] rows to compute densities for; all if None.
        chunk: rows compared at a time.
        report: takes a progress line before each chunk but the first.

    Returns:
        local [M], background [M].

    Raises:
        ValueError: ranks that the rows do not have.
    """
    points = unit(jnp.asarray(features))
    first, last = background or background_ranks(len(points), k)
    if not 1 <= k < len(points) or not 1 <= first <= last < len(points):
        raise ValueError(
            f"k={k}, ranks {first} to {last}: between 1 and the {len(points) - 1} other rows"
        )
    rows = np.arange(len(points)) if rows is None else np.asarray(rows)
    chunk = max(1, min(chunk, len(rows), _TABLE // len(points)))
    parts = []
    for start in range(0, len(rows), chunk):
        if start:
            report(f"density of {start:,} of {len(rows):,} images")
        # The last chunk repeats the last row, so that all have the same shape.
        places = np.minimum(start + np.arange(chunk), len(rows) - 1)
        parts.append(np.asarray(_densities(points, rows[places], k=k, first=first, last=last)))
    local, remote = np.concatenate(parts, axis=1)[:, : len(rows)]
    return local, remote


@functools.partial(jax.jit, static_argnames=("k", "first", "last"))
def _densities(points: jax.Array, rows: jax.Array, *, k: int, first: int, last: int) -> jax.Array:
    """Local and background density [2, M] of the rows [M] among `points` [N, D]."""
    similarity, _ = nearest(points[rows], points, max(k, last) + 1, chunk=len(rows))
    others = similarity[:, 1:]  # the first is the row itself, as no unit row is more similar
    return jnp.stack([others[:, :k].mean(axis=1), others[:, first - 1 : last].mean(axis=1)])


def background_ranks(examples: int, k: int = 30) -> tuple[int, int]:
    """First and last rank of the background: 1000 and 4096, scaled down for small sets.

    The last rank is a quarter of the rows if that is below 4096, and the first keeps its ratio to
    it. As far as the set allows, both are beyond the k nearest. A set of 1,437 rows has the ranks
    88 to 359.
    """
    last = max(min(4096, examples // 4), min(k + 1, examples - 1))
    return min(max(round(1000 * last / 4096), k + 1), last), last


def densities(
    runs: Mapping[str, ArrayLike], *, k: int = 30, report: Callable[[str], Any] = no_progress
) -> Figure:
    """Histograms of local and background density over all images, runs overlaid.

    Local Aggregation's finding: it raises the local density a lot, the background density a little.

    Args:
        runs: {name: [N, D] features}; rows are normalised to unit length.
        k: number of local neighbours.
        report: takes progress lines.

    Raises:
        ValueError: no runs, or too few rows.
    """
    if not runs:
        raise ValueError("no features: give {name: [N, D]} of at least one run")
    features = {name: np.asarray(x) for name, x in runs.items()}
    pairs = {}
    for name, x in features.items():
        pairs[name] = local_and_background(x, k=k, report=report)
    ranks = {background_ranks(len(x), k) for x in features.values()}
    span = "{} to {}".format(*ranks.pop()) if len(ranks) == 1 else "by size of the set"
    titles = (f"local: {k} nearest", f"background: ranks {span}")
    with style.styled():
        figure, axes = style.panels(1, 2, height=2.9, sharey=True)
        for i, (ax, title) in enumerate(zip(axes, titles)):
            _histograms(ax, {name: pair[i] for name, pair in pairs.items()})
            ax.set(title=title, xlabel="mean cosine similarity", ylabel="" if i else "images (%)")
        lines = {h.get_label(): h for h in axes[0].get_legend_handles_labels()[0]}
        style.legend(figure, lines.values())
    return figure


def _histograms(ax: Axes, runs: Mapping[str, np.ndarray]) -> None:
    low = min(values.min() for values in runs.values())
    high = max(values.max() for values in runs.values())
    bins = np.linspace(low, max(high, low + 1e-3), 41)
    for i, (name, values) in enumerate(runs.items()):
        weights = np.full(len(values), 100.0 / len(values))
        look = dict(color=style.colour(i), weights=weights, bins=bins)
        ax.hist(values, histtype="stepfilled", alpha=0.18, **look)
        ax.hist(values, histtype="step", linewidth=1.6, label=name, **look)
        ax.axvline(values.mean(), color=style.colour(i), linewidth=1.0, linestyle="--")
