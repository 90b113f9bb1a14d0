import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.interface import Batch
from ssl_jax.methods.swav import SwAV
from ssl_jax.models.alexnet import AlexNet
from ssl_jax.models.layers import BatchNorm, Conv, Head, Linear
from ssl_jax.models.network import Network
from ssl_jax.models.pooling import adaptive, flat
from ssl_jax.models.preact_resnet import PreActResNet
from ssl_jax.models.resnet import ResNet
from ssl_jax.models.vgg import VGG
from ssl_jax.ops.mesh import make_mesh
from ssl_jax.runtime.sharding import batch_sharding


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


def shapes(module, *args, **kwargs):
    return jax.eval_shape(lambda key: module.init(key, *args, **kwargs), jax.random.key(0))[
        "params"
    ]


@pytest.mark.parametrize(
    ("depth", "stem", "width", "parameters"),
    [
        (18, "cifar", 64, 11_168_832),
        (34, "cifar", 64, 21_276_992),
        (34, "imagenet", 64, 21_284_672),
        (50, "imagenet", 64, 23_508_032),
        (50, "imagenet", 128, 93_907_072),
        (50, "imagenet", 256, 375_378_176),
    ],
)
def test_backbone_parameters(depth, stem, width, parameters):
    assert (
        count(shapes(ResNet(depth, width, stem), jnp.zeros((1, 64, 64, 3)), train=False))
        == parameters
    )


@pytest.mark.parametrize(
    ("width", "hidden", "parameters"),
    [(64, 2048, 28_354_752), (128, 8192, 128_918_784), (256, 8192, 443_944_320)],
)
def test_swav_resnet50_parameters(width, hidden, parameters):
    method = SwAV(Network(ResNet(50, width, "imagenet"), Head(128, (hidden,))), prototypes=3000)
    views = (jnp.zeros((1, 64, 64, 3)),) * 2
    params, _, _ = jax.eval_shape(
        lambda k: method.init(k, Batch(views, jnp.zeros(1))), jax.random.key(0)
    )
    assert count(params) == parameters
    if width == 64:
        assert count(params["network"]["head"]) == 4_462_720


def test_preactivation_resnet18_parameters():
    network = Network(PreActResNet(depth=18, stem="imagenet"), Head(128))

    def make():
        return network.init(jax.random.key(0), (jnp.zeros((1, 64, 64, 3)),), train=False)

    assert count(jax.eval_shape(make)["params"]) == 11_244_480


def test_preactivation_blocks_end_without_a_relu(key):
    model = PreActResNet(depth=10, width=4, stem="cifar")
    x = jax.random.normal(key, (2, 8, 8, 3))
    features = jax.jit(lambda k: model.init_with_output(k, x, train=False)[0])(key)
    assert (features["stage2"] < 0).any()
    assert (features["stage5"] >= 0).all()
    assert features["stage5"].shape == (2, 1, 1, 32)
    assert features["backbone"].shape == (2, 32)
    np.testing.assert_allclose(features["backbone"], features["stage5"].mean((1, 2)), rtol=1e-6)


def test_instance_resnet18_parameters():
    network = Network(ResNet(18, 64, "cifar"), Head(128))
    assert count(shapes(network, (jnp.zeros((1, 32, 32, 3)),), train=False)) == 11_234_496


@pytest.mark.parametrize(
    ("stem", "size", "sides"),
    [("imagenet", 224, (112, 56, 28, 14, 7)), ("cifar", 32, (32, 32, 16, 8, 4))],
)
@pytest.mark.parametrize("depth", [18, 50])
def test_stages(depth, stem, size, sides):
    model = ResNet(depth, 8, stem)
    variables = jax.eval_shape(
        lambda k: model.init(k, jnp.zeros((1, size, size, 3)), train=False), jax.random.key(0)
    )
    found = jax.eval_shape(
        lambda v: model.apply(v, jnp.zeros((1, size, size, 3)), train=False), variables
    )
    wide = 4 if depth == 50 else 1
    channels = (8, 8 * wide, 16 * wide, 32 * wide, 64 * wide)
    assert [found[f"stage{i + 1}"].shape for i in range(5)] == [
        (1, s, s, c) for s, c in zip(sides, channels)
    ]
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


def test_grouped_batch_norm_is_batch_norm_of_each_part(key):
    x = jax.random.normal(key, (12, 3, 3, 5)) * jnp.arange(1.0, 13.0)[:, None, None, None]
    module = BatchNorm(groups=3)
    variables = module.init(key, x, train=False)
    y, updated = module.apply(variables, x, train=True, mutable="batch_stats")
    parts = [
        BatchNorm().apply(variables, x[i : i + 4], train=True, mutable="batch_stats")
        for i in (0, 4, 8)
    ]
    np.testing.assert_allclose(y, np.concatenate([p for p, _ in parts]), atol=1e-5)
    for name in ("mean", "var"):
        expected = np.mean([s["batch_stats"][name] for _, s in parts], axis=0)
        np.testing.assert_allclose(updated["batch_stats"][name], expected, rtol=1e-5)
    whole = BatchNorm().apply(variables, x, train=True, mutable="batch_stats")[0]
    assert np.abs(y - whole).max() > 0.1
    with pytest.raises(ValueError, match="bn_groups=5 does not divide a batch of 12"):
        BatchNorm(groups=5).apply(variables, x, train=True, mutable="batch_stats")


def test_grouped_batch_norm_over_devices(key):
    x = jax.random.normal(key, (8, 3, 3, 5)) * jnp.arange(1.0, 9.0)[:, None, None, None]
    for groups in (1, 2, 4):
        module = BatchNorm(groups=groups)
        variables = module.init(key, x, train=False)
        apply = jax.jit(
            lambda x, m=module, v=variables: m.apply(v, x, train=True, mutable="batch_stats")
        )
        expected = apply(x)
        mesh = make_mesh(jax.devices()[:2])
        with jax.set_mesh(mesh):
            found = apply(jax.device_put(x, batch_sharding(mesh)))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected
        )


def gradients(model, variables, x):
    def loss(params):
        out, updated = model.apply(
            {"params": params, "batch_stats": variables["batch_stats"]},
            x,
            train=True,
            mutable="batch_stats",
        )
        return (out["backbone"] ** 2).sum(), updated

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])


@pytest.mark.slow
def test_remat_changes_memory_not_numbers(key):
    x = jax.random.normal(key, (4, 16, 16, 3))
    plain = ResNet(10, 4, "cifar")
    remat = ResNet(10, 4, "cifar", remat=True)
    variables = jax.jit(lambda k: plain.init(k, x, train=False))(key)
    others = jax.eval_shape(lambda k: remat.init(k, x, train=False), key)
    assert jax.tree.structure(others) == jax.tree.structure(variables)

    def convolutions(model):
        return str(jax.make_jaxpr(lambda v: gradients(model, v, x))(variables)).count(
            "conv_general"
        )

    assert convolutions(remat) > convolutions(plain)
    (expected, stats), expected_grads = gradients(plain, variables, x)
    (found, remat_stats), grads = gradients(remat, variables, x)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), stats, remat_stats
    )
    scale = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(expected_grads))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * scale), grads, expected_grads
    )


def test_bfloat16_is_the_trunks_alone(key):
    x = jax.random.normal(key, (8, 16, 16, 3))
    network = Network(ResNet(10, 8, "cifar", dtype="bfloat16"), Head(6, (10,)))
    variables = jax.jit(lambda k: network.init(k, (x,), train=False))(key)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}

    def found(network):
        return jax.jit(lambda v: network.apply(v, x, method=Network.features))(variables)

    features = found(network)
    exact = found(Network(ResNet(10, 8, "cifar"), Head(6, (10,))))
    assert features["stage3"].dtype == jnp.bfloat16
    assert features["backbone"].dtype == features["embedding"].dtype == jnp.float32
    np.testing.assert_allclose(jnp.linalg.norm(features["embedding"], axis=1), 1.0, atol=1e-6)
    cosines = np.sum(features["embedding"] * exact["embedding"], axis=1)
    assert cosines.min() > 0.999

    def trained(v):
        return network.apply(v, (x,), train=True, mutable="batch_stats")[1]

    assert {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(trained, variables))} == {
        jnp.dtype("float32")
    }


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


PLAIN = [
    # backbone, its convolutions and BatchNorms, its first fully connected layer, at so many pixels
    (
        AlexNet(stem="imagenet"),
        3_745_824 + 2 * 1376,
        9216 * 4096,
        224,
        (55, 27, 13, 13, 13),
        (96, 256, 384, 384, 256),
    ),
    (
        AlexNet(stem="narrow"),
        3_205_824 + 2 * 1280,
        6400 * 4096,
        224,
        (54, 26, 12, 12, 12),
        (64, 192, 384, 384, 256),
    ),
    (
        AlexNet(stem="cifar"),
        3_718_176 + 2 * 1376,
        4096 * 4096,
        32,
        (32, 16, 8, 8, 8),
        (96, 256, 384, 384, 256),
    ),
    (
        VGG(stem="imagenet"),
        14_710_464 + 2 * 4224,
        25_088 * 4096,
        224,
        (224, 112, 56, 28, 14),
        (64, 128, 256, 512, 512),
    ),
    (
        VGG(stem="cifar"),
        14_710_464 + 2 * 4224,
        512 * 4096,
        32,
        (32, 16, 8, 4, 2),
        (64, 128, 256, 512, 512),
    ),
]


@pytest.mark.parametrize(("model", "maps", "first", "size", "sides", "channels"), PLAIN)
def test_networks_without_shortcuts(model, maps, first, size, sides, channels):
    image = jnp.zeros((2, size, size, 3))
    variables = jax.eval_shape(lambda k: model.init(k, image, train=False), jax.random.key(0))
    assert count(variables["params"]) == maps + first + 4096 * 4096 + 4 * 4096
    found = jax.eval_shape(lambda v: model.apply(v, image, train=False), variables)
    shapes = [found[f"stage{i + 1}"].shape for i in range(5)]
    assert shapes == [(2, s, s, c) for s, c in zip(sides, channels)]
    assert found["backbone"].shape == (2, 4096)


@pytest.mark.parametrize("kind", [AlexNet, VGG])
def test_networks_without_shortcuts_learn(kind, key):
    x = 1.0 + jax.random.normal(key, (6, 12, 12, 3))
    settings = dict(width=4, stem="cifar", hidden=(8,))
    model = kind(**settings)
    variables = jax.jit(lambda k: model.init(k, x, train=False))(key)
    evaluated = jax.jit(lambda v: model.apply(v, x, train=False))(variables)
    trained, updated = jax.jit(lambda v: model.apply(v, x, train=True, mutable="batch_stats"))(
        variables
    )
    for name in evaluated:
        assert (evaluated[name] >= 0).all()  # after ReLU
        assert np.abs(evaluated[name] - trained[name]).max() > 1e-3  # statistics of the batch
    moved = jax.tree.map(
        lambda a, b: np.abs(a - b).max(), updated["batch_stats"], variables["batch_stats"]
    )
    assert min(jax.tree.leaves(moved)) > 0

    def shapes(m, x):
        return jax.eval_shape(lambda k: m.init_with_output(k, x, train=False), key)

    assert shapes(model, x[:, :5, :5])[0]["backbone"].shape == (
        6,
        8,
    )  # a smaller view, as multi-crop draws
    features, half = shapes(kind(**settings, dtype="bfloat16"), x)
    assert (features["stage5"].dtype, features["backbone"].dtype) == (jnp.bfloat16, jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {jnp.dtype("float32")}
    pooled = shapes(kind(**settings | dict(hidden=())), x)[0]
    assert pooled["backbone"].shape == (6, pooled["stage5"].shape[-1])


def test_remat_of_networks_without_shortcuts(key):
    x = jax.ShapeDtypeStruct((4, 8, 8, 3), jnp.float32)
    plain, remat = (AlexNet(width=4, stem="cifar", hidden=(8,), remat=r) for r in (False, True))
    variables = jax.eval_shape(lambda k, x: plain.init(k, x, train=False), key, x)
    assert jax.tree.structure(
        jax.eval_shape(lambda k, x: remat.init(k, x, train=False), key, x)
    ) == jax.tree.structure(variables)

    def text(model):
        return str(jax.make_jaxpr(lambda v, x: gradients(model, v, x))(variables, x))

    assert text(remat).count("conv_general") > text(plain).count("conv_general")


@pytest.mark.parametrize(
    ("maps", "sizes"),
    [
        (
            ((55, 96), (27, 256), (13, 384), (13, 384), (13, 256)),
            (9600, 9216, 9600, 9600, 9216),
        ),  # AlexNet
        (
            ((112, 64), (56, 256), (28, 512), (14, 1024), (7, 2048)),
            (9216, 9216, 8192, 9216, 8192),
        ),  # ResNet-50
        (
            ((32, 64), (32, 64), (16, 128), (8, 256), (4, 512)),
            (9216, 9216, 8192, 9216, 8192),
        ),  # ResNet-18, CIFAR
        (((8, 16), (4, 32), (1, 10_000)), (1024, 512, 10_000)),  # small enough
    ],
)
def test_maps_are_pooled_to_the_published_sizes(maps, sizes):
    shapes = [
        jax.eval_shape(flat, jax.ShapeDtypeStruct((3, s, s, c), jnp.bfloat16)) for s, c in maps
    ]
    assert [x.shape for x in shapes] == [(3, size) for size in sizes]
    assert {x.dtype for x in shapes} == {jnp.dtype("float32")}


def test_pools_against_loops(key):
    x = np.asarray(jax.random.normal(key, (2, 13, 13, 256)))
    expected = (
        x[:, :12, :12].reshape(2, 6, 2, 6, 2, 256).mean((2, 4))
    )  # AlexNet's conv5: window 2, stride 2
    np.testing.assert_allclose(flat(x), expected.reshape(2, -1), atol=1e-6)
    x = np.asarray(jax.random.normal(key, (2, 13, 13, 384)))
    padded = np.pad(
        x, ((0, 0), (1, 1), (1, 1), (0, 0))
    )  # conv3: window 3, stride 3, padding 1, counted as zeros
    expected = padded.reshape(2, 5, 3, 5, 3, 384).mean((2, 4))
    np.testing.assert_allclose(flat(x), expected.reshape(2, -1), atol=1e-6)
    x = np.asarray(jax.random.normal(key, (2, 7, 10, 3)))
    expected = np.zeros((2, 4, 4, 3))
    for i in range(4):
        for j in range(4):
            rows = slice(i * 7 // 4, -(-(i + 1) * 7 // 4))
            expected[:, i, j] = x[:, rows, j * 10 // 4 : -(-(j + 1) * 10 // 4)].mean((1, 2))
    np.testing.assert_allclose(adaptive(x, 4), expected, atol=1e-6)
    assert adaptive(x, 20).shape == x.shape
    np.testing.assert_array_equal(
        adaptive(x[:, :1, :1], 3, grow=True), np.broadcast_to(x[:, :1, :1], (2, 3, 3, 3))
    )
    np.testing.assert_array_equal(flat(x[:, 0, 0]), x[:, 0, 0])


@pytest.mark.parametrize("settings", [dict(depth=19), dict(stem="stl"), dict(dtype="float16")])
def test_refusals(settings):
    with pytest.raises(ValueError, match="choose"):
        ResNet(**settings)


@pytest.mark.parametrize(
    "settings", [dict(width=0), dict(hidden=(3, 0)), dict(stem="stl"), dict(bn_groups=0)]
)
def test_refusals_of_networks_without_shortcuts(settings):
    with pytest.raises(ValueError, match="choose|at least 1"):
        VGG(**settings)
