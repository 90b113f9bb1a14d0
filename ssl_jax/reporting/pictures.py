"""The pictures of a report: figures with captions and descriptions in words."""

import base64
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import figures
from ssl_jax.evaluation.purity import Purity
from ssl_jax.figures import curves, style
from ssl_jax.figures.neighbours import matches
from ssl_jax.interface import Report, RunFacts, Split, no_progress
from ssl_jax.ops.kmeans import kmeans
from ssl_jax.ops.neighbours import boundary_ratio, inside, nearest
from ssl_jax.reporting.features import Features
from ssl_jax.reporting.record import Record
from ssl_jax.runs.scores import FEATURES
from ssl_jax.settings.resolve import SettingError

_NEIGHBOURS = 8  # shown for each query
QUERIES = 3  # of each kind
_MOST_QUERIES = 2000  # to choose from, if they are training images
_CLASSES = 6  # on a class map
_LOCAL = 30  # neighbours of a local density


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image embedded in the page.

    Attributes:
        uri: its data URI.
        alt: a description.
        caption: the text below it.
        inches: its width.
    """

    uri: str
    alt: str
    caption: str
    inches: float


def picture(figure: Any, alt: str, caption: str, kind: str = "svg") -> Picture:
    """A figure as a `Picture`; kind "png" suits figures with many points or images."""
    mime = {"svg": "image/svg+xml", "png": "image/png"}[kind]
    data = base64.b64encode(style.encoded(figure, kind)).decode()
    return Picture(f"data:{mime};base64,{data}", alt, caption, figure.get_figwidth())


def training(runs: Sequence[Record]) -> Picture:
    """Loss and scores over the epochs, of all runs."""
    names = curves.NAMES
    if any(run.evaluated is None for run in runs):
        names = (*names, *curves.SIGNS)
    figure = figures.training_curves({run.name: run.records for run in runs}, names)
    alt = f"Training loss and scores over the epochs of {', '.join(run.name for run in runs)}"
    captions = []
    scored = [run for run in runs if run.evaluated]
    if scored:
        captions.append("Labels are used for scoring only.")
    baselines = {FEATURES["pixels"], FEATURES["untrained"]}
    if any(baselines & run.scores.keys() for run in scored):
        captions.append("Thin lines: the same scores for raw pixels and the untrained encoder.")
    if len(runs) > 1:
        captions.append("Losses of different methods are not comparable.")
    return picture(figure, alt, " ".join(captions))


def rounds(runs: Sequence[Record]) -> Picture:
    """Progress of Anchor Neighbourhood Discovery, in all runs of it."""
    figure = figures.rounds({run.name: run.records for run in runs})
    alt = (
        "Neighbourhood quality, entropy and number of anchors by round, of "
        f"{', '.join(run.name for run in runs)}"
    )
    caption = (
        "Quality: share of neighbours in the same class as their image. A vertical line marks the "
        "start of a round, when its anchors are fixed. Entropy: of an image's similarities to the "
        "whole memory bank; bars span minimum to maximum. Images with the lowest entropy become "
        "anchors."
    )
    return picture(figure, alt, caption)


def densities(features: Mapping[str, Features], report: Report = no_progress) -> Picture:
    """Local and background density over the training images, of all runs.

    Raises:
        SettingError: too few images.
    """
    points = {}
    for name, x in features.items():
        points[name] = x.embed_all(report)
        if len(points[name]) <= _LOCAL:
            drawn = f" drawn of {x.of}" if len(points[name]) < x.of else ""
            raise SettingError(
                f"the density figure needs more than {_LOCAL} training images; {name} has "
                f"{len(points[name])}{drawn}"
            )
    figure = figures.densities(points, k=_LOCAL, report=report)
    alt = f"Histograms of local and background density of {', '.join(features)}"
    caption = (
        "Similarity to an image's nearest neighbours (local) and to more distant ones "
        "(background), as in Local Aggregation: a good embedding has high local density, but not "
        f"high density everywhere. Over {_counts(points, features)}. Dashed lines: means."
    )
    return picture(figure, alt, caption)


def _counts(points: Mapping[str, np.ndarray], features: Mapping[str, Features]) -> str:
    """How many training images densities are of: "all 1,437 training images"."""
    counts = []
    for name, x in features.items():
        used = len(points[name])
        text = f"all {used:,}" if used == x.of else f"{used:,} of {x.of:,}"
        counts.append(text)
    if len(set(counts)) == 1:
        return f"{counts[0]} training images"
    listed = (f"{text} of {name}" for name, text in zip(features, counts))
    return f"training images: {'; '.join(listed)}"


def neighbours(x: Features) -> Picture:
    """Nearest training images of some test images; see `choose_queries`."""
    from_training = not len(x.test_points)  # no unseen images
    queries = x.points[:_MOST_QUERIES] if from_training else x.test_points
    k = min(_NEIGHBOURS, len(x.points) - 1)
    similarity, index = _nearest(queries, x.points, k, exclude_self=from_training)
    labels = np.concatenate([x.labels, x.test_labels])
    rows = np.arange(len(queries)) + (0 if from_training else len(x.points))
    right = matches(rows, index, labels)
    chosen, how = choose_queries(right, similarity, labels[rows])
    drawn, places = np.unique(
        np.concatenate([rows[chosen, None], index[chosen]], axis=1), return_inverse=True
    )
    places = places.reshape(len(chosen), k + 1)
    figure = figures.neighbour_grid(
        [x.picture(row) for row in drawn],
        places[:, 0],
        places[:, 1:],
        similarity[chosen],
        labels=labels[drawn],
        names=x.names,
    )
    share = ""
    if not np.isnan(right).all():
        share = f"; over all queries, {np.nanmean(right):.1%} of neighbours are in the same class"
    kind = "training" if from_training else "test"
    shown = f"1 {kind} image" if len(chosen) == 1 else f"{len(chosen)} {kind} images, each"
    alt = f"{shown} with its {k} nearest training images and their similarities{share}"
    caption = f"{kind.capitalize()} images and their nearest training images: {how}{share}."
    return picture(figure, alt, caption, "png")


def _nearest(
    queries: np.ndarray, points: np.ndarray, k: int, *, exclude_self: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Similarity and index [Q, k] of the nearest of `points` [N, D].

    With `exclude_self` query i is point i, and not its own neighbour.
    """
    similarity, index = map(np.asarray, nearest(queries, points, k + exclude_self))
    if exclude_self:  # a query is not always its own first neighbour, as there may be duplicates
        is_self = index == np.arange(len(index))[:, None]
        order = np.argsort(is_self, axis=1, kind="stable")[:, :k]
        similarity = np.take_along_axis(similarity, order, 1)
        index = np.take_along_axis(index, order, 1)
    return similarity, index


def choose_queries(
    right: np.ndarray, similarity: np.ndarray, labels: np.ndarray, count: int = QUERIES
) -> tuple[np.ndarray, str]:
    """Chooses queries to show: confident successes and failures, if labels are known.

    Args:
        right: [Q, k] whether a neighbour has the query's class: 1, 0, or nan if unknown.
        similarity: [Q, k] of the neighbours.
        labels: [Q] classes; queries of different classes are preferred.
        count: queries of each kind.

    Returns:
        indices of the queries, and how they were chosen.
    """
    known = ~np.isnan(right)
    if not known.any():
        spread = np.linspace(0, len(right) - 1, min(2 * count, len(right)))
        return spread.astype(int), "evenly spaced over the set"
    shares = np.nansum(right, 1) / np.maximum(known.sum(1), 1)
    shares = np.where(known.any(1), shares, np.nan)
    confidence = similarity.mean(1)
    successes = most_confident(shares == 1, confidence, labels)
    failures = most_confident(shares < 0.5, confidence, labels)
    if not len(successes) and not len(failures):
        return np.argsort(shares)[: 2 * count], "those with the fewest neighbours of their class"
    how = (
        f"{_queries(len(successes), count, 'all neighbours right')}; "
        f"{_queries(len(failures), count, 'most neighbours wrong')}"
    )
    return np.concatenate([successes[:count], failures[:count]]), how


def _queries(found: int, most: int, which: str) -> str:
    """Says which of the `found` queries are shown, of which there are at most `most`."""
    if not found:
        return f"no query has {which}"
    if found == 1:
        return f"the only query with {which}"
    if most == 1:
        return f"the most confident query with {which}"
    return f"the {min(found, most)} most confident queries with {which}"


def most_confident(
    candidates: np.ndarray, confidence: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Indices of the candidates [Q] bool by confidence; the first of each class come first."""
    rows = np.flatnonzero(candidates)[np.argsort(-confidence[candidates], kind="stable")]
    first_of_class = np.unique(labels[rows], return_index=True)[1]
    first = rows[np.sort(first_of_class)]
    return np.concatenate([first, rows[~np.isin(rows, first)]])


def class_map(x: Features) -> Picture:
    """A map of all classes, or of the three that keep together best and the three that do least."""
    classes = [int(label) for label in np.unique(x.labels[x.labels >= 0])]
    how = f"all classes: {_listed(classes, x.names)}"
    if len(classes) > _CLASSES:
        _, index = _nearest(x.points, x.points, min(10, len(x.points) - 1), exclude_self=True)
        right = matches(np.arange(len(index)), index, x.labels)
        by_share = sorted(classes, key=lambda label: -np.nanmean(right[x.labels == label]))
        best = by_share[: _CLASSES // 2]
        worst = by_share[-_CLASSES // 2 :]
        how = (
            f"the three classes whose neighbours agree most ({_listed(best, x.names)}) and least "
            f"({_listed(worst, x.names)})"
        )
        classes = sorted(best + worst)
    figure = figures.class_map(x.points, x.labels, classes, names=x.names)
    alt = (
        f"Map of images of the classes {_listed(classes, x.names)} by multidimensional scaling of "
        "their embeddings"
    )
    caption = f"Multidimensional scaling of up to 100 images per class; {how}."
    return picture(figure, alt, caption, "png")


def _listed(classes: Sequence[int], names: Sequence[str]) -> str:
    return ", ".join(style.name_of(label, names) for label in classes)


def tsne(x: Features) -> Picture:
    """t-SNE; if training excludes samples near cluster boundaries, these are drawn small."""
    by_class = ", coloured by class" if (x.labels >= 0).any() else ""
    alt = f"t-SNE of the embeddings{by_class}"
    caption = f"t-SNE of training images{by_class}."
    near_boundary = None
    boundary = x.settings["positives"].get("boundary", {})
    keep = boundary.get("keep", 1.0)
    if keep < 1:
        clusters = boundary["clusters"] or len(x.names)
        points = jnp.asarray(x.points)
        clustering = kmeans(jax.random.key(0), points, clusters, iterations=50, restarts=10)
        ratio = boundary_ratio(points, clustering.centroids, clustering.labels)
        near_boundary = ~np.asarray(inside(ratio, max(int(keep * len(x.points)), 1)))
        alt += ", with samples near a cluster boundary small, and alone in a second panel"
        caption += (
            f" Small: the {1 - keep:.0%} nearest to a boundary between {clusters} clusters, the "
            "share that training excludes at the start."
        )
    figure = figures.tsne(x.points, x.labels, boundary=near_boundary, names=x.names)
    return picture(figure, alt, caption, "png")


def purity(x: Features) -> Picture:
    """Share of the K nearest in a batch of 256 that share an image's class; 256 as in the paper.

    Batches are of labelled images; with fewer than 256 these are one batch.
    """
    batch_size = min(256, int((x.labels >= 0).sum()))
    settings = dict(x.settings["evals"].get("purity", {}))
    for name in ("name", "neighbours", "batch_size", "feature"):
        settings.pop(name, None)
    facts = RunFacts(examples=len(x.points), classes=len(x.names))
    evaluator = Purity(
        **settings,
        neighbours=tuple(range(1, min(30, batch_size - 1) + 1)),
        batch_size=batch_size,
        facts=facts,
    )
    evaluator.check(facts)
    scores = dict(evaluator.run({"trained": Split({"embedding": x.points}, x.labels)}, None))
    figure = figures.purity_curves(curves.of_evaluator(scores))
    alt = "Share of the K nearest in a batch that are of an image's class, for K from 1 to 30"
    of_class = batch_size // max(len(x.names), 1)
    images = "1 image" if of_class == 1 else f"{of_class} images"
    caption = (
        f"Purity of neighbourhoods in batches of {batch_size} (CoNR, figure 2). A batch holds "
        f"about {images} of each class, so purity must fall for K above {of_class}."
    )
    return picture(figure, alt, caption)


def prototypes(x: Features, records: Sequence[Mapping[str, Any]]) -> Picture:
    """SwAV's prototypes: which ones images prefer, and codes during training."""
    figure = figures.prototypes(x.scores, records=records)
    alt = "How many images prefer each prototype; code entropy and prototypes used over the epochs"
    caption = (
        "Prototypes by the number of training images that prefer them. Right: averages over "
        "training batches, as logged."
    )
    return picture(figure, alt, caption)
