"""Clusters beside those that k-means makes of raw pixels: does the encoder add anything?

Silhouettes of two spaces say nothing about each other: pixels of dark and of bright images lie in
tight clusters. With labels, the clusters that agree better with them are the better ones. Without
labels, no number says which are better, but one says whether they differ: what both clusterings
share, beyond chance.
"""

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ssl_jax.clustering.placement import OUTLIER, ClusterAssignment
from ssl_jax.data.channels import as_channels
from ssl_jax.evaluation import metrics
from ssl_jax.inference.pretrained import Encoder
from ssl_jax.inference.scorer import PIXELS, raw_pixels
from ssl_jax.interface import no_progress
from ssl_jax.ops.vectors import unit

ROWS = 10_000  # images whose pixels are clustered, at most
SILHOUETTES = 5_000  # of these, images whose silhouettes are computed
CLUSTERS = 500  # more than this many are not compared
_NUMBERS = 4 * 10**7  # pixels in memory, which may mean fewer images
_MANY = 50  # clusters from which on one start has to do
_STARTS = 3
_ITERATIONS = 30
_BLOCK = 500  # images read at once
_MOSTLY = 0.5  # of the information shared: the clusters are largely those of raw pixels
_SEED = 0
SCORES = {
    "ACC": metrics.clustering_accuracy,
    "NMI": metrics.normalized_mutual_info,
    "ARI": metrics.adjusted_rand_index,
}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Clusters of the encoder, and as many of raw pixels, on the same images.

    Attributes:
        images: number of images that were compared.
        of: number of all images.
        silhouettes: mean silhouette (cosine) of the encoder's clusters in its features, and of the
            pixels' clusters in the pixels.
        shared: normalised mutual information of both clusterings.
        beyond_chance: the same, less what clusterings by chance would share: 0 for those.
        scores: agreement with the labels by name, of the encoder's clusters and of the pixels';
            empty without labels.
        outliers: how many of all images are in no cluster; they are not compared.
    """

    images: int
    of: int
    silhouettes: tuple[float, float]
    shared: float
    beyond_chance: float
    scores: dict[str, tuple[float, float]]
    outliers: int = 0

    def lines(self) -> Iterator[str]:
        """What it says, in sentences."""
        where = ""
        if self.images < self.of:
            left_out = ", without the outliers" if self.outliers else ""
            where = f" (on {self.images:,} of {self.of:,} images{left_out})"
        ours, theirs = self.silhouettes
        yield (
            f"silhouette by cosine{where}: {ours:.2f} in the features; as many clusters of raw "
            f"pixels by k-means: {theirs:.2f} in the pixels; two spaces, so neither is better by it"
        )
        if self.scores:
            yield f"raw pixels against the labels{where}: {self._scores(1)}; {self._verdict()}"
        shared = f"NMI {self.shared:.2f}, {self.beyond_chance:.2f} beyond chance"
        if self.beyond_chance >= _MOSTLY:
            meaning = "they follow what raw pixels show, such as brightness and colour"
        else:
            meaning = "they follow something else than raw pixels; the sheets show what"
        yield f"what the clusters share with those of raw pixels{where}: {shared}; {meaning}"

    def _scores(self, side: int) -> str:
        return ", ".join(f"{name} {pair[side]:.4f}" for name, pair in self.scores.items())

    def _verdict(self) -> str:
        """Which clusters agree better with the labels."""
        whose = "these clusters"
        if self.images < self.of:
            whose += f" there: {self._scores(0)}"
        gaps = [ours - theirs for ours, theirs in self.scores.values()]
        if min(gaps) > 0:
            return f"{whose}, better than raw pixels"
        if max(gaps) <= 0:
            return f"{whose}, no better than raw pixels: the encoder adds nothing here"
        better = [name for name, gap in zip(self.scores, gaps) if gap > 0]
        return f"{whose}, better than raw pixels by {' and '.join(better)} only"


def comparison(
    assignment: ClusterAssignment,
    features: np.ndarray,
    splits: Sequence[Any],
    labels: np.ndarray,
    encoder: Encoder,
    report: Callable[[str], Any] = no_progress,
) -> list[str]:
    """Sentences that compare an assignment with k-means on raw pixels; see `Comparison`.

    Pixels are those that the encoder sees, normalised, of images of at most `PIXELS` pixels a side,
    as for the scores of raw pixels. Outliers are left out of all numbers, on both sides. Of more
    than `ROWS` images a random choice is compared.

    Args:
        assignment: of the images.
        features: [N, D] that it was made of.
        splits: the N images in parts.
        labels: [N] of the images, -1: unknown.
        encoder: that made the features.
        report: takes a progress line.

    Returns:
        nothing for fewer than two clusters, or no more images than clusters, such as one image.
    """
    candidates = np.flatnonzero(assignment.labels != OUTLIER)
    most = max(1, min(ROWS, _NUMBERS // (PIXELS * PIXELS * encoder.channels)))
    rows = _sample(candidates, most)
    ours = assignment.labels[rows]
    count = len(np.unique(ours))
    if not 2 <= count < len(rows):
        return []
    if count > CLUSTERS:
        return [f"no comparison with raw pixels: {count:,} clusters, more than {CLUSTERS}"]
    report(f"comparing with k-means on raw pixels of {len(rows):,} images")
    pixels = _pixels(splits, rows, encoder)
    theirs = _clusters_of(pixels, count)
    known = labels[rows]
    scores = {}
    if (known >= 0).any():
        scores = {name: (f(known, ours), f(known, theirs)) for name, f in SCORES.items()}
    return list(
        Comparison(
            images=len(rows),
            of=len(assignment.labels),
            silhouettes=(_silhouette(features[rows], ours), _silhouette(pixels, theirs)),
            shared=metrics.normalized_mutual_info(ours, theirs),
            beyond_chance=_beyond_chance(ours, theirs),
            scores=scores,
            outliers=assignment.outliers,
        ).lines()
    )


def _sample(rows: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of the rows, in order."""
    if len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng(_SEED).choice(rows, most, replace=False))


def _pixels(splits: Sequence[Any], rows: np.ndarray, encoder: Encoder) -> np.ndarray:
    """Raw pixels [R, D] of some of the images, as the encoder sees them."""
    parts = []
    start = 0
    for images in splits:
        inside = rows[(rows >= start) & (rows < start + len(images))] - start
        start += len(images)
        for first in range(0, len(inside), _BLOCK):
            block = as_channels(images[inside[first : first + _BLOCK]], encoder.channels)
            block = block[np.arange(len(block))]  # computes what is computed when it is read
            parts.append(np.asarray(raw_pixels(block, encoder)))
    return np.concatenate(parts)


def _clusters_of(pixels: np.ndarray, count: int) -> np.ndarray:
    """The cluster [R] of each row by k-means (Euclidean on unit rows)."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    starts: Any = 1 if count > _MANY else _STARTS
    means: Any = KMeans(count, n_init=starts, max_iter=_ITERATIONS, random_state=_SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different rows than clusters
        return means.fit(np.asarray(unit(pixels))).labels_


def _silhouette(points: np.ndarray, labels: np.ndarray) -> float:
    """Mean silhouette of at most `SILHOUETTES` rows, by cosine."""
    from sklearn.metrics import silhouette_score

    rows = _sample(np.arange(len(labels)), SILHOUETTES)
    count = len(np.unique(labels[rows]))
    if not 2 <= count < len(rows):
        return 0.0
    return float(silhouette_score(np.asarray(points)[rows], labels[rows], metric="cosine"))


def _beyond_chance(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Adjusted mutual information: 1 for equal clusterings, 0 on average for unrelated ones."""
    from sklearn.metrics import adjusted_mutual_info_score

    return float(adjusted_mutual_info_score(ours, theirs))
