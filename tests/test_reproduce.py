"""Reproductions: pieces add up to the run, results become the tables of docs/results.md."""

import importlib.util
import json
import time
from pathlib import Path

import pytest
from helpers.runs import TINY

ROOT = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location("reproduce", ROOT / "experiments" / "reproduce.py")


@pytest.fixture
def reproduce(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "reproduce", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results.jsonl")
    monkeypatch.setitem(
        module.ROWS, "tiny", module.Row(f"{TINY}:instance", {"epochs": 3}, "nothing")
    )
    return module


def test_every_row_loads(reproduce):
    for name, row in reproduce.ROWS.items():
        config = reproduce.load(row.config, row.settings)
        if name.rpartition("-")[2].isdigit():
            assert config.epochs == int(name.rpartition("-")[2])
        if "cifar" in name and "small" not in name:
            assert config.evals.knn.k == 200
            assert config.evals.knn.temperature == 0.1
        with_bank = row.config.startswith(("configs/instance", "configs/anchor", "configs/local"))
        assert ("knn_live" in config.evals) == (
            with_bank and "digits" not in name and "imagenet" not in name
        )


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
    assert rows["conr-byol-cifar10-1000"] == "-"
    assert {"simsiam-cifar10-200", "simsiam-cifar10-800", "conr-released-byol-cifar10-250"} < set(
        rows
    )
    base = reproduce.load(
        reproduce.ROWS["byol-cifar10-1000"].config, reproduce.ROWS["byol-cifar10-1000"].settings
    )
    assert (base.batch_size, base.model.bn_groups, base.method.shuffle) == (512, 4, True)
    rounds = reproduce.ROWS["anchor_neighbourhood-cifar10-200"]
    config = reproduce.load(rounds.config, rounds.settings)
    assert (config.method.rounds, config.epochs, config.optim.schedule.at_epochs) == (
        4,
        200,
        (24.0, 32.0),
    )


def test_a_row_in_pieces_ends_on_record(reproduce, tmp_path, monkeypatch):
    stop = reproduce.Clock.run

    def stop_soon(clock):  # at the first piece only
        if not (tmp_path / "runs" / "stopped").exists():
            while not list((tmp_path / "runs").rglob("metrics.jsonl")):
                time.sleep(0.05)
            (tmp_path / "runs" / "stopped").touch()
            clock._tick, clock._limit = 0.05, 1e-6
        stop(clock)

    monkeypatch.setattr(reproduce.Clock, "run", stop_soon)
    settings = dict(
        minutes=9.0, settings=["head.dim=6", "log_steps=2"], folder=str(tmp_path / "runs")
    )

    def go(commit="def"):
        return reproduce.run("tiny", seed=4, commit=commit, **settings)

    assert go("abc") is False
    pieces = tmp_path / "runs" / "tiny-head.dim=6-seed4" / "pieces.json"
    first = json.loads(pieces.read_text())["minutes"]
    while not go():
        pass
    (record,) = reproduce.read()
    assert (record["row"], record["seed"], record["epochs"]) == ("tiny head.dim=6", 4, 3)
    assert set(record["numbers"]) == {n.removeprefix("eval/") for n in reproduce.NUMBERS} - {
        "knn_live/top1"
    }
    assert record["best"].keys() == record["numbers"].keys()
    assert all(record["best"][name] >= value for name, value in record["numbers"].items())
    assert record["commit"] == "abc, def"
    assert json.loads(pieces.read_text())["minutes"] > first
    assert go() is True  # on record: nothing to do
    assert len(reproduce.read()) == 1


def test_table_takes_medians(reproduce, tmp_path):
    for seed, knn in ((0, 0.5), (1, 0.9), (2, 0.6)):
        numbers = {"knn/top1": knn, "linear/top1": 0.8}
        line = dict(
            row="swav-cifar10-200", config="c", seed=seed, commit="abc", device="1 x G", epochs=200
        )
        with reproduce.RESULTS.open("a") as file:
            file.write(json.dumps(line | dict(minutes=10.0 + seed, numbers=numbers)) + "\n")
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{reproduce.BEGIN}\nold\n{reproduce.END}\nafter\n")
    for _ in range(2):
        reproduce.write_table(readme, reproduce.table(reproduce.read()))
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    row = "| `swav-cifar10-200` | 0, 1, 2 | 200 | 0.600 | 0.800 | - | - | - |"
    assert f"{row} kNN 84.2 (kNN, best epoch on the test set) | 1 x G | 11 | abc |" in text


def test_bad_rows_and_settings(reproduce):
    with pytest.raises(SystemExit, match="no row 'swaw'; choose one of"):
        reproduce.run("swaw")
    with pytest.raises(SystemExit, match="give NAME=VALUE"):
        reproduce.run("tiny", settings=["epochs"])
    with pytest.raises(SystemExit, match="epochs='x' has the wrong type; it takes int"):
        reproduce.run("tiny", settings=["epochs=x"])
    with pytest.raises(SystemExit, match="model.widht is not a setting; did you mean 'width'"):
        reproduce.run("tiny", settings=["model.widht=3"])


def test_the_published_table_has_a_command_and_both_epochs(reproduce):
    numbers = {"knn/top1": 0.801, "knn_live/top1": 0.805, "linear/top1": 0.8}
    best = {name: value + 0.01 for name, value in numbers.items()}
    line = dict(
        row="instance-cifar10-200",
        config="c",
        seed=0,
        commit="abc",
        device="1 x G",
        epochs=200,
        minutes=1.0,
    )
    reproduce.RESULTS.write_text(json.dumps(line | dict(numbers=numbers, best=best)) + "\n")
    lines = reproduce.published_table(reproduce.read()).splitlines()
    published = [name for name, row in reproduce.ROWS.items() if row.source != "-"]
    assert len(lines) == 2 + len(published)
    assert all("python experiments/reproduce.py run " in text for text in lines[2:])
    (ours,) = (text for text in lines if "| `instance-cifar10-200` |" in text)
    assert "kNN 80.1 / 81.1, live kNN 80.5 / 81.5, linear 80.0 / 81.0; 1 x G, abc" in ours
    assert "live bank" in ours


def test_page_is_that_of_the_results_file(reproduce, monkeypatch):
    monkeypatch.setattr(reproduce, "RESULTS", ROOT / "experiments" / "results.jsonl")
    monkeypatch.delitem(reproduce.ROWS, "tiny")
    page = reproduce.PAGE.read_text()
    for (begin, end), text in (
        (reproduce.MEASURED, reproduce.table(reproduce.read())),
        ((reproduce.BEGIN, reproduce.END), reproduce.published_table(reproduce.read())),
    ):
        assert f"{begin}\n{text}\n{end}" in page, "run experiments/reproduce.py table"
