"""Which pictures an assignment is of, and by what: from a run and settings to a report."""

import numpy as np

from ssl_jax.build import completed, load_data
from ssl_jax.clustering import assignment
from ssl_jax.clustering.output import ClusterReport
from ssl_jax.data.source import Dataset
from ssl_jax.inference.pretrained import Encoder, of_run
from ssl_jax.runs.restore import Run, other_data
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable


def label(run: Run, config, given, *, count: int = 0, by: str = "", report=print) -> ClusterReport:
    """Assigns all pictures of a data set, test images too, with the encoder of a run.

    Args:
        run: gives the encoder.
        config: the run's own, with overrides of `data`.
        given: those overrides by name ("dir"); see `restore.other_data`.
        count: K of k-means; 0: the method's own clusters, else as many as there are classes.
        by: "own", "kmeans" or "".
        report: takes a line on what is done, before it is.

    Raises:
        SettingError: data that are not there or not the encoder's, or clusters that do not fit.
    """
    encoder = of_run(run)
    by = _flag(assignment.choice, encoder, count, by)
    settings = other_data(completed(config), given, run.plan.source)
    dataset = pictures(encoder, settings)
    splits = [x.images for x in (dataset.train, dataset.test)[: 1 if dataset.joined else 2] if len(x)]
    if by == "kmeans" and not (count := count or len(dataset.classes)):
        raise SettingError("--clusters is missing: k-means has no classes to count here; give --clusters=K")
    _flag(assignment.check, by, count, sum(map(len, splits)))
    what = f"{len(encoder.prototypes)} prototypes of its own" if by == "own" else f"{count} clusters by k-means"
    report(printable(f"{run.folder} at epoch {run.epoch:g}, on {settings['data']['name']}: {what}"))
    features = np.concatenate([encoder(x, encoder.clustered) for x in splits])
    return ClusterReport(assignment.of_features(encoder, features, by, count), dataset)


def pictures(encoder: Encoder, settings: dict) -> Dataset:
    """The data set of complete settings, of as many channels as the encoder takes.

    Raises:
        SettingError: other channels, or no such data.
    """
    name = settings["data"]["name"]
    said = "data.name={!r} has {} colours, the run was trained on {}"
    if name == "folder" and encoder.channels != 3:
        raise SettingError(said.format(name, 3, encoder.channels))
    dataset = load_data(settings)
    if (channels := dataset.train.images.shape[-1]) != encoder.channels:
        raise SettingError(said.format(name, channels, encoder.channels))
    return dataset


def _flag(check, *values):
    """`check(*values)`; what it refuses was given by a flag."""
    try:
        return check(*values)
    except ValueError as error:
        raise SettingError(f"--{error}") from error
