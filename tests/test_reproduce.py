"""Reproductions: pieces add up to the run, results become README's table."""

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
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "reproduce", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results.jsonl")
    module.ROWS["tiny"] = module.Row(f"{TINY}:instance", {"epochs": 3}, "nothing")
    return module


def test_every_row_loads(reproduce):
    for name, row in reproduce.ROWS.items():
        config = reproduce.load(row.config, row.settings)
        if "cifar" in name and "small" not in name:
            assert config.epochs == int(name.rpartition("-")[2])
            assert config.evals.knn.k == 200
            assert config.evals.knn.temperature == 0.1
        own = {"neighbourhood"} if "anchor" in name else {"purity"} if "conr.py" in row.config else set()
        assert set(config.evals) == {"knn", "linear", "clustering"} | own


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
    settings = dict(minutes=9.0, settings=["head.dim=6", "log_steps=2"], folder=str(tmp_path / "runs"))
    go = lambda commit="def": reproduce.run("tiny", seed=4, commit=commit, **settings)
    assert go("abc") is False
    pieces = tmp_path / "runs" / "tiny-head.dim=6-seed4" / "pieces.json"
    first = json.loads(pieces.read_text())["minutes"]
    while not go():
        pass
    (record,) = reproduce.read()
    assert (record["row"], record["seed"], record["epochs"]) == ("tiny head.dim=6", 4, 3)
    assert set(record["numbers"]) == {n.removeprefix("eval/") for n in reproduce.NUMBERS}
    assert record["commit"] == "abc, def"
    assert json.loads(pieces.read_text())["minutes"] > first
    assert go() is True  # on record: nothing to do
    assert len(reproduce.read()) == 1


def test_table_takes_medians_and_says_what_is_missing(reproduce, tmp_path):
    for seed, knn in ((0, 0.5), (1, 0.9), (2, 0.6)):
        numbers = {"knn/top1": knn, "linear/top1": 0.8}
        line = dict(row="swav-cifar10-200", config="c", seed=seed, commit="abc", device="1 x G", epochs=200)
        with reproduce.RESULTS.open("a") as file:
            file.write(json.dumps(line | dict(minutes=10.0 + seed, numbers=numbers)) + "\n")
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{reproduce.BEGIN}\nold\n{reproduce.END}\nafter\n")
    for _ in range(2):
        reproduce.write_table(readme)
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    row = "| `swav-cifar10-200` | 0, 1, 2 | 200 | 0.600 | 0.800 | - | - | - | kNN 84.2 (lightly, best epoch) |"
    assert f"{row} 1 x G | 11 | abc |" in text
    assert "`swav-cifar10-100`" in text.split("Not run yet: ")[1]


def test_bad_rows_and_settings(reproduce):
    with pytest.raises(SystemExit, match="no row 'swaw'; choose one of"):
        reproduce.run("swaw")
    with pytest.raises(SystemExit, match="give NAME=VALUE"):
        reproduce.run("tiny", settings=["epochs"])
    with pytest.raises(SystemExit, match="model.widht is not a setting; did you mean 'width'"):
        reproduce.run("tiny", settings=["model.widht=3"])


def test_readmes_table_is_that_of_the_results_file():
    module = importlib.util.module_from_spec(spec)
    __import__("sys").modules["reproduce"] = module
    spec.loader.exec_module(module)
    text = (ROOT / "README.md").read_text()
    assert module.table(module.read()) in text
