"""The comparison with PyTorch: bad input, missing libraries, its table; the roofline's counts."""

import importlib
import importlib.util
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.runs import environment

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "experiments" / "bench_peers.py"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    spec = importlib.util.spec_from_file_location("bench_peers", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def peers(bench):
    return importlib.import_module("peers.table")


def row(device="G", kind="step", **results):
    recipe = {"views": [{"count": 2, "size": 32}], "model": {"depth": 18}}
    case = dict(
        kind="step", method="swav", width=16, batch=64, dtype="float32", workers=2, recipe=recipe
    )
    if kind == "sinkhorn":
        case = dict(kind=kind, rows=256, prototypes=3000, dead=True)
    versions = {"jax": "1", "torch": "2"}
    return dict(
        device=device, versions=versions, date="2026-01-02", repeats=5, case=case, results=results
    )


def timed(ms, **checks):
    return dict(ms=ms, first=3.0) | checks


def test_table_has_ratios_to_ours_and_what_failed(peers, tmp_path):
    steps = {
        "ours/augmented": timed(100.0),
        "ours/alone": timed(80.0),
        "eager/augmented": timed(250.0),
    }
    steps |= {
        "eager/alone": timed(40.0),
        "eager/workers": timed(120.0),
        "compiled/alone": {"skipped": "Boom: no g++"},
    }
    first = row(**steps)
    second = row(
        kind="sinkhorn",
        ours=timed(2.0),
        eager=timed(3.0, finite=False),
        compiled=timed(1.0, finite=True),
    )
    for result in (first, second):
        result["label"] = peers.label(result["case"])
    results = tmp_path / "peers.jsonl"
    page = tmp_path / "page.md"
    old = first | {"results": {"ours/augmented": timed(1.0)}}
    results.write_text("".join(json.dumps(r) + "\n" for r in (old, first, second)))
    page.write_text(f"before\n{peers.BEGIN}\nold\n{peers.END}\nafter\n")
    for _ in range(2):
        peers.write_table(page, peers.read(results))
    text = page.read_text()
    name = "| SwAV, ResNet-18 width 16, 2x32, batch 64, float32 |"
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert f"{name} drawn in the step | 100 | 640 | 3 | 2.50 | - | - | - |" in text
    assert f"{name} drawn by 2 workers | 100 | 640 | 3 | 1.20 | - | - | - |" in text
    assert f"{name} ready | 80 | 800 | 3 | 0.50 | - | failed: Boom | - |" in text
    assert "far below the rest | 2.00 | 1.50 (NaN) | 0.50 |  |  |" in text
    assert text.count("**G**. jax 1, torch 2; 2026-01-02; medians of 5 turns.") == 1


def test_networks_must_have_equal_sizes(bench):
    ours = dict(parameters=1_000_000, backbone=900_000)
    bench.same_size(ours, dict(parameters=1_000_900, backbone=900_000))
    for theirs in (
        dict(parameters=1_002_000, backbone=900_000),
        dict(parameters=1_000_000, backbone=900_001),
    ):
        with pytest.raises(SystemExit, match="the networks differ: backbone 900,000 of 1,000,000"):
            bench.same_size(ours, theirs)


@pytest.mark.parametrize(
    ("wrong", "says"), [("--methods=swaw", "'swaw' is not one of swav"), ("--repeats=0", "least 1")]
)
def test_bad_arguments(bench, wrong, says, capsys):
    with pytest.raises(SystemExit) as stopped:
        bench.parse([wrong])
    assert stopped.value.code == 2
    assert says in capsys.readouterr().err


def test_refuses_before_any_work(bench, tmp_path):
    with pytest.raises(SystemExit, match="no folder"):
        bench.run(bench.parse([f"--out={tmp_path / 'none' / 'x.jsonl'}"]))
    with pytest.raises(SystemExit, match="no such file"):
        bench.run(bench.parse([f"--out={tmp_path / 'x.jsonl'}", "--torch-python=/none/python"]))


@pytest.mark.slow
def test_kernels_are_measured_without_torch(tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('no torch', name='torch')\n")
    blocked = environment() | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    flags = [
        "--device=cpu",
        "--kernels",
        "--repeats=1",
        "--seconds=0",
        "--scale=0.005",
        "--clusters=5",
    ]
    call = [sys.executable, SCRIPT, *flags, f"--out={tmp_path / 'out'}"]
    done = subprocess.run(call, env=blocked, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "skipped: torch: torch is not installed" in done.stdout
    rows = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [r["case"]["kind"] for r in rows] == ["sinkhorn"] * 3 + ["knn", "kmeans"]
    assert all(r["results"]["ours"]["ms"] > 0 for r in rows)
    assert all(r["results"]["ours"]["finite"] for r in rows[:3])
    kmeans = rows[-1]["results"]  # all start at the same rows
    assert kmeans["scikit-learn"]["inertia"] == pytest.approx(kmeans["ours"]["inertia"], rel=0.01)


PUBLISHED = {
    (18, "imagenet", 224): 1.814e9,
    (50, "imagenet", 224): 4.089e9,
    (18, "cifar", 32): 0.556e9,
}


@pytest.mark.parametrize(("network", "products"), PUBLISHED.items())
def test_roofline_counts_the_published_products(network, products, monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    roofline = importlib.import_module("roofline")
    depth, stem, size = network
    counted = [layer[2] for layer in roofline.layers(depth, 64, stem, size)]
    assert len(counted) == {18: 20, 50: 53}[depth]
    assert sum(counted) / 2 == pytest.approx(products, rel=2e-3)


def test_roofline_counts_target_networks(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    roofline = importlib.import_module("roofline")
    counted = {}
    for name in ("swav", "simsiam", "byol", "moco"):
        module = runpy.run_path(str(ROOT / "configs" / f"{name}.py"))
        config = module["get_config"]("cifar10")
        config.batch_size = 64
        config.model.width = 16
        counted[name] = roofline.by_hand(config)[1]
    assert counted["simsiam"] == counted["swav"]
    assert counted["byol"] == pytest.approx(counted["swav"] * (14 + 5) / 14, rel=0.05)
    assert counted["moco"] == counted["byol"] / 2  # one view for the query, one for the key
