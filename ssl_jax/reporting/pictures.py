"""The pictures of a report: which figures fit a run, what stands under them, what they show in words."""

import base64
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import figures
from ssl_jax.evaluation.purity import Purity
from ssl_jax.figures import curves, style
from ssl_jax.figures.neighbours import matches
from ssl_jax.interface import RunFacts, Split
from ssl_jax.ops.kmeans import kmeans
from ssl_jax.ops.neighbours import boundary_ratio, inside, nearest

_SHOWN, _EACH = 8, 3  # neighbours of a query; queries of a kind
_CLASSES = 6  # of a class map


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image inside the page: its data URI, what it shows in words, what stands under it, and its width."""

    uri: str
    alt: str
    caption: str
    inches: float


def picture(figure, alt: str, caption: str, kind: str = "svg") -> Picture:
    """A figure as a `Picture`; "png" for those of many points or of images."""
    mime = {"svg": "image/svg+xml", "png": "image/png"}[kind]
    data = base64.b64encode(style.encoded(figure, kind)).decode()
    return Picture(f"data:{mime};base64,{data}", alt, caption, figure.get_figwidth())


def training(runs) -> Picture:
    """Loss and scores over the epochs, all runs."""
    figure = figures.training_curves({run.name: run.records for run in runs})
    alt = f"Training loss and scores over the epochs of {', '.join(run.name for run in runs)}"
    caption = "Labels are for scoring only. Thin lines: the same scores of raw pixels and of the untrained encoder."
    caption += " Losses of different methods are not to be compared." if len(runs) > 1 else ""
    return picture(figure, alt, caption)


def rounds(runs) -> Picture:
    """Anchor Neighbourhood Discovery, all runs of it."""
    alt = f"Neighbourhood quality, entropy and number of anchors by round, of {', '.join(r.name for r in runs)}"
    caption = (
        "Quality: the share of neighbours that are of an image's class; at upright lines a round begins, and its "
        "anchors are frozen. Entropy: of an image's similarities to the whole memory bank; bars reach from the least "
        "to the largest. Anchors are the images with the least."
    )
    return picture(figures.rounds({run.name: run.records for run in runs}), alt, caption)


def densities(features) -> Picture:
    """Local and background density, all runs: {name: Features}."""
    alt = f"Histograms of local and of background density of {', '.join(features)}"
    caption = (
        "How near an image's nearest are, and those further off (Local Aggregation): a good embedding is dense near "
        "by, not everywhere. Broken lines: means."
    )
    return picture(figures.densities({name: x.points for name, x in features.items()}), alt, caption)


def neighbours(x) -> Picture:
    """Nearest training images of some images: three confident successes and three failures where labels are known."""
    own = not len(x.test_points)  # no unseen images: some of those trained on
    asked = x.points[:2000] if own else x.test_points
    k = min(_SHOWN, len(x.points) - 1)
    similarity, index = _nearest(asked, x.points, k, own)
    labels = np.concatenate([x.labels, x.test_labels])
    rows = np.arange(len(asked)) + (0 if own else len(x.points))
    right = matches(rows, index, labels)
    chosen, how = choose_queries(right, similarity, labels[rows])
    images = np.concatenate([x.images, x.test_images])
    figure = figures.neighbour_grid(
        images, rows[chosen], index[chosen], similarity[chosen], labels=labels, names=x.names
    )
    share = f"; {np.nanmean(right):.1%} of all such neighbours are of the class" if not np.isnan(right).all() else ""
    kind = "training" if own else "test"
    alt = f"{len(chosen)} {kind} images, each with its {k} nearest training images and their similarities{share}"
    return picture(figure, alt, f"{kind.capitalize()} images and their nearest training images: {how}{share}.", "png")


def _nearest(asked, points, k, own):
    """Similarity and index [Q, k] of the nearest rows of `points`; with `own` row i is asked for, and left out."""
    similarity, index = map(np.asarray, nearest(asked, points, k + own))
    if own:  # not always the first, as pictures may be there twice
        order = np.argsort(index == np.arange(len(index))[:, None], axis=1, kind="stable")[:, :k]
        similarity, index = (np.take_along_axis(a, order, 1) for a in (similarity, index))
    return similarity, index


def choose_queries(right, similarity, labels, count: int = _EACH):
    """Rows to show, and how they were chosen.

    Args:
        right: [Q, k] of 1, 0 and nan: a neighbour is of the query's class, is not, unknown.
        similarity: [Q, k].
        labels: [Q]; of each kind one of a class, as long as there are classes enough.
        count: of each kind.
    """
    known, sure = ~np.isnan(right), similarity.mean(1)
    share = np.where(known.any(1), np.nansum(right, 1) / np.maximum(known.sum(1), 1), np.nan)
    if not known.any():
        return np.linspace(0, len(right) - 1, min(2 * count, len(right))).astype(int), "spread over the set"
    kinds = []
    for wanted in (share == 1, share < 0.5):
        rows = np.flatnonzero(wanted)[np.argsort(-sure[wanted], kind="stable")]
        first = np.unique(labels[rows], return_index=True)[1]
        once = rows[np.sort(first)]
        kinds.append(np.concatenate([once, rows[~np.isin(rows, once)]])[:count])
    good, bad = map(len, kinds)
    if not good + bad:
        return np.argsort(share)[: 2 * count], "those with the fewest of their class"
    how = f"the {good} nearest of those with all neighbours right" if good else "none has all neighbours right"
    worse = f"the {bad} nearest of those with most of them wrong" if bad else "none has most of them wrong"
    return np.concatenate(kinds), f"{how}; {worse}"


def class_map(x) -> Picture:
    """MDS of three classes that keep together and of three that do not."""
    classes = [int(c) for c in np.unique(x.labels[x.labels >= 0])]
    listed = lambda part: ", ".join(style.name_of(c, x.names) for c in part)
    how = f"all classes: {listed(classes)}"
    if len(classes) > _CLASSES:
        index = _nearest(x.points, x.points, min(10, len(x.points) - 1), own=True)[1]
        right = matches(np.arange(len(index)), index, x.labels)
        order = sorted(classes, key=lambda c: -np.nanmean(right[x.labels == c]))
        together, apart = order[: _CLASSES // 2], order[-_CLASSES // 2 :]
        how = f"the three classes that keep together best ({listed(together)}) and least ({listed(apart)})"
        classes = sorted(together + apart)
    figure = figures.class_map(x.points, x.labels, classes, names=x.names)
    alt = f"Map of images of the classes {listed(classes)} by multi-dimensional scaling of their embeddings"
    return picture(figure, alt, f"Multi-dimensional scaling, up to 100 images of a class; {how}.", "png")


def tsne(x) -> Picture:
    """t-SNE; where the run leaves boundary samples out, these small."""
    near, keep = None, x.settings["positives"].get("boundary", {}).get("keep", 1.0)
    if keep < 1:
        clusters = x.settings["positives"]["boundary"]["clusters"] or len(x.names)
        found = kmeans(jax.random.key(0), jnp.asarray(x.points), clusters, iterations=50, restarts=10)
        ratio = boundary_ratio(jnp.asarray(x.points), found.centroids, found.labels)
        near = ~np.asarray(inside(ratio, max(int(keep * len(x.points)), 1)))
    figure = figures.tsne(x.points, x.labels, boundary=near, names=x.names)
    alt = "t-SNE of the embeddings, a colour for each class"
    caption = "t-SNE of training images, coloured by class."
    if near is not None:
        caption += (
            f" Small: the {1 - keep:.0%} nearest to a boundary between {clusters} clusters, the share that training "
        )
        caption += "leaves out at first."
        alt += ", samples near a boundary between clusters small, and alone in a second panel"
    return picture(figure, alt, caption, "png")


def purity(x) -> Picture:
    """How many of the K nearest in a batch of 256, the paper's, are of one's class, K = 1 to 30."""
    own, batch_size = x.settings["evals"].get("purity", {}), min(256, len(x.points))
    settings = {k: v for k, v in own.items() if k not in ("name", "neighbours", "batch_size", "feature")}
    settings |= dict(neighbours=tuple(range(1, min(30, batch_size - 1) + 1)), batch_size=batch_size)
    facts = RunFacts(examples=len(x.points), classes=len(x.names))
    evaluator = Purity(**settings, facts=facts)
    evaluator.check(facts)
    found = dict(evaluator.run({"trained": Split({"embedding": x.points}, x.labels)}, None))
    figure = figures.purity_curves(curves.of_evaluator(found))
    caption = (
        f"Purity of neighbourhoods in batches of {batch_size} (CoNR, figure 2). A class has about "
        f"{batch_size // max(len(x.names), 1)} images in a batch, so that beyond as many neighbours every curve falls."
    )
    return picture(
        figure, "Share of the K nearest in a batch that are of an image's class, for K from 1 to 30", caption
    )


def prototypes(x, records) -> Picture:
    """SwAV: which prototypes images prefer, and codes over training."""
    caption = "Prototypes by how many training images prefer them. Right: mean over the batches, as logged in training."
    alt = "How many images prefer each prototype; code entropy and prototypes used over the epochs"
    return picture(figures.prototypes(x.scores, records=records), alt, caption)
