"""Files of eight libraries: the features are right, and training starts from the file's arrays."""

import re

import numpy as np
import pytest
from helpers import plain_resnet
from helpers.foreign_names import as_in, random_weights
from helpers.runs import arrays, quiet, tiny

from ssl_jax import train
from ssl_jax.inference.pretrained import IMAGENET, load_encoder
from ssl_jax.models import weight_files
from ssl_jax.models.resnet import ResNet

LIBRARIES = (
    "torchvision",
    "timm",
    "lightning",
    "lightly",
    "solo-learn",
    "mmselfsup",
    "vissl",
    "hugging face",
)
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (16, 8, 8, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def weights():
    return random_weights(ResNet(depth=10, width=4, stem="cifar"))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "a.npz"
    np.savez(path, images=PIXELS)
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES)
def test_features_are_those_of_plain_numpy(library, weights, tmp_path):
    path = tmp_path / "a.safetensors"
    weight_files.write(path, as_in(library, weights))
    mean, std = (np.array(IMAGENET[name]) for name in ("mean", "std"))
    pixels = ((PIXELS / 255 - mean) / std).transpose(0, 3, 1, 2)
    expected = plain_resnet.features(weights, pixels)
    assert expected.std() > 0.1
    np.testing.assert_allclose(load_encoder(path, size=8)(PIXELS), expected, atol=1e-5)


def _three_are_slow(libraries):
    """The first three as slow tests, the others as long ones."""
    marks = [pytest.mark.slow if i < 3 else pytest.mark.long for i in range(len(libraries))]
    return [pytest.param(x, marks=mark) for x, mark in zip(libraries, marks)]


@pytest.mark.parametrize("library", _three_are_slow(LIBRARIES))
def test_a_step_of_training_starts_from_the_arrays_of_the_file(library, weights, images, tmp_path):
    path = tmp_path / "a.safetensors"
    weight_files.write(path, as_in(library, weights))
    config = tiny("instance")
    config.data = dict(name="array", dir=images)
    config.update(init_from=str(path), epochs=1, batch_size=16, evals={}, baselines=False)
    config.model.update(name="resnet", depth=10, width=4, stem="cifar")
    config.optim.learning_rate = 0.0  # the step leaves all parameters as they were
    config.optim.weight_decay = 0.0
    train.run(config, tmp_path / "run", console=quiet())
    state = arrays(tmp_path / "run", 1)
    trained = {name: x for name, x in state.items() if "['backbone']" in name}
    for name, x in weights.items():
        if "running" not in name:  # the step moves these
            np.testing.assert_array_equal(trained[_key(name)], _value(x), err_msg=name)


def _key(name: str) -> str:
    """Where a checkpoint has a parameter of torchvision's name."""
    name = re.sub(r"(layer\d)\.(\d)", r"\1_\2", name)
    name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut_bn")
    place, leaf = name.rsplit(".", 1)
    is_norm = "bn" in place
    path = [*place.split("."), *(() if is_norm else ("conv",))]
    path.append({"weight": "scale"}.get(leaf, leaf) if is_norm else "kernel")
    return "['params']['network']['backbone']" + "".join(f"['{part}']" for part in path)


def _value(x: np.ndarray) -> np.ndarray:
    """A tensor as our float32 arrays have it: kernels [H, W, I, O]."""
    return np.float32(x.transpose(2, 3, 1, 0) if x.ndim == 4 else x)
