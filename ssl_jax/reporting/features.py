"""The input of a report's figures: a run's data, and their features from its encoder."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ssl_jax.build import completed, load_data
from ssl_jax.data.source import Dataset
from ssl_jax.data.whole import as_seen, with_pixels
from ssl_jax.inference.scorer import features
from ssl_jax.interface import Report, TrainState, no_progress
from ssl_jax.ops.vectors import unit
from ssl_jax.runs.restore import Run, config_of, open_run
from ssl_jax.runs.run_folder import FINGERPRINT, read_config
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import encodable, printable
from ssl_jax.stages import Stage

MOST = 10_000  # training images to embed
_MOST_TESTS = 2_000  # test images to embed, the queries of neighbour searches


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """Images and unit embeddings of a run at a checkpoint.

    Attributes:
        settings: settings of the run, with the present location of its data.
        images, labels, points: [N, H, W, C] uint8 (or `WholePictures`), [N] int32 (-1: unlabelled)
            and [N, D] of a sample of the training images.
        test_images, test_labels, test_points: the same for test images; empty if there are none,
            or if the run trained on them.
        scores: [N, K] of prototypes, or None.
        names: of the classes.
        of: number of training images that the sample was drawn from.
        embed_all: `embed_all(report) -> [n, D]`: embeds all training images, or as many of them,
            drawn by the seed, as were asked for.
        epoch: of the checkpoint.
    """

    settings: dict[str, Any]
    images: Any
    labels: np.ndarray
    points: np.ndarray
    test_images: Any
    test_labels: np.ndarray
    test_points: np.ndarray
    scores: np.ndarray | None
    names: tuple[str, ...]
    of: int
    embed_all: Callable[[Report], np.ndarray]
    epoch: float

    def picture(self, row: int) -> np.ndarray:
        """The image [H, W, C] at an index, training images first, in its true proportions."""
        count = len(self.images)
        return as_seen(self.images[row] if row < count else self.test_images[row - count])


def of_run(
    folder: str | Path,
    mesh: jax.sharding.Mesh,
    given: Mapping[str, Any],
    *,
    most: int = MOST,
    most_for_density: int = 0,
    seed: int = 0,
) -> Features:
    """Opens a run and embeds its data.

    Args:
        folder: of the run.
        mesh: of devices.
        given: settings of the data ({"data.dir": ...}) that replace the run's.
        most: maximum number of training images to embed.
        most_for_density: the same for densities; 0 for all.
        seed: draws them.

    Raises:
        SettingError: no checkpoint, or the data are missing or have changed.
    """
    settings = config_of(folder)
    for name, value in given.items():
        settings["data"][name.partition(".")[2]] = value
    dataset = load_data(completed(settings))
    _check_unchanged(folder, dataset, settings["data"]["name"], given)
    run = open_run(folder, mesh)
    return sampled(run, settings, dataset, most=most, most_for_density=most_for_density, seed=seed)


def sampled(
    run: Run,
    settings: dict[str, Any],
    dataset: Dataset,
    *,
    most: int = MOST,
    most_for_density: int = 0,
    seed: int = 0,
) -> Features:
    """Embeds samples of a data set; the backbone's features where there is no embedding.

    Args:
        run: provides the encoder.
        settings: of the run, with those of the data.
        dataset: images with as many channels as the run takes.
        most: maximum number of training images to embed.
        most_for_density: the same for densities; 0 for all.
        seed: draws them.
    """
    stage = run.plan.stages[-1]
    channels = dataset.train.images.shape[-1]
    feature = "embedding" if _has(stage, run.state, channels, "embedding") else "backbone"
    rng = np.random.default_rng(seed)
    train_rows = _sample(rng, len(dataset.train), most)
    test_rows = _sample(rng, 0 if dataset.joined else len(dataset.test), _MOST_TESTS)
    images = with_pixels(dataset.train.images[train_rows], np.asarray)
    test_images = with_pixels(dataset.test.images[test_rows], np.asarray)
    names = (feature, "scores") if _has(stage, run.state, channels, "scores") else (feature,)
    outputs = features(stage, run.state, images, names)
    points = np.asarray(unit(outputs[feature]))
    test_points = points[:0]
    if len(test_rows):
        test_outputs = features(stage, run.state, test_images, names)
        test_points = np.asarray(unit(test_outputs[feature]))
    dense_rows = _sample(rng, len(dataset.train), most_for_density or len(dataset.train))

    def embed_all(report: Report = no_progress) -> np.ndarray:
        if np.array_equal(dense_rows, train_rows):
            return points
        whole = dataset.train.images
        dense_images = whole if len(dense_rows) == len(whole) else whole[dense_rows]
        return np.asarray(
            unit(features(stage, run.state, dense_images, (feature,), report)[feature])
        )

    return Features(
        settings=settings,
        images=images,
        labels=np.asarray(dataset.train.labels)[train_rows],
        points=points,
        test_images=test_images,
        test_labels=np.asarray(dataset.test.labels)[test_rows],
        test_points=test_points,
        scores=np.asarray(outputs["scores"]) if "scores" in outputs else None,
        names=tuple(printable(encodable(name)) for name in dataset.classes),  # drawn in figures
        of=len(dataset.train),
        embed_all=embed_all,
        epoch=run.epoch,
    )


def _check_unchanged(
    folder: str | Path, dataset: Dataset, name: str, given: Mapping[str, Any]
) -> None:
    """Checks that the data are those the run was trained on.

    Raises:
        SettingError: they are not.
    """
    fingerprint = dataset.fingerprint()
    if read_config(folder).get(FINGERPRINT, fingerprint) != fingerprint:
        changes = [f"{setting}={value}" for setting, value in given.items()]
        if changes:
            raise SettingError(
                f"data.name={name!r} with {', '.join(changes)} has other images than {folder} was "
                "trained on; a report is of the run's own, so leave out what changes them"
            )
        raise SettingError(
            f"data.name={name!r} no longer holds the images that {folder} was trained on"
        )


def _sample(rng: np.random.Generator, count: int, most: int) -> np.ndarray:
    """At most `most` of `count` indices, in order."""
    return np.arange(count) if count <= most else np.sort(rng.choice(count, most, replace=False))


def _has(stage: Stage, state: TrainState, channels: int, name: str) -> bool:
    """Whether the method of a stage has the feature `name`."""
    size = stage.views[0].size
    image = jax.ShapeDtypeStruct((1, size, size, channels), np.float32)

    def feature(state, images):
        return stage.method.features(state, images, (name,))[name]

    try:
        jax.eval_shape(feature, state, image)
    except KeyError:
        return False
    return True
