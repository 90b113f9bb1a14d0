"""The scripts for a GPU machine, at a tiny size on this CPU."""

import gzip
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "experiments" / "gpu"
# The smallest network on a few digits.
TINY_ROW = ("epochs=1", "batch_size=32", "data.limit=128", "model.width=8", "model.depth=10")
TINY_ROW += ("model.dtype=float32", "method.samples=32", "eval_epochs=1")
TINY_ROW += ("evals.knn.k=5", "evals.linear.steps=5")


def run(script, *flags, **environment):
    """Runs a script as on a machine where nothing is installed."""
    call = [sys.executable, SCRIPTS / script, *map(str, flags)]
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables |= environment
    return subprocess.run(call, env=variables, capture_output=True, text=True, timeout=300)


@pytest.fixture
def load(monkeypatch):
    """Imports one of the scripts as a module."""
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))  # some scripts extend it
    monkeypatch.syspath_prepend(ROOT / "experiments")
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def cifar(tmp_path, load):
    """A CIFAR-10 folder with a few random images, a different number in each file."""
    inner, label_bytes, names = load("mosaics").LAYOUTS["cifar10"]
    folder = tmp_path / "cifar" / inner
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for count, name in enumerate(names, start=3):
        records = rng.integers(0, 256, (count, label_bytes + 3072), np.uint8)
        records[0, 1:] = 0  # black pixels must survive
        records.tofile(folder / name)
    return folder


@pytest.mark.slow
def test_bench_leaves_a_line_for_a_case(tmp_path):
    flags = (f"--cases={SCRIPTS / 'tiny.json'}", "--only=instance")
    done = run("bench.py", f"--out={tmp_path}", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = lines(tmp_path / "bench.jsonl")
    assert (record["name"], record["batch"], record["device"]) == ("instance", 16, "1 x cpu")
    assert "failed" not in record
    for name in ("step_ms", "images_per_second", "tflops", "compile_seconds", "temporary_gb"):
        assert record[name] > 0
    assert record["augment_share"] > 0
    assert "kernel_ms" not in record  # no GPU
    assert "HloModule" in gzip.decompress((tmp_path / "hlo-instance.txt.gz").read_bytes()).decode()
    assert "| instance, batch 16 |" in done.stdout


@pytest.mark.parametrize(("file", "count"), [("cases.json", 5), ("tiny.json", 2)])
def test_all_cases_have_configs(file, count, load):
    assert len(load("bench").read_cases(SCRIPTS / file)) == count


@pytest.mark.parametrize(
    ("cases", "only", "says"),
    [
        ("[{", "", "--cases="),
        ('[{"name": "a", "config": "configs/swav.py", "stepps": 2}]', "", "stepps"),
        ('[{"name": "a", "config": "configs/swaw.py"}]', "", "configs/swaw.py"),
        ('[{"name": "a", "config": "configs/swav.py", "settings": {"epoch": 1}}]', "", "epoch is"),
        ('[{"name": "a", "config": "configs/swav.py"}]', "b", "no 'b' in cases.json, which has a"),
    ],
)
def test_bad_cases_end_before_any_work(cases, only, says, tmp_path, load):
    path = tmp_path / "cases.json"
    path.write_text(cases)
    with pytest.raises(SystemExit, match="error: ") as stopped:
        load("bench").read_cases(path, only)
    assert says in stopped.value.code


def test_kernels_are_counted_by_kind(tmp_path, load):
    def name(pid, text, **fields):
        return dict(ph="M", pid=pid, args={"name": text}, **fields)

    def call(pid, tid, text, us):
        return dict(ph="X", pid=pid, tid=tid, name=text, dur=us, ts=0)

    forward = "sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc"
    events = [
        name(1, "/device:GPU:0", name="process_name"),
        name(2, "/host:CPU", name="process_name"),
        name(1, "Stream #13(Compute)", name="thread_name", tid=4),
        name(1, "XLA Ops", name="thread_name", tid=5),
        *[call(1, 4, forward, 500.0)] * 4,
        call(1, 4, "sm90_xmma_dgrad_implicit_gemm_indexed_bf16bf16", 300.0),
        call(1, 4, "nvjet_sm90_tst_128x192_64x5_2x1_v_bx_coopB_bias_TNN", 200.0),
        call(1, 4, "sm80_xmma_gemm_f32f32_f32f32_f32_nn_n_tilesize64x256x8_ffma", 100.0),
        call(1, 4, "input_reduce_fusion_52", 60.0),
        call(1, 4, "loop_reduce_window_fusion_1", 40.0),
        call(1, 4, "loop_convert_fusion_2", 20.0),
        call(1, 4, "MemcpyD2D", 10.0),
        call(1, 5, "convolution.1", 7000.0),  # the same time again, by operation
        call(2, 4, "fprop on the host", 7000.0),
    ]
    path = tmp_path / "plugins" / "profile" / "then" / "host.trace.json.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(json.dumps({"traceEvents": events}).encode()))
    kernels = load("kernels")
    step_kernels = kernels.read(tmp_path, steps=2)
    assert step_kernels[0] == (forward, 1.0, 2.0)
    expected = {
        "convolutions forward": 1.0,
        "gradients of inputs": 0.15,
        "matrix products": 0.1,
        "float32 products without tensor cores": 0.05,
        "reductions": 0.03,
        "windows (max pooling)": 0.02,
        "elementwise": 0.01,
        "copies": 0.005,
    }
    times = kernels.by_kind(step_kernels)
    assert times == pytest.approx(expected)
    assert list(times) == list(expected)
    assert next(kernels.lines(step_kernels)) == "1.365 ms a step in 6 kernels"


def test_kernels_need_a_trace(tmp_path, load):
    with pytest.raises(SystemExit, match="error: no .*trace.json.gz under"):
        load("kernels").read(tmp_path, 5)


def test_images_arrive_in_pieces_bit_for_bit(tmp_path, cifar, load):
    mosaics = load("mosaics")
    pieces = mosaics.pack(cifar.parent, "cifar10", tmp_path, limit=0.03, images=4)
    assert len(pieces) > 2
    for piece in pieces:
        assert sum(p.stat().st_size for p in piece.iterdir()) < 0.04 * 2**20  # and its index
    out = tmp_path / "out"
    late = pieces.pop()
    assert mosaics.unpack(pieces, out) == [late.name]
    assert mosaics.unpack([late], out) == []  # earlier pieces were kept
    for path in cifar.iterdir():
        assert (out / cifar.name / path.name).read_bytes() == path.read_bytes()


def test_cifar100_is_found_in_its_archive(tmp_path, load):
    import tarfile

    mosaics = load("mosaics")
    inner, label_bytes, names = mosaics.LAYOUTS["cifar100"]
    (tmp_path / inner).mkdir()
    for count, name in enumerate(names, start=2):
        raw = np.random.default_rng(count).integers(0, 256, (count, label_bytes + 3072), np.uint8)
        raw.tofile(tmp_path / inner / name)
    data = tmp_path / "data"
    data.mkdir()
    with tarfile.open(data / mosaics.ARCHIVES["cifar100"], "w:gz") as tar:
        tar.add(tmp_path / inner, inner)
    pieces = mosaics.pack(data, "cifar100", tmp_path, limit=1.0)
    assert [piece.name for piece in pieces] == [".gpu-data-1"]
    assert mosaics.unpack(pieces, tmp_path / "out") == []
    for name in names:
        restored = tmp_path / "out" / inner / name
        assert restored.read_bytes() == (tmp_path / inner / name).read_bytes()


def test_damaged_or_missing_images_are_named(tmp_path, cifar, load):
    mosaics = load("mosaics")
    (piece,) = mosaics.pack(cifar, "cifar10", tmp_path, limit=1.0)
    (piece / "data_batch_2-0.labels").write_bytes(b"\x00" * 4)
    with pytest.raises(SystemExit, match=r"error: .*data_batch_2-0.webp is damaged; prepare"):
        mosaics.unpack([piece], tmp_path / "out")
    with pytest.raises(SystemExit, match=r"error: --limit=0.001: 3 images of data_batch_1.bin"):
        mosaics.pack(cifar, "cifar10", tmp_path / "none", limit=0.001)
    (cifar / "data_batch_3.bin").write_bytes(b"cut short")
    with pytest.raises(SystemExit, match=r"error: data_batch_3.bin in .* is not whole records"):
        mosaics.read(cifar, "cifar10")
    (cifar / "test_batch.bin").unlink()
    with pytest.raises(SystemExit, match=r"error: --data=.*: no test_batch.bin there"):
        mosaics.read(cifar, "cifar10")


def test_prepare_replaces_old_folders(tmp_path, cifar, load, capsys):
    prepare = load("prepare")
    (tmp_path / ".gpu-data-7").mkdir()
    prepare.main([f"--root={tmp_path}", f"--data={cifar}", "--wheels=", "--no-check"])
    assert {p.name for p in tmp_path.glob(".gpu-*")} == {".gpu-setup", ".gpu-data-1"}
    assert (tmp_path / ".gpu-setup" / "commit").read_text().strip()
    assert ".gpu-data-1: 13 files" in capsys.readouterr().out
    lock = tmp_path / "lock"
    lock.write_text("clu==0.0.12 \\\n    --hash=sha256:1\ntoml==0.10.2 ; python_version < '4'\n")
    requirements = prepare.pinned(["toml", "clu", "other"], lock)
    assert requirements == ["toml==0.10.2", "clu==0.0.12", "other"]


def test_git_ignores_the_copied_folders():
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {"/.gpu-setup/", "/.gpu-data-*/", "/.gpu-work/"} <= set(ignored)


@pytest.mark.slow
def test_a_row_leaves_its_line_and_its_records(tmp_path, load):
    out = tmp_path / "out"
    settings = [f"--set={setting}" for setting in TINY_ROW]
    flags = (f"--out={out}", f"--runs={tmp_path / 'runs'}", "--seconds=300", "--seed=3", *settings)
    load("row").main(["instance-digits", *flags])
    (line,) = lines(out / "results.jsonl")
    assert line["row"].startswith("instance-digits batch_size=32 ")
    assert (line["seed"], line["epochs"], line["device"]) == (3, 1, "2 x cpu")
    assert set(line["numbers"]) >= {"knn/top1", "linear/top1"}
    (metrics,) = out.glob("*-seed3.metrics.jsonl")
    assert any("eval/knn/top1" in record for record in lines(metrics))
    assert len(list(out.glob("*-seed3.*.json"))) == 2


def test_a_row_needs_time_to_save(tmp_path, load):
    with pytest.raises(SystemExit) as stopped:
        load("row").parse(["instance-digits", f"--out={tmp_path}", "--seconds=20"])
    assert stopped.value.code == 2


def test_torch_step_reports_a_missing_torch(tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('no torch', name='torch')\n")
    done = run("torch_step.py", f"--out={tmp_path}", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: torch is not installed;")


def test_golden_cases_run_on_jaxs_device():
    done = run("golden.py", "tests/test_schedules.py", "-k", "published")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "golden cases on cpu, cpu: 3 passed of 3"
