"""Scores of each class: the recall of every classifier, and what it takes a class for."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl_jax.evaluation.metrics import Accuracy
from ssl_jax.runs.scores import score_label
from ssl_jax.runtime.atomic_file import write_atomically

FILE = "by_class.json"
_WORST = 10  # classes in a table of many
_BEST = 5


def by_class(accuracies: Mapping[str, Accuracy], classes: Sequence[str]) -> dict[str, Any]:
    """The scores of each class that occurs among the labels, as JSON; empty without accuracies.

    Args:
        accuracies: of the same test images, by evaluator ("knn").
        classes: C class names.

    Returns:
        `classes` and `images` [c]: names and numbers of images; `recall` {evaluator: [c]}: the
        share of a class's images that are classified rightly; `taken_for` {evaluator: [c]}: the
        class that most of the others are taken for, "" if there are none.
    """
    if not accuracies:
        return {}
    labels = next(iter(accuracies.values())).labels
    present = np.unique(labels).tolist()
    recall = {}
    taken_for = {}
    for name, accuracy in accuracies.items():
        of_class = [accuracy.predicted[accuracy.labels == label] for label in present]
        recall[name] = [float(np.mean(row == label)) for label, row in zip(present, of_class)]
        mistakes = [row[row != label] for label, row in zip(present, of_class)]
        taken_for[name] = [
            classes[int(np.bincount(row).argmax())] if len(row) else "" for row in mistakes
        ]
    return dict(
        classes=[classes[label] for label in present],
        images=[int(np.sum(labels == label)) for label in present],
        recall=recall,
        taken_for=taken_for,
    )


def write(folder: Path, step: int, scores: Mapping[str, Any]) -> None:
    """Writes the scores of each class at `step` into a run folder; does nothing without any."""
    if scores:
        write_atomically(folder / FILE, json.dumps({"step": step, **scores}) + "\n")


def read(folder: Path, step: int) -> dict[str, Any]:
    """The scores of each class in a run folder; empty unless they are those of `step`."""
    try:
        record = json.loads((folder / FILE).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) and record.get("step") == step else {}


def table(scores: Mapping[str, Any]) -> tuple[list[str], list[list[str]], str]:
    """Head, rows and a sentence on the selection; the classes with the lowest recalls come first.

    Args:
        scores: as `by_class` returns them; sorted by the first evaluator's recall.
    """
    first = next(iter(scores["recall"]))
    count = len(scores["classes"])
    order = sorted(range(count), key=lambda i: (scores["recall"][first][i], i))
    shown = order
    selection = ""
    if count > _WORST + _BEST:
        shown = order[:_WORST] + order[-_BEST:]
        selection = f"the {_WORST} worst and the {_BEST} best of {count} classes"
    labels = {name: score_label(f"{name}/top1") for name in scores["recall"]}
    head = ["class", "images", *labels.values()]
    head += [f"taken for ({label})" for label in labels.values()]
    rows = []
    for i in shown:
        recalls = [f"{values[i]:.4f}" for values in scores["recall"].values()]
        mistakes = [names[i] or "-" for names in scores["taken_for"].values()]
        rows.append([scores["classes"][i], f"{scores['images'][i]:,}", *recalls, *mistakes])
    return head, rows, selection
