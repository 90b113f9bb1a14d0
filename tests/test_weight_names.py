"""Weights of a ResNet by the names of many libraries: found, said, and a start of training."""

import argparse
import io
import os
import shlex
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from helpers.foreign_names import LIBRARIES, as_in, random_weights
from helpers.members import config_of_method
from helpers.runs import arrays, environment, quiet, tiny
from rich.console import Console

from ssl_jax import train
from ssl_jax.build import build
from ssl_jax.inference.pretrained import load_encoder
from ssl_jax.models import torch_weights, weight_files
from ssl_jax.models.resnet import ResNet
from ssl_jax.models.weight_files import WeightsError
from ssl_jax.models.weight_names import network_in, networks_in
from ssl_jax.ops.mesh import make_mesh
from ssl_jax.runs import backbone_arrays, warm_start
from ssl_jax.runtime.sharding import replicated, state_shardings
from ssl_jax.settings.resolve import SettingError

BASIC = ResNet(depth=10, width=4, stem="cifar")
VARIANTS = ("swav", "instance", "byol", "conr", "aggregation", "anchors")  # of tests/configs
BOTTLENECK = ResNet(depth=50, width=4, stem="imagenet")


@pytest.fixture(scope="module")
def weights():
    return random_weights(BASIC)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("network", [BASIC, BOTTLENECK], ids=["basic", "bottleneck"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_every_name_is_found_where_it_stands(library, network):
    expected = random_weights(network)
    tensors = as_in(library, expected)
    found = network_in(tensors, library)
    assert found.backbone.keys() == expected.keys()
    for name, x in expected.items():
        np.testing.assert_array_equal(found.backbone[name], x, err_msg=name)
    renamed, others = LIBRARIES[library]
    assert set(others) == {*found.others, *(found.prefix + name for name in found.head)}
    assert renamed("conv1.weight").startswith(found.prefix)


@pytest.mark.parametrize("library", LIBRARIES)
def test_features_do_not_depend_on_the_names(library, weights, images, tmp_path):
    weight_files.write(tmp_path / "plain.safetensors", weights)
    weight_files.write(tmp_path / "theirs.safetensors", as_in(library, weights))
    plain, theirs = (load_encoder(tmp_path / f"{name}.safetensors") for name in ("plain", "theirs"))
    np.testing.assert_allclose(theirs(images), plain(images), atol=1e-5)
    assert not plain.notes
    prefix = network_in(as_in(library, weights)).prefix
    assert any(prefix in note for note in theirs.notes) or not prefix


def test_what_is_left_out_is_said(weights):
    found = network_in(as_in("moco", weights))
    assert found.notes() == (
        "weights: those named module.encoder_q.*",
        "weights: left out 3 tensors (module.queue, module.encoder_q.*)",
    )


def test_of_several_networks_one_must_be_chosen(weights, tmp_path):
    tensors = {
        f"{prefix}{name}": x
        for prefix in ("module.encoder_q.", "module.encoder_k.")
        for name, x in weights.items()
    }
    path = tmp_path / "a.safetensors"
    weight_files.write(path, tensors)
    with pytest.raises(
        WeightsError,
        match=r"has 2 networks, named module.encoder_k., module.encoder_q.; choose one, such as "
        "prefix=module.encoder_k.",
    ):
        load_encoder(path)
    for prefix in ("module.encoder_q", "module.encoder_q."):
        assert load_encoder(path, prefix=prefix).notes[0].endswith("module.encoder_q.*")
    with pytest.raises(WeightsError, match="no network at prefix=x; choose one of: module.enc"):
        load_encoder(path, prefix="x")
    config = start_of("byol", path)
    with pytest.raises(SettingError, match="such as --config.init_prefix=module.encoder_k."):
        warm_start.find(build(config), tmp_path / "run")


def test_incomplete_networks_are_none(weights):
    partial = {name: x for name, x in weights.items() if not name.startswith("layer3")}
    assert networks_in({f"a.{name}": x for name, x in partial.items()}) == {}
    assert list(networks_in(weights | {f"a.{name}": x for name, x in partial.items()})) == [""]
    tensors = weights | {"layer1.0.se.fc.weight": np.ones(3, np.float32)}
    with pytest.raises(WeightsError, match="layer1.0.se.fc.weight has no place"):
        torch_weights.from_torch(network_in(tensors).backbone, shapes_of(BASIC))


def shapes_of(network):
    return jax.eval_shape(
        lambda key: network.init(key, np.zeros((1, 32, 32, 3), np.float32), train=False),
        jax.random.key(0),
    )


METHODS = ("swav", "byol", "simsiam", "moco", "instance", "aggregation", "anchors", "conr")


def start_of(method, path, **model):
    config = tiny(method) if method in VARIANTS else config_of_method(method)
    config.init_from = str(path)
    config.evals = {}
    config.baselines = False
    config.epochs = 2
    config.model.update(dict(name="resnet", depth=10, width=4, stem="cifar") | model)
    return config


def started(config, folder):
    """The paths and arrays of an empty state that begins as the config says."""
    plan = build(config)
    start = warm_start.find(plan, folder)
    mesh = make_mesh()
    shardings = state_shardings(mesh, plan.shapes)
    empty = jax.tree.map(
        lambda x, s: jax.device_put(np.full(x.shape, 7, x.dtype), s), plan.shapes, shardings
    )
    return start, backbone_arrays.paths(start.load_into(empty, shardings, replicated(mesh)))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_begins_with_the_backbone_alone(method, weights, tmp_path):
    path = tmp_path / "a.safetensors"
    weight_files.write(path, as_in("solo-learn", weights))
    start, state = started(start_of(method, path), tmp_path / "run")
    assert start.first_step == 0
    networks = 0
    for name, x in state.items():
        if not backbone_arrays.is_backbone(name) or name.startswith("opt_state"):
            assert (np.asarray(x) == np.asarray(7).astype(x.dtype)).all(), name
        elif name.endswith("backbone/conv1/conv/kernel"):
            networks += 1
            summed = weights["conv1.weight"].sum(axis=1, keepdims=True)
            np.testing.assert_allclose(x, summed.transpose(2, 3, 1, 0), atol=1e-6)
        elif name.endswith("backbone/layer4_0/bn2/var"):
            np.testing.assert_array_equal(x, weights["layer4.0.bn2.running_var"])
    assert networks == (2 if method in ("byol", "moco", "conr") else 1)
    assert start.notes[-1] == "weights: colour filters of the first layer are summed to grey ones"


def test_grey_filters_are_shared_among_three_channels(tmp_path):
    grey = random_weights(BASIC, channels=1)
    weight_files.write(tmp_path / "a.safetensors", grey)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=pixels, labels=np.arange(64) % 4)
    config = start_of("instance", tmp_path / "a.safetensors")
    config.data = dict(name="array", dir=str(tmp_path / "a.npz"))
    start, state = started(config, tmp_path / "run")
    kernel = np.asarray(state["params/network/backbone/conv1/conv/kernel"])
    expected = np.repeat(grey["conv1.weight"] / 3, 3, axis=1).transpose(2, 3, 1, 0)
    np.testing.assert_allclose(kernel, expected, rtol=1e-6)
    assert "shared among three channels" in start.notes[-1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            dict(width=8),
            r"bn1.bias has shape \(4,\), this network needs \(8,\); the file fits "
            "--config.model.width=4$",
        ),
        (dict(depth=18), r"has no layer1.1.*; the file fits --config.model.depth=10$"),
        (dict(stem="imagenet"), r"\(4, 1, 3, 3\), this .* needs \(4, 1, 7, 7\); .*stem=cifar$"),
        (dict(name="preact_resnet"), "start a ResNet, not model.name='preact_resnet'; set model.n"),
    ],
)
def test_backbones_that_do_not_fit(changes, message, weights, tmp_path):
    path = tmp_path / "a.safetensors"
    weight_files.write(path, weights)
    with pytest.raises(SettingError, match=message) as caught:
        train.run(start_of("instance", path, **changes), tmp_path / "run", console=quiet())
    assert str(caught.value).startswith(f"init_from={str(path)!r}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(init_epoch=1.0), "init_epoch=1: init_from='.*' is a weight file, which has no epo"),
        (dict(init_from="none.pth"), "none.pth: no such file or run folder"),
        (dict(init_from="", init_prefix="x"), "init_prefix need init_from"),
    ],
)
def test_settings_that_do_not_go_with_a_file(settings, message, weights, tmp_path):
    weight_files.write(tmp_path / "a.safetensors", weights)
    config = start_of("instance", tmp_path / "a.safetensors")
    config.update(settings)
    with pytest.raises(SettingError, match=message):
        train.run(config, tmp_path / "run", console=quiet())


@pytest.mark.slow
def test_a_run_trains_from_a_file_and_resumes(weights, tmp_path):
    path = tmp_path / "a.safetensors"
    weight_files.write(path, as_in("moco", weights))
    config = start_of("byol", path)
    output = io.StringIO()
    train.run(config, tmp_path / "run", console=Console(file=output, width=200))
    text = output.getvalue()
    assert f"starting from {path} at step 0 of 16" in text
    assert "weights: those named module.encoder_q.*" in text
    path.unlink()  # needed at the start alone
    whole = arrays(tmp_path / "run", 16)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "16")
    train.run(config, tmp_path / "run", console=quiet())
    again = arrays(tmp_path / "run", 16)
    for name, x in whole.items():
        np.testing.assert_array_equal(again[name], x, err_msg=name)


def test_a_fresh_start_from_another_method_names_what_begins_at_random(tmp_path):
    donor = tiny("instance")
    donor.update(evals={}, baselines=False, epochs=1)
    train.run(donor, tmp_path / "donor", console=quiet())
    config = tiny("byol")
    config.update(evals={}, baselines=False, epochs=1)
    config.update(init_from=str(tmp_path / "donor"), init_fresh=True)
    config.head.dim = 6
    start, state = started(config, tmp_path / "run")
    theirs = arrays(tmp_path / "donor", 8)
    for name, x in state.items():
        if backbone_arrays.is_backbone(name) and name.startswith(("params", "method")):
            inside = "".join(f"[{part!r}]" for part in name.split("/backbone/")[1].split("/"))
            tree = "['params']['network']"
            if name.endswith(("mean", "var")):
                tree = "['batch_stats']"
            expected = theirs[f"{tree}['backbone']{inside}"]
            np.testing.assert_array_equal(x, expected, err_msg=name)
    assert len(start.notes) == 1
    assert start.notes[0].startswith("begins at random, as it differs in init_from: ")
    assert set(start.notes[0].split(": ")[1].split(", ")) == {
        "the head",
        "the target's head",
        "the predictor",
    }
    config.model.width = 4
    with pytest.raises(
        SettingError, match=r"has \(.*8,?\) for .*backbone.*, this run needs \(.*4,?\)"
    ):
        started(config, tmp_path / "run")


def test_files_with_python_objects_are_converted_by_the_command_of_the_error(weights, tmp_path):
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install torch")
    path = tmp_path / "last.ckpt"
    tensors = {name: torch.from_numpy(x) for name, x in as_in("solo-learn", weights).items()}
    torch.save({"state_dict": tensors, "hyper_parameters": argparse.Namespace(lr=0.1)}, path)
    with pytest.raises(WeightsError, match="holds Python objects") as caught:
        load_encoder(path)
    command = str(caught.value).split("alone: ")[1]
    assert command.startswith("python -c ")
    words = [sys.executable, *shlex.split(command)[1:]]
    paths = {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(words, check=True, env=environment() | paths)
    assert load_encoder(tmp_path / "last_tensors.pth").notes[0] == "weights: those named backbone.*"


def test_checkpoints_within_checkpoints_are_looked_through(weights, images, tmp_path):
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install torch")
    tensors = {name: torch.from_numpy(x) for name, x in weights.items()}
    inner = {"trunk": {f"_feature_blocks.{name}": x for name, x in tensors.items()}, "heads": {}}
    torch.save(
        {"classy_state_dict": {"base_model": {"model": inner}}, "phase": 3}, tmp_path / "a.pth"
    )
    weight_files.write(tmp_path / "b.safetensors", weights)
    vissl = load_encoder(tmp_path / "a.pth")
    np.testing.assert_array_equal(vissl(images), load_encoder(tmp_path / "b.safetensors")(images))
    assert "classy_state_dict.base_model.model.trunk._feature_blocks." in vissl.notes[0]
