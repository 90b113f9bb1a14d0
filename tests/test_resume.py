"""Stopped anywhere and gone on, every method ends where it would have ended, bit for bit."""

import json
import signal

import pytest
from helpers.runs import arrays, assert_same_run, quiet, records, tiny

from ssl_jax import train
from ssl_jax.runs.console import ProgressBar
from ssl_jax.runtime import preemption
from ssl_jax.settings.resolve import SettingError
from ssl_jax.training.loop import Loop


def short(variant):
    config = tiny("target" if variant == "positives" else variant)
    config.epochs = 2
    config.evals = dict(knn=dict(k=5))
    config.baselines = False
    if variant == "swav":
        config.stages = {}  # test_run stops one with two of them
    if variant == "positives":
        config.positives.name = "plugins.positives.same_sign"
    return config


@pytest.fixture
def build_once(monkeypatch):
    """Runs of one config share a plan, so that their steps are traced and lowered once."""
    plans = {}
    build = train.build

    def shared(config, **_):
        key = json.dumps(config, sort_keys=True)
        plans[key] = plans.get(key) or build(config)
        return plans[key]

    monkeypatch.setattr(train, "build", shared)


@pytest.fixture
def stop_at(monkeypatch):
    """Makes the run behave as if a signal came while step n was being logged."""
    requests = []

    class Request(preemption.StopRequest):
        def __enter__(self):
            requests.append(self)
            return super().__enter__()

    monkeypatch.setattr(preemption, "StopRequest", Request)
    update = ProgressBar.update

    def arrange(step):
        def updated(self, at, *args, **kwargs):
            if at == step:
                requests[-1].signum = signal.SIGTERM
            update(self, at, *args, **kwargs)

        monkeypatch.setattr(ProgressBar, "update", updated)

    return arrange


@pytest.mark.parametrize(
    "variant",
    [
        *("swav", "conr"),
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("anchors", "aggregation", "target", "positives", "supervised")
        ),
    ],
)
def test_exact_resume(variant, tmp_path, stop_at, build_once, monkeypatch):
    scores = train.run(short(variant), tmp_path / "whole", console=quiet())
    # Inside an epoch (a step was under way when the signal came, or a refresh, which begins anew),
    # and at its end, before the scores of the epoch and the next refresh.
    for step, saved in ((4, 4 if variant == "aggregation" else 5), (8, 8)):
        stop_at(step)
        with pytest.raises(preemption.Stopped, match=f"stopped at step {saved} of 16, saved in"):
            train.run(short(variant), tmp_path / "stopped", console=quiet())
    stop_at(None)
    assert train.run(short(variant), tmp_path / "stopped", console=quiet()) == scores
    assert_same_run(tmp_path / "stopped", tmp_path / "whole", last=16)
    refreshed = [r["step"] for r in records(tmp_path / "whole") if "refresh" in r]
    expected = dict(
        target=[0, 8], positives=[0, 8], anchors=[8], aggregation=[4, 7, 10, 13], conr=[6, 14]
    )
    assert refreshed == expected.get(variant, [])


def test_not_finite_names_the_last_good_checkpoint(tmp_path, monkeypatch):
    config = short("instance")
    config.checkpoint_epochs = 1
    seen = Loop.log

    def broken(self, step, metrics):
        seen(self, step, metrics | {"loss": float("nan")} if step == 13 else metrics)

    monkeypatch.setattr(Loop, "log", broken)
    with pytest.raises(
        train.NotFinite, match=r"the loss is nan at step 13; the last good checkpoint is step 8 in"
    ):
        train.run(config, tmp_path / "run", console=quiet())
    assert arrays(tmp_path / "run", 8)


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # of the other arrays orbax was reading
@pytest.mark.parametrize("what", ["d/*", "_METADATA"])
def test_a_damaged_checkpoint(what, tmp_path, stop_at, build_once):
    stop_at(4)
    with pytest.raises(preemption.Stopped):
        train.run(short("instance"), tmp_path / "run", console=quiet())
    stop_at(None)
    for path in (tmp_path / "run" / "checkpoints" / "5" / "default").glob(what):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(
        SettingError,
        match=r"checkpoint 5 of .*run is damaged \(default/.* has changed\); there is no earlier",
    ):
        train.run(short("instance"), tmp_path / "run", console=quiet())


def test_other_scores_may_be_asked_for_when_resuming(tmp_path, stop_at):
    stop_at(4)
    with pytest.raises(preemption.Stopped):
        train.run(short("instance"), tmp_path / "run", console=quiet())
    stop_at(None)
    config = short("instance")
    config.evals = dict(clustering=dict(restarts=1, iterations=3))
    config.best = "eval/clustering/acc"
    config.eval_epochs = 2
    assert "eval/clustering/acc" in train.run(config, tmp_path / "run", console=quiet())
