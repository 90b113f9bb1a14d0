"""Labels of a few pictures, spread to all: tables that are read or refused, votes and scores."""

import csv

import numpy as np
import pytest
from helpers.runs import tiny
from helpers.trained import made, opened

from ssl_jax.clustering import given_labels
from ssl_jax.clustering.given_labels import GivenLabels
from ssl_jax.clustering.label import label
from ssl_jax.clustering.output import ClusterReport, Extras
from ssl_jax.clustering.output_files import OutputFiles
from ssl_jax.clustering.placement import ClusterAssignment
from ssl_jax.clustering.spread import neighbours_for, spread
from ssl_jax.data.source import Dataset, Images
from ssl_jax.runs.restore import config_of
from ssl_jax.settings.resolve import SettingError

RNG = np.random.default_rng(8)
FILES = ["a/x.png", "=1+1.png", "b,c.png", "caf\udce9.png", " y.png", "z.png"]


def table(folder, text, name="labels.csv"):
    path = folder / name
    path.write_text(text, "utf-8")
    return path


def read(path, names=FILES):
    return given_labels.read(path, names, "--labelled=labels.csv")


def test_names_as_the_table_writes_them(tmp_path):
    clusters = ClusterAssignment(np.arange(6) % 2, np.ones(6), np.ones(6), np.eye(2))
    images = Images(np.zeros((6, 8, 8, 1), np.uint8), np.arange(6) % 3)
    none = Images(images.images[:0], images.labels[:0])
    classes = ("=x", "-1", "cat")
    report = ClusterReport(
        clusters, Dataset(images, none, classes, (0.5,), (0.5,), listed=lambda: FILES)
    )
    OutputFiles(tmp_path / "c.csv", overwrite=False).write(report, 0)
    given = read(tmp_path / "c.csv")
    assert given.rows.tolist() == [0, 1, 2, 3, 4, 5]
    assert [given.classes[i] for i in given.labels] == [*classes, *classes]


def test_a_few_of_a_folder(tmp_path):
    given = read(
        table(tmp_path, "Label;notes;File\ncat;;z.png\n\ndog;a;./=1+1.png\ndog;;a/x.png\n")
    )
    assert given.rows.tolist() == [0, 1, 5]
    assert given.labels.tolist() == [1, 1, 0]
    assert given.classes == ("cat", "dog")


def test_rows_of_arrays(tmp_path):
    names = ["train[0]", "train[7]", "test[7]"]
    given = read(table(tmp_path, "split,row,label\ntest,7,a\ntrain,07,b\n"), names)
    assert given.rows.tolist() == [1, 2]
    assert given.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\nz.png,a\nnew.png,b\n", r", line 3: there is no image new\.png among the 6"),
        ("file,label\nz.png,a\n\nz.png,b\n", r", line 4: z\.png has a label in line 2 already"),
        ("file,label\n=1+1.png,a\n./=1+1.png,a\n", ", line 3: ./=1[+]1.png has a label in line 2"),
        ("file,label\nz.png,\na/x.png,b\n", r", line 2: z\.png has no label; fill it in, or"),
        ("file,label\nz.png\n", r", line 2: z\.png has no label; fill it in, or remove the row"),
        ("file,label\nz.png,a\na/x.png,a\n", "has 2 labelled images, not of two classes; label"),
        ("file,label\n", "has 0 labelled images, not of two classes"),
        ("file,cluster\nz.png,1\n", "has no column 'label' in its first line; the columns file, "),
        ("split,row,label\ntrain,1,a\n", "has no column 'file' in its first line"),
        ("", "has no column 'file' in its first line"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, text, message):
    with pytest.raises(SettingError, match=f"^--labelled=labels.csv{message}|{message}") as raised:
        read(table(tmp_path, text))
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith("--labelled=labels.csv")


def test_rows_that_are_not_there(tmp_path):
    text = "split,row,label\ntrain,3,a\n"
    with pytest.raises(SettingError, match=r"line 2: there is no image train\[3\] among the 2"):
        read(table(tmp_path, text), ["train[0]", "train[1]"])
    with pytest.raises(SettingError, match="--labelled=x: there is no such file"):
        given_labels.read(tmp_path / "x", FILES, "--labelled=x")


def test_votes_are_weighted_by_cosine():
    angles = np.radians([0, 10, 80, 90, 4, 84, 45])
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    given = GivenLabels(np.arange(4), np.int32([1, 1, 0, 0]), ("east", "north"))
    labels = spread(points, given)
    assert labels.labels.tolist() == [1, 1, 0, 0, 1, 0, labels.labels[6]]
    votes = np.exp(np.cos(angles[4] - angles[:4]) / 0.1)
    assert labels.confidence[4] == pytest.approx(votes[:2].sum() / votes.sum(), rel=1e-4)
    assert labels.confidence[:4].tolist() == [1, 1, 1, 1]
    assert labels.confidence[6] == pytest.approx(0.5, abs=1e-3)
    assert (labels.scored, labels.accuracy, labels.largest) == (4, 1.0, 0.5)
    assert [*labels.lines()] == [
        "4 labels spread to 3 other images; 1 of these have a confidence below 0.6",
        "on 4 held-out labelled pictures (each held out alone): 1.00; largest class 0.50",
    ]


def test_a_held_out_picture_does_not_vote_for_itself():
    points = RNG.normal(size=(60, 12))
    labels = np.int32(np.arange(60) % 2)
    result = spread(points, GivenLabels(np.arange(60), labels, ("a", "b")))
    assert result.scored == 60
    assert 0.25 < result.accuracy < 0.75  # chance
    assert [neighbours_for(count) for count in (2, 5, 60, 900)] == [2, 5, 8, 20]


def test_classes_with_one_label_are_not_scored():
    points = np.eye(4)
    given = GivenLabels(np.arange(3), np.int32([0, 1, 1]), ("a", "b"))
    assert spread(points, given).scored == 2
    alone = spread(points, GivenLabels(np.arange(2), np.int32([0, 1]), ("a", "b")))
    assert alone.scored == 0
    assert [*alone.lines()][1] == "not scored: no class has two labelled pictures"


def test_of_many_labels_a_share_is_held_out():
    labels = np.int32(np.arange(400) % 4 == 0)
    points = np.eye(2)[labels] + 0.2 * RNG.normal(size=(400, 2))
    rows = np.arange(0, 400)
    result = spread(points, GivenLabels(rows, labels, ("often", "rare")))
    assert (result.scored, result.one_by_one, result.largest) == (80, False, 0.75)
    assert result.accuracy > 0.95
    expected = f"on 80 held-out labelled pictures: {result.accuracy:.2f}; largest class 0.75"
    assert [*result.lines()][1] == expected


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = tiny("byol")
    config.data.limit = 60
    return opened(made(tmp_path_factory.mktemp("byol") / "run", config))


def test_from_a_table_to_a_table(run, tmp_path):
    config = config_of(run.folder)
    first = label(run, config, {}, count=3, report=lambda line: None)
    head, *rows = first.records()
    assert head[-1] == "label"
    text = "".join(f"{split},{row},is {name}\n" for split, row, *_, name in rows[:40])
    path = table(tmp_path, f"split,row,label\n{text}")
    report = label(run, config, {}, count=3, labelled=path, report=lambda line: None)
    lines = [*report.lines()]
    assert lines[-2].startswith("40 labels spread to")
    assert lines[-1].startswith("on 40 held-out labelled pictures (each held out alone): 0.")
    OutputFiles(tmp_path / "c.csv", overwrite=False).write(report, 0)
    with open(tmp_path / "c.csv", newline="") as file:
        written = [*csv.DictReader(file)]
    assert [*written[0]][-3:] == ["class", "label", "confidence"]
    assert all(row["label"] == f"is {row['class']}" for row in written[:40])
    assert {row["confidence"] for row in written[:40]} == {"1.0000"}
    assert {row["label"] for row in written} <= {row["label"] for row in written[:40]}
    assert all(0 < float(row["confidence"]) <= 1 for row in written)
    table(tmp_path, "split,row,label\nnowhere,1,a\n")
    lines = []
    with pytest.raises(SettingError, match=r"line 2: there is no image nowhere\[1\]"):
        label(run, config, {}, count=3, labelled=path, report=lines.append)
    assert not lines  # before anything is computed


def test_labels_with_guards(tmp_path):
    clusters = ClusterAssignment(np.zeros(2, int), np.ones(2), np.ones(2), np.eye(2))
    images = Images(np.zeros((2, 8, 8, 1), np.uint8), np.full(2, -1))
    none = Images(images.images[:0], images.labels[:0])
    given = GivenLabels(np.arange(2), np.int32([0, 1]), ("=1", "b"))
    extras = Extras(spread=spread(np.eye(2), given))
    report = ClusterReport(clusters, Dataset(images, none, (), (0.5,), (0.5,)), extras)
    assert [row[-2:] for row in report.records()] == [
        ("label", "confidence"),
        ("'=1", "1.0000"),
        ("b", "1.0000"),
    ]
