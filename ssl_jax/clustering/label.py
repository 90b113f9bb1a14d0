"""Labels a data set by cluster: from a run and settings to a report."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ssl_jax.build import completed, load_data
from ssl_jax.clustering import assignment
from ssl_jax.clustering.output import ClusterReport
from ssl_jax.data.source import Dataset
from ssl_jax.inference.pretrained import Encoder, of_run
from ssl_jax.runs.restore import Run, other_data
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

    Args:
        run: provides the encoder.
        config: settings of the run, with overrides of `data`.
        given: those overrides by name ("dir"); see `restore.other_data`.
        count: K of k-means; 0: the method's own clusters, else the number of classes.
        by: "own", "kmeans" or ""; see `assignment.assign`.
        report: takes a line on what is about to be done.

    Raises:
        SettingError: data that do not exist or do not fit the encoder, or clusters that do not
            fit.
    """
    encoder = of_run(run)
    by = _checked_flag(assignment.choice, encoder, count, by)
    settings = other_data(completed(config), given, run.plan.source)
    dataset = pictures(encoder, settings)
    splits = [dataset.train.images]
    if not dataset.joined:
        splits.append(dataset.test.images)
    splits = [images for images in splits if len(images)]
    if by == "kmeans":
        count = count or len(dataset.classes)
        if not count:
            raise SettingError(
                "--clusters is missing: the data have no classes to take the number from; give "
                "--clusters=K"
            )
    _checked_flag(assignment.check, by, count, sum(map(len, splits)))
    clusters = (
        f"{len(encoder.prototypes)} prototypes of its own"
        if by == "own"
        else f"{count} clusters by k-means"
    )
    data = settings["data"]["name"]
    report(printable(f"{run.folder} at epoch {run.epoch:g}, on {data}: {clusters}"))
    features = np.concatenate([encoder(images, encoder.clustered) for images in splits])
    return ClusterReport(assignment.of_features(encoder, features, by, count), dataset)


def pictures(encoder: Encoder, settings: dict[str, Any]) -> Dataset:
    """Loads the data set of complete settings, and checks its channels.

    Raises:
        SettingError: no such data, or images with other channels than the encoder takes.
    """
    name = settings["data"]["name"]
    if name == "folder":  # always 3: no need to read the images
        _check_channels(name, 3, encoder)
    dataset = load_data(settings)
    _check_channels(name, dataset.train.images.shape[-1], encoder)
    return dataset


def _check_channels(name: str, channels: int, encoder: Encoder) -> None:
    if channels != encoder.channels:
        count = "1 channel" if channels == 1 else f"{channels} channels"
        raise SettingError(
            f"data.name={name!r} has {count}, the run was trained on {encoder.channels}"
        )


def _checked_flag(check: Callable[..., Any], *values: Any) -> Any:
    """`check(*values)`, with a ValueError turned into an error of the flag that it names."""
    try:
        return check(*values)
    except ValueError as error:
        raise SettingError(f"--{error}") from error
