"""Faster R-CNN on our backbones: its features, training that resumes, and the command."""

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.made_voc import COLOURS, made_voc
from helpers.runs import environment
from helpers.weights import random_tensors, torchs

from ssl_jax import load_encoder
from ssl_jax.models import torch_weights, weight_files
from ssl_jax.models.resnet import ResNet

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
TINY = dict(sizes=(32, 48), longest=64, iterations=4, batch=2, rate=0.01)


def torch_module():
    """PyTorch, or the test is skipped: torchvision must be one that works with it."""
    try:
        import torchvision.ops  # noqa: F401
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"needs PyTorch and a torchvision made for it, which are optional ({error})")
    return torchs()[0]


@pytest.fixture
def torch():
    return torch_module()


@pytest.fixture
def load(monkeypatch):
    """Imports a module of experiments/."""
    monkeypatch.syspath_prepend(EXPERIMENTS)
    return importlib.import_module


@pytest.fixture
def weights(tmp_path):
    """A file of a small ResNet with random weights."""

    def made(depth=18, width=4, notes="{}"):
        tensors = random_tensors(ResNet(depth=depth, width=width, stem="imagenet"))
        path = tmp_path / "backbone.safetensors"
        weight_files.write(path, tensors, notes=notes)
        return path

    return made


@pytest.fixture
def made(load, weights):
    """A detector, and its backbone's file."""

    def make(train="voc07+12", depth=18, **settings):
        path = weights(depth)
        backbone = load("detection_parts.backbone").read(path)
        protocol = load("detection").protocol_of(train, TINY | settings)
        importlib.import_module("torch").manual_seed(0)
        return load("detection_parts.detector").detector(backbone, protocol), protocol, path

    return make


def ours(path, images):
    """Our feature maps [B, C, H, W] of images in torch's layout, and the pooled ones."""
    tensors = weight_files.read(path)
    depth = 50 if "layer1.0.conv3.weight" in tensors else 18
    network = ResNet(depth=depth, width=4, stem="imagenet")
    images = images.transpose(0, 2, 3, 1)
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), images, train=False))
    variables = torch_weights.from_torch(tensors, shapes)
    features = jax.jit(lambda v, x: network.apply(v, x, train=False))(variables, images)
    return {
        name: np.asarray(x).transpose(0, 3, 1, 2) if x.ndim == 4 else np.asarray(x)
        for name, x in features.items()
    }


@pytest.mark.parametrize(("depth", "norm"), [(18, "batch"), (50, "frozen")])
def test_the_detectors_features_are_our_encoders(torch, made, depth, norm):
    model, _, path = made(depth=depth, norm=norm, frozen=2)
    model.eval()
    images = np.random.default_rng(0).standard_normal((2, 3, 64, 96)).astype(np.float32)
    expected = ours(path, images)
    with torch.no_grad():
        maps = model.backbone(torch.from_numpy(images))
        pooled = model.roi_heads.box_head(maps)
    np.testing.assert_allclose(maps, expected["stage4"], atol=1e-4)
    np.testing.assert_allclose(pooled, expected["backbone"], atol=1e-4)
    assert float(np.abs(expected["stage4"]).mean()) > 0.1
    model, _, _ = made(depth=depth, norm=norm, neck="fpn")
    with torch.no_grad():
        maps = model.eval().backbone.body(torch.from_numpy(images))
    for i in range(4):
        np.testing.assert_allclose(maps[str(i)], expected[f"stage{i + 2}"], atol=1e-4)


def test_pictures_are_normalised_as_the_encoders(torch, load, weights):
    """From pixels: the file's own statistics, and nothing resized at the size it has."""
    path = weights(notes='{"size": 64, "mean": [0.3, 0.4, 0.5], "std": [0.2, 0.3, 0.1]}')
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    protocol = load("detection").protocol_of("voc07", dict(sizes=(64,), longest=64))
    backbone = load("detection_parts.backbone").read(path)
    model = load("detection_parts.detector").detector(backbone, protocol).eval()
    tensors = [torch.from_numpy(x.transpose(2, 0, 1).copy()).float() / 255 for x in images]
    with torch.no_grad():
        batch, _ = model.transform(tensors)
        pooled = model.roi_heads.box_head(model.backbone(batch.tensors))
    np.testing.assert_allclose(pooled, load_encoder(path)(images), atol=1e-4)


def test_mirrored_pictures_keep_their_boxes(torch, load, tmp_path):
    voc = load("detection_parts.voc")
    pictures = voc.read(made_voc(tmp_path / "VOCdevkit"), voc.TRAIN["voc07"])
    loaded = load("detection_parts.pictures").Pictures(pictures, seed=0)
    plain = [loaded[-1, place][1]["boxes"] for place in range(6)]
    mirrored = 0
    for iteration in range(4):
        for place, picture in enumerate(pictures):
            image, target = loaded[iteration, place]
            assert image.shape == (3, picture.height, picture.width)
            mirrored += not torch.equal(target["boxes"], plain[place])
            for (x1, y1, x2, y2), label in zip(target["boxes"].int(), target["labels"]):
                colour = 255 * image[:, y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].mean((1, 2))
                expected = COLOURS[voc.CLASSES[label - 1]]
                np.testing.assert_allclose(colour, expected, atol=12)
    assert 4 < mirrored < 20


@pytest.fixture
def pictures(load, tmp_path):
    voc = load("detection_parts.voc")
    return voc.read(made_voc(tmp_path / "VOCdevkit"), voc.TRAIN["voc07"])


def quiet(*_):
    pass


def test_what_is_frozen_stays(torch, made, load, pictures, tmp_path):
    """The stem and layer1 under trained BatchNorm; everywhere the statistics, if it is frozen."""
    training = load("detection_parts.training")
    for settings in (dict(frozen=2), dict(frozen=0, norm="frozen")):
        model, protocol, path = made(**settings, iterations=1, drops=())
        folder = tmp_path / protocol.norm
        folder.mkdir()
        training.train(
            model, pictures, protocol, folder, device="cpu", limit=training.Limit(0), say=quiet
        )
        before = weight_files.read(path)
        moved = {
            name
            for name, x in model.backbone.state_dict().items()
            if name in before and not np.allclose(x, before[name], atol=1e-7)
        }
        if protocol.norm == "frozen":
            assert moved
            assert not any("bn" in name or "downsample.1" in name for name in moved)
        else:
            assert {name.split(".")[0] for name in moved} == {"layer2", "layer3"}
            assert "layer2.0.bn1.running_mean" in moved


def test_a_stopped_training_resumes_exactly(torch, made, load, pictures, tmp_path):
    training = load("detection_parts.training")

    def train(folder, limit, **settings):
        model, protocol, _ = made(**settings)
        folder.mkdir(exist_ok=True)
        shared = dict(device="cpu", limit=limit, every=1, say=quiet)
        commits = training.train(model, pictures, protocol, folder, **shared, commit=limit.name)
        return model, commits

    class Stops(training.Limit):
        """Stops before the third step."""

        name = "a"
        steps = 0

        def check(self, text):
            self.steps += 1
            if self.steps == 3:
                self.signum = signal.SIGTERM
            super().check(text)

    whole = training.Limit(0)
    whole.name = "a"
    expected, _ = train(tmp_path / "whole", whole)
    with pytest.raises(training.Interrupted, match="at iteration 2 of 4; rerun the same") as caught:
        train(tmp_path / "parts", Stops(0))
    assert caught.value.code == 143
    rest = training.Limit(0)
    rest.name = "b"
    model, commits = train(tmp_path / "parts", rest)
    assert commits == ["a", "b"]
    for name, x in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], x), name
    (tmp_path / "parts" / "checkpoint.pt").write_bytes(b"torn")
    with pytest.raises(Exception, match=r"checkpoint\.pt is damaged .*; delete it to start again"):
        train(tmp_path / "parts", rest)


@pytest.mark.parametrize("neck", ["c4", "fpn"])
def test_regions_are_where_their_boxes_are(torch, made, neck):
    """Whatever the first batch was: a map of its own columns pools to the middle of the box."""
    model, _, _ = made(neck=neck)
    pool = model.roi_heads.box_roi_pool
    strides = (16,) if neck == "c4" else (4, 8, 16, 32)
    for side in (36, 256):
        maps = {}
        for i, stride in enumerate(strides):
            columns = (torch.arange(8 * 32 // stride) + 0.5) * stride
            maps[str(i)] = columns.expand(1, 1, len(columns), len(columns))
        box = torch.tensor([[48.0, 32.0, 144.0, 160.0]])
        pooled = pool(maps, [box], [(side, side)])
        assert float(pooled.mean()) == pytest.approx(96, abs=3)


def test_a_loss_that_is_not_finite_is_an_error(torch, made, load, pictures, tmp_path):
    training = load("detection_parts.training")
    model, protocol, _ = made(rate=1e30, warmup=0)
    with pytest.raises(Exception, match=r"the loss of iteration \d is (nan|inf); give a lower"):
        training.train(
            model, pictures, protocol, tmp_path, device="cpu", limit=training.Limit(0), say=quiet
        )


def test_detections_resume_behind_a_torn_line(torch, made, load, pictures, tmp_path):
    training = load("detection_parts.training")
    model, _, _ = made()
    shared = dict(device="cpu", limit=training.Limit(0), say=quiet)
    whole = training.detect(model, pictures, tmp_path, **shared)
    path = tmp_path / "detections.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    assert [json.loads(line)["picture"] for line in lines] == [f"{i:06d}" for i in range(1, 7)]
    path.write_text("".join(lines[:3]) + lines[3][:20])
    again = training.detect(model, pictures, tmp_path, **shared)
    assert path.read_text() == "".join(lines)
    assert sum(len(found.scores) for found in whole) > 0
    for one, other in zip(whole, again):
        np.testing.assert_array_equal(one.boxes, other.boxes)


def command(folder, weights, *flags):
    small = [f"--{name}={value}" for name, value in (TINY | {"sizes": "32,48"}).items()]
    call = [sys.executable, str(EXPERIMENTS / "detection.py"), f"--backbone={weights}", *small]
    call += ["--voc=VOCdevkit", "--train=voc07+12", "--workers=0", "--results=results.jsonl"]
    return [*call, "--device=cpu", "--commit=abc", *flags]


@pytest.mark.slow
def test_the_command(torch, weights, tmp_path):
    """From a run's file to the results, over a stop and a kill; errors are one line."""
    pytest.importorskip("pycocotools", reason="needs pycocotools: pip install pycocotools")
    made_voc(tmp_path / "VOCdevkit")
    path = weights()
    variables = environment()
    variables["PYTHONPATH"] += os.pathsep + os.environ.get("PYTHONPATH", "")

    def run(*flags):
        call = command(tmp_path, path.name, *flags)
        return subprocess.run(
            call, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=600
        )

    done = run("--minutes=0.000001")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("at iteration 0 of 4; rerun the same command to resume\n")
    call = command(tmp_path, path.name, "--save=1")
    process = subprocess.Popen(
        call, cwd=tmp_path, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    folder = tmp_path / "runs" / "detection" / "backbone-voc07+12-c4-seed0"
    before = (folder / "checkpoint.pt").stat().st_ino
    while process.poll() is None and (folder / "checkpoint.pt").stat().st_ino == before:
        pass
    process.kill()
    process.communicate()
    done = run("--save=1")
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines())
    assert list(line["numbers"]) == ["AP50", "AP", "AP75", "voc/AP50", "voc/AP", "voc/AP75"]
    assert (line["commit"], line["network"]) == ("abc", "ResNet-18, width 4")
    assert set(line["versions"]) == {"torch", "torchvision", "pycocotools", "numpy", "python"}
    assert line["command"].startswith("python experiments/detection.py --backbone=backbone.safe")
    assert (line["pictures"], line["test_pictures"]) == (12, 4)
    again = run()
    assert (again.returncode, again.stderr) == (0, "")
    assert done.stdout.endswith(again.stdout[again.stdout.index("cat ") :])  # the same scores
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 1


def test_what_does_not_fit_is_one_line(torch, load, weights, tmp_path, monkeypatch, capsys):
    pytest.importorskip("pycocotools", reason="needs pycocotools: pip install pycocotools")
    script = load("detection")
    made_voc(tmp_path / "VOCdevkit")
    path = weights()
    monkeypatch.chdir(tmp_path)
    workdir = tmp_path / "there"
    load("detection_parts.record").check_settings(workdir, {"rate": 0.5})
    for flag, message in (
        ("--voc=none", "error: --voc=none: no such folder"),
        ("--backbone=none", "error: --backbone=none: no such file"),
        ("--row=swav-voc07+12", "is of a ResNet-50, and --backbone of a ResNet-18"),
        ("--workdir=there", "); give another --workdir"),
        ("--results=none/a", "error: --results=none/a: no folder none"),
    ):
        monkeypatch.setattr(sys, "argv", command(tmp_path, path.name, flag)[1:])
        with pytest.raises(SystemExit) as caught:
            script.main()
        assert str(caught.value).startswith("error: ")
        assert str(caught.value).endswith(message)
        assert "\n" not in str(caught.value)
        if flag == "--workdir=there":
            assert "has a detector with other settings (" in str(caught.value)
            assert "rate=0.5, not 0.01" in str(caught.value)
    assert not (tmp_path / "results.jsonl").exists()
