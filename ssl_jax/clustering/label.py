"""Labels a data set by cluster: from a run and settings to a report."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ssl_jax.build import completed
from ssl_jax.clustering import assignment
from ssl_jax.clustering.output import ClusterReport
from ssl_jax.data.errors import LabelError
from ssl_jax.data.source import Dataset
from ssl_jax.inference.images import load_images, notes_on
from ssl_jax.inference.pretrained import Encoder, of_run
from ssl_jax.runs.restore import Run, other_data, with_range
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable


def label(
    run: Run,
    config: Mapping[str, Any],
    given: Mapping[str, Any],
    *,
    count: int = 0,
    by: str = "",
    report: Callable[[str], Any] = print,
) -> ClusterReport:
    """Assigns all images of a data set, test images included, with the encoder of a run.

    No labels are needed. Grey images are assigned by a run of colour images, and the other way
    round. Data of more than 8 bits are scaled by the run's range, unless `data.range` is given.

    Args:
        run: provides the encoder.
        config: settings of the run, with overrides of `data`.
        given: those overrides by name ("dir"); see `restore.other_data`.
        count: K of k-means; 0: see `by`.
        by: "own", "kmeans" or ""; see `assignment.assign`. If neither is given and neither the
            run's data nor these have classes, k-means makes a few clusters to look at. K of k-means
            is the number of classes, or else `assignment.few_clusters`.
        report: takes a line on what is about to be done, and notes on the data.

    Raises:
        SettingError: data that do not exist or do not fit the encoder, or clusters that do not
            fit.
    """
    encoder = of_run(run)
    _checked_flag(assignment.choice, encoder, count, by)
    settings = other_data(completed(config), given, run.plan.source)
    settings, with_its_range = with_range(settings, run.plan.dataset)
    dataset, notes = pictures(settings, run.plan.dataset, with_its_range)
    splits = [dataset.train.images]
    if not dataset.joined:
        splits.append(dataset.test.images)
    splits = [images for images in splits if len(images)]
    images = sum(map(len, splits))
    labelled = bool(run.plan.dataset.classes or dataset.classes)
    by, count, advice = _choice(encoder, images, dataset, labelled, count, by)
    _checked_flag(assignment.check, by, count, images)
    for note in notes:
        report(note)
    clusters = (
        f"{len(encoder.prototypes)} prototypes of its own"
        if by == "own"
        else f"{count} clusters by k-means"
    )
    data = settings["data"]["name"]
    report(printable(f"{run.folder} at epoch {run.epoch:g}, on {data}: {clusters}{advice}"))
    features = np.concatenate([encoder(images, encoder.clustered) for images in splits])
    return ClusterReport(assignment.of_features(encoder, features, by, count), dataset)


def _choice(
    encoder: Encoder, images: int, dataset: Dataset, labelled: bool, count: int, by: str
) -> tuple[str, int, str]:
    """Kind and number of clusters where they are not given, and what to say of the choice.

    Args:
        encoder: of the run.
        images: number of images to assign.
        dataset: the images.
        labelled: whether the run's data or these have classes.
        count: K of k-means; 0: not given.
        by: "own", "kmeans" or "".

    Returns:
        ("own" or "kmeans", K, words to append to a line on the clusters).
    """
    advice = ""
    has_prototypes = encoder.prototypes is not None
    if has_prototypes and not (labelled or by or count) and images > 1:
        by = "kmeans"
        advice = f", --by=own uses the {len(encoder.prototypes)} prototypes"
    by = assignment.choice(encoder, count, by)
    if by == "own" or count:
        return by, count, advice
    if 2 <= len(dataset.classes) <= images:
        return by, len(dataset.classes), advice
    return by, assignment.few_clusters(images), f"; --clusters=K makes another number{advice}"


def pictures(
    settings: dict[str, Any], trained_on: Dataset, with_its_range: bool = False
) -> tuple[Dataset, tuple[str, ...]]:
    """Loads the data set of complete settings, without labels if these cannot be used.

    Args:
        settings: of the data.
        trained_on: the run's data.
        with_its_range: the settings have the range of these, see `with_range`.

    Returns:
        the data, and notes for the user.

    Raises:
        SettingError: no such data, or images that the run's encoder does not take.
    """
    channels = trained_on.train.images.shape[-1]
    notes = []
    try:
        dataset = load_images(settings, channels, of_run=with_its_range)
    except LabelError as error:
        notes.append(printable(f"labels are not used: {error.reason}"))
        settings = settings | {"data": settings["data"] | {"labels": "none"}}
        dataset = load_images(settings, channels, of_run=with_its_range)
    return dataset, (*notes_on(dataset, trained_on), *notes)


def _checked_flag(check: Callable[..., Any], *values: Any) -> Any:
    """`check(*values)`, with a ValueError turned into an error of the flag that it names."""
    try:
        return check(*values)
    except ValueError as error:
        raise SettingError(f"--{error}") from error
