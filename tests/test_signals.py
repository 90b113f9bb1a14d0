"""Ctrl-C and SIGTERM inside evaluations and commands: heeded within seconds, nothing lost."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from helpers.runs import (
    TESTS,
    assert_same_run,
    command,
    environment,
    finish,
    quiet,
    records,
    two_epochs,
)

from ssl_jax import train
from ssl_jax.evaluation.knn import KNN
from ssl_jax.runs.run_folder import steps_in
from ssl_jax.runtime import preemption


def scored(checkpoint_epochs=1):
    config = two_epochs()
    config.evals = dict(knn=dict(k=5), linear=dict(steps=5, batch_size=16))
    config.checkpoint_epochs = checkpoint_epochs
    return config


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    train.run(scored(), folder, console=quiet())
    return folder


@pytest.fixture
def during(monkeypatch):
    """Makes the n-th evaluation do something in place of its first evaluator's end."""
    run = KNN.run
    requests = []

    class Request(preemption.StopRequest):
        def __enter__(self):
            requests.append(self)
            return super().__enter__()

    monkeypatch.setattr(preemption, "StopRequest", Request)

    def arrange(number, act):
        calls = []

        def acting(self, splits, state, report):
            calls.append(0)
            yield from run(self, splits, state)
            if len(calls) == number:
                act(requests[-1])

        monkeypatch.setattr(KNN, "run", acting)

    return arrange


def asks(request):
    request.signum = signal.SIGTERM


@pytest.mark.parametrize("checkpoint_epochs", [1, 2])
@pytest.mark.parametrize("number", [1, 2])
def test_an_evaluation_that_is_stopped_comes_first_next_time(
    number, checkpoint_epochs, whole, tmp_path, during
):
    step = 8 * number
    config = scored(checkpoint_epochs)
    during(number, asks)
    with pytest.raises(
        preemption.Stopped,
        match=f"stopped at step {step} of 16, saved in .*; rerun the same command to resume",
    ):
        train.run(config, tmp_path / "run", console=quiet())
    assert max(steps_in(tmp_path / "run")) == step
    assert not any("eval/knn/top1" in r for r in records(tmp_path / "run") if r["step"] == step)
    during(0, asks)
    console = quiet()
    scores = train.run(config, tmp_path / "run", console=console)
    assert "evaluating this step first" in console.file.getvalue()
    assert scores == {k: v for k, v in records(whole)[-1].items() if k.startswith("eval/")}
    assert_same_run(tmp_path / "run", whole, last=16)


def test_a_kill_in_an_evaluation_loses_no_record(whole, tmp_path, during):
    def kill(request):
        raise KeyboardInterrupt  # as a second signal; stands in for a SIGKILL

    for number in (1, 2):
        during(number, kill)
        with pytest.raises(KeyboardInterrupt):
            train.run(scored(), tmp_path / "run", console=quiet())
    during(0, kill)
    train.run(scored(), tmp_path / "run", console=quiet())
    assert_same_run(tmp_path / "run", whole, last=16)


@pytest.mark.parametrize(("values", "kept"), [((0.1, 0.2), [16]), ((0.2, 0.1), [8, 16])])
def test_what_is_kept_at_the_end_knows_the_last_score(values, kept, tmp_path, monkeypatch):
    left = iter(values)
    monkeypatch.setattr(KNN, "run", lambda *_: iter([("top1", next(left))]))
    config = two_epochs()
    config.keep_checkpoints = 1
    train.run(config, tmp_path / "run", console=quiet())
    assert steps_in(tmp_path / "run") == kept


# An evaluator that XLA never lets go; it says when it begins.
STUCK = """
import sys
import jax, jax.numpy as jnp
from ssl_jax import main
from ssl_jax.evaluation.knn import KNN
from ssl_jax.runtime import command
long = jax.jit(lambda x: jax.lax.while_loop(lambda x: x < 2, jnp.sin, x))
def stuck(self, splits, state, report):
    sys.stderr.write("evaluating\\n")
    yield "top1", float(long(0.0))
KNN.run = stuck
command.start(main.main)
"""


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param((), marks=pytest.mark.slow),
        pytest.param(("--config.checkpoint_epochs=4",), marks=pytest.mark.slow),
    ],
)
def test_an_evaluation_that_no_signal_reaches_is_left(flags, tmp_path):
    flags = ("--config.baselines=False", "--config.evals.linear.steps=5", *flags)
    process = subprocess.Popen(
        command(tmp_path / "run", *flags, script=STUCK),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr.readline() == "evaluating\n"
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert err.splitlines()[-1].startswith("stopped at step 8 of 32, saved in ")
    assert steps_in(tmp_path / "run") == [8]
    out, _ = finish(tmp_path / "run", *flags)
    assert "evaluating this step first" in out
    assert [r["step"] for r in records(tmp_path / "run") if "eval/knn/top1" in r] == [8, 16, 24, 32]


# Each command in a process that is forked where JAX is imported; it is signalled as it begins its
# work.
COMMANDS = """
import json, os, signal, sys
import jax, rich.console
from absl import flags
from ssl_jax.runtime import command
codes = []
for i, (name, signum, argv) in enumerate(json.load(sys.stdin)):
    child = os.fork()
    if not child:
        os.dup2(os.open(f"{i}.err", os.O_WRONLY | os.O_CREAT), 2)
        import importlib
        module = importlib.import_module(f"ssl_jax.{name}")
        from ssl_jax.runs import restore
        from ssl_jax import build
        def signalled(*args):
            os.kill(os.getpid(), signum)
        restore.open_run = restore.config_of = build.completed = module.completed = signalled
        sys.argv, code = [name, *argv], 0
        try:
            if name == "preview":
                command.start(module.main)
            else:
                command.start(module.main, prepare=module.command_line.with_run)
        except SystemExit as left:
            code = left.code
        os._exit(code)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(codes))
"""


def test_a_signal_ends_a_command_with_one_line(whole, tmp_path):
    run = [f"--workdir={whole}"]
    calls = [("assign", 2, run), ("evaluate", 15, run), ("export", 2, run)]
    calls.append(("preview", 2, [f"--config={TESTS / 'configs' / 'tiny.py'}"]))
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS],
        input=json.dumps(calls),
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [128 + signum for _, signum, _ in calls]
    for i in range(len(calls)):
        assert (tmp_path / f"{i}.err").read_text() == "stopped; existing files are unchanged\n"
    assert sorted(os.listdir(tmp_path)) == [f"{i}.err" for i in range(len(calls))]
