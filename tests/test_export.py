"""Runs as weight files: what is written, the lines that load it, and what is refused."""

import dataclasses
import math
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from helpers.runs import environment, tiny
from helpers.trained import made, opened
from helpers.weights import everything, torchs

from ssl_jax import load_encoder
from ssl_jax.inference import snippets
from ssl_jax.inference.pretrained import export, of_run, writable
from ssl_jax.models import torch_weights, weight_files
from ssl_jax.models.layers import Head
from ssl_jax.models.resnet import ResNet
from ssl_jax.models.weight_files import WeightsError
from ssl_jax.settings.resolve import SettingError

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 9, 7, 1), dtype=np.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """SwAV with a residual network that torchvision has to narrow."""
    config = tiny("swav")
    config.model.update(name="resnet", width=4)
    return opened(made(tmp_path_factory.mktemp("swav") / "run", config))


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    """With a backbone of another kind."""
    return made(tmp_path_factory.mktemp("tiny") / "run", tiny("swav"))


def test_an_exported_run_is_the_run(run, tmp_path):
    tensors = export(run, tmp_path / "a.safetensors", head=True)
    encoder = of_run(run)
    assert tensors["conv1.weight"].shape == (4, 1, 3, 3)
    found = load_encoder(tmp_path / "a.safetensors")
    assert found.names == encoder.names == ("backbone", "embedding", "scores")
    assert (found.size, found.channels) == (8, 1)
    assert (found.mean, found.std) == (encoder.mean, encoder.std)
    features = "features: backbone, embedding, scores"
    assert repr(encoder) == f"Encoder(SwAV, ResNet, images [N, 8, 8, 1], {features})"
    assert repr(found) == f"Encoder(ResNet, images [N, 8, 8, 1], {features})"
    theirs = everything(found, IMAGES)
    ours = everything(encoder, IMAGES)
    for name in found.names:
        np.testing.assert_allclose(theirs[name], ours[name], atol=1e-6, err_msg=name)
    alone = export(run, tmp_path / "b.safetensors")
    assert set(alone) == {
        name for name in tensors if not name.startswith(("projection_head.", "prototypes."))
    }
    assert set(weight_files.read(tmp_path / "b.safetensors")) == set(alone)


@pytest.mark.parametrize("crop", [0.0, 0.5])
@pytest.mark.parametrize("head", [False, True])
def test_the_lines_for_torchvision(head, crop, run, tmp_path, monkeypatch):
    torch, _ = torchs()
    monkeypatch.chdir(tmp_path)
    run = seeing(run, crop)
    export(run, "a.safetensors", head=head)
    stage = run.plan.stages[-1]
    # With a short side of 16 torchvision's Resize(16) and CenterCrop(8) cut between whole pixels.
    images = IMAGES if not crop else np.repeat(IMAGES[:, :8, :6], 2, axis=1).repeat(4, axis=2)
    lines = snippets.torchvision(
        "a.safetensors",
        stage.method.network.backbone,
        size=8,
        mean=stage.mean,
        std=stage.std,
        crop=crop,
        head=head,
    )
    space = {}
    x = torch.from_numpy(np.float32(images.transpose(0, 3, 1, 2)) / 255)
    with torch.no_grad():
        exec("\n".join(lines), space | {"images": x}, space)
    np.testing.assert_allclose(of_run(run)(images), space["features"].numpy(), atol=1e-5)


def seeing(run, crop):
    """The run, as if it had been trained with this `evals.crop`."""
    stages = tuple(dataclasses.replace(stage, crop=crop) for stage in run.plan.stages)
    return dataclasses.replace(run, plan=dataclasses.replace(run.plan, stages=stages))


def test_the_lines_for_known_models():
    images = dict(size=224, mean=(0.5,) * 3, std=(0.25,) * 3)
    lines = snippets.torchvision("a.safetensors", ResNet(depth=50, stem="imagenet"), **images)
    assert "model = torchvision.models.resnet50()" in lines
    assert "model.fc = torch.nn.Identity()" in lines
    assert (
        "prepare = T.Compose([T.Resize((224, 224), antialias=True), "
        "T.Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))])"
    ) in lines
    lines = snippets.torchvision(
        "a.safetensors", ResNet(depth=18, stem="cifar"), **images, crop=0.875
    )
    assert lines[2] == "model.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)"
    assert "T.Resize(256, antialias=True), T.CenterCrop(224), T.Normalize(" in lines[-2]
    sentence = snippets.images(224, 3, (0.5,) * 3, (0.25,) * 3, crop=0.875)
    assert sentence.endswith("; it sees the central square of 0.875 of an image's short side")


def test_a_file_keeps_what_the_scores_saw(run, tmp_path):
    path = tmp_path / "a.safetensors"
    seen = seeing(run, 0.5)
    export(seen, path)
    encoder = of_run(seen)
    loaded = load_encoder(path)
    assert encoder.crop == loaded.crop == 0.5
    np.testing.assert_allclose(loaded(IMAGES), encoder(IMAGES), atol=1e-6)
    assert np.abs(encoder(IMAGES) - of_run(run)(IMAGES)).max() > 1e-3
    assert load_encoder(path, crop=0).crop == 0  # given, so it counts
    for wrong in (-0.1, 1.5, math.nan, True, "0.5"):
        with pytest.raises(WeightsError, match="crop=.*: give a number from 0 to 1"):
            load_encoder(path, crop=wrong)
    export(run, path)
    assert weight_files.notes(path).keys() == {"size", "mean", "std", "reading"}
    assert load_encoder(path).crop == 0
    tensors = weight_files.read(path)
    for wrong in ("true", "2", "-1", "NaN", '"0.5"'):
        weight_files.write(path, tensors, f'{{"mean": [0.5], "std": [0.5], "crop": {wrong}}}')
        with pytest.raises(WeightsError, match="notes crop=.*; give crop yourself, or export"):
            load_encoder(path)


def test_refusals(tiny_run, tmp_path):
    out = tmp_path / "a.safetensors"
    writable(out, overwrite=False)
    for bad in (tmp_path / "a.pth", tmp_path / "nowhere" / "a.safetensors"):
        with pytest.raises(
            SettingError, match="give a file that ends in .safetensors, in a folder that exists"
        ):
            writable(bad, overwrite=True)
    out.write_bytes(b"")
    with pytest.raises(SettingError, match="already exists; --overwrite replaces a file"):
        writable(out, overwrite=False)
    writable(out, overwrite=True)
    with pytest.raises(
        SettingError,
        match="model.name='plugins.models.tiny' has no names in torchvision; only resnet does",
    ):
        export(opened(tiny_run), out)
    assert out.read_bytes() == b""


def test_heads_that_swavs_files_cannot_hold():
    x = jnp.zeros((2, 8))
    for settings, known in (
        (dict(output_norm="plain"), False),
        (dict(output_norm="affine"), False),
        ({}, True),
    ):
        variables = Head(4, (6,), output_bias=False, **settings).init(
            jax.random.key(0), x, train=False
        )
        if known:
            assert "projection_head.3.bias" not in torch_weights.head_to_torch(variables)
            continue
        with pytest.raises(
            WeightsError, match="a head of the layers bn1, bn2, linear1, linear2 has no names"
        ):
            torch_weights.head_to_torch(variables)


def test_a_file_that_cannot_be_written(tmp_path):
    (tmp_path / "a.safetensors.tmp").mkdir()
    with pytest.raises(OSError, match="directory"):
        weight_files.write(tmp_path / "a.safetensors", {"x": np.zeros(2, np.float32)})


def test_files_that_lack_what_an_encoder_needs(run, tmp_path):
    tensors = export(run, tmp_path / "a.safetensors")
    weight_files.write(
        tmp_path / "b.safetensors", tensors
    )  # without notes: ImageNet's three channels
    with pytest.raises(
        WeightsError, match="is for images of 1 channel; give mean and std of 1 number each"
    ):
        load_encoder(tmp_path / "b.safetensors")
    assert load_encoder(tmp_path / "b.safetensors", mean=(0.5,), std=(0.5,)).channels == 1
    weight_files.write(
        tmp_path / "b.safetensors", tensors | {"conv1.weight": np.zeros((3, 2), np.float32)}
    )
    with pytest.raises(
        WeightsError, match=r"conv1.weight has shape \(3, 2\); a ResNet's has four dimensions"
    ):
        load_encoder(tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="N >= 1"):
        load_encoder(tmp_path / "a.safetensors")(IMAGES[:0])


def test_checkpoints_that_cannot_be_read(tiny_run, tmp_path, monkeypatch):
    for name in ("unfinished", "foreign"):
        shutil.copytree(tiny_run, tmp_path / name)
        (tmp_path / name / "checkpoints" / "8" / "checksums.json").unlink()
    (tmp_path / "unfinished" / "checkpoints" / "8" / "default" / "_METADATA").unlink()
    (tmp_path / "foreign" / "checkpoints" / "8" / "default").rename(
        tmp_path / "foreign" / "checkpoints" / "8" / "state"
    )
    for name in ("unfinished", "foreign"):
        with pytest.raises(
            SettingError,
            match=f"{name}': checkpoint 8 is unfinished or was written by another program",
        ):
            opened(tmp_path / name)

    def damaged(self, path, args):
        raise ValueError(
            "NOT_FOUND: Error opening \"zarr\" driver [tensorstore_spec='{...}']\nand more"
        )

    monkeypatch.setattr(ocp.Checkpointer, "restore", damaged)
    with pytest.raises(
        SettingError, match=r"checkpoint 8 is damaged \(NOT_FOUND: Error opening .zarr. driver\)$"
    ):
        opened(tiny_run)


@pytest.mark.slow
def test_the_command(run, tmp_path):
    call = [
        sys.executable,
        "-m",
        "ssl_jax.export",
        "--workdir",
        str(run.folder),
        "--out=a.safetensors",
    ]
    done = subprocess.run(
        call, env=environment(), capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    size = (tmp_path / "a.safetensors").stat().st_size
    learned = sum(
        x.size
        for name, x in export(run, tmp_path / "b.safetensors").items()
        if "running_" not in name
    )
    assert done.stdout.startswith(
        f"wrote a.safetensors: 60 tensors, {learned:,} parameters, {size:,} bytes"
    )
    assert (
        "of 8x8 pixels and 1 channel in 0..1, normalised with mean (0.305,) and std (0.376,)"
        in done.stdout
    )
    assert "\nencoder = ssl_jax.load_encoder('a.safetensors')\n" in done.stdout
    assert "\nmodel.load_state_dict(weights)\n" in done.stdout
