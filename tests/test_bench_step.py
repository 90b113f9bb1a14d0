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
    done = subprocess.run(
        [sys.executable, script, *flags], env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    times = {name: float(ms) for name, ms in re.findall(r"^(\w+) +(-?[\d.]+)", done.stdout, re.MULTILINE)}
    assert set(times) >= {"augment", "forward", "method", "backward", "optimiser", "step", "without"}
    assert all(times[name] > 0 for name in ("augment", "forward", "method", "optimiser", "step", "without"))
    flops = float(re.search(r"[\d,]+ images/s, ([\d,.]+) GFLOP/s", done.stdout)[1])
    assert 0.001 < flops * times["step"] / 1e3 < 1.0  # GFLOP of a step: a tiny network on 32 tiny images
    assert "memory" in done.stdout
    assert "views 2x8" in done.stdout
    assert set(times) >= {"target", "base", "overhead", "positives", "refresh"}
    assert list(tmp_path.rglob("*.xplane.pb"))
