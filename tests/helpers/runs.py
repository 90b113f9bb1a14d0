"""Runs of seconds: the tiny config, commands on it, and what they leave behind."""

import importlib.util
import io
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from rich.console import Console

from ssl_jax.runs.metrics import read_records

TESTS = Path(__file__).parent.parent
TINY = TESTS / "configs" / "tiny.py"
LAST = 32  # 4 epochs of 8 steps


def tiny(variant="swav"):
    spec = importlib.util.spec_from_file_location("tiny", TINY)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant)


def two_epochs():
    """16 steps of Instance Discrimination, scored by kNN after each 8."""
    config = tiny("instance")
    config.epochs = 2
    config.evals = dict(knn=dict(k=5))
    config.baselines = False
    return config


def command(folder, *more, script=None):
    """The command line of a run, on one device."""
    start = ["-c", script] if script else ["-m", "ssl_jax.main"]
    return [sys.executable, *start, f"--config={TINY}", f"--workdir={folder}", *more]


def environment():
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}


def start(folder, *more, script=None):
    return subprocess.Popen(
        command(folder, *more, script=script),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(folder, *more):
    process = start(folder, *more)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out, err


def records(folder):
    """Records without what the clock decides."""
    return [
        {k: v for k, v in r.items() if not k.startswith("speed/")} for r in read_records(folder)
    ]


def arrays(folder, step=LAST):
    state = ocp.StandardCheckpointer().restore(Path(folder) / "checkpoints" / str(step) / "default")
    return {
        jax.tree_util.keystr(p): np.asarray(x)
        for p, x in jax.tree_util.tree_leaves_with_path(state)
    }


def assert_same_run(folder, reference, last=LAST):
    assert records(folder) == records(reference)
    ours = arrays(folder, last)
    theirs = arrays(reference, last)
    assert ours.keys() == theirs.keys()
    for path, expected in theirs.items():
        np.testing.assert_array_equal(ours[path], expected, err_msg=path)


def wait_for_step(folder, step, process):
    process.stdout.readline()  # by then records beyond the restored step are gone
    for _ in range(15000):
        if any(r["step"] >= step for r in read_records(folder)):
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    raise TimeoutError


def quiet():
    return Console(file=io.StringIO(), width=200)
