"""Weights with torchvision's names: forward parity, round trips, unusable files."""

import argparse
import sys
import zipfile
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.weights import everything, torchs

from ssl_jax.inference.pretrained import load_encoder
from ssl_jax.models import torch_weights, weight_files
from ssl_jax.models.resnet import ResNet
from ssl_jax.models.weight_files import WeightsError
from ssl_jax.models.weight_names import backbone_of
from ssl_jax.ops.vectors import unit


def wave(name, shape):
    """Weights that both sides can compute: a sine of name and position; see golden/README.md."""
    count = int(np.prod(shape))
    seed = sum(map(ord, name)) % 997 + 1
    x = (
        np.sin(np.arange(1, count + 1, dtype=np.float64) * (0.1 * seed + 0.7))
        .reshape(shape)
        .astype(np.float32)
    )
    if name.endswith("running_var"):
        x = 1.0 + 0.5 * x
    elif name.endswith("running_mean"):
        x = 0.1 * x
    elif len(shape) == 1:
        x = (1.0 if name.endswith("weight") else 0.0) + 0.1 * x
    else:
        x = x * (1.5 / np.prod(shape[1:])) ** 0.5
    return x.astype(np.float32)


def shapes_of(network):
    return jax.eval_shape(
        lambda k: network.init(k, jnp.zeros((1, 32, 32, 3)), train=False), jax.random.key(0)
    )


def tensors_of(network):
    empty = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes_of(network))
    return {name: wave(name, x.shape) for name, x in torch_weights.to_torch(empty).items()}


@pytest.mark.parametrize(("depth", "size"), [(10, (47, 65)), (18, (64, 64)), (50, (64, 64))])
def test_features_are_torchvisions(depth, size, golden):
    data = golden("torchvision_resnet")
    network = ResNet(depth=depth, stem="imagenet")
    tensors = tensors_of(network)
    assert set(tensors) == set(data[f"names_{depth}"].tolist())
    images = np.random.default_rng(0).standard_normal((2, *size, 3)).astype(np.float32)
    variables = torch_weights.from_torch(tensors, shapes_of(network))
    found = jax.jit(lambda v, x: network.apply(v, x, train=False)["backbone"])(variables, images)
    np.testing.assert_allclose(found, data[f"features_{depth}"], atol=1e-5)
    back = torch_weights.to_torch(variables)
    for name, x in tensors.items():
        np.testing.assert_array_equal(back[name], x, err_msg=name)


@pytest.fixture(scope="module")
def small():
    return ResNet(depth=10, width=4, stem="cifar")


def test_a_file_is_the_network_it_is_of(small, tmp_path):
    tensors = tensors_of(small)
    weight_files.write(
        tmp_path / "a.safetensors", tensors, notes='{"size": 16, "mean": [0.5, 0.5, 0.5]}'
    )
    assert backbone_of(tensors, "a") == small
    encoder = load_encoder(tmp_path / "a.safetensors")
    assert (encoder.names, encoder.size, encoder.mean, encoder.channels) == (
        ("backbone",),
        16,
        (0.5,) * 3,
        3,
    )
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    mean, std = (np.asarray(x, np.float32) for x in (encoder.mean, encoder.std))
    own = small.apply(
        torch_weights.from_torch(tensors, shapes_of(small)),
        (images / np.float32(255) - mean) / std,
        train=False,
    )
    np.testing.assert_allclose(encoder(images), own["backbone"], atol=1e-5)
    with pytest.raises(ValueError, match=r"no feature 'embedding'; choose one of: backbone"):
        encoder(images, "embedding")
    with pytest.raises(
        ValueError, match=r"of shape \(5, 16, 16, 2\), uint8: give uint8 \[N, H, W, 3\]"
    ):
        encoder(images[..., :2])


def swavs_head(rng, tensors):
    """Random layers 32 -> 6 -> 5 of SwAV's head, and `tensors` with them and 7 prototypes."""

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    head = {
        "0.weight": normal(6, 32),
        "0.bias": normal(6),
        "3.weight": normal(5, 6),
        "3.bias": normal(5),
    }
    head |= {f"1.{name}": normal(6) for name in ("weight", "bias", "running_mean")} | {
        "1.running_var": np.ones(6, "f")
    }
    tensors = (
        tensors
        | {f"projection_head.{name}": x for name, x in head.items()}
        | {"prototypes.weight": normal(7, 5)}
    )
    return head, tensors


def test_files_of_swavs_authors_have_head_and_prototypes(small, tmp_path):
    rng = np.random.default_rng(0)
    head, tensors = swavs_head(rng, tensors_of(small))
    given = {f"module.{name}": x for name, x in tensors.items()} | {
        "module.bn1.num_batches_tracked": np.ones(1, "f")
    }
    weight_files.write(tmp_path / "swav.safetensors", given)
    encoder = load_encoder(tmp_path / "swav.safetensors", size=16)
    images = rng.integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    found = everything(encoder, images)
    x = found["backbone"]
    h = x @ head["0.weight"].T + head["0.bias"] - head["1.running_mean"]
    h = np.maximum(h / np.sqrt(1 + 1e-5) * head["1.weight"] + head["1.bias"], 0)
    z = unit(jnp.asarray(h @ head["3.weight"].T + head["3.bias"]))
    np.testing.assert_allclose(found["embedding"], z, atol=1e-5)
    np.testing.assert_allclose(found["scores"], z @ unit(tensors["prototypes.weight"]).T, atol=1e-5)
    np.testing.assert_allclose(encoder.prototypes, unit(tensors["prototypes.weight"]), atol=1e-6)


def test_other_heads_of_swavs_authors(small, tmp_path):
    head, tensors = swavs_head(np.random.default_rng(0), tensors_of(small))
    images = np.random.default_rng(1).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    backbone = {
        name: x
        for name, x in tensors.items()
        if not name.startswith(("projection_head", "prototypes"))
    }

    def place(places):
        return {
            f"projection_head.{new}.{x}": head[f"{old}.{x}"] for old, new in places for x in PARTS
        }

    PARTS = ("weight", "bias")
    rows = np.eye(5, dtype=np.float32)[[0, 2, 1, 4]]
    several = {f"prototypes.prototypes{i}.weight": np.roll(rows, i, 0) * (i + 1) for i in range(3)}
    weight_files.write(
        tmp_path / "a.safetensors", backbone | place((("0", "0"), ("3", "2"))) | several
    )
    encoder = load_encoder(tmp_path / "a.safetensors", size=16)
    assert encoder.names == ("backbone", "embedding", "scores", "scores1", "scores2")
    found = everything(encoder, images)
    x = found["backbone"]
    z = np.maximum(x @ head["0.weight"].T + head["0.bias"], 0) @ head["3.weight"].T + head["3.bias"]
    z = np.asarray(unit(jnp.asarray(z)))
    np.testing.assert_allclose(found["embedding"], z, atol=1e-5)
    np.testing.assert_allclose(found["scores2"], z @ np.roll(rows, 2, 0).T, atol=1e-5)
    single = {f"projection_head.{x}": head[f"0.{x}"] for x in PARTS}
    weight_files.write(tmp_path / "b.safetensors", backbone | single)
    encoder = load_encoder(tmp_path / "b.safetensors", size=16)
    z = np.asarray(unit(jnp.asarray(x @ head["0.weight"].T + head["0.bias"])))
    np.testing.assert_allclose(encoder(images, "embedding"), z, atol=1e-5)
    assert encoder.prototypes is None
    weight_files.write(
        tmp_path / "d.safetensors", backbone | {"projection_head.weight": head["0.weight"]}
    )
    plain = load_encoder(tmp_path / "d.safetensors", size=16)(images, "embedding")
    np.testing.assert_allclose(
        plain, np.asarray(unit(jnp.asarray(x @ head["0.weight"].T))), atol=1e-5
    )
    for change, message in (
        (place((("0", "0"), ("3", "4"))), "has the layers 0, 4; known are SwAV's: 0, 1, 3"),
        (
            {f"projection_head.{x}": head[f"3.{x}"] for x in PARTS},
            r"shape \(5, 6\), this network needs \(5, 32\)",
        ),
        (
            single | {"prototypes.weight": np.ones((3, 4), "f")},
            r"prototypes.weight has shape \(3, 4\), this head needs",
        ),
    ):
        weight_files.write(tmp_path / "c.safetensors", backbone | change)
        with pytest.raises(WeightsError, match=message):
            load_encoder(tmp_path / "c.safetensors")


@pytest.mark.parametrize(("width", "parameters"), [(128, 93_907_072), (256, 375_378_176)])
def test_widths_are_those_of_the_released_files(width, parameters):
    empty = jax.tree.map(
        lambda x: np.broadcast_to(np.float32(0), x.shape),
        shapes_of(ResNet(depth=50, width=width, stem="imagenet")),
    )
    tensors = torch_weights.to_torch(empty)
    assert sum(x.size for name, x in tensors.items() if "running_" not in name) == parameters
    assert backbone_of(tensors, "x") == ResNet(depth=50, width=width, stem="imagenet")


def test_tensors_that_do_not_fit_are_named(small):
    shapes = shapes_of(small)
    tensors = tensors_of(small)
    wrong = tensors | {"layer2.0.conv1.weight": np.zeros((8, 4, 1, 1), np.float32)}
    message = (
        r"a.pth: layer2.0.conv1.weight has shape \(8, 4, 1, 1\), this network needs \(8, 4, 3, 3\)"
    )
    with pytest.raises(WeightsError, match=message):
        torch_weights.from_torch(wrong, shapes, "a.pth")
    with pytest.raises(WeightsError, match="the weights has no bn1.running_var"):
        torch_weights.from_torch(
            {k: x for k, x in tensors.items() if k != "bn1.running_var"}, shapes
        )
    with pytest.raises(WeightsError, match="layer1.1.conv1.weight has no place in this network"):
        torch_weights.from_torch(
            tensors | {"layer1.1.conv1.weight": np.zeros((4, 4, 3, 3))}, shapes
        )
    with pytest.raises(
        WeightsError, match=r"has \(2, 1, 1, 1\) blocks in its stages; known are ResNet-10, -18"
    ):
        backbone_of(tensors | {"layer1.1.conv1.weight": np.zeros((4, 4, 3, 3))}, "x")


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"not one")
    with pytest.raises(
        WeightsError, match="a.safetensors is not a weight file that can be read safely"
    ):
        load_encoder(tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match="no such file or run folder"):
        load_encoder(tmp_path / "b.safetensors")
    weight_files.write(
        tmp_path / "d.safetensors", {"conv1.weight": np.zeros((64, 3, 7, 7), np.float32)}
    )
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "d.safetensors").read_bytes()[:9000])
    with pytest.raises(
        WeightsError, match="cut.safetensors is not a weight file that can be read safely"
    ):
        load_encoder(tmp_path / "cut.safetensors")
    (tmp_path / "e.safetensors").mkdir()
    with pytest.raises(IsADirectoryError):
        weight_files.write(tmp_path / "e.safetensors", {"conv1.weight": np.zeros(3, np.float32)})
    assert not list(tmp_path.glob("*.tmp"))
    weight_files.write(tmp_path / "c.safetensors", {"weight": np.zeros(3, np.float32)})
    message = r"has no conv1.weight and layer1 .* it has 1 tensor \(weight\)"
    with pytest.raises(WeightsError, match=message):
        load_encoder(tmp_path / "c.safetensors")


@pytest.mark.parametrize(
    ("depth", "size"), [(18, (64, 64)), (18, (47, 65)), (50, (64, 64)), (50, (33, 50))]
)
def test_there_and_back_again(depth, size, tmp_path):
    torch, torchvision = torchs()
    network = ResNet(depth=depth, stem="imagenet")
    images = np.random.default_rng(0).standard_normal((2, *size, 3)).astype(np.float32)
    start = jax.tree.map(
        np.asarray, torch_weights.from_torch(tensors_of(network), shapes_of(network))
    )
    own = jax.jit(lambda v, x: network.apply(v, x, train=False)["backbone"])
    weight_files.write(tmp_path / "ours.safetensors", torch_weights.to_torch(start))
    model = getattr(torchvision.models, f"resnet{depth}")()
    model.fc = torch.nn.Identity()
    tensors = {
        name: torch.from_numpy(x)
        for name, x in weight_files.read(tmp_path / "ours.safetensors").items()
    }
    model.load_state_dict(tensors)
    with torch.no_grad():
        theirs = model.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    np.testing.assert_allclose(own(start, images), theirs, atol=1e-5)
    torch.save(model.state_dict(), tmp_path / "theirs.pth")
    back = torch_weights.from_torch(weight_files.read(tmp_path / "theirs.pth"), shapes_of(network))
    jax.tree.map(np.testing.assert_array_equal, back, start)


def published(torch, tensors):
    """A checkpoint of SwAV's training on several devices: weights, optimiser and more."""
    state = {f"module.{name}": torch.from_numpy(x.copy()) for name, x in tensors.items()}
    state["module.bn1.num_batches_tracked"] = torch.tensor(9)
    momenta = {
        "state": {0: {"momentum_buffer": torch.zeros(3)}},
        "param_groups": [{"lr": 0.3, "params": [0]}],
    }
    return {
        "epoch": 400,
        "state_dict": state,
        "optimizer": momenta,
        "arch": "resnet50",
        "amp": {"loss_scaler0": {}},
    }


def test_checkpoints_of_swavs_authors_are_read_safely(small, tmp_path):
    torch, _ = torchs()
    _, tensors = swavs_head(np.random.default_rng(0), tensors_of(small))
    checkpoint = published(torch, tensors)
    images = np.zeros((2, 16, 16, 3), np.uint8)
    torch.save(checkpoint, tmp_path / "a.pth.tar")
    weight_files.write(tmp_path / "b.safetensors", tensors)
    found = [load_encoder(tmp_path / name, size=16) for name in ("a.pth.tar", "b.safetensors")]
    assert found[0].names == ("backbone", "embedding", "scores")
    features = [everything(encoder, images) for encoder in found]
    for name in found[0].names:
        np.testing.assert_array_equal(features[0][name], features[1][name])
    whole = (tmp_path / "a.pth.tar").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    torch.save(checkpoint | {"args": argparse.Namespace(lr=0.3)}, tmp_path / "args.pth")
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("not one at all")
    for name, message in (
        ("cut.pth", "is not a weight file that can be read safely"),
        ("text.pth", "is not a weight file that can be read safely"),
        (
            "args.pth",
            r"holds Python objects \(argparse.Namespace\), and reading those could run any code; "
            "if you trust the file",
        ),
        ("list.pth", "holds no tensors by name; give a state_dict"),
    ):
        with pytest.raises(WeightsError, match=f"{name} {message}") as caught:
            load_encoder(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.fixture
def load_fake(tmp_path, monkeypatch):
    """`load_encoder` of a .pth file that a stand-in for PyTorch reads as `value`."""

    class Tensor:
        def __init__(self, count):
            self.numel = lambda: count

    def load(value, method=zipfile.ZIP_STORED, flags=0):
        loaded = []
        torch = SimpleNamespace(
            Tensor=Tensor, load=lambda path, **more: loaded.append(path) or value
        )
        monkeypatch.setitem(sys.modules, "torch", torch)
        with zipfile.ZipFile(tmp_path / "a.pth", "w", method) as file:
            file.writestr("archive/data.pkl", bytes(9999))
            file.getinfo("archive/data.pkl").flag_bits |= flags
        try:
            load_encoder(tmp_path / "a.pth")
        finally:
            assert bool(loaded) == (method == zipfile.ZIP_STORED and not flags)

    load.tensor = Tensor
    return load


def circle(length):
    """A state_dict in a state_dict ... that is the first."""
    first = inner = {}
    for i in range(length):
        inner[("model", "state_dict")[i % 2]] = inner = {} if i < length - 1 else first
    return first


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_state_dict_that_holds_itself(load_fake, length):
    with pytest.raises(
        WeightsError, match="a.pth: its state_dict holds itself; save the state_dict alone"
    ):
        load_fake(circle(length))


@pytest.mark.parametrize(
    ("method", "flags"),
    [(zipfile.ZIP_DEFLATED, 0), (zipfile.ZIP_BZIP2, 0), (zipfile.ZIP_STORED, 1)],
)
def test_archives_that_torch_never_writes(load_fake, method, flags):
    message = (
        r"a.pth is a compressed or encrypted archive \(archive/data.pkl\), "
        "which torch.save never makes; save"
    )
    with pytest.raises(WeightsError, match=message):
        load_fake({}, method, flags)


def test_weights_that_the_memory_cannot_hold(load_fake, tmp_path):
    with pytest.raises(
        WeightsError, match="a.pth holds 4,398,046,511,104 bytes of weights, and this machine has"
    ):
        load_fake({"conv1.weight": load_fake.tensor(2**40)})
    with pytest.raises(WeightsError, match="holds no tensors by name"):
        load_fake({1: load_fake.tensor(1)})
    with open(tmp_path / "a.safetensors", "wb") as file:
        file.truncate(2**43)
    with pytest.raises(
        WeightsError,
        match="a.safetensors holds 8,796,093,022,208 bytes of weights, and this machine has",
    ):
        load_encoder(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("notes", "message"),
    [
        *(
            (text, r"its notes on the images \(ssl_jax\) are no JSON object")
            for text in ("{", "[1]", "null", "[" * 99_999)
        ),
        *(
            (f'{{"size": {x}}}', "notes size=.* of its images; give size")
            for x in ('"8"', "0", "-1", "8.5", "true", "1e9")
        ),
        *(
            (f'{{"mean": {x}}}', "notes mean=")
            for x in ('"abc"', "1", "null", '["a", 1, 1]', "[NaN, 1, 1]", "[[1], 1, 1]")
        ),
        *((f'{{"std": [{x}, 1, 1]}}', "notes std=") for x in ("0", "-1", "Infinity", "true")),
        (
            '{"mean": [0.5, 0.5]}',
            "is for images of 3 channels; give mean and std of 3 numbers each",
        ),
    ],
)
def test_notes_that_no_images_fit(small, tmp_path, notes, message):
    weight_files.write(tmp_path / "a.safetensors", tensors_of(small), notes=notes)
    with pytest.raises(WeightsError, match=message) as caught:
        load_encoder(tmp_path / "a.safetensors")
    assert "\n" not in str(caught.value)


def test_what_is_given_replaces_damaged_notes(small, tmp_path):
    weight_files.write(
        tmp_path / "a.safetensors", tensors_of(small), notes='{"size": 0, "std": [0, 0, 0]}'
    )
    encoder = load_encoder(tmp_path / "a.safetensors", size=16, std=(0.5,) * 3)
    assert (encoder.size, encoder.std) == (16, (0.5,) * 3)


def test_odd_names_of_tensors(tmp_path):
    weight_files.write(tmp_path / "a.safetensors", {"two\nlines": np.zeros(1, "f")})
    with pytest.raises(
        WeightsError, match=r"has a tensor with the name 'two\?lines'; no network has such names"
    ):
        load_encoder(tmp_path / "a.safetensors")
