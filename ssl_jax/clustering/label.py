"""Labels a data set by cluster: from a run, or a weight file, and settings to a report."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl_jax.build import completed
from ssl_jax.clustering import assignment, given_labels, how_many, saved
from ssl_jax.clustering.assignment import AUTO
from ssl_jax.clustering.compare import comparison
from ssl_jax.clustering.fingerprint import fingerprint
from ssl_jax.clustering.given_labels import GivenLabels
from ssl_jax.clustering.output import ClusterReport, Extras, labels_of
from ssl_jax.clustering.saved import SavedClusters
from ssl_jax.clustering.spread import spread
from ssl_jax.data.source import Dataset
from ssl_jax.inference.images import pictures
from ssl_jax.inference.pretrained import Encoder, of_run
from ssl_jax.ops.vectors import unit
from ssl_jax.runs.restore import Run, other_data, with_range
from ssl_jax.settings import eval_settings
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable


def label(
    run: Run,
    config: Mapping[str, Any],
    given: Mapping[str, Any],
    *,
    count: int | str = 0,
    by: str = "",
    use: Path | None = None,
    labelled: Path | None = None,
    report: Callable[[str], Any] = print,
) -> ClusterReport:
    """Assigns all images of a data set, test images included, with the encoder of a run.

    No labels are needed. Grey images are assigned by a run of colour images, and the other way
    round. Data of more than 8 bits are scaled by the run's range, unless `data.range` is given.

    Args:
        run: provides the encoder.
        config: settings of the run, with overrides of `data` or `evals.crop`.
        given: those overrides by name ("dir"); see `restore.other_data`.
        count: K of k-means, or "auto"; 0: see `by`.
        by: "own", "kmeans", "hdbscan" or ""; see `assignment.assign`. If neither is given nor the
            run's data nor these have classes, k-means makes a few clusters to look at. K of k-means
            is the number of classes, or else `assignment.few_clusters`.
        use: a file of clusters made before, in place of new ones.
        labelled: a table with the labels of a few images, which are spread to all.
        report: takes a line on what is about to be done, and notes on the data.

    Raises:
        SettingError: data that do not exist or do not fit the encoder, or clusters that do not
            fit.
    """
    settings = completed(config)
    crop = eval_settings.shared(settings["evals"]).crop
    encoder = dataclasses.replace(of_run(run), crop=crop)
    old = _clusters_to_use(encoder, use, count, by)
    if not old:
        _checked_flag(assignment.choice, encoder, count, by)
    settings = other_data(settings, given, run.plan.source)
    settings, reader = with_range(settings, run, lasting=old is not None)
    dataset, notes = pictures(settings, run.plan.dataset, **reader)
    splits = [dataset.train.images]
    if not dataset.joined:
        splits.append(dataset.test.images)
    splits = [images for images in splits if len(images)]
    images = sum(map(len, splits))
    if old:
        clusters = f"the {len(old.centroids)} clusters of {use}"
    else:
        has_classes = bool(run.plan.dataset.classes or dataset.classes)
        by, count, advice = _choice(encoder, images, dataset, has_classes, count, by)
        _checked_flag(assignment.check, by, count, images)
        clusters = _words(encoder, by, count) + advice
    few_labels = None
    if labelled:
        few_labels = given_labels.read(labelled, dataset.names(), f"--labelled={labelled}")
        notes = (*notes, *few_labels.notes)
    for note in notes:
        report(note)
    data = settings["data"]["name"]
    report(printable(f"{run.title}, on {data}: {clusters}"))
    features = np.concatenate([encoder(images, encoder.clustered) for images in splits])
    return _reported(encoder, features, splits, dataset, old, by, count, few_labels, report)


def given_count(value: str) -> int | str:
    """The value of --clusters: a number, 0 for the default, or "auto".

    Raises:
        SettingError: something else.
    """
    if value.strip() == AUTO:
        return AUTO
    try:
        count = int(value.strip() or 0)
    except ValueError:
        count = -1
    if count < 0:
        raise SettingError(
            f"--clusters={value}: give a number of at least 2, or auto, or leave it out"
        )
    return count


def _reported(
    encoder: Encoder,
    features: np.ndarray,
    splits: Sequence[Any],
    dataset: Dataset,
    old: SavedClusters | None,
    by: str,
    count: int | str,
    few_labels: GivenLabels | None,
    report: Callable[[str], Any],
) -> ClusterReport:
    """The report on features [N, D] of the images of `splits`; see `label`."""
    choice = None
    if old:
        clusters = assignment.to_saved(features, old)
    else:
        if count == AUTO:
            choice = how_many.search(unit(features))
            report(choice.words())
            count = choice.chosen
        clusters = _checked_flag(assignment.of_features, encoder, features, by, count)
    extras = Extras(
        saved=old or assignment.to_save(clusters, encoder),
        how_many=choice,
        comparison=comparison(clusters, features, splits, labels_of(dataset), encoder, report),
        spread=spread(features, few_labels) if few_labels else None,
        features=features,
    )
    return ClusterReport(clusters, dataset, extras)


def _clusters_to_use(
    encoder: Encoder, use: Path | None, count: int | str, by: str
) -> SavedClusters | None:
    """The clusters of the file `use`; None without one.

    Raises:
        SettingError: they cannot be used, or not with these flags.
    """
    if not use:
        return None
    for flag, value in (("clusters", count), ("by", by)):
        if value:
            raise SettingError(
                f"--{flag}={value} and --use={use}: these clusters are made already; leave one out"
            )
    old = saved.read(use, f"--use={use}")
    old.check_encoder(fingerprint(encoder, encoder.clustered), f"--use={use}")
    return old


def _own_count(encoder: Encoder) -> int:
    """The number of prototypes; 0 without."""
    return 0 if encoder.prototypes is None else len(encoder.prototypes)


def _words(encoder: Encoder, by: str, count: int | str) -> str:
    """What is about to be made."""
    if by == "own":
        return f"{_own_count(encoder)} prototypes of its own"
    if by == "hdbscan":
        return "dense regions by HDBSCAN"
    if count == AUTO:
        return "clusters by k-means; looking for their number"
    return f"{count} clusters by k-means"


def _choice(
    encoder: Encoder,
    images: int,
    dataset: Dataset,
    labelled: bool,
    count: int | str,
    by: str,
) -> tuple[str, int | str, str]:
    """Kind and number of clusters where they are not given, and what to say of the choice.

    Args:
        encoder: of the run.
        images: number of images to assign.
        dataset: the images.
        labelled: whether the run's data or these have classes.
        count: K of k-means, or "auto"; 0: not given.
        by: "own", "kmeans", "hdbscan" or "".

    Returns:
        ("own", "kmeans" or "hdbscan", K, words to append to a line on the clusters).
    """
    advice = ""
    own = _own_count(encoder)
    if own and not (labelled or by or count) and images > 1:
        by = "kmeans"
        advice = f", --by=own uses the {own} prototypes"
    by = assignment.choice(encoder, count, by)
    if by != "kmeans" or count:
        return by, count, advice
    if 2 <= len(dataset.classes) <= images:
        return by, len(dataset.classes), advice
    return by, assignment.few_clusters(images), f"; --clusters=K makes another number{advice}"


def _checked_flag(check: Callable[..., Any], *values: Any) -> Any:
    """`check(*values)`, with a ValueError turned into an error of the flag that it names."""
    try:
        return check(*values)
    except ValueError as error:
        raise SettingError(f"--{error}") from error
