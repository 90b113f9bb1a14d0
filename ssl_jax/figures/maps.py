"""Features in two dimensions: MDS of chosen classes (Local Aggregation) and t-SNE (CoNR)."""

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike
from sklearn.manifold import TSNE, smacof
from threadpoolctl import threadpool_limits

from ssl_jax.figures import style

_PER_CLASS = 100  # as in Local Aggregation's figure
_MAX_POINTS = 2000  # of a t-SNE
_MAX_NAMED = 20  # classes with a legend
_UNLABELLED = "#C4C9D1"


def class_map(
    features: ArrayLike,
    labels: ArrayLike,
    classes: Sequence[int],
    *,
    names: Sequence[str] = (),
    seed: int = 0,
) -> Figure:
    """Multi-dimensional scaling of the cosine distances of up to 100 images of each chosen class.

    Metric MDS (SMACOF), started from classical MDS, so that only the sample of images is random.
    The axes have no unit; distances in the plane approximate sqrt(2 - 2 cosine).

    Args:
        features: [N, D]; rows are normalised to unit length.
        labels: [N] int.
        classes: the classes to show.
        names: names of all classes.
        seed: seed of the sample.

    Raises:
        ValueError: a class without images.
    """
    features = np.asarray(features)
    labels = np.asarray(labels)
    rng = np.random.default_rng(seed)
    rows = []
    for c in classes:
        members = np.flatnonzero(labels == c)
        if not len(members):
            raise ValueError(
                f"class {c} has no images; there are {np.unique(labels[labels >= 0]).tolist()}"
            )
        rows.append(np.sort(rng.permutation(members)[:_PER_CLASS]))
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


def scaled(points: np.ndarray) -> np.ndarray:
    """Places [n, 2] whose distances approximate those of `points` [n, D], by metric MDS."""
    square = np.maximum(
        np.sum(points**2, 1)[:, None] - 2 * points @ points.T + np.sum(points**2, 1)[None], 0.0
    )
    np.fill_diagonal(square, 0.0)
    centred = points - points.mean(0)
    left, size, _ = np.linalg.svd(centred, full_matrices=False)
    start = np.zeros((len(points), 2))
    start[:, : min(2, len(size))] = (left * size)[:, :2]
    settings = dict(n_components=2, init=start, n_init=1, max_iter=300, normalized_stress=False)
    with threadpool_limits(1):  # more threads wait for each other on a busy machine
        return smacof(np.sqrt(square), **settings)[0]


def tsne(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    boundary: ArrayLike | None = None,
    names: Sequence[str] = (),
    seed: int = 0,
) -> Figure:
    """t-SNE of the features, coloured by class (CoNR, figure 4).

    With `boundary`, boundary samples are drawn small, and alone in a second panel. With more than
    2,000 rows, 2,000 are sampled. The axes have no unit.

    Args:
        features: [N, D]; rows are normalised to unit length.
        labels: [N] int; -1 (unlabelled) is grey.
        boundary: [N] bool: samples near the boundary of their cluster.
        names: class names.
        seed: seed of the sample and of t-SNE.

    Raises:
        ValueError: fewer than five rows, or lengths that differ.
    """
    features = np.asarray(features)
    labels = np.asarray(labels)
    near = np.zeros(len(labels), bool) if boundary is None else np.asarray(boundary, bool)
    if not len(features) == len(labels) == len(near) or len(features) < 5:
        raise ValueError(
            f"{len(features)} features, {len(labels)} labels, {len(near)} flags: give the same "
            "number of each, at least 5"
        )
    rows = np.sort(np.random.default_rng(seed).permutation(len(features))[:_MAX_POINTS])
    model = TSNE(2, perplexity=min(30.0, (len(rows) - 1) / 3), init="pca", random_state=seed)
    with threadpool_limits(1):
        places = model.fit_transform(_unit(features[rows]).astype(np.float32))
    labels = labels[rows]
    near = near[rows]
    classes = np.unique(labels[labels >= 0]).tolist()
    with style.styled():
        if boundary is None:
            figure, axes = style.panels(1, 1, height=4.9, width=5.6)
            title = f"{len(rows):,} images"
            if classes:
                title += f" of {len(classes)} class{'es' if len(classes) > 1 else ''}"
        else:
            figure, axes = style.panels(1, 2, height=3.9)
            title = f"{len(rows):,} images, those near a boundary small"
        _scatter(axes[0], places, labels, classes, np.where(near, 3.0, 16.0))
        _plane(axes[0], "t-SNE", title)
        if boundary is not None:
            _scatter(axes[1], places[near], labels[near], classes, np.full(int(near.sum()), 9.0))
            _plane(axes[1], "t-SNE", f"only the {int(near.sum())} near a boundary")
            axes[1].set(xlim=axes[0].get_xlim(), ylim=axes[0].get_ylim())
        _legend(figure, classes, names, unlabelled=bool((labels < 0).any()))
    return figure


def looks(classes: Iterable[int]) -> list[int]:
    """Numbers of the classes' colours and markers: the classes, unless two would look alike."""
    classes = list(classes)
    kinds = len(style.PALETTE) * len(style.MARKERS)
    distinct = len({c % kinds for c in classes}) == len(classes)
    return classes if distinct else list(range(len(classes)))


def _unit(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def _scatter(
    ax: Axes, places: np.ndarray, labels: np.ndarray, classes: Sequence[int], sizes: np.ndarray
) -> None:
    look = dict(linewidths=0, alpha=0.8, rasterized=True)
    rest = ~np.isin(labels, classes)
    ax.scatter(*places[rest].T, s=sizes[rest], color=_UNLABELLED, **look)
    for i, c in zip(looks(classes), classes):
        members = labels == c
        ax.scatter(
            *places[members].T,
            s=sizes[members],
            color=style.colour(i),
            marker=style.marker(i),
            **look,
        )


def _plane(ax: Axes, method: str, title: str) -> None:
    ax.set(
        title=title,
        xticks=[],
        yticks=[],
        xlabel=f"{method} 1 (no unit)",
        ylabel=f"{method} 2 (no unit)",
    )
    for side in ("top", "right"):
        ax.spines[side].set_visible(True)


def _legend(
    figure: Figure, classes: Sequence[int], names: Sequence[str], unlabelled: bool = False
) -> None:
    look = dict(linestyle="", markersize=5)
    handles = []
    for i, c in zip(looks(classes), classes):
        label = style.name_of(c, names)
        handles.append(
            Line2D([], [], color=style.colour(i), marker=style.marker(i), label=label, **look)
        )
    if unlabelled:
        handles.append(Line2D([], [], color=_UNLABELLED, marker="o", label="unlabelled", **look))
    if len(handles) <= _MAX_NAMED:
        style.legend(figure, handles)
