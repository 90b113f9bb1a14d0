"""The settings behind the published numbers: initialisation, BatchNorm, clusters, evaluation."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import methods
from helpers.plans import config_of
from helpers.runs import quiet, records, tiny

from ssl_jax import train
from ssl_jax.build import build
from ssl_jax.evaluation.clustering import Clustering
from ssl_jax.evaluation.knn import KNN
from ssl_jax.interface import Batch, RunFacts, Split, TrainState
from ssl_jax.methods.instance import InstanceState
from ssl_jax.models.layers import BatchNorm, Conv, Head
from ssl_jax.models.network import Network
from ssl_jax.models.preact_resnet import PreActResNet
from ssl_jax.models.resnet import ResNet
from ssl_jax.ops.kmeans import kmeans
from ssl_jax.ops.vectors import unit
from ssl_jax.positives.boundary import Boundary
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.whole_config import completed


@pytest.mark.parametrize(
    ("init", "std"), [("torchvision", 0.0417), ("torch", 0.0241), ("tensorflow", 0.0417)]
)
def test_convolutions_start_as_released(init, std, key):
    """3x3 kernels from 64 to 128 channels: He's fan-out and TensorFlow's fan-in agree there."""
    variables = Conv(128, conv_init=init).init(key, jnp.zeros((1, 8, 8, 64)))
    kernel = variables["params"]["conv"]["kernel"]
    assert kernel.shape == (3, 3, 64, 128)
    assert float(kernel.std()) == pytest.approx(std, rel=0.01)
    wide = Conv(64, conv_init=init).init(key, jnp.zeros((1, 8, 8, 128)))["params"]["conv"]["kernel"]
    fan_in = 9 * 128
    fan_out = 9 * 64
    variances = {"torchvision": 2 / fan_out, "torch": 1 / (3 * fan_in), "tensorflow": 1 / fan_in}
    assert float(wide.var()) == pytest.approx(variances[init], rel=0.02)
    if init == "torch":
        assert float(jnp.abs(wide).max()) <= fan_in**-0.5


@pytest.mark.parametrize("backbone", [ResNet, PreActResNet])
def test_running_statistics_move_by_the_momentum(backbone, key):
    images = jax.random.normal(key, (4, 8, 8, 3)) + 1.0
    moved = {}
    for momentum in (0.1, 0.003):
        network = backbone(depth=10, width=4, stem="cifar", bn_momentum=momentum)
        variables = network.init(key, images, train=False)
        _, updated = network.apply(variables, images, train=True, mutable="batch_stats")
        moved[momentum] = jax.tree.map(
            lambda new, old: new - old, updated["batch_stats"], variables["batch_stats"]
        )
    for slow, fast in zip(jax.tree.leaves(moved[0.003]), jax.tree.leaves(moved[0.1])):
        np.testing.assert_allclose(slow, 0.03 * fast, rtol=2e-3, atol=1e-6)


def test_swavs_views_share_a_batch_or_come_one_after_the_other(key):
    """After one step the running mean is .05 (m1 + m2), or .09 m1 + .1 m2 as in lightly."""

    class MeanBackbone(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            return {"backbone": BatchNorm(name="bn")(x.mean((1, 2)), train=train)}

    stage = methods.stage("swav")
    views = tuple(jax.random.normal(jax.random.fold_in(key, i), (8, 8, 8, 3)) + i for i in (1, 2))
    first, second = (np.asarray(v.mean((0, 1, 2))) for v in views)
    expected = {True: 0.05 * (first + second), False: 0.09 * first + 0.1 * second}
    network = Network(MeanBackbone(), Head(6))
    for joint, mean in expected.items():
        method = dataclasses.replace(
            stage.method, network=network, queue_length=0, joint_views=joint
        )
        batch = Batch(views, jnp.arange(8))
        params, stats, state = method.init(key, batch)
        full = TrainState(jnp.zeros((), jnp.int32), params, stats, (), state, ())
        _, aux = method.loss(full, batch, key)
        np.testing.assert_allclose(aux.batch_stats["backbone"]["bn"]["mean"], mean, rtol=1e-5)


def test_the_query_is_the_online_networks_embedding(key):
    stage = methods.stage("moco")
    state = methods.fresh_state(stage, key)
    params = jax.tree.map(lambda x: x + 0.1, state.params)
    state = state.replace(params=params)
    images = jax.random.normal(key, (4, 8, 8, 3))
    features = stage.method.features(state, images, ("query", "embedding", "backbone"))
    variables = {"params": params["network"], "batch_stats": state.batch_stats["network"]}
    online = stage.method.network.apply(variables, images, method=Network.features)
    np.testing.assert_array_equal(features["query"], online["embedding"])
    np.testing.assert_allclose(jnp.linalg.norm(features["query"], axis=1), 1.0, rtol=1e-5)
    assert np.abs(features["query"] - features["embedding"]).max() > 1e-3


def two_near_pairs(key, unlabelled=2000):
    """Unit points of four classes, 50 each, in two near pairs; then distant unlabelled points."""
    a, b, *far = np.eye(8)
    tilt = 0.25 * np.eye(8)[[2, 3, 2, 3]]
    centres = np.stack([a, a, b, b]) + tilt
    rng = np.random.default_rng(0)
    labelled = np.repeat(centres, 50, axis=0) + 0.02 * rng.standard_normal((200, 8))
    others = np.stack(far)[rng.integers(2, 6, unlabelled)] + 0.3 * rng.standard_normal(
        (unlabelled, 8)
    )
    labels = np.concatenate([np.repeat(np.arange(4), 50), np.full(unlabelled, -1)]).astype(np.int32)
    return unit(jnp.asarray(np.concatenate([labelled, others]), jnp.float32)), labels


def test_only_labelled_images_are_clustered_and_scored(key):
    points, labels = two_near_pairs(key)
    split = Split({"embedding": points}, labels)
    facts = RunFacts(examples=len(labels), classes=4)
    scores = dict(Clustering(facts=facts).run({"trained": split}, None))
    assert scores["acc"] == scores["nmi"] == scores["ari"] == 1.0


def test_only_labelled_images_make_the_boundary_filters_clusters(key):
    points, labels = two_near_pairs(key)
    bits = np.packbits(labels >= 0).tobytes()
    facts = RunFacts(examples=len(labels), classes=4, batch_size=8, total_steps=4, with_label=bits)
    filters = Boundary(facts=facts)
    state, _ = filters.refresh(filters.init(8), lambda name: points, key)
    clusters = np.asarray(state.labels)
    for i in range(4):
        assert len(set(clusters[50 * i : 50 * i + 50].tolist())) == 1
    assert len(set(clusters[:200].tolist())) == 4
    assert clusters.shape == (len(labels),)  # unlabelled images join the nearest cluster
    everything = dataclasses.replace(filters, cluster_unlabelled=True)
    mixed, _ = everything.refresh(everything.init(8), lambda name: points, key)
    assert len(set(np.asarray(mixed.labels[:200]).tolist())) < 4


def test_which_images_have_labels_reaches_the_filter(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(256) % 3
    labels[rng.permutation(256)[:100]] = -1
    images = rng.integers(0, 256, (256, 8, 8, 1), dtype=np.uint8)
    np.savez(
        tmp_path / "a.npz",
        images=images,
        labels=labels,
        test_images=images[:30],
        test_labels=np.arange(30) % 3,
    )
    config = tiny("conr")
    config.data = dict(name="array", dir=str(tmp_path / "a.npz"))
    config.positives.boundary.clusters = 3
    bits = build(config).stages[-1].method.positives.boundary.facts.with_label
    np.testing.assert_array_equal(
        np.unpackbits(np.frombuffer(bits, np.uint8), count=256), labels >= 0
    )
    config.positives.boundary.clusters = 200
    with pytest.raises(
        SettingError, match="clusters=200: between 2 and the 156 labelled training images"
    ):
        build(config)
    config.positives.boundary.clusters = 3
    config.data.labels = "none"  # now all images are clustered
    config.evals = {}
    assert build(config).stages[-1].method.positives.boundary.facts.with_label == b""


def stuck(key):
    """Points of four even clusters, and centroids at which Lloyd's algorithm is stuck."""
    centres = np.kron(np.eye(4), np.ones((1, 2)))
    points = np.repeat(centres, 60, axis=0) + 0.05 * np.random.default_rng(0).standard_normal(
        (240, 8)
    )
    points = np.asarray(unit(jnp.asarray(points, jnp.float32)))
    means = points.reshape(4, 60, 8).mean(1)
    start = np.stack(
        [points[:30].mean(0), points[30:60].mean(0), means[1], 0.5 * (means[2] + means[3])]
    )
    return jnp.asarray(points), jnp.asarray(start)


@pytest.mark.parametrize(
    ("start", "frees"), [("warm", True), ("fresh", True), ("unchecked", False)]
)
def test_a_warm_start_that_is_stuck_is_not_kept(start, frees, key):
    points, centroids = stuck(key)
    facts = RunFacts(examples=240, classes=4, batch_size=8, total_steps=4)
    filters = Boundary(start=start, facts=facts)
    before = filters.init(8).replace(centroids=centroids)
    after, values = filters.refresh(before, lambda name: points, key)
    best = kmeans(jax.random.key(1), points, 4, iterations=300, restarts=10).inertia
    cosine = jnp.max(points @ unit(after.centroids).T, axis=1)
    assert bool(jnp.sum(1 - cosine) <= 1.005 * best) == frees
    assert ("fresh_start" in values) == (start == "warm")
    if start == "warm":
        assert values["fresh_start"] == 1
        again, values = filters.refresh(after, lambda name: points, key)
        assert values["fresh_start"] == 0
        np.testing.assert_array_equal(again.labels, after.labels)  # clusters keep their numbers
        assert values["moved"] == 0


def test_neighbours_in_the_live_bank(key):
    train, test = (unit(jax.random.normal(jax.random.fold_in(key, i), (40, 6))) for i in range(2))
    labels = np.arange(40) % 4
    splits = {
        "train": Split({"embedding": jnp.zeros_like(train)}, labels),
        "test": Split({"embedding": test}, labels),
    }
    facts = RunFacts(examples=40, classes=4)
    live = KNN(k=5, source="bank", facts=facts)
    padded = jnp.concatenate([train, jnp.zeros((24, 6))])
    state = TrainState(0, {}, {}, (), InstanceState(padded, jnp.zeros(())), ())
    recomputed = {**splits, "train": Split({"embedding": train}, labels)}
    assert dict(live.run(splits, state)) == dict(KNN(k=5, facts=facts).run(recomputed, None))
    assert dict(live.run(splits, None)) == {}  # raw pixels have no bank
    assert live.reads == ("bank",)
    with pytest.raises(ValueError, match="feature='backbone': the bank holds embeddings"):
        KNN(k=5, source="bank", feature="backbone")


def test_a_run_scores_against_features_recomputed_and_the_live_bank(tmp_path):
    config = tiny("instance")
    config.epochs = 1
    config.baselines = False
    config.evals = dict(knn=dict(k=5), knn_live=dict(name="knn", k=5, source="bank"))
    scores = train.run(config, tmp_path, console=quiet())
    assert set(scores) == {"eval/knn/top1", "eval/knn_live/top1"}
    assert "eval/knn_live/top1" in records(tmp_path)[-1]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("swav:cifar10", {"model.init": "torch", "method.joint_views": False}),
        ("swav:cifar100", {"model.init": "torchvision", "method.joint_views": True}),
        ("swav:imagenet", {"model.init": "torchvision", "method.joint_views": True}),
        ("instance:cifar10", {"model.init": "torch", "model.bn_momentum": 0.1}),
        ("instance:cifar10_alexnet", {"model.name": "alexnet", "evals.linear.feature": "stage5"}),
        (
            "anchor_neighbourhood:svhn_alexnet",
            {"model.name": "alexnet", "data.name": "tfds:svhn_cropped"},
        ),
        (
            "anchor_neighbourhood:imagenet",
            {"model.stem": "imagenet", "batch_size": 256, "method.rounds": 4},
        ),
        ("anchor_neighbourhood:cub200", {"data.name": "tfds:caltech_birds2011", "data.size": 480}),
        (
            "local_aggregation:imagenet_resnet18",
            {"model.init": "tensorflow", "model.bn_momentum": 0.003},
        ),
        (
            "local_aggregation:imagenet_alexnet",
            {"model.stem": "narrow", "method.clusterings": 3, "epochs": 160},
        ),
        (
            "local_aggregation:imagenet_vgg16",
            {"method.clusters": 10_000, "method.clusterings": 6, "batch_size": 256},
        ),
        ("moco:cifar10", {"evals.knn.feature": "query"}),
        ("moco:cifar10_propos", {"optim.learning_rate": 0.05, "optim.weight_decay": 1e-4}),
        (
            "conr:paper_cifar10",
            {"positives.boundary.start": "fresh", "positives.boundary.iterations": 300},
        ),
        (
            "conr:released_cifar10",
            {"positives.boundary.start": "fresh", "evals.clustering.iterations": 300},
        ),
        ("conr:stl10", {"data.whole": True, "data.unlabelled": "unlabelled"}),
        (
            "conr:tiny_imagenet",
            {"data.size": 64, "model.depth": 34, "positives.boundary.restarts": 10},
        ),
        (
            "conr:digits",
            {"positives.boundary.start": "unchecked", "positives.boundary.iterations": 50},
        ),
    ],
)
def test_recipes_have_the_published_settings(name, expected):
    config = config_of(*name.split(":"))
    for setting, value in expected.items():
        actual = config
        for part in setting.split("."):
            actual = actual[part]
        assert actual == value, setting


STREAMED = ("folder", "stream", 480, 0.875)
PICTURES = {
    # variant: data.name, data.store, data.size and evals.crop
    "swav:imagenet": STREAMED,
    "swav:imagenet_bs256": STREAMED,
    "byol:imagenet": STREAMED,
    "moco:imagenet": STREAMED,
    "simsiam:imagenet": STREAMED,
    "instance:imagenet_resnet50": STREAMED,
    "anchor_neighbourhood:imagenet": STREAMED,
    "anchor_neighbourhood:dogs": ("tfds:stanford_dogs", "cache", 480, 0.875),
    "local_aggregation:imagenet_vgg16": STREAMED,
    "conr:imagenet_dogs": ("folder", "cache", 480, 0.875),
    "conr:imagenet10": ("folder", "cache", 340, 0.0),
    "conr:tiny_imagenet": ("folder", "cache", 64, 0.0),
    "conr:stl10": ("tfds:stl10", "cache", 96, 0.0),
}
for method in ("swav", "moco", "anchor_neighbourhood", "conr"):
    PICTURES[f"{method}:folder"] = ("folder", "cache", 256, 0.875)
    PICTURES[f"{method}:array"] = ("array", "cache", 256, 0.0)


@pytest.mark.parametrize("name", PICTURES)
def test_recipes_store_what_their_crops_need(name):
    settings = completed(config_of(*name.split(":")))
    data = settings["data"]
    assert data["keep"] == "whole"
    found = (data["name"], data["store"], data["size"], settings["evals"]["crop"])
    assert found == PICTURES[name]


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("init", "he", "model: init='he': choose one of torchvision, torch, tensorflow"),
        ("init", 3, "model.init=3 has the wrong type"),
        ("bn_momentum", 0.0, "model.bn_momentum=0.0: above 0 and at most 1"),
    ],
)
def test_invalid_settings(setting, value, message):
    config = config_of("swav", "digits")
    with config.ignore_type():
        config.model[setting] = value
    with pytest.raises(SettingError, match=message):
        build(config)
