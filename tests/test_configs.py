"""Every config and variant is complete, overridable and buildable; recipes match the papers."""

import dataclasses
import runpy

import jax
import numpy as np
import pytest
from helpers.plans import CONFIGS, TINY_MODEL, config_of, plan_of
from ml_collections import ConfigDict

from ssl_jax.build import build, completed
from ssl_jax.data.augment import View
from ssl_jax.data.datasets import Dataset, Images
from ssl_jax.settings import defaults
from ssl_jax.settings.automatic import MANY, resolved
from ssl_jax.settings.resolve import SettingError
from ssl_jax.stages import views_of

NAMES = sorted(path.stem for path in CONFIGS.glob("*.py"))
VARIANTS = {name: list(runpy.run_path(str(CONFIGS / f"{name}.py"))["VARIANTS"]) for name in NAMES}
VARIANTS["conr"] += ["digits+moco", "paper_cifar20+simsiam"]


@pytest.mark.parametrize("name", ["alexnet", "vgg"])
def test_a_backbone_takes_those_of_the_model_settings_that_it_has(name, tmp_path):
    config = config_of("byol", "imagenet")
    config.model.update(name=name, width=4, hidden=(8,))
    config.data.update(name="array", store="cache", dir=str(tmp_path / "a.npz"))
    images = np.zeros((4096, 8, 8, 3), np.uint8)
    labels = np.arange(4096) % 10
    np.savez(
        tmp_path / "a.npz",
        images=images,
        labels=labels,
        test_images=images[:20],
        test_labels=labels[:20],
    )
    stages = ("stage1", "stage2", "stage3", "stage4", "stage5")
    config.evals = dict(probe=dict(features=stages), augmented=dict(features=stages))
    config.best = "eval/probe/top1"
    plan = build(config)
    backbone = plan.stages[-1].method.network.backbone
    assert (backbone.width, backbone.hidden, backbone.stem, backbone.dtype) == (
        4,
        (8,),
        "imagenet",
        "bfloat16",
    )
    config.model.stem = "stl"
    with pytest.raises(
        SettingError, match="model.stem='stl': choose one of imagenet, (narrow, )?cifar"
    ):
        build(config)


def test_a_view_lists_every_setting():
    ours = {f.name: f.default for f in dataclasses.fields(View) if f.name != "size"}
    assert {k: v for k, v in defaults.view(8).items() if k != "size"} == ours


@pytest.mark.parametrize(
    ("name", "variant"), [(n, v) for n, variants in VARIANTS.items() for v in variants]
)
def test_every_field_of_every_view_can_be_overridden(name, variant):
    config, _ = resolved(completed(config_of(name, variant)), MANY)
    for group in config["augment"].values():
        assert set(group) == {f.name for f in dataclasses.fields(View)}
    assert views_of(config["augment"])


def test_unknown_variants_are_listed():
    with pytest.raises(
        SettingError, match="choose one of: digits, cifar10, cifar10_multicrop, cifar100, folder"
    ):
        config_of("swav", "cifar")


@pytest.mark.parametrize("variant", ["cifar10", "cifar10_multicrop", "cifar100", "folder"])
def test_small_swav_recipes_build(variant, tmp_path):
    plan = plan_of("swav", variant, tmp_path, batch_size=256)
    prototypes = plan.stages[0].method.clusters
    assert prototypes == {"cifar10": 512, "folder": 128}.get(variant, 3000)
    rate = float(jax.jit(plan.stages[0].schedule)(11 * plan.steps_per_epoch))
    assert rate == pytest.approx(2e-3 if variant in ("cifar10", "folder") else 0.6, rel=0.03)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("instance:cifar10_alexnet", {}),
        ("instance:svhn", {}),
        ("anchor_neighbourhood:svhn_alexnet", {}),
        ("anchor_neighbourhood:imagenet", {}),
        ("anchor_neighbourhood:cub200", {}),
        ("anchor_neighbourhood:dogs", {}),
        ("local_aggregation:imagenet_alexnet", dict(clusters=40)),
        ("local_aggregation:imagenet_vgg16", dict(clusters=40)),
        ("conr:tiny_imagenet", {}),
    ],
)
def test_recipes_build_at_a_small_width(name, changes, tmp_path):
    config = config_of(*name.split(":"))
    small = dict(width=4, hidden=(8,))
    backbone = config.model.name
    plan = plan_of(
        *name.split(":"),
        tmp_path,
        model=dict(config.model, **small),
        method=dict(config.method, **changes),
    )
    assert type(plan.stages[-1].method.network.backbone).__module__.endswith(backbone)
    assert plan.stages[-1].views[0].size == config.augment[next(iter(config.augment))].size


def imagenet(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)):
    """ImageNet without its pixels: as many images and classes."""

    def pixels(count):
        return np.broadcast_to(np.zeros(1, np.uint8), (count, 480, 480, 3))

    def images(count):
        return Images(pixels(count), np.arange(count, dtype=np.int32) % 1000)

    return Dataset(images(1_281_167), images(50_000), tuple(map(str, range(1000))), mean, std)


IMAGENET = {
    # views (count, size, smallest crop), batch, epochs, steps an epoch; parameters, added up from
    # the papers' layers; the rate at the first step of these epochs, counted from 0
    "swav:imagenet": (
        ((2, 224, 0.14), (6, 96, 0.05)),
        4096,
        800,
        312,
        28_354_752,
        {0: 0.3, 10: 4.8, 405: 2.4024},
    ),
    "instance:imagenet_resnet18": (
        ((1, 224, 0.2),),
        256,
        200,
        5004,
        11_242_176,
        {119: 3e-2, 120: 3e-3, 160: 3e-4},
    ),
    "instance:imagenet_resnet50": (
        ((1, 224, 0.2),),
        256,
        200,
        5004,
        23_770_304,
        {119: 3e-2, 159: 3e-3, 199: 3e-4},
    ),
    "byol:imagenet": (
        ((1, 224, 0.08),) * 2,
        4096,
        1000,
        312,
        35_066_944,
        {0: 3.2 / 3120, 10: 3.2, 505: 1.6},
    ),
    "simsiam:imagenet": (((2, 224, 0.2),), 512, 100, 2502, 38_199_360, {0: 0.1, 50: 0.05}),
    "moco:imagenet": (((2, 224, 0.2),), 256, 200, 5004, 27_966_656, {0: 0.03, 100: 0.015}),
    "local_aggregation:imagenet_resnet18": (
        ((1, 224, 0.2),),
        128,
        200,
        10_009,
        11_244_480,
        {0: 3e-2, 159: 3e-2, 160: 3e-3, 186: 3e-3, 187: 3e-4},
    ),
}


@pytest.mark.parametrize("name", IMAGENET)
def test_imagenets_recipes_are_the_published_ones(name):
    plan = build(config_of(*name.split(":")), imagenet())
    *expected, parameters, schedule = IMAGENET[name]
    stage = plan.stages[-1]
    network = plan.stages[-1].method.network
    views = tuple((v.count, v.size, v.scale[0]) for v in stage.views)
    assert [views, plan.batch_size, plan.settings.epochs, plan.steps_per_epoch] == expected
    assert sum(x.size for x in jax.tree.leaves(plan.shapes.params)) == parameters
    np.testing.assert_allclose(rates(plan, *schedule), list(schedule.values()), rtol=1e-3)
    assert not stage.resident
    assert (network.backbone.stem, set(plan.evaluators)) == ("imagenet", {"knn"})
    groups = {"swav:imagenet": 8, "moco:imagenet": 8}.get(name, 1)
    assert network.head.bn_groups == network.backbone.bn_groups == groups
    bank = getattr(plan.shapes.method, "bank", None)
    assert bank is None or (bank.shape[0] >= 1_281_167 and bank.shape[1] == 128)


def test_imagenets_methods_and_data_are_the_published_ones():
    swav, instance, byol = (config_of(*n.split(":")) for n in list(IMAGENET)[:4] if "50" not in n)
    assert (swav.data.std[0], swav.method.prototypes, swav.optim.schedule.final) == (
        0.228,
        3000,
        0.0048,
    )
    m = instance.method
    assert (m.objective, m.samples, m.temperature, m.momentum, m.normaliser) == (
        "nce",
        4096,
        0.07,
        0.5,
        0.0,
    )
    o = instance.optim
    v = instance.augment.one
    assert (o.name, o.learning_rate, o.momentum, o.nesterov, o.weight_decay) == (
        "sgd",
        0.03,
        0.9,
        False,
        1e-4,
    )
    assert (v.jitter, v.brightness, v.hue, v.grayscale, v.flip, v.blur) == (
        1.0,
        0.4,
        0.4,
        0.2,
        0.5,
        0.0,
    )
    assert (instance.evals.knn.k, instance.evals.knn.temperature) == (200, 0.07)
    first = byol.augment.first
    second = byol.augment.second
    assert [(v.blur, v.solarize) for v in (first, second)] == [(1.0, 0.0), (0.1, 0.2)]
    assert (first.brightness, first.contrast, first.saturation, first.hue) == (0.4, 0.4, 0.2, 0.1)
    assert (byol.method.momentum, byol.method.momentum_schedule) == (0.996, "cosine")
    for name in ("simsiam", "moco"):
        config = config_of(name, "imagenet")
        v = config.augment.pair
        o = config.optim
        assert (v.jitter, v.brightness, v.saturation, v.hue, v.grayscale, v.blur) == (
            0.8,
            0.4,
            0.4,
            0.1,
            0.2,
            0.5,
        )
        assert (o.momentum, o.weight_decay, tuple(config.data.mean)) == (
            0.9,
            1e-4,
            (0.485, 0.456, 0.406),
        )
    assert config_of("simsiam", "imagenet").model.zero_init_residual


def test_imagenet_bs256_has_a_queue():
    config = ConfigDict(completed(config_of("swav", "imagenet_bs256")))
    assert (config.method.queue_length, config.method.queue_starts_epoch) == (3840, 15.0)
    assert (config.batch_size, config.optim.learning_rate, config.optim.schedule.final) == (
        256,
        0.6,
        0.0006,
    )
    assert config.optim.schedule.warmup_epochs == 0


def test_the_rate_scales_with_the_batch(tmp_path):
    plan = plan_of(
        "swav", "folder", tmp_path, batch_size=32, model=TINY_MODEL, optim={"base_batch_size": 128}
    )
    assert float(plan.stages[0].schedule(0)) == pytest.approx(2e-3 * 32 / 128)
    with pytest.raises(SettingError, match="base_batch_size=-1: at least 0"):
        plan_of("swav", "folder", tmp_path, optim={"base_batch_size": -1})


def test_prototypes_default_to_ten_per_class(tmp_path):
    plan = plan_of("swav", "digits", tmp_path, model=TINY_MODEL, method={"prototypes": 0})
    assert plan.stages[0].method.clusters == 128
    unlabelled = dict(model=TINY_MODEL, data={"labels": "none"}, method={"prototypes": 0})
    changed = plan_of("swav", "cifar10", tmp_path, batch_size=64, **unlabelled)
    assert changed.stages[0].method.clusters == 512
    assert changed.evaluators == {}
    assert "no labels" in changed.notes[-1]


def test_prototypes_follow_many_classes(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(800) % 40
    images = rng.integers(0, 256, (800, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "b.npz", images=images, labels=labels)
    config = config_of("swav", "cifar10")
    config.method.prototypes = 0
    config.data.update(name="array", dir=str(tmp_path / "b.npz"))
    config.model.update(TINY_MODEL)
    assert build(config).stages[0].method.clusters == 400


@pytest.mark.parametrize("test", [{}, {"test_labels": np.full(20, -1)}])
def test_labels_without_labelled_test_images_give_no_scores(test, tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 10
    images = rng.integers(0, 256, (200, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "b.npz", images=images, labels=labels, test_images=images[:20], **test)
    config = config_of("swav", "folder")
    config.data.update(name="array", dir=str(tmp_path / "b.npz"))
    config.model.update(TINY_MODEL)
    plan = build(config)
    assert plan.evaluators == {}
    assert "no labelled test images, so no scores" in plan.notes[-1]


PUBLISHED = {
    # variant: view (blur, brightness, hue, scale), optimiser (name, rate, decay, trust, clip), K,
    # frozen, queue, epochs
    "cifar10": ((0.0, 0.4, 0.1, (0.14, 1.0)), ("adam", 1e-3, 1e-6, 0.001, False), 512, 1.0, 0, 200),
    "cifar100": (
        (0.5, 0.8, 0.2, (0.08, 1.0)),
        ("larc", 0.6, 1e-6, 0.02, True),
        3000,
        2.0,
        3840,
        1000,
    ),
    "imagenet": (
        (0.5, 0.8, 0.2, (0.14, 1.0)),
        ("larc", 4.8, 1e-6, 0.001, False),
        3000,
        1.0,
        0,
        800,
    ),
    "imagenet_bs256": (
        (0.5, 0.8, 0.2, (0.14, 1.0)),
        ("larc", 0.6, 1e-6, 0.001, False),
        3000,
        1.0,
        3840,
        400,
    ),
}


@pytest.mark.parametrize("variant", PUBLISHED)
def test_recipes_are_the_published_ones(variant):
    config = ConfigDict(completed(config_of("swav", variant)))
    v = config.augment.large
    o = config.optim
    m = config.method
    found = (
        (v.blur, v.brightness, v.hue, tuple(v.scale)),
        (o.name, o.learning_rate, o.weight_decay, o.trust, o.clip),
        m.prototypes,
        o.groups.prototypes.frozen_epochs,
        m.queue_length,
        config.epochs,
    )
    assert found == PUBLISHED[variant]
    assert (m.temperature, m.epsilon, m.sinkhorn_iterations, tuple(m.assign)) == (
        0.1,
        0.05,
        3,
        (0, 1),
    )
    assert (v.jitter, v.grayscale, v.flip, tuple(v.sigma)) == (0.8, 0.2, 0.5, (0.1, 2.0))


def test_instance_recipe_is_the_released_one():
    config = ConfigDict(completed(config_of("instance", "cifar10")))
    v = config.augment.one
    o = config.optim
    assert (tuple(v.scale), v.flip, v.jitter, v.brightness, v.hue, v.grayscale) == (
        (0.2, 1.0),
        0.0,
        1.0,
        0.4,
        0.4,
        0.2,
    )
    assert (o.name, o.learning_rate, o.momentum, o.weight_decay) == ("sgd", 0.03, 0.9, 5e-4)
    assert (o.schedule.name, tuple(o.schedule.at_epochs), o.schedule.factor) == (
        "drops",
        (120.0, 160.0),
        0.1,
    )
    assert (
        config.batch_size,
        config.epochs,
        config.method.temperature,
        config.method.momentum,
    ) == (128, 200, 0.1, 0.5)


BASES = {
    # optimiser (name, rate, for a batch of, decay), schedule, epochs, batch, head (dim, hidden),
    # view's smallest crop
    "byol:cifar10": (("sgd", 0.05, 256, 5e-4), "line_cosine", 1000, 512, (256, (4096,)), 0.08),
    "byol:imagenet": (("lars", 0.2, 256, 1.5e-6), "line_cosine", 1000, 4096, (256, (4096,)), 0.08),
    "simsiam:cifar10": (("sgd", 0.03, 256, 5e-4), "warmup_cosine", 800, 512, (2048, (2048,)), 0.2),
    "simsiam:cifar10_propos": (
        ("sgd", 0.06, 256, 5e-4),
        "line_cosine",
        1000,
        512,
        (2048, (2048,)),
        0.08,
    ),
    "simsiam:imagenet": (
        ("sgd", 0.05, 256, 1e-4),
        "warmup_cosine",
        100,
        512,
        (2048, (2048, 2048)),
        0.2,
    ),
    "moco:cifar10": (("sgd", 0.06, 0, 5e-4), "warmup_cosine", 200, 512, (128, ()), 0.08),
    "moco:cifar10_propos": (
        ("sgd", 0.05, 256, 1e-4),
        "line_cosine",
        1000,
        512,
        (128, (512,)),
        0.08,
    ),
    "moco:imagenet": (("sgd", 0.03, 0, 1e-4), "warmup_cosine", 200, 256, (128, (2048,)), 0.2),
}


@pytest.mark.parametrize("name", BASES)
def test_recipes_of_conrs_bases_are_the_published_ones(name):
    config = ConfigDict(completed(config_of(*name.split(":"))))
    o = config.optim
    found = (
        (o.name, o.learning_rate, o.base_batch_size, o.weight_decay),
        o.schedule.name,
        config.epochs,
        config.batch_size,
        (config.head.dim, tuple(config.head.hidden)),
        next(iter(config.augment.values())).scale[0],
    )
    assert found == BASES[name]
    if o.schedule.name == "line_cosine" and "imagenet" not in name:
        assert (o.schedule.warmup_epochs, o.schedule.cosine_epochs) == (50.0, 1000.0)


def test_methods_of_conrs_bases_are_the_published_ones():
    byol, paper = (ConfigDict(completed(config_of("byol", v))) for v in ("cifar10", "imagenet"))
    m = byol.method
    assert (m.momentum, m.momentum_schedule, m.moves) == (0.996, "cosine", "after")
    assert (m.loss_scale, tuple(m.predictor)) == (2.0, (4096,))
    assert (m.predictor_std, byol.optim.groups.predictor.factor, byol.data.whole) == (
        0.01,
        10.0,
        True,
    )
    assert (paper.method.loss_scale, paper.method.fresh_target, paper.head.output_bias) == (
        4.0,
        True,
        False,
    )
    plain = paper.optim.groups.plain
    assert (plain.name, plain.weight_decay) == ("sgd", 0.0)
    simsiam = ConfigDict(completed(config_of("simsiam", "cifar10")))
    assert (simsiam.optim.groups.predictor.fixed_rate, tuple(simsiam.method.predictor)) == (
        True,
        (512,),
    )
    assert (simsiam.head.output_norm, simsiam.head.bias, simsiam.method.joint_views) == (
        "plain",
        False,
        False,
    )
    small, large = (
        ConfigDict(completed(config_of("moco", v))).method for v in ("cifar10", "imagenet")
    )
    assert (small.queue_length, small.temperature, small.momentum, small.symmetric) == (
        4096,
        0.1,
        0.99,
        False,
    )
    assert (large.queue_length, large.temperature, large.momentum, large.shuffle) == (
        65536,
        0.2,
        0.999,
        True,
    )


def test_bn_groups_divide_the_batch(tmp_path):
    with pytest.raises(SettingError, match="model.bn_groups=3 does not divide batch_size=64"):
        plan_of("swav", "folder", tmp_path, batch_size=64, model={"bn_groups": 3})


def rates(plan, *epochs):
    """The rate at the first step of each of these epochs."""
    schedule = jax.jit(plan.stages[-1].schedule)
    return [float(schedule(epoch * plan.steps_per_epoch)) for epoch in epochs]


@pytest.mark.parametrize("variant", ["cifar10", "cifar100", "svhn"])
def test_anchor_neighbourhoods_rounds_start_the_rate_anew(variant, tmp_path):
    plan = plan_of(
        "anchor_neighbourhood",
        variant,
        tmp_path,
        **({} if variant == "cifar10" else {"model": TINY_MODEL}),
    )
    assert (plan.settings.epochs, plan.stages[0].method.rounds) == (1000, 4)
    expected = [0.03, 0.03, 0.003, 0.0003, 0.0003, 0.03, 0.03, 0.003]
    np.testing.assert_allclose(
        rates(plan, 0, 119, 120, 160, 199, 200, 319, 320), expected, rtol=1e-5
    )
    assert plan.record["optim"]["nesterov"]
    assert plan.evaluators["neighbourhood"].k == 1


def test_fewer_rounds_divide_the_epochs_anew(tmp_path):
    plan = plan_of("anchor_neighbourhood", "digits", tmp_path, model=TINY_MODEL)
    config = config_of("anchor_neighbourhood", "digits")
    config.model.update(TINY_MODEL)
    config.method.rounds = 1
    fewer = build(config)
    assert [p.record["optim"]["schedule"]["repeats"] for p in (plan, fewer)] == [5, 2]
    assert fewer.stages[0].method.refresh_at(40 * fewer.steps_per_epoch)
    config.method.rounds = 6
    with pytest.raises(SettingError, match="optim.schedule.repeats=7 does not divide epochs=80"):
        build(config)


def test_local_aggregation_warms_up_and_drops_as_published(tmp_path):
    for variant, drops in (("imagenet_resnet18", (160, 187)), ("imagenet_resnet50", (152, 189))):
        method = dict(background=4096, clusters=100)
        plan = plan_of("local_aggregation", variant, tmp_path, method=method, model=TINY_MODEL)
        warm_up, rest = plan.stages
        assert warm_up.until == 10 * plan.steps_per_epoch
        assert (warm_up.method.objective, rest.method.objective) == ("nce", "aggregation")
        assert rest.method.refresh_at(warm_up.until)
        assert rest.method.refresh_at(warm_up.until + plan.steps_per_epoch)
        first, second = drops
        found = rates(plan, 0, first - 1, first, second - 1, second, 199)
        np.testing.assert_allclose(found, [0.03, 0.03, 0.003, 0.003, 0.0003, 0.0003], rtol=1e-5)
    config = config_of("local_aggregation", "imagenet_resnet18")
    assert (config.method.clusters, config.method.clusterings, config.method.background) == (
        30_000,
        10,
        4096,
    )


def test_local_aggregation_on_few_images_names_the_setting(tmp_path):
    with pytest.raises(
        SettingError, match="clusters=30000: between 2 and the 4096 training images"
    ):
        plan_of("local_aggregation", "imagenet_resnet18", tmp_path)
