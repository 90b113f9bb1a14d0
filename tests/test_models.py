import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.interface import Batch
from ssl_jax.methods.swav import SwAV
from ssl_jax.models.layers import BatchNorm, Conv, Head, Linear
from ssl_jax.models.network import Network
from ssl_jax.models.resnet import ResNet


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


def shapes(module, *args, **kwargs):
    return jax.eval_shape(lambda key: module.init(key, *args, **kwargs), jax.random.key(0))["params"]


@pytest.mark.parametrize(
    ("depth", "stem", "width", "parameters"),
    [
        (18, "cifar", 64, 11_168_832),
        (34, "cifar", 64, 21_276_992),
        (34, "imagenet", 64, 21_284_672),
        (50, "imagenet", 64, 23_508_032),
        (50, "imagenet", 128, 93_907_072),
    ],
)
def test_backbone_parameters(depth, stem, width, parameters):
    assert count(shapes(ResNet(depth, width, stem), jnp.zeros((1, 64, 64, 3)), train=False)) == parameters


def test_swav_resnet50_parameters():
    method = SwAV(Network(ResNet(50), Head(128, (2048,))), prototypes=3000, examples=10_000)
    views = (jnp.zeros((1, 64, 64, 3)),) * 2
    params, _, _ = jax.eval_shape(lambda k: method.init(k, Batch(views, jnp.zeros(1))), jax.random.key(0))
    assert count(params) == 28_354_752
    assert count(params["network"]["head"]) == 4_462_720


def test_instance_resnet18_parameters():
    network = Network(ResNet(18, 64, "cifar"), Head(128))
    assert count(shapes(network, (jnp.zeros((1, 32, 32, 3)),), train=False)) == 11_234_496


@pytest.mark.parametrize(
    ("stem", "size", "sides"), [("imagenet", 224, (112, 56, 28, 14, 7)), ("cifar", 32, (32, 32, 16, 8, 4))]
)
@pytest.mark.parametrize("depth", [18, 50])
def test_stages(depth, stem, size, sides):
    model = ResNet(depth, 8, stem)
    variables = jax.eval_shape(lambda k: model.init(k, jnp.zeros((1, size, size, 3)), train=False), jax.random.key(0))
    found = jax.eval_shape(lambda v: model.apply(v, jnp.zeros((1, size, size, 3)), train=False), variables)
    wide = 4 if depth == 50 else 1
    channels = (8, 8 * wide, 16 * wide, 32 * wide, 64 * wide)
    assert [found[f"stage{i + 1}"].shape for i in range(5)] == [(1, s, s, c) for s, c in zip(sides, channels)]
    assert found["backbone"].shape == (1, channels[-1])


def test_batch_norm_keeps_torchs_statistics(key):
    x = 3.0 + 2.0 * jax.random.normal(key, (4, 3, 5, 6))
    module = BatchNorm()
    variables = module.init(key, x, train=False)
    y, updated = module.apply(variables, x, train=True, mutable="batch_stats")
    rows = np.asarray(x, np.float64).reshape(-1, 6)
    expected = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5)
    np.testing.assert_allclose(y.reshape(-1, 6), expected, atol=2e-5)
    stats = updated["batch_stats"]
    np.testing.assert_allclose(stats["mean"], 0.1 * rows.mean(0), rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * rows.var(0, ddof=1), rtol=1e-5)
    evaluated = module.apply({"params": variables["params"], **updated}, x, train=False)
    expected = (rows - 0.1 * rows.mean(0)) / np.sqrt(0.9 + 0.1 * rows.var(0, ddof=1) + 1e-5)
    np.testing.assert_allclose(evaluated.reshape(-1, 6), expected, rtol=1e-4)


def test_initialisation_is_torchs(key):
    kernel = Conv(64, 3).init(key, jnp.zeros((1, 8, 8, 32)))["params"]["conv"]["kernel"]
    np.testing.assert_allclose(kernel.std(), (2 / (9 * 64)) ** 0.5, rtol=0.02)
    assert np.abs(kernel).max() > 3.5 * kernel.std()  # not cut off
    dense = Linear(300).init(key, jnp.zeros((1, 400)))["params"]["linear"]
    for leaf in jax.tree.leaves(dense):
        assert 0.045 < np.abs(leaf).max() <= 0.05
        np.testing.assert_allclose(leaf.std(), 0.05 / 3**0.5, rtol=0.1)


def test_strided_convolution_pads_like_torch(key):
    # torch pads both sides by one: the first output of a stride-2 3x3 sees rows -1, 0, 1.
    conv = Conv(1, 3, 2)
    ones = {"params": {"conv": {"kernel": jnp.ones((3, 3, 1, 1))}}}
    image = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(conv.apply(ones, image)[0, ..., 0], [[10, 24], [51, 90]])


@pytest.mark.parametrize("settings", [dict(depth=19), dict(stem="stl")])
def test_refusals(settings):
    with pytest.raises(ValueError, match="choose"):
        ResNet(**settings)
