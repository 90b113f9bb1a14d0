"""Writes the report on a weight file and a data set: scores, neighbours and maps."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ssl_jax.data.channels import converted
from ssl_jax.data.source import Dataset
from ssl_jax.inference.images import pictures
from ssl_jax.inference.transfer import Evaluation, evaluation_on
from ssl_jax.reporting import features, page, tables
from ssl_jax.reporting.make import Attempts
from ssl_jax.reporting.page import Section
from ssl_jax.reporting.progress import occasionally
from ssl_jax.runs.metrics import write_atomically
from ssl_jax.runs.restore import Run, with_range
from ssl_jax.runs.scores import FEATURES
from ssl_jax.settings.text import counted, encodable, printable


def write(
    run: Run,
    settings: Mapping[str, Any],
    path: Path,
    *,
    most: int = features.MOST,
    most_for_density: int = 0,
    say: Callable[[str], Any] = print,
) -> list[str]:
    """Writes the report on a weight file atomically; call it with a mesh set.

    Args:
        run: of `weights_run.open_weights`.
        settings: its settings.
        path: of the HTML file.
        most: maximum number of training images to embed for the figures.
        most_for_density: the same for the figure of densities; 0 for all.
        say: takes progress lines.

    Returns:
        a line on each part that could not be made.

    Raises:
        SettingError: no such data, or images that the encoder does not take.
    """
    attempt = Attempts(say)
    name = printable(encodable(run.folder.name))
    whole, reader = with_range(dict(settings), run)
    dataset, notes = pictures(whole, run.plan.dataset, **reader)
    for note in notes:
        say(note)
    lacking = "The images have no test labels, so there are no scores."
    if dataset.several_classes:
        lacking = "The images may show several classes: ssl_jax.evaluate --evals=svm scores them."
    scores = Section("Scores", lacking)
    if dataset.classes and (dataset.test.labels >= 0).any():
        scores = _scores(name, run, whole, dataset, attempt)
    images = converted(dataset, run.plan.dataset.train.images.shape[-1])
    sample = attempt(
        "figures from the features",
        partial(features.sampled, run, whole, images, most=most, most_for_density=most_for_density),
    )
    samples = {name: sample} if sample is not None else {}
    drawn = page.of_features(samples, {}, attempt, occasionally(say))
    sections = [scores, *drawn, _encoder(run, whole, notes)]
    count = len(dataset.train) - dataset.joined + len(dataset.test)
    summary = f"a weight file on {printable(whole['data']['name'])}, {counted(count, 'image')}"
    html = page.render([(name, summary)], page.shown(sections), attempt.notes)
    write_atomically(path, html)
    return attempt.notes


def _scores(
    name: str, run: Run, settings: dict[str, Any], dataset: Dataset, attempt: Attempts
) -> Section:
    """The scores of the encoder, beside those of raw pixels, and of each class."""
    evaluation = evaluation_on(run, settings, dataset)
    scores: dict[str, float] = {}
    for evaluator, values in evaluation():
        result = attempt(f"scores of {evaluator}", partial(_checked, values))
        scores |= result or {}
    rows = {name: scores}
    of_classes = evaluation.by_class()  # before other features are scored
    floor = evaluation.scorer.largest_class(scores)
    if pixels := attempt("scores of raw pixels", partial(_pixels, evaluation)):
        rows[FEATURES["pixels"]] = pixels
    if floor:
        rows[FEATURES["largest_class"]] = floor
    text = "Scores are fractions; the best of each column is in bold."
    shown = [tables.by_features(name, rows), tables.recalls(name, of_classes)]
    return Section("Scores", text, shown)


def _checked(values: dict[str, float] | Exception) -> dict[str, float]:
    """The scores of an evaluator.

    Raises:
        Exception: what ended it.
    """
    if isinstance(values, Exception):
        raise values
    return values


def _pixels(evaluation: Evaluation) -> dict[str, float]:
    """The scores of raw pixels; empty if they are too many."""
    if evaluation.scorer.too_many_pixels():
        return {}
    scores = evaluation.scorer.pixels(evaluation.stage)
    return {name.partition("/")[2]: value for name, value in scores.items()}


def _encoder(run: Run, settings: Mapping[str, Any], notes: tuple[str, ...]) -> Section:
    """What was taken from the file, and how the data were read."""
    said = [*(note.removeprefix("weights: ") for note in run.notes), *notes]
    text = " ".join(f"{note[0].upper()}{note[1:]}." for note in said)
    shown = {key: settings[key] for key in ("data", "evals")}
    folded = [("Settings of data and evaluators", json.dumps(shown, indent=2))]
    return Section("Encoder and data", f"{printable(encodable(run.folder))}. {text}", folded=folded)
