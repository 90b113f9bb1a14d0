"""What a run prints first and last, and the files that describe its data and its network."""

import dataclasses
import io
import json

import numpy as np
import pytest
from helpers.runs import quiet, records, tiny, two_epochs
from PIL import Image
from rich.console import Console

from ssl_jax import train
from ssl_jax.build import build
from ssl_jax.data import datasets
from ssl_jax.data.source import Dataset, Images, Source
from ssl_jax.reporting import make, page, record, tables
from ssl_jax.runs import by_class, console, data_record
from ssl_jax.runs.scores import latest_scores
from ssl_jax.training import first_screen

RNG = np.random.default_rng(0)


def dataset(train, test, classes, **others):
    """Random 4x4 images with these labels."""

    def split(labels):
        images = RNG.integers(0, 256, (len(labels), 4, 4, 1), dtype=np.uint8)
        return Images(images, np.asarray(labels, np.int32))

    return Dataset(split(train), split(test), classes, (0.5,), (0.2,), **others)


def test_what_was_read_in_a_sentence():
    left_out = {".tif": 7, ".heic": 1, "unreadable": 5}
    labels = np.arange(1710) % 10
    names = tuple(f"n0144{i:04}" for i in range(10))
    text = data_record.sentence(dataset(labels, labels[:190], names, left_out=left_out))
    assert text == (
        "read 1,900 pictures: 1,710 to train on, 190 to test on, 10 classes (n01440000, n01440001, "
        "n01440002, ...); left out 13 files (.tif 7, .heic 1, 5 unreadable)"
    )
    assert data_record.sentence(dataset([-1] * 3, [], ())) == (
        "read 3 pictures: 3 to train on, none to test on, no labels"
    )
    partly = dataset([0, 1, -1, -1], [0], ("a\n", "b"), left_out={"": 1})
    assert data_record.sentence(partly, limit=4) == (
        "read 5 pictures: 4 to train on (data.limit=4), 1 to test on, 2 classes (a?, b), 2 without "
        "a label; left out 1 file (no ending 1)"
    )
    joined = dataset([0, 1, 0], [0], ("a", "b"), joined=1)
    assert data_record.sentence(joined).startswith(
        "read 3 pictures: 3 to train on, 1 of them to test on, 2 classes"
    )


def test_the_record_of_the_data():
    data = dataset(
        [0, 1, -1, 0],
        [1, -1],
        ("a", "b"),
        left_out={".txt": 2},
        range=(0.0, 4095.0),
        notes=("deep",),
        joined=0,
    )
    assert data_record.of_dataset(data) == dict(
        train=4,
        test=2,
        unlabelled=2,
        classes=["a", "b"],
        left_out={".txt": 2},
        channels=1,
        range=[0.0, 4095.0],
        notes=["deep"],
    )
    assert data_record.of_dataset(dataclasses.replace(data, range=()))["range"] == [0, 255]
    joined = dataset([0, 1, -1], [-1], ("a", "b"), joined=1)
    assert data_record.of_dataset(joined)["unlabelled"] == 1  # counted once


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A finished run and what it printed."""
    folder = tmp_path_factory.mktemp("scored") / "run"
    config = tiny()
    config.epochs = 2
    out = io.StringIO()
    train.run(config, folder, console=Console(file=out, width=80), hashed=True)
    return folder, out.getvalue()


def test_a_run_begins_with_a_few_aligned_lines(scored):
    folder, text = scored
    lines = text.partition("before training")[0].splitlines()
    assert max(map(len, lines)) <= max(80, len(f"          {folder}"))
    first = " ".join(text.partition("before training")[0].split())
    expected = [
        "data read 616 pictures: 256 to train on (data.limit=256), 360 to test on, 10 classes (0,",
        "method SwAV, 2 epochs of 8 steps, batches of 32",
        "network Tiny-10, width 8, ",
        " M parameters; head 16-8; ",
        "views 2x8 + 1x5 of images stored at 8, 1 channel",
        " x cpu run ",
        f"{folder} (the hash stands for the changed settings)",
    ]
    places = [first.find(part) for part in expected]
    assert min(places) >= 0, first
    assert places == sorted(places)
    assert len(lines) <= 10
    assert all(line[10:] for line in lines)
    assert "Name" not in text  # the table of parameters is in a file
    table = (folder / "parameters.txt").read_text()
    assert "network/backbone/" in table
    assert table.splitlines()[-1].startswith("Total: ")


def test_a_run_leaves_a_record_of_its_data(scored):
    found = json.loads((scored[0] / "data.json").read_text())
    assert list(found) == [
        "train",
        "test",
        "unlabelled",
        "classes",
        "left_out",
        "channels",
        "range",
        "notes",
        "stored",
    ]
    assert found["stored"] == "images stored at 8"
    assert (found["train"], found["test"], found["classes"]) == (256, 360, list("0123456789"))
    assert (found["channels"], found["range"], found["left_out"]) == (1, [0, 255], {})


def test_how_pictures_are_stored_in_a_few_words(tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(5):
            shape = (30, 40, 3) if i else (20, 60, 3)
            pixels = RNG.integers(0, 256, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    source = Source(name="folder", dir=str(tmp_path), size=16, cache=str(tmp_path / "cache"))
    expected = {
        ("whole", "cache"): "whole pictures as squares of 16 (7.68 kB)",
        ("whole", "stream"): "whole pictures as squares of 16 (streamed)",
        ("centre", "cache"): "central squares of 16 (7.68 kB)",
        ("centre", "stream"): "central squares of 16 (streamed)",
    }
    for (keep, store), words in expected.items():
        one = dataclasses.replace(source, keep=keep, store=store)
        data = datasets.load_from(one)
        true_sizes = keep == "whole" and store == "cache"
        words = words.replace("7.68", "7.76") if true_sizes else words  # eight bytes a picture
        assert data_record.stored(data, one) == words
        whole = dataclasses.replace(one, whole=True)  # test images are counted once
        assert data_record.stored(datasets.load_from(whole), whole) == words
    assert capsys.readouterr().err.count(f"decoding 10 images of {tmp_path} (7.68 kB)") == 2
    arrays = dataset([0, 1], [], ("a", "b"))
    assert data_record.stored(arrays, Source(name="array")) == "images stored at 4"
    oblong = Images(np.zeros((2, 4, 6, 1), np.uint8), arrays.train.labels)
    oblong = dataclasses.replace(arrays, train=oblong)
    assert data_record.stored(oblong, Source(name="array")) == "images stored at 4x6"


def test_notes_are_wrapped_below():
    plan = dataclasses.replace(build(two_epochs()), notes=("word " * 30, "x" * 120))
    lines = first_screen.notes(plan)
    assert lines[0].startswith("note      word word")
    assert lines[1].startswith("          word")
    assert max(len(line) for line in lines[:3]) <= 80
    assert lines[3] == "note      " + "x" * 120  # a path is not cut


def test_the_largest_class_is_on_record_and_in_the_tables(scored):
    folder, text = scored
    row = latest_scores(folder)["largest class"]
    assert row["knn/top1"] == row["linear/top1"] == 37 / 360
    labels = build(tiny()).dataset.train.labels
    assert row["clustering/acc"] == np.bincount(labels).max() / 256
    assert set(row) == {"knn/top1", "linear/top1", "clustering/acc"}
    assert " ".join(text.split()).count("│ largest class │ 0.1028 │ 0.1028 │") == 2
    assert "compared with the largest class" not in text
    names = [cells[0] for _, cells in tables.scores(record.read([folder])).rows]
    assert names == ["run", "largest class", "raw pixels", "untrained encoder"]
    found = records(folder)
    assert sum(any(name.startswith("largest_class/") for name in r) for r in found) == 1
    assert any(name.startswith("eval/") for name in found[-1])


def test_a_run_ends_with_a_verdict(scored):
    folder, text = scored
    assert text.splitlines()[-1].startswith("verdict: ")
    again = quiet()
    config = tiny()
    config.epochs = 2
    train.run(config, folder, console=again)
    assert again.file.getvalue().splitlines()[-1] == text.splitlines()[-1]


def test_the_scores_of_each_class_are_those_of_the_last_evaluation(scored):
    folder, _ = scored
    last = records(folder)[-1]
    found = by_class.read(folder, last["step"])
    assert list(found["recall"]) == ["knn", "linear"]
    for name, recalls in found["recall"].items():
        share = np.dot(found["images"], recalls) / sum(found["images"])
        assert share == pytest.approx(last[f"eval/{name}/top1"])
    assert by_class.read(folder, last["step"] - 1) == {}  # of another evaluation
    table = tables.classes(record.read([folder])[0])
    assert [cells[0] for _, cells in table.rows] != sorted(found["classes"])
    assert len(table.rows) == 10
    assert f"balanced kNN {np.mean(found['recall']['knn']):.4f}" in table.note


def test_a_run_on_few_test_images_says_what_one_counts(tmp_path):
    labels = np.arange(64) % 2
    images = RNG.integers(0, 256, (64, 8, 8, 1), dtype=np.uint8)
    small = dict(test_images=images[:6], test_labels=labels[:6])
    np.savez(tmp_path / "a.npz", images=images, labels=labels, **small)
    config = two_epochs()
    config.epochs = 1
    config.data.update(name="array", dir=str(tmp_path / "a.npz"), limit=0)
    out = quiet()
    train.run(config, tmp_path / "run", console=out)
    note, verdict = out.file.getvalue().splitlines()[-2:]
    assert note == "on 6 test images one image is 0.17 of a score"
    assert "(largest class 0.5000)" in verdict


def test_a_resumed_run_says_what_it_is_in_short(tmp_path):
    config = two_epochs()
    folder = tmp_path / "run"
    train.run(config, folder, console=quiet())
    (folder / "checkpoints" / "16").rename(tmp_path / "16")
    (folder / "data.json").unlink()
    out = quiet()
    train.run(config, folder, console=out)
    lines = out.file.getvalue().splitlines()
    labels = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert labels[:4] == ["data", "method", "network", "resuming"]
    assert f"resuming {folder} at step 8 of 16 (epoch 1 of 2)" in lines
    assert (folder / "data.json").exists()


def test_a_resumed_bar_shows_its_epoch_and_leaves_compilation_out(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    terminal = console.ProgressBar(
        Console(force_terminal=True, file=io.StringIO()), epochs=20, steps=100, start=52
    )
    assert terminal._bar.tasks[0].fields["epoch"] == "10/20"
    terminal.close()
    out = quiet()
    bar = console.ProgressBar(out, epochs=20, steps=100, start=52)
    clock[0] = 300.0  # compiled by then
    bar.update(53, "loss 1", line=False)
    clock[0] = 302.0
    bar.update(55, "loss 1", line=True)
    assert out.file.getvalue() == "epoch 11/20  loss 1  45 s left\n"
    alone = quiet()
    console.ProgressBar(alone, epochs=2, steps=2, start=0).update(1, "loss 1", line=True)
    assert alone.file.getvalue() == "epoch 1/2  loss 1\n"  # no time is known


def test_a_run_without_labels_shows_spread_and_what_comes_next(tmp_path):
    config = tiny()
    config.epochs = 2
    config.data.labels = "none"
    out = quiet()
    train.run(config, tmp_path / "un labelled", console=out)
    text = out.file.getvalue()
    bar = next(line for line in text.splitlines() if line.startswith("epoch 1/2"))
    logged = next(r for r in records(tmp_path / "un labelled") if r["step"] == 8)
    assert f"spread {logged['train/spread']:.2f}" in bar
    assert f"prototypes in use {logged['train/prototypes_used']:.0%}" in bar
    folder = tmp_path / "un labelled"
    assert text.splitlines()[-3].startswith("verdict: no scores to judge by: loss ")
    assert text.splitlines()[-2:] == [
        f"the run is in {folder}; to see its clusters:",
        f"python -m ssl_jax.assign --workdir='{folder}'",
    ]
    runs = record.read([folder])
    table = tables.signs(runs)
    assert table.head == ["", "loss", "spread", "prototypes in use"]
    attempts = make.Attempts(lambda line: None)
    found = {section.title: section for section in page.sections(runs, {}, attempts)}
    assert found["Scores"].tables[0].head == table.head
    assert attempts.notes == []
    assert found["Training"].pictures


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["aggregation", "conr"])
def test_clusters_in_use_are_shown_without_labels(variant, tmp_path):
    config = tiny(variant)
    config.epochs = 2
    config.data.labels = "none"
    out = quiet()
    train.run(config, tmp_path / "run", console=out)
    bars = [line for line in out.file.getvalue().splitlines() if line.startswith("epoch ")]
    assert all("clusters in use" in line for line in bars)
