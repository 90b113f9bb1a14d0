"""Scores of a run: one embedding pass for all evaluators, and the baselines to compare with."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.build import Plan
from ssl_jax.data.augment import clean
from ssl_jax.data.whole import WholePictures
from ssl_jax.evaluation.metrics import Accuracy, largest_share
from ssl_jax.inference.embed import embed
from ssl_jax.inference.on_demand import on_demand
from ssl_jax.interface import Split, no_progress
from ssl_jax.runs.scores import scored_split
from ssl_jax.runtime import processes
from ssl_jax.runtime.sharding import device_memory
from ssl_jax.stages import Stage

PIXELS = 32  # raw pixels are scored on images of at most this side
Report = Callable[[str], Any]  # takes progress lines


class Scorer:
    """Runs the evaluators of a plan on features of its images.

    Args:
        plan: provides evaluators and data set.
        images, test_images: [N, H, W, C] uint8, on the device or on the host.

    Attributes:
        accuracies: the latest accuracies that evaluators yielded under the name "top1", by the
            evaluators' names.
    """

    def __init__(self, plan: Plan, images: Any, test_images: Any):
        self._plan = plan
        self._images = images
        self._test_images = test_images
        needs = {name for evaluator in plan.evaluators.values() for name in evaluator.needs}
        self._names = tuple(sorted(needs))
        self.accuracies: dict[str, Accuracy] = {}

    def encoder(
        self, prefix: str, stage: Stage, state: Any, report: Report = no_progress
    ) -> dict[str, float]:
        """Scores of the encoder in `state`, as {"<prefix>/knn/top1": ...}."""
        return self._run(prefix, self.splits(stage, state, report), state, report)

    def splits(self, stage: Stage, state: Any, report: Report = no_progress) -> dict[str, Split]:
        """What evaluators read: the features they need of all images, and a way to draw more."""
        trained = self._features(self._images, stage, state, report)
        test = None  # if joined, the test images are among those trained on
        if not self._plan.dataset.joined:
            test = self._features(self._test_images, stage, state, report)
        splits = self._splits(trained, test)
        return {
            "trained": on_demand(splits["trained"], stage, state, self._images),
            "train": on_demand(splits["train"], stage, state, self._images),
            "test": on_demand(splits["test"], stage, state, self._test_images),
        }

    def _features(
        self, images: Any, stage: Stage, state: Any, report: Report
    ) -> dict[str, jax.Array]:
        if not self._names:
            return {}
        return processes.whole(features(stage, state, images, self._names, report))

    def too_many_pixels(self) -> str:
        """Why raw pixels are not scored, if they fill over a quarter of a device; else empty."""
        data = self._plan.dataset
        crop = self._plan.stages[-1].crop
        size = 0
        for split in (data.train, data.test):
            height, width = _reduced(split.images, crop)
            size += 4 * len(split.images) * height * width * split.images.shape[-1]
        if 4 * size <= device_memory():
            return ""
        return f"no scores of raw pixels, which would take {size / 1e9:,.0f} GB on a device"

    def pixels(self, stage: Stage, report: Report = no_progress) -> dict[str, float]:
        """Scores of normalised pixels in place of each feature.

        Without evaluators of what a method says of an image, its "scores" or "logits".
        """
        data = self._plan.dataset
        with processes.alone():
            trained = dict.fromkeys(self._names, raw_pixels(data.train.images, stage))
            test = None
            if not data.joined:
                test = dict.fromkeys(self._names, raw_pixels(data.test.images, stage))
            splits = self._splits(trained, test)
        keys = [
            key
            for key, evaluator in self._plan.evaluators.items()
            if not {"scores", "logits"} & set(evaluator.needs)
        ]
        return self._run("pixels", splits, None, report, keys)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self._plan.dataset.classes

    @property
    def tests(self) -> int:
        """Number of labelled test images."""
        return int((np.asarray(self._plan.dataset.test.labels) >= 0).sum())

    def largest_class(self, names: Iterable[str]) -> dict[str, float]:
        """The share of the largest class among the images that each accuracy in `names` is of."""
        data = self._plan.dataset
        shares = {
            "test": largest_share(data.test.labels),
            "trained": largest_share(data.train.labels),
        }
        splits = {name: scored_split(name) for name in names}
        return {name: shares[split] for name, split in splits.items() if split}

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the evaluators."""
        return tuple(self._plan.evaluators)

    def one(
        self, key: str, splits: Mapping[str, Split], state: Any, report: Report = no_progress
    ) -> Iterator[tuple[str, float]]:
        """Yields ("<key>/<name>", value) for one evaluator."""
        report(key)

        def report_evaluator(text: str) -> None:
            report(f"{key}: {text}")

        evaluator = self._plan.evaluators[key]
        for score in evaluator.run(splits, state, report_evaluator):
            if not (isinstance(score, tuple) and len(score) == 2 and isinstance(score[0], str)):
                raise TypeError(
                    f"{type(evaluator).__name__}.run yields {score!r}; yield (name, value) pairs"
                )
            name, value = score
            if isinstance(value, Accuracy):
                if name == "top1":
                    self.accuracies[key] = value
                value = float(value)
            yield f"{key}/{name}", value

    def _run(
        self,
        prefix: str,
        splits: Mapping[str, Split],
        state: Any,
        report: Report,
        keys: Sequence[str] | None = None,
    ) -> dict[str, float]:
        """Runs evaluators on every host; all hosts return the first one's scores."""
        keys = self.keys if keys is None else keys
        self.accuracies.clear()
        if state is not None:  # evaluators read nothing else of it
            state = state.replace(method=processes.whole(state.method))
        with processes.alone():
            scores = [
                (name, value)
                for key in keys
                for name, value in self.one(key, splits, state, report)
            ]
        return {f"{prefix}/{name}": value for name, value in processes.share(scores)}

    def _splits(
        self, trained: Mapping[str, jax.Array], test: Mapping[str, jax.Array] | None
    ) -> dict[str, Split]:
        """Features by split; without `test` its images are the last of those trained on."""
        data = self._plan.dataset
        count = len(data.train) - data.joined  # training images without the joined test images
        if test is None:
            test = {name: x[count:] for name, x in trained.items()}
        train = {name: x[:count] for name, x in trained.items()}
        kept = data.train.first(count)
        return {
            "trained": Split(trained, data.train.labels, targets=data.train.targets),
            "train": Split(train, kept.labels, targets=kept.targets),
            "test": Split(test, data.test.labels, targets=data.test.targets),
        }


def features(
    stage: Stage, state: Any, images: Any, names: Sequence[str], report: Report = no_progress
) -> dict[str, jax.Array]:
    """Named features of clean images: what the stage's `crop` shows, at its largest view's size."""
    return embed(
        stage.method,
        state,
        images,
        names,
        size=stage.views[0].size,
        mean=stage.mean,
        std=stage.std,
        crop=stage.crop,
        report=report,
    )


def _reduced(images: Any, crop: float) -> tuple[int, int]:
    """Height and width of the raw pixels that are scored; larger images are reduced to `PIXELS`.

    Distances between small images mean more, and cost less.
    """
    height, width = images.shape[1:3]
    if max(height, width) <= PIXELS and not crop:
        return height, width
    seen = max(round(crop * min(height, width)), 1) if crop else PIXELS
    side = min(seen, PIXELS)
    return side, side


def raw_pixels(images: Any, stage: Any, chunk: int = 1024) -> jax.Array:
    """Normalised pixels [N, H * W * C] of what a `crop` shows, see `_reduced`.

    Args:
        images: [N, H, W, C] uint8, or `WholePictures`.
        stage: provides `crop`, `mean` and `std`; a `Stage` or an encoder.
        chunk: images reduced at a time.
    """
    side = max(_reduced(images, stage.crop))
    first = images[np.arange(1)]  # tells whether they are whole pictures
    as_they_are = max(images.shape[1:3]) <= PIXELS and not stage.crop
    if as_they_are and not isinstance(first, WholePictures):
        mean = np.asarray(stage.mean, np.float32)
        std = np.asarray(stage.std, np.float32)
        x = (images / np.float32(255) - mean) / std
        return jnp.asarray(x.reshape(len(x), -1))

    @jax.jit
    def reduced(block):
        return clean(block, side, stage.mean, stage.std, stage.crop).reshape(len(block), -1)

    blocks = []
    for start in range(0, len(images), chunk):
        rows = np.arange(start, min(start + chunk, len(images)))
        blocks.append(reduced(images[rows]))
    return jnp.concatenate(blocks)
