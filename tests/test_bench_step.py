"""The step's breakdown runs on any config, without data."""

import re
import subprocess
import sys

import pytest
from test_run import TESTS, TINY, environment


@pytest.mark.parametrize("variant", ["swav", "conr"])
def test_every_part_is_measured(variant, tmp_path):
    script = TESTS.parent / "experiments" / "bench_step.py"
    flags = [f"--config={TINY}:{variant}", "--runs=1", f"--profile={tmp_path}"]
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
    assert f"views 2x8{' + 1x5' if variant == 'swav' else ''}" in done.stdout
    more = {"target", "base", "overhead", "positives", "refresh"}
    assert set(times) & more == (more if variant == "conr" else set())
    assert list(tmp_path.rglob("*.xplane.pb"))
