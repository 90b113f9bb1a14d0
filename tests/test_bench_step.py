"""The step's breakdown runs on any config, without data."""

import re
import subprocess
import sys

import pytest
from helpers.runs import TESTS, TINY, environment


@pytest.mark.slow
def test_every_part_is_measured(tmp_path):
    script = TESTS.parent / "experiments" / "bench_step.py"
    flags = [f"--config={TINY}:conr", "--runs=1", f"--profile={tmp_path}"]
    call = [sys.executable, script, *flags]
    done = subprocess.run(call, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = re.findall(r"^(\w+) +(-?[\d.]+)", done.stdout, re.MULTILINE)
    times = {name: float(ms) for name, ms in lines}
    for name in ("augment", "forward", "method", "optimiser", "step", "without"):
        assert times[name] > 0
    assert "backward" in times
    flops = float(re.search(r"[\d,]+ images/s, ([\d,.]+) GFLOP/s", done.stdout)[1])
    # GFLOP of a step: a tiny network on 32 tiny images.
    assert 0.001 < flops * times["step"] / 1e3 < 1.0
    assert "memory" in done.stdout
    assert "views 2x8" in done.stdout
    assert set(times) >= {"target", "base", "overhead", "positives", "refresh"}
    assert list(tmp_path.rglob("*.xplane.pb"))
