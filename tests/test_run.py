"""Whole runs: what they leave behind, and that stopping anywhere changes nothing."""

import io
import json
import re
import shutil
import signal
import sys
import types

import jax
import numpy as np
import pytest
from helpers.runs import (
    LAST,
    arrays,
    assert_same_run,
    finish,
    quiet,
    records,
    start,
    tiny,
    wait_for_step,
)
from jax.experimental import multihost_utils
from rich.console import Console

from ssl_jax import train
from ssl_jax.build import completed
from ssl_jax.data import datasets
from ssl_jax.evaluation.knn import KNN
from ssl_jax.inference.pretrained import untrained
from ssl_jax.interface import RunFacts, Split
from ssl_jax.ops.mesh import make_mesh
from ssl_jax.runs.checkpoint import Checkpoints
from ssl_jax.runs.console import ProgressBar
from ssl_jax.runs.metrics import MetricsWriter, read_records
from ssl_jax.runs.run_folder import claim
from ssl_jax.runtime.sharding import state_shardings
from ssl_jax.settings.resolve import SettingError


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    out, err = finish(folder)
    assert err == ""  # no warnings, no logs
    assert "raw pixels" in out
    assert "untrained encoder" in out
    assert "compared with raw pixels, the trained encoder is" in out
    assert "worse on kNN" in out  # a run of seconds: it says so
    return folder


def test_run_folder(uninterrupted):
    found = records(uninterrupted)
    steps = [r["step"] for r in found if "train/loss" in r]
    assert steps == list(range(1, LAST + 1))
    last = found[-1]
    assert last["step"] == LAST
    assert last["epoch"] == 4
    assert set(last) == {
        "step",
        "epoch",
        "eval/knn/top1",
        "eval/linear/top1",
        "eval/clustering/acc",
        "eval/clustering/nmi",
        "eval/clustering/ari",
    }
    assert {k.split("/")[0] for r in found[:2] for k in r} == {
        "step",
        "epoch",
        "pixels",
        "untrained",
    }
    began = json.loads((uninterrupted / "environment.json").read_text())
    assert [(s["first_step"], s["last_step"]) for s in began] == [(0, LAST)]
    assert began[0]["seconds"] > 0
    queue = [r["train/queue"] for r in found if "train/queue" in r]
    assert queue == [0.0] * 6 + [1.0] * 26  # starts at step 4, two batches long
    rates = [r["train/learning_rate"] for r in found if "train/learning_rate" in r]
    assert rates[0] == pytest.approx(0.02)
    assert rates[12] > rates[11]  # the second stage's rate is higher
    kept = sorted(
        int(p.name) for p in (uninterrupted / "checkpoints").iterdir() if p.name.isdigit()
    )
    assert kept[-2:] == [24, 32]
    assert len(kept) <= 3
    assert json.loads((uninterrupted / "config.json").read_text())["batch_size"] == 32
    assert list(uninterrupted.glob("events.out.tfevents.*"))


DIES_IN_SAVE = """
import os, signal
from pathlib import Path
rename = os.rename, Path.rename
def die(old, new):
    if Path(new).name == "24":
        os.kill(os.getpid(), signal.SIGKILL)  # all is written, nothing is in place
os.rename = lambda old, new, **k: (die(old, new), rename[0](old, new, **k))[1]
Path.rename = lambda old, new: (die(old, new), rename[1](old, new))[1]
from ssl_jax.runtime import command
from ssl_jax import main
command.start(main.main)
"""

SLOW = """
import time
from ssl_jax.runtime import command
from ssl_jax.runs.console import ProgressBar
from ssl_jax.runs.metrics import MetricsWriter
from ssl_jax.runs.metrics import read_records
from ssl_jax import main
update = ProgressBar.update
# Slow enough for a signal to come in between.
ProgressBar.update = lambda *args, **kwargs: (time.sleep(0.05), update(*args, **kwargs))
command.start(main.main)
"""


@pytest.mark.slow
def test_a_run_stopped_in_every_way_is_the_same_run(uninterrupted, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted, folder, ignore=shutil.ignore_patterns("checkpoints"))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3')  # as a kill before the first checkpoint leaves it
    at = signalled(folder, signal.SIGINT, after=8)
    assert at < 24

    process = start(folder, script=DIES_IN_SAVE)
    out, _ = process.communicate(timeout=300)
    assert f"at step {at} of {LAST}" in out
    assert process.returncode == -signal.SIGKILL
    names = {p.name for p in (folder / "checkpoints").iterdir()}
    assert "16" in names
    assert "24" not in names
    assert any(name.startswith("24.") for name in names)  # half of a checkpoint

    process = start(folder, script=SLOW)
    wait_for_step(
        folder, 24, process
    )  # what was logged reaches the disk at the end of an epoch at the latest
    process.kill()
    process.communicate()
    at = signalled(folder, signal.SIGTERM, after=24)
    out, _ = finish(folder)
    assert f"at step {at} of {LAST}" in out
    assert_same_run(folder, uninterrupted)


def signalled(folder, signum, after):
    """Starts the run and signals it past a step; returns the step that it was saved at."""
    process = start(folder, script=SLOW)
    wait_for_step(folder, after, process)
    process.send_signal(signum)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + signum
    _, note, last = err.splitlines()
    assert note == "stopping at the next safe point; a second signal stops at once"
    assert "rerun the same command to resume" in last
    return int(re.match(r"stopped at step (\d+) ", last)[1])


def test_finished_run_says_so_and_shows_its_scores(uninterrupted):
    before = (uninterrupted / "metrics.jsonl").read_bytes()
    console = quiet()
    config = tiny()
    config.batch_size = 32
    scores = train.run(config, uninterrupted, console=console)
    assert scores == {k: v for k, v in records(uninterrupted)[-1].items() if k.startswith("eval/")}
    assert "is finished (32 steps)" in console.file.getvalue()
    assert (uninterrupted / "metrics.jsonl").read_bytes() == before


def test_conflicting_config_is_refused_with_the_difference(uninterrupted):
    for change, message in (
        (dict(batch_size=64), "trained with batch_size=32, not 64"),
        (dict(epochs=5), "trained with epochs=4, not 5"),
    ):
        config = tiny()
        config.update(change)
        with pytest.raises(SettingError, match=message):
            train.run(config, uninterrupted, console=quiet())
    config = tiny()
    config.method.epsilon = 0.06
    with pytest.raises(SettingError, match=r"method.epsilon=0.05, not 0.06.*--workdir"):
        train.run(config, uninterrupted, console=quiet())


def test_one_folder_belongs_to_one_process(uninterrupted):
    images = datasets.load("digits", limit=256).fingerprint()
    with (
        claim(uninterrupted, completed(tiny()), images),
        pytest.raises(SettingError, match="another process is training in"),
    ):
        train.run(tiny(), uninterrupted, console=quiet())


def test_loss_that_is_not_finite_stops_the_run(tmp_path):
    config = tiny("instance")
    config.optim.learning_rate = 1e30
    config.baselines = False
    with pytest.raises(
        train.NotFinite, match=r"the loss is (nan|inf) at step \d+; there is no checkpoint yet"
    ):
        train.run(config, tmp_path / "run", console=quiet())
    assert not [p for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name.isdigit()]


def test_instance_discrimination_on_all_devices_resumes_on_one(tmp_path):
    config = tiny("instance")
    config.epochs = 2
    config.evals = {}
    config.baselines = False
    train.run(config, tmp_path / "run", console=quiet())
    bank = arrays(tmp_path / "run", 16)["['method']['bank']"]
    assert bank.shape == (384 if jax.device_count() == 3 else 256, 8)  # padded for the devices
    mesh = make_mesh(jax.devices()[:1])
    with jax.set_mesh(mesh):
        shapes = train.build(config).shapes
    checkpoints = Checkpoints(tmp_path / "run", {})
    state = checkpoints.restore(16, shapes, state_shardings(mesh, shapes))
    np.testing.assert_array_equal(state.method.bank, bank[:256])
    wider = shapes.replace(
        method=jax.tree.map(lambda x: jax.ShapeDtypeStruct((512, 8), x.dtype), shapes.method)
    )
    with pytest.raises(
        SettingError, match=r"method/bank has shape \(\d+, 8\), this run needs \(512, 8\)"
    ):
        checkpoints.restore(16, wider, state_shardings(mesh, wider))
    checkpoints.close()


@pytest.mark.parametrize(("keep", "expected"), [(2, [2, 4, 5]), (1, [2, 5]), (0, [1, 2, 3, 4, 5])])
def test_the_latest_and_the_best_checkpoint_stay(keep, expected, tmp_path):
    scores = {}
    for steps in (((1, 0.3), (2, 0.9), (3, 0.5)), ((4, None), (5, 0.6))):
        scores = dict(scores)
        checkpoints = Checkpoints(tmp_path, scores, keep)  # the second as after a restart
        for step, score in steps:
            if score is not None:
                scores[step] = score
            checkpoints.save(step, {"x": np.full(3, step)})
        checkpoints.close()
    kept = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    assert kept == expected


def test_only_the_loop_asks_jax_whether_to_stop(tmp_path, monkeypatch):
    """Several processes agree on a number of these questions: they must all count alike."""
    questions = []
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", questions.append)
    checkpoints = Checkpoints(tmp_path, {})
    for step in (1, 2):
        checkpoints.save(step, {"x": np.full(3, step)})
    checkpoints.close()
    assert questions == []


def test_the_untrained_encoder_is_the_one_that_the_run_began_with(uninterrupted):
    encoder = untrained(tiny())
    digits = datasets.load("digits", limit=256)

    def split(x):
        return Split({"embedding": encoder(x.images, "embedding")}, x.labels)

    knn = KNN(k=5, temperature=0.1, facts=RunFacts(classes=10))
    found = dict(knn.run({"train": split(digits.train), "test": split(digits.test)}, None))
    recorded = next(
        r["untrained/knn/top1"] for r in records(uninterrupted) if "untrained/knn/top1" in r
    )
    assert found["top1"] == pytest.approx(recorded, abs=1e-6)


def test_a_notebook_shows_one_line_that_changes(monkeypatch):
    shown = []

    class Handle:
        def update(self, text):
            shown[-1] = text

    def display(text, display_id):
        assert display_id
        shown.append(text)
        return Handle()

    fake = types.SimpleNamespace(Pretty=str, display=display)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(display=fake))
    monkeypatch.setitem(sys.modules, "IPython.display", fake)
    bar = ProgressBar(Console(force_jupyter=True, file=io.StringIO()), epochs=2, steps=20, start=0)
    for step in (5, 10, 20):
        bar.update(step, "loss 1.0", line=step != 5)
    bar.close()
    assert len(shown) == 1
    assert shown[0].startswith("epoch 2/2  loss 1.0")


def test_metrics_are_cut_back_to_the_restored_step(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [
        {"step": 4, "train/loss": 1.0},
        {"step": 8, "eval/knn/top1": 0.5},
        {"step": 8, "refresh": True},
        {"step": 9},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 10, "trai')
    metrics = MetricsWriter(tmp_path, 8)
    metrics.write(9, 1.5, {"train/loss": 2.0})
    metrics.close()
    assert read_records(tmp_path) == [*lines[:2], {"step": 9, "epoch": 1.5, "train/loss": 2.0}]


def test_scores_of_a_run_on_everything(tmp_path):
    config = tiny("instance")
    config.baselines = False
    config.epochs = 1
    config.data.whole = True
    config.data.limit = 0
    config.batch_size = 128
    config.evals = dict(
        knn=dict(k=5), clustering=dict(restarts=1, iterations=3), purity=dict(batch_size=64)
    )
    plan = train.build(config)
    assert (len(plan.dataset.train), plan.dataset.joined) == (1797, 360)
    scores = train.run(config, tmp_path / "run", console=quiet())
    assert 0.2 < scores["eval/knn/top1"] < 1.0  # by the labels of the others alone
    assert {"eval/purity/local_10", "eval/purity/contextual_kept_30"} <= scores.keys()
