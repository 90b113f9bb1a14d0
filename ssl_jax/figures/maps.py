"""Features in two dimensions: MDS of chosen classes (Local Aggregation), t-SNE with boundary samples (CoNR)."""

import numpy as np
from matplotlib.lines import Line2D
from sklearn.manifold import TSNE, smacof
from threadpoolctl import threadpool_limits

from ssl_jax.figures import style

_PER_CLASS = 100  # of Local Aggregation's figure
_MOST = 2000  # points of a t-SNE
_NAMED = 20  # classes with a legend, at most


def class_map(features, labels, classes, *, names=(), seed=0):
    """Multi-dimensional scaling of the cosine distances of up to 100 images of each chosen class.

    Metric MDS (SMACOF) from classical MDS as a start, so that only the draw of the images is random. Axes have no
    unit of their own: distances in the plane stand for sqrt(2 - 2 cosine).

    Args:
        features: [N, D]; rows are brought to unit length.
        labels: [N] int.
        classes: those that are shown.
        names: of all classes.
        seed: of the draw.

    Raises:
        ValueError: a class without images.
    """
    features, labels = np.asarray(features), np.asarray(labels)
    rng, rows = np.random.default_rng(seed), []
    for c in classes:
        found = np.flatnonzero(labels == c)
        if not len(found):
            raise ValueError(f"class {c} has no images; there are {np.unique(labels[labels >= 0]).tolist()}")
        rows.append(np.sort(rng.permutation(found)[:_PER_CLASS]))
    if not rows or sum(map(len, rows)) < 3:
        raise ValueError("too few images: give classes with at least three images in all")
    rows = np.concatenate(rows)
    places = scaled(_unit(features[rows]))
    with style.styled():
        figure, (ax,) = style.panels(1, 1, width=5.6, height=4.9)
        _scatter(ax, places, labels[rows], list(classes), np.full(len(rows), 22.0))
        _plane(ax, "MDS", f"{len(rows)} images of {len(classes)} classes")
        ax.set_aspect("equal", adjustable="datalim")
        _legend(figure, list(classes), names)
    return figure


def scaled(points):
    """Places [n, 2] whose distances are as near as can be to those of `points` [n, D]."""
    square = np.maximum(np.sum(points**2, 1)[:, None] - 2 * points @ points.T + np.sum(points**2, 1)[None], 0.0)
    np.fill_diagonal(square, 0.0)
    centred = points - points.mean(0)
    left, size, _ = np.linalg.svd(centred, full_matrices=False)
    start = np.zeros((len(points), 2))
    start[:, : min(2, len(size))] = (left * size)[:, :2]
    settings = dict(n_components=2, init=start, n_init=1, max_iter=300, normalized_stress=False)
    with threadpool_limits(1):  # threads that wait for each other, where others compute, cost more than they give
        return smacof(np.sqrt(square), **settings)[0]


def tsne(features, labels, *, boundary=None, names=(), seed=0):
    """t-SNE of the features, a colour for each class; with `boundary`, those samples small, and alone beside it.

    As CoNR's figure 4. Of more than 2,000 rows as many are drawn. Axes of a t-SNE have no unit.

    Args:
        features: [N, D]; rows are brought to unit length.
        labels: [N] int; -1, unlabelled, is grey.
        boundary: [N] bool: samples near the boundary of their cluster.
        names: of the classes.
        seed: of the draw and of t-SNE.

    Raises:
        ValueError: fewer than five rows, or lengths that differ.
    """
    features, labels = np.asarray(features), np.asarray(labels)
    near = np.zeros(len(labels), bool) if boundary is None else np.asarray(boundary, bool)
    if not len(features) == len(labels) == len(near) or len(features) < 5:
        raise ValueError(f"{len(features)} features, {len(labels)} labels, {len(near)} flags: as many each, at least 5")
    rows = np.sort(np.random.default_rng(seed).permutation(len(features))[:_MOST])
    places = TSNE(2, perplexity=min(30.0, (len(rows) - 1) / 3), init="pca", random_state=seed)
    with threadpool_limits(1):
        places = places.fit_transform(_unit(features[rows]).astype(np.float32))
    labels, near = labels[rows], near[rows]
    classes, two = np.unique(labels[labels >= 0]).tolist(), boundary is not None
    with style.styled():
        figure, axes = style.panels(1, 1 + two, height=3.9 if two else 4.9, width=style.WIDTH if two else 5.6)
        _scatter(axes[0], places, labels, classes, np.where(near, 3.0, 16.0))
        _plane(
            axes[0],
            "t-SNE",
            f"{len(rows):,} images" + (", those near a boundary small" if two else f" of {len(classes)} classes"),
        )
        if two:
            _scatter(axes[1], places[near], labels[near], classes, np.full(int(near.sum()), 9.0))
            _plane(axes[1], "t-SNE", f"the {int(near.sum())} near a boundary alone")
            axes[1].set(xlim=axes[0].get_xlim(), ylim=axes[0].get_ylim())
        _legend(figure, classes, names, unlabelled=bool((labels < 0).any()))
    return figure


def looks(classes) -> list[int]:
    """Which colour and mark each class has: always its own, where those shown do not come into conflict."""
    own, kinds = list(classes), len(style.PALETTE) * len(style.MARKERS)
    return own if len({c % kinds for c in own}) == len(own) else list(range(len(own)))


def _unit(x):
    x = np.asarray(x, np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def _scatter(ax, places, labels, classes, sizes):
    look = dict(linewidths=0, alpha=0.8, rasterized=True)
    rest = ~np.isin(labels, classes)
    ax.scatter(*places[rest].T, s=sizes[rest], color="#C4C9D1", **look)
    for i, c in zip(looks(classes), classes):
        own = labels == c
        ax.scatter(*places[own].T, s=sizes[own], color=style.colour(i), marker=style.marker(i), **look)


def _plane(ax, method, title):
    ax.set(title=title, xticks=[], yticks=[], xlabel=f"{method} 1 (no unit)", ylabel=f"{method} 2 (no unit)")
    for side in ("top", "right"):
        ax.spines[side].set_visible(True)


def _legend(figure, classes, names, unlabelled=False):
    look = dict(linestyle="", markersize=5)
    handles = [
        Line2D([], [], color=style.colour(i), marker=style.marker(i), label=style.name_of(c, names), **look)
        for i, c in zip(looks(classes), classes)
    ]
    if unlabelled:
        handles.append(Line2D([], [], color="#C4C9D1", marker="o", label="unlabelled", **look))
    if len(handles) <= _NAMED:
        style.legend(figure, handles)
