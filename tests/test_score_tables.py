"""Scores of each class, and tables of all scores of an evaluation."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from ssl_jax.evaluation import metrics
from ssl_jax.runs import by_class
from ssl_jax.runs.score_tables import class_table, every_score
from ssl_jax.runs.scores import score_table

LABELS = np.array([0, 0, 0, 0, 2, 2, -1])
PREDICTED = np.array([0, 0, 0, 1, 0, 2, 2])


def printed(table):
    """The title of a table, and its cells by rows, in a console of 80 columns."""
    out = io.StringIO()
    Console(file=out, width=80).print(table)
    lines = out.getvalue().replace("\u2503", "\u2502").splitlines()
    border = next(i for i, line in enumerate(lines) if line.startswith("\u250f"))
    rows = [line.strip("\u2502").split("\u2502") for line in lines if line.startswith("\u2502")]
    title = " ".join(" ".join(lines[:border]).split())
    return title, [[cell.strip() for cell in row] for row in rows]


def test_an_accuracy_is_a_number_that_keeps_its_predictions():
    accuracy = metrics.accuracy(LABELS, PREDICTED)
    assert accuracy == 4 / 6
    assert json.dumps(accuracy) == json.dumps(4 / 6)
    assert accuracy.balanced == pytest.approx((3 / 4 + 1 / 2) / 2)  # of the two classes present
    assert len(accuracy.labels) == len(accuracy.predicted) == 6
    constant = metrics.accuracy(LABELS, np.zeros(7, int))
    assert constant == metrics.largest_share(LABELS) == 4 / 6
    assert constant.balanced == 0.5
    assert metrics.largest_share(np.array([-1])) == 0.0


def test_scores_of_each_class():
    found = by_class.by_class({"knn": metrics.accuracy(LABELS, PREDICTED)}, ("a", "b", "c"))
    assert found == dict(
        classes=["a", "c"],
        images=[4, 2],
        recall={"knn": [0.75, 0.5]},
        taken_for={"knn": ["b", "a"]},
    )
    assert json.loads(json.dumps(found)) == found
    assert by_class.by_class({}, ("a",)) == {}
    title, cells = printed(class_table(found))
    assert title == "recall of each class"
    assert cells == [
        ["class", "images", "kNN", "taken for (kNN)"],
        ["c", "2", "0.5000", "a"],
        ["a", "4", "0.7500", "b"],
    ]


def test_of_many_classes_the_worst_and_the_best_are_shown():
    labels = np.repeat(np.arange(30), 30)
    predicted = np.where(np.arange(900) % 30 < labels, labels, (labels + 1) % 30)
    names = tuple(f"[b]class {i}" for i in range(30))
    found = by_class.by_class({"linear": metrics.accuracy(labels, predicted)}, names)
    title, cells = printed(class_table(found))
    assert title == "recall of each class (the 10 worst and the 5 best of 30 classes)"
    shown = [row[0] for row in cells[1:]]
    assert shown == [f"[b]class {i}" for i in [*range(10), *range(25, 30)]]


def test_a_file_of_scores_by_class(tmp_path):
    by_class.write(tmp_path, 3, {})
    assert not (tmp_path / by_class.FILE).exists()
    by_class.write(tmp_path, 3, {"classes": ["a"]})
    assert by_class.read(tmp_path, 3)["classes"] == ["a"]
    assert by_class.read(tmp_path, 4) == {}
    (tmp_path / by_class.FILE).write_text("{cut")
    assert by_class.read(tmp_path, 3) == {}


def test_scores_are_arranged_by_what_their_names_say():
    scores = {
        "knn/top1": 0.5,
        "knn/balanced": 0.4,
        "knn_grid/top1_k1_t0.07": 0.1,
        "knn_grid/top1_k200_t0.07": 0.2,
        "knn_grid/top1_k1_t0.1": 0.3,
        "knn_grid/top1_k200_t0.1": 1 / 3,
        "probe/top1_0.01": 0.25,
        "probe/rate_0.01": 0.0003,
        "probe/top1": 0.75,
        "probe/held_out": 0.7,
        "probe/rate": 0.1,
        "probe/decay": 1e-5,
        "purity/local_1": 0.9,
        "purity/local_30": 0.8,
        "purity/local_kept_1": 0.7,
        "purity/local_kept_30": 0.6,
        "mine/first": 1.0,
        "mine/second": 2.0,
        "mine/third": 3.0,
        "mine/[fourth]": 4.0,
    }
    assert [printed(table) for table in every_score(scores)] == [
        (
            "knn_grid: top1",
            [
                ["k \\ temperature", "0.07", "0.1"],
                ["1", "0.1000", "0.3000"],
                ["200", "0.2000", "0.3333"],
            ],
        ),
        (
            "probe",
            [
                ["features, labels", "top1", "rate", "held_out", "decay"],
                ["0.01", "0.2500", "0.0003", "-", "-"],
                ["all labels", "0.7500", "0.1", "0.7000", "1e-05"],
            ],
        ),
        (
            "purity",
            [
                ["", "1", "30"],
                ["local", "0.9000", "0.8000"],
                ["local_kept", "0.7000", "0.6000"],
            ],
        ),
        (
            "mine",
            [
                ["", "score"],
                ["first", "1.0000"],
                ["second", "2.0000"],
                ["third", "3.0000"],
                ["[fourth]", "4.0000"],
            ],
        ),
    ]
    assert every_score({"knn/top1": 0.5, "knn/balanced": 0.4}) == []  # the other table has them


def test_a_table_of_many_scores_has_a_row_for_each():
    few = {"knn/top1": 0.5, "clustering/nmi": 0.25}
    many = few | {f"other_{i}/top1": i / 10 for i in range(6)}
    rows = {"largest class": {"knn/top1": 0.75}, "trained encoder": few}
    assert printed(score_table("x", rows))[1] == [
        ["features", "kNN", "NMI"],
        ["largest class", "0.7500", "-"],
        ["trained encoder", "0.5000", "0.2500"],
    ]
    _, cells = printed(score_table("x", rows | {"trained encoder": many}))
    assert cells[0] == ["score", "largest class", "trained encoder"]
    assert cells[1] == ["kNN", "0.7500", "0.5000"]
    assert cells[-1] == ["other_5/top1", "-", "0.5000"]
