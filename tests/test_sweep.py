"""Sweeps: grids checked before training, runs that resume, tables, figures, the papers' claims."""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.runs import TINY, environment

from ssl_jax.runs.metrics import read_records
from ssl_jax.settings.resolve import SettingError

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "experiments" / "sweep.py"
KEEP = "positives.boundary.keep"


@pytest.fixture(autouse=True)
def path(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))


@pytest.fixture
def sweep():
    return importlib.import_module("sweep")


@pytest.fixture
def grid():
    return importlib.import_module("sweep_grid")


@pytest.fixture
def tables():
    return importlib.import_module("sweep_tables")


@pytest.fixture
def fake_training(sweep, monkeypatch):
    """Training that takes no time; returns the list of folders that were trained."""
    trained = []

    def run(config, workdir):
        trained.append(workdir.name)
        if config.seed == 7:
            raise sweep.train.NotFinite("the loss is nan at step 3")
        return {"eval/knn/top1": config.positives.boundary.keep + 0.01 * config.seed}

    monkeypatch.setattr(sweep.train, "run", run)
    monkeypatch.setattr(sweep, "check", lambda *_: None)
    return trained


def keep_sweep(grid, *values, seeds=(0,), **more):
    return grid.Sweep(f"{TINY}:conr", (grid.Axis.of(KEEP, *values),), seeds, **more)


def main(sweep, monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["sweep.py", *map(str, args)])
    monkeypatch.setattr(sweep.compilation, "enable_cache", lambda: None)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        sweep.main()
    finally:
        signal.signal(signal.SIGTERM, handler)


def test_commas_separate_values_except_in_brackets_and_quotes(grid):
    cases = {
        ".7,.8,1": [".7", ".8", "1"],
        "(32,16),(32,)": ["(32,16)", "(32,)"],
        "{'a': (1, 2)}, {'a': [3]}": ["{'a': (1, 2)}", "{'a': [3]}"],
        "'a,b',c": ["'a,b'", "c"],
        '"it\'s, so",d': ['"it\'s, so"', "d"],
        "larc": ["larc"],
    }
    assert {text: grid.split_values(text, "--over x") for text in cases} == cases
    axis = grid.axis_of("method.assign=(0,1),(0,)")
    assert axis.values == {"(0, 1)": {"method.assign": (0, 1)}, "(0,)": {"method.assign": (0,)}}
    axis = grid.axis_of("a.b=.5,1.0,true,larc,'2'")
    assert [values["a.b"] for values in axis.values.values()] == [0.5, 1.0, True, "larc", "2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{KEEP}", "give NAME=VALUE,VALUE"),
        (f"{KEEP}=.5,,1", "a value is empty"),
        (f"{KEEP}=.5,0.5", "0.5 is given twice"),
        (f"{KEEP}=1,1.0", "1 is given twice"),
        ("method.assign=(0,1),(0", r"'\)' is missing"),
        ("method.assign=0),1", r"'\)' in .* closes nothing"),
        ("model.name='a,b", '"\'" is missing'),
        ("seed=1,2", "give the seeds with --seeds 1,2"),
    ],
)
def test_what_over_cannot_mean_is_one_line(grid, text, message):
    with pytest.raises(SettingError, match=message) as error:
        grid.axis_of(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([f"--over={KEEP}=.5,1.5"], rf"{KEEP}=1.5: above 0 and at most 1"),
        ([f"--over={KEEP}=.5,x"], rf"{KEEP}='x' has the wrong type; it takes float"),
        (["--over=positives.boundary.kep=.5"], "kep is not a setting; did you mean 'keep'"),
        (["--over=nothing.k=.5"], r'nothing.k=0.5 cannot be set: .*"nothing" was not found'),
        (
            ["--over=positives.k1=3,5", "--over=positives.k2=2,5"],
            r"k2=5: between 2 and k1=3 \(cell positives.k1=3, positives.k2=5\)",
        ),
        (["--over=data.limit=256,-3"], "data.limit=-3"),
        ([f"--over={KEEP}=.5", "--set=batch_size=0"], "batch_size=0"),
        ([f"--over={KEEP}=.5", "--seeds=0,-1"], "seed=-1"),
        ([f"--over={KEEP}=.5", "--seeds=0,0"], "a seed is given twice"),
        ([f"--over={KEEP}=.5", "--seeds=a"], "give whole numbers"),
        ([f"--over={KEEP}=.5", f"--set={KEEP}=1"], "is given twice"),
        ([f"--over={KEEP}=.5", f"--over={KEEP}=1"], "is given twice"),
        ([f"--over={KEEP}=.5", "--share-epochs=4"], "--share-epochs=4: between 1 and 3"),
        ([f"--over={KEEP}=.5", "--reference=positives.name=nobody"], r"nobody.*\(reference\)"),
        (
            [f"--over={KEEP}=.5", "--set=epochs=1", "--set=stages={}", "--share-epochs=1"],
            "--share-epochs=1: a run of 1 epoch has none to share",
        ),
        (['--over=init_from="",nowhere'], "nowhere.* holds no checkpoint"),
        ([f"--over={KEEP}=.5", "--minutes=-1"], "--minutes=-1: give 0 or more"),
        ([f"--over={KEEP}=.5", "--minutes=nan"], "--minutes=nan: give 0 or more"),
        ([f"--over={KEEP}=.5", "--name=../x"], r"--name=\.\./x: give the name of a folder"),
        ([f"--over={KEEP}=.5", "--scores=ami/x"], "--scores=ami/x: .* begin with one of .*knn/"),
        ([], "give a config and --over"),
        (["--named=nobody"], "choose one of conr-keep"),
        (["--named=conr-keep", f"--over={KEEP}=1"], "leave --over"),
    ],
)
def test_every_value_is_checked_before_the_first_run(
    sweep, monkeypatch, tmp_path, capsys, flags, message
):
    monkeypatch.setattr(sweep.train, "run", lambda *_: pytest.fail("trained"))
    config = [] if "--named" in str(flags) else [f"{TINY}:conr"]
    with pytest.raises(SystemExit) as stopped:
        main(sweep, monkeypatch, *config, *flags, f"--folder={tmp_path}")
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert re.search(message, line), line
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_named_before_training(
    sweep, monkeypatch, tmp_path, capsys, fake_training
):
    (tmp_path / "file").touch()
    flags = (f"--over={KEEP}=.5", f"--folder={tmp_path}/file", "--name=a")
    with pytest.raises(SystemExit):
        main(sweep, monkeypatch, f"{TINY}:conr", *flags)
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(
        r"error: --folder: .*/file/a cannot be made .*; give another --folder", line
    )
    assert not fake_training


def test_a_base_is_part_of_the_config(grid):
    sweep = grid.Sweep("configs/conr.py:digits", (grid.Axis.of("base", "byol", "moco"),))
    methods = [sweep.load(cell, 0).method.name for cell in sweep.cells()]
    assert methods == ["byol", "moco"]


def test_the_grid_has_every_combination_and_folders_of_their_own(grid):
    axes = (grid.Axis.of("a.k", 1, 2), grid.Axis.of("b.c", "x/y", "x y", "xy"))
    cells = grid.Sweep("c.py", axes, reference={"a.k": 0}).cells()
    assert [cell.labels for cell in cells] == [
        ("reference",), ("1", "x/y"), ("1", "x y"), ("1", "xy"),
        ("2", "x/y"), ("2", "x y"), ("2", "xy"),
    ]  # fmt: skip
    assert cells[-1].settings == {"a.k": 2, "b.c": "xy"}
    assert cells[-1].folder == "k=2-c=xy"
    assert len({cell.folder for cell in cells}) == len(cells)
    assert all(set(cell.folder) <= set("abcdefghijklmnopqrstuvwxyz0123456789=_-") for cell in cells)


def test_finished_runs_are_skipped_and_failed_ones_recorded(
    sweep, grid, tables, fake_training, tmp_path, monkeypatch
):
    two = keep_sweep(grid, 0.5, 1.0, seeds=(0, 7))
    assert sweep.run(two, tmp_path) is True
    assert fake_training == ["keep=0.5-seed0", "keep=1-seed0", "keep=0.5-seed7", "keep=1-seed7"]
    fake_training.clear()
    more = keep_sweep(grid, 0.5, 0.75, 1.0, seeds=(0, 7, 2))  # another value, another seed
    assert sweep.run(more, tmp_path) is True
    assert fake_training == [
        "keep=0.75-seed0", "keep=0.75-seed7",
        "keep=0.5-seed2", "keep=0.75-seed2", "keep=1-seed2",
    ]  # fmt: skip
    results = tables.read(tmp_path, more)
    assert "the loss is nan at step 3" in results["1",][7]["failed"]
    assert "| 1 | 0, 2, 7 (failed) | 1.010 (1.000 to 1.020) |" in tables.table(more, results)
    path = tmp_path / "results.jsonl"
    lines = path.read_text().splitlines()
    assert len(lines) == 9
    assert json.loads(lines[0])["changes"] == {KEEP: 0.5}


def test_a_folder_is_not_shared_by_different_sweeps(sweep, grid, tables, fake_training, tmp_path):
    sweep.run(keep_sweep(grid, 0.5), tmp_path)
    for other in (
        keep_sweep(grid, 0.5, settings={"epochs": 3}),
        keep_sweep(grid, 0.5, share_epochs=1),
        grid.Sweep(f"{TINY}:conr", (grid.Axis(KEEP, {"0.5": {KEEP: 0.6}}),)),
        grid.Sweep(f"{TINY}:conr", (grid.Axis.of("positives.k", 0.5),)),
    ):
        with pytest.raises(SettingError, match="it was made with .*; choose another --name"):
            tables.read(tmp_path, other)
    assert keep_sweep(grid, 0.5).default_name() == "tiny-conr-keep"
    name = keep_sweep(grid, 0.5, settings={"epochs": 3}).default_name()
    assert name.startswith("tiny-conr-keep-")
    moved = keep_sweep(grid, 0.5, settings={"data.dir": "/elsewhere"})
    assert set(tables.read(tmp_path, moved)) == {("0.5",)}
    (tmp_path / "results.jsonl").write_text('{"cell": ')
    with pytest.raises(SettingError, match="is damaged"):
        tables.read(tmp_path, moved)


def test_a_signal_or_the_time_limit_stops_it_and_it_resumes(
    sweep, grid, fake_training, tmp_path, monkeypatch
):
    two = keep_sweep(grid, 0.5, 1.0)
    run = sweep.train.run

    def interrupted(config, workdir):
        if workdir.name == "keep=1-seed0":
            raise sweep.command.Terminated
        return run(config, workdir)

    monkeypatch.setattr(sweep.train, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep.run(two, tmp_path)
    monkeypatch.setattr(sweep.train, "run", run)
    assert sweep.run(two, tmp_path / "in_time", minutes=1e-12) is False
    assert fake_training == ["keep=0.5-seed0"]
    assert sweep.run(two, tmp_path, minutes=9.0) is True
    assert fake_training == ["keep=0.5-seed0", "keep=1-seed0"]


RESULTS = {
    "a": {0: (0.50, 0.90), 1: (0.70, 0.80), 2: (0.60, 0.85)},
    "b": {0: (0.40, 0.95), 1: (0.45, 0.99), 2: (0.47, 0.96)},
    "c": {0: (0.46, 0.50)},
}


def results_of(numbers):
    return {
        (label,): {
            seed: {"numbers": {"clustering/acc": acc, "knn/top1": knn}}
            for seed, (acc, knn) in seeds.items()
        }
        for label, seeds in numbers.items()
    }


def test_tables_have_means_and_ranges(grid, tables):
    letters = grid.Sweep("c.py", (grid.Axis.of("x.letter", "a", "b", "c", "d"),))
    assert tables.table(letters, results_of(RESULTS)).splitlines() == [
        "| `x.letter` | seeds | cluster ACC | kNN |",
        "| --- | --- | --- | --- |",
        "| a | 0, 1, 2 | 0.600 (0.500 to 0.700) | 0.850 (0.800 to 0.900) |",
        "| b | 0, 1, 2 | 0.440 (0.400 to 0.470) | 0.967 (0.950 to 0.990) |",
        "| c | 0 | 0.460 | 0.500 |",
        "| d | - | - | - |",
    ]
    only = tables.table(letters, results_of(RESULTS), ["knn/top1"])
    assert "| c | 0 | 0.500 |" in only
    with pytest.raises(SettingError, match="not measured; choose of clustering/acc, knn/top1"):
        tables.table(letters, results_of(RESULTS), ["knn/top5"])


def test_only_a_gap_between_the_ranges_decides(tables):
    numbers = RESULTS | {"e": {0: (0.45, 0.9), 1: (0.48, 0.9)}, "f": {0: (0.1, 0), 1: (0.2, 0)}}
    results = results_of(numbers)

    def verdict(higher, lower="", score="clustering/acc"):
        claim = tables.Claim("", [(x,) for x in higher], [(x,) for x in lower], score)
        return tables.verdict(claim, results)

    assert verdict("a", "b") == "holds"
    assert verdict("b", "a") == "the reverse holds"
    assert verdict("b", "a", "knn/top1") == "holds"
    within = "as reported in {} of {} comparisons within a seed"
    # 0.40, 0.45 and 0.47 against 0.45 and 0.48
    assert verdict("b", "e") == f"not decided ({within.format(0, 2)})"
    assert verdict("a", "c") == f"not decided ({within.format(1, 1)})"  # one seed
    assert verdict("a", "d") == "not decided (not measured)"
    assert verdict("ab", "ef") == (
        f"a above e; a above f; b above f; the rest not decided ({within.format(2 + 2 + 0 + 2, 8)})"
    )
    assert verdict("bc") == "not decided (too few seeds)"
    assert verdict("be") == "holds: no two ranges are apart"
    assert verdict("abe") == "does not hold: a above b; a above e"


def test_figures_show_the_means(grid, tables):
    letters = grid.Sweep("c.py", (grid.Axis.of("x.letter", "a", "b", "c", "d"),))
    figure = tables.draw(letters, results_of(RESULTS))
    acc, knn = figure.axes
    means = acc.lines[-1].get_ydata()
    np.testing.assert_allclose(means, [0.6, 0.44, 0.46], atol=1e-9)
    np.testing.assert_allclose(acc.lines[-1].get_xdata(), [0, 1, 2])  # d has no results
    assert [text.get_text() for text in acc.get_xticklabels()] == ["a", "b", "c", "d"]
    assert (acc.get_title(loc="left"), knn.get_xlabel()) == ("cluster ACC", "x.letter")

    values = grid.Sweep("c.py", (grid.Axis.of("x", 100, 1, 0.5),))
    numbers = {"100": {0: (0.3, 0)}, "1": {0: (0.2, 0), 1: (0.4, 0)}, "0.5": {0: (0.1, 0)}}
    ax = tables.draw(values, results_of(numbers)).axes[0]
    assert ax.get_xscale() == "log"
    np.testing.assert_allclose(ax.lines[-1].get_xdata(), [0.5, 1, 100])
    np.testing.assert_allclose(ax.lines[-1].get_ydata(), [0.1, 0.3, 0.3])

    plane = grid.Sweep("c.py", (grid.Axis.of("y.k1", 1, 2), grid.Axis.of("x.k2", 3, 4)))
    cells = {("1", "3"): 0.1, ("1", "4"): 0.2, ("2", "3"): 0.3, ("reference",): 0.05}
    results = {cell: {0: {"numbers": {"clustering/acc": acc}}} for cell, acc in cells.items()}
    ax = tables.draw(plane, results).axes[0]
    np.testing.assert_allclose(ax.images[0].get_array().filled(np.nan), [[0.1, 0.2], [0.3, np.nan]])
    assert [text.get_text() for text in ax.texts] == ["0.100", "0.200", "0.300", "-"]
    assert ax.get_title(loc="left") == "cluster ACC (reference 0.050)"

    three = grid.Sweep("c.py", (*plane.axes, grid.Axis.of("z", 1)))
    assert tables.draw(three, {("1", "3", "1"): results["1", "3"]}) is None


def test_main_writes_table_and_figure(sweep, fake_training, tmp_path, monkeypatch, capsys):
    flags = [f"{TINY}:conr", f"--over={KEEP}=.5,1", f"--folder={tmp_path}"]
    main(sweep, monkeypatch, *flags, "--table")
    assert "has no results yet" in capsys.readouterr().out
    main(sweep, monkeypatch, *flags, "--seeds=0,2")
    folder = tmp_path / "tiny-conr-keep"
    assert "| 0.5 | 0, 2 | 0.510 (0.500 to 0.520) |" in (folder / "table.md").read_text()
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert "run 4 of 4: keep=1, seed 2" in capsys.readouterr().out
    main(sweep, monkeypatch, "--list")
    assert "CoNR, figure 3a" in capsys.readouterr().out


def test_named_sweeps_are_whole():
    """Every claim is about cells of its sweep, and every config takes every value."""
    sweeps = importlib.import_module("sweeps").SWEEPS
    assert {"conr-keep", "conr-graph", "la-close", "la-clusters", "la-background"} <= set(sweeps)
    assert {"and-neighbours", "and-rounds", "and-curriculum", "swav-queue"} <= set(sweeps)
    assert {"swav-crops", "swav-prototypes", "swav-epsilon"} <= set(sweeps)
    for name, named in sweeps.items():
        cells = named.sweep.cells()
        labels = {cell.labels for cell in cells}
        for claim in named.claims:
            assert {*claim.higher, *claim.lower} <= labels, (name, claim.text)
        for cell in cells:
            named.sweep.load(cell, 0)


def test_the_page_is_that_of_the_results_file():
    page = importlib.import_module("sweeps_page")
    begin, end = page.MARKS
    text = page.PAGE.read_text("utf-8")
    assert f"{begin}\n{page.sections(page._lines())}\n{end}" in text, "run sweeps_page.py"


def call(folder, *more):
    settings = ["--set=epochs=3", "--set=stages.pretrain.until_epoch=1.0", "--set=log_steps=1"]
    flags = [f"--over={KEEP}=.5,1", "--seeds=0", f"--folder={folder}", "--name=s", *settings]
    return [sys.executable, str(SCRIPT), f"{TINY}:conr", *flags, *more]


def numbers_in(folder):
    lines = [json.loads(line) for line in (folder / "s" / "results.jsonl").read_text().splitlines()]
    return {(tuple(line["cell"]), line["seed"]): line["numbers"] for line in lines}


@pytest.mark.slow
def test_killed_at_any_moment_it_resumes_to_the_same_numbers(tmp_path):
    """SIGKILL in the second run; and cells that share their first epoch score the same."""
    variables = environment()
    subprocess.run(call(tmp_path / "whole"), env=variables, check=True, capture_output=True)
    process = subprocess.Popen(call(tmp_path / "killed"), env=variables, stdout=subprocess.DEVNULL)
    second = tmp_path / "killed" / "s" / "keep=1-seed0"
    while process.poll() is None and not list((second / "checkpoints").glob("8")):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(numbers_in(tmp_path / "killed")) == 1
    done = subprocess.run(
        call(tmp_path / "killed"), env=variables, check=True, capture_output=True, text=True
    )
    assert "run 1 of 1: keep=1, seed 0" in done.stdout
    assert "resuming" in done.stdout
    shared = [*call(tmp_path / "shared", "--share-epochs=1")]
    done = subprocess.run(shared, env=variables, check=True, capture_output=True, text=True)
    assert done.stdout.count("starting from") == 1
    whole = numbers_in(tmp_path / "whole")
    assert len(whole) == 2
    assert numbers_in(tmp_path / "killed") == whole
    assert numbers_in(tmp_path / "shared") == whole


@pytest.mark.long
def test_conr_ablation_is_a_sweep_that_shares_the_first_stage(tmp_path):
    """With --one all seeds start from the first seed's checkpoint; a run alone scores the same."""
    settings = ["epochs=2", "stages.pretrain.until_epoch=1.0", "data.limit=256", "log_steps=1"]
    settings += ["model.name=plugins.models.tiny", "model.width=4", "evals.purity.batch_size=64"]
    settings += [
        "optim.schedule.warmup_epochs=0.0",
        "evals.linear.steps=20",
        "method.predictor=(16,)",
    ]
    overrides = [f"--set={text}" for text in settings]
    flags = ["--bases=byol", "--seeds", "0", "1", "--variants", "base", "+ contextual", "--one"]
    script = str(ROOT / "experiments" / "conr_ablation.py")
    call = [sys.executable, script, *flags, *overrides, f"--folder={tmp_path / 'runs'}"]
    done = subprocess.run(call, env=environment(), check=True, capture_output=True, text=True)
    base, contextual = done.stdout.splitlines()[-2:]
    assert base.startswith("| byol | base | ")
    assert done.stdout.count("starting from") == 3
    assert done.stdout.count("reference-seed0 at step 2 of 4") == 3

    alone = [sys.executable, "-m", "ssl_jax.main", "--config=conr:digits", "--config.base=byol"]
    alone += [f"--config.{text}" for text in settings]
    alone += ["--config.positives.boundary.keep=1.0", f"--workdir={tmp_path / 'alone'}"]
    subprocess.run(alone, env=environment(), check=True, capture_output=True, cwd=ROOT)
    scores = read_records(tmp_path / "alone")[-1]
    lines = [
        json.loads(line)
        for line in (tmp_path / "runs" / "digits-byol" / "results.jsonl").read_text().splitlines()
    ]
    assert [(line["cell"], line["seed"]) for line in lines] == [
        (["reference"], 0), (["+ contextual"], 0), (["reference"], 1), (["+ contextual"], 1),
    ]  # fmt: skip
    first, second = lines[1]["numbers"], lines[3]["numbers"]
    assert first["clustering/nmi"] == round(scores["eval/clustering/nmi"], 4)
    mean = (first["clustering/nmi"] + second["clustering/nmi"]) / 2
    assert contextual.startswith(f"| byol | + contextual | {mean:.3f} | ")
