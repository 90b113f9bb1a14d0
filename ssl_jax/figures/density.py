"""How densely features lie, near by and further off (Local Aggregation)."""

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.figures import style
from ssl_jax.ops.neighbours import nearest
from ssl_jax.ops.vectors import unit

_MOST = 4000  # rows that are asked for their neighbours, among all


def local_and_background(features, *, k: int = 30, background=(), rows=None):
    """Mean inner product of each row with its k nearest others, and with those of the ranks `background`.

    Local Aggregation's densities (Zhuang et al. 2019, its figure of both over ImageNet's 1.28 million training images).
    The caption does not give the ranks; we take the 30 nearest, and the 1000th to the 4096th. Small sets have no such
    ranks; there they shrink: see `background_ranks`.

    Args:
        features: [N, D] unit rows.
        k: neighbours that count as local, the row itself left out.
        background: first and last rank, from 1 (the nearest other row), both included.
        rows: [M] those rows to ask for; all of them where None.

    Returns:
        local [M], background [M].

    Raises:
        ValueError: ranks that the rows do not have.
    """
    points = unit(jnp.asarray(features))
    first, last = background or background_ranks(len(points), k)
    if not 1 <= k < len(points) or not 1 <= first <= last < len(points):
        raise ValueError(f"k={k}, ranks {first} to {last}: between 1 and the {len(points) - 1} other rows")
    own = points if rows is None else points[np.asarray(rows)]
    # The row itself is one of the nearest: all unit rows, so its similarity is the largest there is.
    found = np.asarray(jax.jit(lambda q, p: nearest(q, p, max(k, last) + 1)[0])(own, points))[:, 1:]
    return found[:, :k].mean(1), found[:, first - 1 : last].mean(1)


def background_ranks(examples: int, k: int = 30) -> tuple[int, int]:
    """First and last rank of the background: 1000 to 4096, or as many times less as a quarter of the rows is.

    So a set of 1,437 rows has the ranks 88 to 359. The first rank is never among the k nearest.
    """
    last = max(min(4096, examples // 4), min(k + 1, examples - 1))
    return min(max(round(1000 * last / 4096), k + 1), last), last


def densities(runs, *, k: int = 30, seed: int = 0):
    """Histograms of the local and the background density over all images, the runs on top of each other.

    Local Aggregation's finding: it raises the local density by much, the background density by little. Of more than
    4,000 images as many are drawn, which are asked for their neighbours among all.

    Args:
        runs: {name: [N, D] features}; rows are brought to unit length.
        k: neighbours that count as local.
        seed: of the draw.

    Raises:
        ValueError: no runs, or too few rows.
    """
    if not runs:
        raise ValueError("no features: give {name: [N, D]} of at least one run")
    found = {name: _sampled(np.asarray(x), k, seed) for name, x in runs.items()}
    ranks = {background_ranks(len(x), k) for x in runs.values()}
    span = "{} to {}".format(*ranks.pop()) if len(ranks) == 1 else "by size of the set"
    with style.styled():
        figure, axes = style.panels(1, 2, height=2.9, sharey=True)
        for i, (ax, title) in enumerate(zip(axes, (f"local: {k} nearest", f"background: ranks {span}"))):
            values = [pair[i] for pair in found.values()]
            low, high = min(v.min() for v in values), max(v.max() for v in values)
            bins = np.linspace(low, max(high, low + 1e-3), 41)
            for n, (name, own) in enumerate(zip(found, values)):
                weights = np.full(len(own), 100.0 / len(own))
                look = dict(color=style.colour(n), weights=weights, bins=bins)
                ax.hist(own, histtype="stepfilled", alpha=0.18, **look)
                ax.hist(own, histtype="step", linewidth=1.6, label=name, **look)
                ax.axvline(own.mean(), color=style.colour(n), linewidth=1.0, linestyle="--")
            ax.set(title=title, xlabel="mean cosine similarity", ylabel="" if i else "images (%)")
        lines = {h.get_label(): h for h in axes[0].get_legend_handles_labels()[0]}
        style.legend(figure, lines.values())
    return figure


def _sampled(features, k, seed):
    rows = None
    if len(features) > _MOST:
        rows = np.sort(np.random.default_rng(seed).choice(len(features), _MOST, replace=False))
    return local_and_background(features, k=k, rows=rows)
