"""How many clusters there are: by silhouette and by stability, with how sure the answer is."""

import dataclasses
import io
import textwrap
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from PIL import Image

from ssl_jax.evaluation import metrics
from ssl_jax.interface import no_progress
from ssl_jax.ops.silhouette import silhouettes

MOST_ROWS = 5_000  # that are looked at
MOST = 100  # clusters
FEWEST = 20  # images
SEEDS = 3  # pairs of halves
STARTS = 5  # of each k-means
STEP = 2**0.5  # from one number to the next, at first
REFINED = 6  # numbers that are then tried on each side of the best
STABLE = 0.8  # agreement of halves below which no number is clear
CLOSE = 0.05  # numbers within this share of the best score are about as good


@dataclasses.dataclass(frozen=True, eq=False)
class HowMany:
    """Scores of numbers of clusters, and the choice.

    Attributes:
        counts: [n] numbers of clusters that were tried, ascending.
        silhouette: [n] mean silhouette, by cosine.
        stability: [n] mean adjusted Rand index between k-means on one half of the rows and on the
            other.
        scores: [SEEDS, n] product of both for each pair of halves.
    """

    counts: np.ndarray
    silhouette: np.ndarray
    stability: np.ndarray
    scores: np.ndarray

    @property
    def score(self) -> np.ndarray:
        """[n] mean score of each number."""
        return self.scores.mean(axis=0)

    @property
    def best(self) -> int:
        """Index of the choice in `counts`."""
        return int(self.score.argmax())

    @property
    def chosen(self) -> int:
        """The number of clusters with the highest score."""
        return int(self.counts[self.best])

    @property
    def as_good(self) -> np.ndarray:
        """Numbers whose score is close to the best, or whose distance to it is chance; ascending.

        Chance is twice the standard error of the difference over the pairs of halves.
        """
        short = self.scores[:, [self.best]] - self.scores
        error = short.std(axis=0, ddof=1) / len(self.scores) ** 0.5
        tolerance = np.maximum(CLOSE * max(self.score[self.best], 0.0), 2 * error)
        return self.counts[short.mean(axis=0) <= tolerance]

    @property
    def clear(self) -> bool:
        """Whether one number stands out, and both halves of the images agree on its clusters."""
        return len(self.as_good) == 1 and self.stability[self.best] >= STABLE

    def words(self) -> str:
        """The choice, and how sure it is."""
        best = self.best
        text = (
            f"chose K={self.chosen} from {self.counts[0]} to {self.counts[-1]}: silhouette "
            f"{self.silhouette[best]:.2f}, stability {self.stability[best]:.2f}"
        )
        if self.clear:
            others = np.delete(np.arange(len(self.counts)), best)
            second = others[self.score[others].argmax()]
            below = 1 - self.score[second] / self.score[best]
            return f"{text}; clear: the next best, K={self.counts[second]}, scores {below:.0%} less"
        good = self.as_good
        if len(good) > 1:
            return f"{text}; no clear number: K={good[0]} to {good[-1]} are about as good"
        return f"{text}; no clear number: halves of the images disagree on the clusters"

    def picture(self) -> Image.Image:
        """Both curves with the choice marked."""
        from ssl_jax import figures
        from ssl_jax.figures import style

        figure = figures.how_many(
            self.counts.tolist(),
            self.silhouette.tolist(),
            self.stability.tolist(),
            self.chosen,
            self.as_good.tolist(),
            textwrap.fill(self.words(), 110),
        )
        with Image.open(io.BytesIO(style.encoded(figure, "png"))) as image:
            return image.convert("RGB")


def search(
    points: np.ndarray | jax.Array, *, seed: int = 0, report: Callable[[str], None] = no_progress
) -> HowMany:
    """Chooses the number of clusters of unit `points` [N, D], N >= `FEWEST`.

    Numbers from 2 to a tenth of the rows, at least 4 and at most `MOST`, are tried in geometric
    steps, then those around the best. For each, k-means (scikit-learn's, Euclidean on unit rows) on
    two random halves of the rows gives two clusterings of all rows, `SEEDS` times. Their agreement
    is the stability, their mean silhouette the silhouette. The number with the highest product of
    both is chosen. It is clear if no other is within 5 % of it or within chance, and if its
    stability is at least 0.8: a single blob falls into any number of parts, but not twice into the
    same.

    Args:
        points: the rows; of more than `MOST_ROWS` a random choice is looked at.
        seed: of that choice, of the halves and of k-means.
        report: takes a progress line before each number.
    """
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    rows = np.asarray(points)
    rng = np.random.default_rng(seed)
    if len(rows) > MOST_ROWS:
        rows = rows[np.sort(rng.choice(len(rows), MOST_ROWS, replace=False))]
    halves = [np.array_split(rng.permutation(len(rows)), 2) for _ in range(SEEDS)]
    most = max(4, min(MOST, len(rows) // 10))
    tried: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def measure(counts: list[int]) -> HowMany:
        for count in counts:
            if count not in tried:
                report(f"trying {count} clusters")
                tried[count] = _measured(rows, halves, count, most, seed)
        numbers = sorted(tried)
        silhouette = np.stack([tried[count][0] for count in numbers], axis=1)
        stability = np.stack([tried[count][1] for count in numbers], axis=1)
        return HowMany(
            counts=np.array(numbers),
            silhouette=silhouette.mean(axis=0),
            stability=stability.mean(axis=0),
            scores=silhouette * np.maximum(stability, 0.0),
        )

    # Rows are few: threads would mostly wait for each other.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # equal rows
        return measure(_around(measure(_steps(most))))


def _steps(most: int) -> list[int]:
    """Numbers from 2 to `most` in geometric steps."""
    counts = [2]
    while counts[-1] < most:
        counts.append(min(max(counts[-1] + 1, round(counts[-1] * STEP)), most))
    return counts


def _around(measured: HowMany) -> list[int]:
    """At most `REFINED` numbers on each side of the best, between it and its neighbours."""
    best = measured.best
    counts = measured.counts
    near = []
    for other in counts[max(best - 1, 0) : best + 2]:
        low, high = sorted((int(other), measured.chosen))
        between = np.arange(low + 1, high)
        if len(between) > REFINED:
            between = np.unique(np.linspace(low + 1, high - 1, REFINED).round().astype(int))
        near += between.tolist()
    return near


def _measured(
    rows: np.ndarray, halves: list[list[np.ndarray]], count: int, most: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Silhouette [SEEDS] and stability [SEEDS] of `count` clusters; see `search`."""
    from sklearn.cluster import KMeans

    starts: Any = STARTS
    silhouette = []
    stability = []
    for number, pair in enumerate(halves):
        clusterings = []
        for half in pair:
            means = KMeans(count, n_init=starts, random_state=seed + number).fit(rows[half])
            clusterings.append(means.predict(rows))
        mean = [float(silhouettes(rows, labels, most).mean()) for labels in clusterings]
        silhouette.append(np.mean(mean))
        stability.append(metrics.adjusted_rand_index(*clusterings))
    return np.array(silhouette), np.array(stability)
