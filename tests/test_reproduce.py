"""Reproductions: pieces add up to the run, results become the tables of docs/results.md."""

import importlib.util
import json
import sys
import time
from pathlib import Path

import pytest
from helpers.runs import TINY

ROOT = Path(__file__).parent.parent
SPEC = importlib.util.spec_from_file_location("reproduce", ROOT / "experiments" / "reproduce.py")


@pytest.fixture
def reproduce(tmp_path, monkeypatch):
    """The script, with a results file of its own and a row "tiny"."""
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    module = importlib.util.module_from_spec(SPEC)
    monkeypatch.setitem(sys.modules, "reproduce", module)
    SPEC.loader.exec_module(module)
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results.jsonl")
    row = module.Row(f"{TINY}:instance", {"epochs": 3}, "nothing")
    monkeypatch.setitem(module.ROWS, "tiny", row)
    return module


def test_every_row_loads(reproduce):
    for name, row in reproduce.ROWS.items():
        config = reproduce.load(row.config, row.settings)
        if name.rpartition("-")[2].isdigit():
            assert config.epochs == int(name.rpartition("-")[2]), name
        if "cifar" in name and "small" not in name:
            assert config.evals.knn.k == 200, name
            assert config.evals.knn.temperature == 0.1, name
        has_bank = row.config.startswith(("configs/instance", "configs/anchor", "configs/local"))
        is_live = has_bank and "digits" not in name and "imagenet" not in name
        assert ("knn_live" in config.evals) == is_live, name


def test_every_published_number_has_a_protocol_and_a_source(reproduce):
    for name, row in reproduce.ROWS.items():
        if name != "tiny" and row.published != "-":
            assert "-" not in (row.protocol, row.source), name


def test_rows_of_the_papers_are_there(reproduce):
    rows = {name: row.published for name, row in reproduce.ROWS.items()}
    assert rows["swav-cifar10-800"] == "kNN 88.4"
    assert rows["swav-cifar100-1000"] == "linear 64.9"
    assert rows["moco-cifar10-200"] == "kNN 82.6"
    assert rows["anchor_neighbourhood-cifar10-alexnet-1000"] == "kNN 74.8, linear 77.6"
    assert rows["anchor_neighbourhood-svhn-alexnet-1000"] == "kNN 90.9, linear 93.7"
    assert rows["conr-released-byol-cifar10-1000"] == "86.7 / 93.2 / 86.1"
    base = reproduce.ROWS["byol-cifar10-1000"]
    config = reproduce.load(base.config, base.settings)
    assert (config.batch_size, config.model.bn_groups, config.method.shuffle) == (512, 4, True)


@pytest.mark.slow
def test_a_row_in_pieces_ends_on_record(reproduce, tmp_path, monkeypatch):
    run = reproduce.Clock.run

    def run_until_the_first_record(clock):  # of the first piece only
        if not (tmp_path / "runs" / "stopped").exists():
            while not list((tmp_path / "runs").rglob("metrics.jsonl")):
                time.sleep(0.05)
            (tmp_path / "runs" / "stopped").touch()
            clock._tick = 0.05
            clock._limit = 1e-6
        run(clock)

    monkeypatch.setattr(reproduce.Clock, "run", run_until_the_first_record)

    def piece(commit="def"):
        return reproduce.run(
            "tiny",
            seed=4,
            commit=commit,
            minutes=9.0,
            settings=["head.dim=6", "log_steps=2"],
            folder=str(tmp_path / "runs"),
        )

    assert piece("abc") is False
    pieces = tmp_path / "runs" / "tiny-head.dim=6-seed4" / "pieces.json"
    first = json.loads(pieces.read_text())["minutes"]
    while not piece():
        pass
    (record,) = reproduce.read()
    assert (record["row"], record["seed"], record["epochs"]) == ("tiny head.dim=6", 4, 3)
    absent = {"knn_live/top1", "classifier/top1"}
    assert set(record["numbers"]) == {n.removeprefix("eval/") for n in reproduce.NUMBERS} - absent
    assert record["best"].keys() == record["numbers"].keys()
    assert all(record["best"][name] >= value for name, value in record["numbers"].items())
    assert record["commit"] == "abc, def"
    assert json.loads(pieces.read_text())["minutes"] > first
    assert piece() is True  # on record: nothing to do
    assert len(reproduce.read()) == 1


def add(reproduce, row, seed, numbers, **fields):
    line = dict(row=row, config="c", seed=seed, commit="abc", device="1 x G", epochs=200)
    with reproduce.RESULTS.open("a") as file:
        file.write(json.dumps(line | dict(minutes=10.0 + seed, numbers=numbers) | fields) + "\n")


def test_the_table_has_medians_and_the_supervised_twins(reproduce, tmp_path):
    for seed, knn in ((0, 0.5), (1, 0.9), (2, 0.6)):
        add(reproduce, "swav-cifar10-200", seed, {"knn/top1": knn, "linear/top1": 0.8})
    for seed, accuracy in ((0, 0.91), (1, 0.95), (2, 0.92)):
        add(reproduce, "supervised-cifar10-200", seed, {"classifier/top1": accuracy})
    page = tmp_path / "page.md"
    page.write_text(f"before\n{reproduce.BEGIN}\nold\n{reproduce.END}\nafter\n")
    for _ in range(2):
        reproduce.write_table(page, reproduce.table(reproduce.read()))
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    row = "| `swav-cifar10-200` | 0, 1, 2 | 200 | 0.600 | 0.800 | - | - | - | 0.920 |"
    assert f"{row} kNN 84.2 (kNN, best epoch on the test set) | 1 x G | 11 | abc |" in text


def test_bad_rows_and_settings(reproduce):
    with pytest.raises(SystemExit, match="no row 'swaw'; choose one of"):
        reproduce.run("swaw")
    with pytest.raises(SystemExit, match="give NAME=VALUE"):
        reproduce.run("tiny", settings=["epochs"])
    with pytest.raises(SystemExit, match="model.widht"):
        reproduce.run("tiny", settings=["model.widht=3"])


def test_the_published_table_has_both_epochs(reproduce):
    numbers = {"knn/top1": 0.801, "knn_live/top1": 0.805, "linear/top1": 0.8}
    best = {name: value + 0.01 for name, value in numbers.items()}
    add(reproduce, "instance-cifar10-200", 0, numbers, best=best)
    lines = reproduce.published_table(reproduce.read()).splitlines()
    (ours,) = (text for text in lines if "| `instance-cifar10-200` |" in text)
    assert "kNN 80.1 / 81.1, live kNN 80.5 / 81.5, linear 80.0 / 81.0; 1 x G, abc" in ours
    assert "live bank" in ours
    assert "python experiments/reproduce.py run instance-cifar10-200 --data=DIR" in ours


def test_the_page_is_that_of_the_results_files(reproduce, monkeypatch):
    monkeypatch.setattr(reproduce, "RESULTS", ROOT / "experiments" / "results.jsonl")
    monkeypatch.delitem(reproduce.ROWS, "tiny")
    page = (ROOT / "docs" / "results.md").read_text("utf-8")
    results = reproduce.read()
    for text, marks in (
        (reproduce.table(results), reproduce.MEASURED),
        (reproduce.published_table(results), (reproduce.BEGIN, reproduce.END)),
        (reproduce.transfer_table(), reproduce.TRANSFERS),
    ):
        assert f"{marks[0]}\n{text}\n{marks[1]}" in page
