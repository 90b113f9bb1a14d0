"""Supervised training: its loss and twins, and that no other method gets labels."""

import dataclasses
import json
import runpy
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import members, methods
from helpers.plans import CONFIGS, TINY_MODEL, config_of
from helpers.runs import arrays, quiet, records, tiny
from helpers.trained import opened, scores
from PIL import Image

from ssl_jax import interface, load_encoder, train
from ssl_jax.build import build, check, completed, init_state
from ssl_jax.clustering import assignment
from ssl_jax.data.source import Dataset, Images
from ssl_jax.inference.pretrained import export
from ssl_jax.interface import Aux, Batch, LabelledBatch, TrainState
from ssl_jax.ops.losses import cross_entropy
from ssl_jax.reporting import make, record
from ssl_jax.settings.resolve import SettingError
from ssl_jax.training.loop import Loop

RECIPES = [
    f"{path.stem}+{variant}"
    for path in sorted(CONFIGS.glob("*.py"))
    if path.stem != "supervised"
    for variant in runpy.run_path(str(path))["VARIANTS"]
]


def short(**changes):
    config = tiny("supervised")
    config.epochs = 2
    config.evals = dict(classifier={}, knn=dict(k=5))
    config.best = "eval/classifier/top1"
    config.baselines = False
    config.update(changes)
    return config


def file_of(folder, labels, test_labels=None):
    """Grey images of 8 pixels whose brightness is their class, in an .npz; -1: unlabelled."""
    rng = np.random.default_rng(0)
    labels = np.asarray(labels)
    shown = np.arange(len(labels)) % 3  # the class, labelled or not
    images = rng.integers(0, 60, (len(labels), 8, 8, 1), dtype=np.uint8)
    images += (80 * shown).astype(np.uint8)[:, None, None, None]
    test = dict(
        test_images=images[:30], test_labels=(shown if test_labels is None else test_labels)[:30]
    )
    np.savez(folder / "a.npz", images=images, labels=labels, **test)
    return dict(name="array", dir=str(folder / "a.npz"), limit=0)


# The loss.


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_cross_entropy_is_the_mean_over_labelled_rows(smoothing):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(9, 4)).astype(np.float32) * 5
    labels = np.array([0, 3, -1, 1, 1, -1, 2, 0, -1], np.int32)
    each = []
    for row, label in zip(logits.astype(np.float64), labels):
        if label >= 0:
            log_p = row - np.log(np.sum(np.exp(row)))
            target = [smoothing / 4 + (1 - smoothing) * (c == label) for c in range(4)]
            each.append(-sum(t * x for t, x in zip(target, log_p)))
    found = cross_entropy(logits, labels, smoothing=smoothing)
    assert float(found) == pytest.approx(np.mean(each), rel=1e-5)


def test_unlabelled_rows_have_no_gradient():
    logits = jnp.asarray(np.random.default_rng(1).normal(size=(4, 3)), jnp.float32)
    labels = jnp.asarray([2, -1, 0, -1])
    gradient = np.asarray(jax.grad(cross_entropy)(logits, labels))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(gradient[[0, 2]], (p - np.eye(3)[labels])[[0, 2]] / 2, atol=1e-6)
    np.testing.assert_array_equal(gradient[[1, 3]], 0)
    nothing = jax.value_and_grad(cross_entropy)(logits, jnp.full(4, -1))
    assert float(nothing[0]) == 0
    np.testing.assert_array_equal(nothing[1], 0)


# Who sees labels.


def test_only_supervised_training_sees_labels():
    needing = [name for name, cls in members.methods().items() if cls.needs_labels]
    assert needing == ["supervised"]
    assert "labels" not in {field.name for field in dataclasses.fields(Batch)}
    assert "labels" not in {field.name for field in dataclasses.fields(TrainState)}


@pytest.mark.parametrize("name", methods.methods())
def test_a_step_refuses_labels_of_a_method_that_does_not_declare_them(name):
    stage = methods.stage(name)
    needs = stage.method.needs_labels
    labels = None if needs else jnp.asarray(methods.LABELS)
    with pytest.raises(TypeError, match="got no labels" if needs else "must not get labels"):
        jax.eval_shape(
            lambda: train.train_step(
                stage,
                TrainState(jnp.zeros((), jnp.int32), {}, {}, (), (), ()),
                jnp.asarray(methods.IMAGES),
                jnp.arange(methods.BATCH),
                jax.random.key(0),
                labels,
            )
        )


@pytest.mark.parametrize("variant", ["instance", "supervised"])
def test_the_loop_gives_labels_to_no_other_method(variant, tmp_path, monkeypatch):
    given = []

    def step(stage, state, images, index, key, labels):
        given.append(labels)
        return state, {"loss": jnp.zeros(()), "spread": jnp.ones(())}

    monkeypatch.setattr(train, "jit_step", lambda mesh, shardings: step)
    loops = []
    fresh = Loop.fresh
    monkeypatch.setattr(Loop, "fresh", lambda self: loops.append(self) or fresh(self))
    config = tiny(variant)
    config.update(epochs=1, evals={}, baselines=False)
    train.run(config, tmp_path / "run", console=quiet())
    assert len(given) == 8
    if variant == "supervised":
        np.testing.assert_array_equal(given[0], build(config).dataset.train.labels)
    else:
        assert given == [None] * 8
        assert loops[0].labels is None


def test_needs_labels_is_no_setting():
    @dataclasses.dataclass(frozen=True)
    class Switched(interface.Method):
        needs_labels: bool = False

        init = loss = post_step = features = None

    @dataclasses.dataclass(frozen=True)
    class Declared(interface.Method):
        needs_labels: ClassVar[bool] = True

        init = loss = post_step = features = None

    message = interface.unlike_contract(Switched, interface.Method)
    assert message.startswith("Switched.needs_labels is a setting, but must hold for every run;")
    assert interface.unlike_contract(Declared, interface.Method) == ""
    with pytest.raises(SettingError, match="method.needs_labels is not a setting"):
        completed(short(method=dict(name="supervised", needs_labels=False)))


# Data without labels, or with some.


def test_no_labels_are_refused_in_one_line(tmp_path):
    config = short(data=dict(labels="none"))
    with pytest.raises(SettingError, match=r"^data.labels='none': method.name='supervised' is tr"):
        build(config)
    with pytest.raises(
        SettingError, match=r"^data.whole=True: .* would learn the labels of the te"
    ):
        build(short(data=dict(whole=True)))
    config = short(data=file_of(tmp_path, np.full(60, -1)))
    config.data.limit = 0
    message = r"^method.name='supervised' is trained on labels, but none of the 60 training images"
    with pytest.raises(SettingError, match=message) as error:
        build(config)
    assert "\n" not in str(error.value)
    images = Images(np.zeros((60, 8, 8, 1), np.uint8), np.full(60, -1, np.int32))
    with pytest.raises(SettingError, match=message):
        build(config, Dataset(images, images, (), (0.5,), (0.5,)))


def test_labels_of_the_first_images_alone_count(tmp_path):
    labels = np.where(np.arange(90) < 40, -1, np.arange(90) % 3)
    config = short(data=file_of(tmp_path, labels))
    config.data.limit = 40
    with pytest.raises(SettingError, match="none of the 40 training images"):
        build(config)


def pictures(folder, classes):
    """A folder of small pictures, in a folder for each class."""
    rng = np.random.default_rng(0)
    for i in range(36):
        name = classes[i % len(classes)]
        (folder / name).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 60, (16, 16, 3)) + 80 * (i % len(classes))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


def folder_config(folder, cache):
    config = config_of("supervised", "folder")
    config.data.update(dir=str(folder), cache=str(cache), size=16, test_share=0.2)
    config.update(epochs=2, baselines=False)
    config.model.update(TINY_MODEL)
    return config


def test_a_folder_without_classes_is_refused_before_any_picture_is_decoded(tmp_path, monkeypatch):
    pictures(tmp_path / "flat", [""])

    def never(*_, **__):
        raise AssertionError("decoded")

    monkeypatch.setattr("ssl_jax.data.pictures._probed", never)
    config = folder_config(tmp_path / "flat", tmp_path / "cache")
    with pytest.raises(SettingError, match="but none of the 36 training images of .*flat has one"):
        build(config)
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_a_folder_with_classes_trains(tmp_path):
    pictures(tmp_path / "pictures", ["cats", "dogs"])
    config = folder_config(tmp_path / "pictures", tmp_path / "cache")
    found = train.run(config, tmp_path / "run", console=quiet())
    assert set(found) == {"eval/classifier/top1", "eval/knn/top1", "eval/linear/top1"}
    facts = opened(tmp_path / "run").plan.facts
    assert (facts.classes, facts.examples) == (2, 28)


def test_some_labels_are_enough(tmp_path):
    labels = np.where(np.arange(96) % 4 == 0, np.arange(96) % 3, -1)
    config = short(data=file_of(tmp_path, labels), epochs=10)
    plan = build(config)
    assert "24 of 96 training images have a label; the loss leaves the others out" in plan.notes
    found = train.run(config, tmp_path / "run", console=quiet())
    assert found["eval/classifier/top1"] == 1.0
    shares = [r["train/labelled"] for r in records(tmp_path / "run") if "train/labelled" in r]
    assert np.mean(shares) == pytest.approx(0.25)


def test_the_loss_of_a_step_is_that_of_its_labelled_images(tmp_path):
    plan = build(short(data=file_of(tmp_path, np.arange(64) % 3)))
    stage = plan.stages[-1]
    state = jax.jit(lambda key: init_state(plan, stage, key))(jax.random.key(0))
    views = (jnp.asarray(np.random.default_rng(2).normal(size=(6, 8, 8, 1)), jnp.float32),)
    index = jnp.arange(6)
    labels = jnp.asarray([0, -1, 2, 1, -1, 0])
    batch = LabelledBatch(views, index, labels)
    value, aux = jax.jit(stage.method.loss)(state, batch, jax.random.key(1))
    assert isinstance(aux, Aux)
    variables = {"params": state.params["network"]["backbone"]}
    variables["batch_stats"] = state.batch_stats["backbone"]
    pooled, _ = stage.method.network.backbone.apply(
        variables, views[0], train=True, mutable="batch_stats"
    )
    weights = state.params["classifier"]["linear"]
    logits = np.asarray(pooled["backbone"] @ weights["kernel"] + weights["bias"][None])
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    targets = 0.9 * np.eye(3)[labels] + 0.1 / 3
    rows = [0, 2, 3, 5]
    expected = -np.sum(targets * log_p, axis=1)[rows].mean()
    assert float(value) == pytest.approx(expected, rel=1e-5)
    hits = (logits.argmax(axis=1) == np.asarray(labels))[rows]
    assert float(aux.metrics["accuracy"]) == pytest.approx(hits.mean())


# Whole runs.


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("supervised") / "run"
    config = short(epochs=12)
    config.model.update(name="resnet", width=8)
    train.run(config, folder, console=quiet())
    return folder


@pytest.mark.slow
def test_it_learns_and_its_accuracy_is_on_record(run):
    last = records(run)[-1]
    assert last["eval/classifier/top1"] > 0.7
    accuracies = [r["train/accuracy"] for r in records(run) if "train/accuracy" in r]
    assert np.mean(accuracies[:4]) < 0.25 < 0.45 < np.mean(accuracies[-4:])
    state = opened(run).state
    assert state.method == ()
    assert set(state.params) == {"network", "classifier"}
    assert set(state.params["network"]) == {"backbone"}


@pytest.mark.slow
def test_images_from_the_host_train_alike(tmp_path):
    whole = short(epochs=1)
    train.run(whole, tmp_path / "resident", console=quiet())
    whole.resident_gb = 0.0
    train.run(whole, tmp_path / "host", console=quiet())
    ours, theirs = (
        [r["train/loss"] for r in records(tmp_path / name) if "train/loss" in r]
        for name in ("resident", "host")
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.slow
def test_its_features_and_commands(run, tmp_path):
    encoder = load_encoder(run)
    assert encoder.names == ("backbone", "embedding", "logits")
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1), dtype=np.uint8)
    backbone, embedding, logits = (np.asarray(encoder(images, name)) for name in encoder.names)
    length = np.linalg.norm(backbone, axis=1, keepdims=True)
    np.testing.assert_allclose(embedding, backbone / length, atol=1e-6)
    weights = encoder.state.params["classifier"]["linear"]
    np.testing.assert_allclose(
        logits, backbone @ np.asarray(weights["kernel"]) + np.asarray(weights["bias"]), atol=1e-5
    )
    tensors = export(opened(run), tmp_path / "a.safetensors")
    np.testing.assert_allclose(
        load_encoder(tmp_path / "a.safetensors")(images), backbone, atol=1e-5
    )
    assert not [name for name in tensors if name.startswith("fc.")]
    with pytest.raises(SettingError, match="--head: method.name='supervised' has no projection"):
        export(opened(run), tmp_path / "b.safetensors", head=True)
    assert len(assignment.assign(encoder, images, clusters=3).labels) == 12
    make.write(record.read([run]), tmp_path / "report.html")
    assert "classifier" in (tmp_path / "report.html").read_text("utf-8")


@pytest.mark.slow
def test_scores_afterwards(run, tmp_path):
    last = records(run)[-1]
    found = scores(run)
    assert found["classifier"]["classifier/top1"] == last["eval/classifier/top1"]
    assert "classifier/balanced" in found["classifier"]
    other = file_of(tmp_path, np.arange(60) % 3)
    with pytest.raises(
        SettingError, match=r"evals.classifier reads the run's classifier, and data"
    ):
        scores(run, **other)
    assert "knn/top1" in scores(run, evals=["knn"], **other)["knn"]


def test_other_methods_have_no_classifier(tmp_path):
    config = tiny("instance")
    config.evals = dict(classifier={})
    config.best = "eval/classifier/top1"
    with pytest.raises(SettingError, match="evals.classifier: instance has no feature 'logits'"):
        build(config)


def test_a_run_of_another_method_needs_init_fresh(tmp_path):
    first = tiny("instance")
    first.update(epochs=1, evals={}, baselines=False, checkpoint_epochs=1)
    train.run(first, tmp_path / "first", console=quiet())
    config = short(init_from=str(tmp_path / "first"))
    message = "has no params/classifier/.*; set init_fresh=True, .* random start of: classifier$"
    with pytest.raises(SettingError, match=message):
        train.run(config, tmp_path / "second", console=quiet())


@pytest.mark.slow
def test_fine_tuning_starts_from_a_self_supervised_run(tmp_path):
    first = tiny("instance")
    first.update(epochs=1, evals={}, baselines=False, checkpoint_epochs=1)
    train.run(first, tmp_path / "first", console=quiet())
    config = short(init_from=str(tmp_path / "first"), init_fresh=True, epochs=1)
    config.optim.learning_rate = 0.0
    train.run(config, tmp_path / "second", console=quiet())
    before = arrays(tmp_path / "first", 8)
    after = arrays(tmp_path / "second", 8)
    kernels = [path for path in before if path.startswith("['params']['network']['backbone']")]
    assert kernels
    for path in kernels:
        np.testing.assert_array_equal(after[path], before[path])


def test_two_views_are_refused():
    config = short(augment=dict(one=dict(size=8, count=2)))
    with pytest.raises(SettingError, match="method: supervised takes one view of an image, not 2"):
        build(config)


# Twins of recipes.


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_a_twin(name):
    settings = completed(config_of("supervised", name))
    check(settings)
    recipe = completed(config_of(*name.split("+", 1)))
    assert settings["method"]["name"] == "supervised"
    for section in ("model", "data"):
        own = {"bn_groups": 1} if section == "model" else {"whole": False}
        assert settings[section] == recipe[section] | own
    for key in ("epochs", "batch_size", "seed", "automatic"):
        assert settings[key] == recipe[key]
    (view,) = settings["augment"].values()
    others = [group for key, group in recipe["augment"].items() if key != "small"]
    largest = max(group["size"] for group in others)
    kept = ("size", "scale", "ratio", "flip", "flip_vertical", "quarter_turns")
    groups = [group for group in others if group["size"] == largest]
    assert [view[key] for key in kept] == [groups[0][key] for key in kept]
    changes = ("jitter", "grayscale", "blur", "solarize")
    assert [view["count"], *(view[key] for key in changes)] == [1, 0, 0, 0, 0]
    scored = {key: value for key, value in settings["evals"].items() if key != "crop"}
    assert set(scored) <= {"classifier", "knn", "linear"}
    assert settings["evals"]["crop"] == recipe["evals"]["crop"]
    rate = settings["optim"]["schedule"]
    assert rate["warmup_epochs"] == pytest.approx(0.05 * settings["epochs"])


def test_the_twin_without_a_method_is_swavs():
    one, other = (completed(config_of("supervised", name)) for name in ("cifar10", "swav+cifar10"))
    assert json.dumps(one) == json.dumps(other)
    plus = config_of("supervised", "conr+paper_cifar10+moco")
    assert (plus.method.name, plus.batch_size, plus.data.whole) == ("supervised", 256, False)


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("nothing", "variant 'nothing' is not known; choose one of: digits, cifar10"),
        ("byol", r"variant 'byol': give METHOD\+VARIANT, such as byol\+digits or byol\+folder"),
        (
            "cifar10+swav",
            r"'cifar10' is not the config of a method; give METHOD\+VARIANT with one of",
        ),
        ("supervised+digits", "'supervised' is not the config of a method"),
        ("swav+nothing", "variant 'nothing' is not known; choose one of: digits, cifar10"),
    ],
)
def test_unknown_recipes_are_named(variant, message):
    with pytest.raises(SettingError, match=message):
        config_of("supervised", variant)


# Beside published numbers.


@pytest.fixture
def reproduce(monkeypatch):
    """The names of experiments/reproduce.py."""
    folder = Path(__file__).parent.parent / "experiments"
    monkeypatch.syspath_prepend(folder)
    return runpy.run_path(str(folder / "reproduce.py"))


def test_rows_stand_beside_their_twins(reproduce):
    rows = reproduce["ROWS"]
    load = reproduce["load"]
    beside = {name: row.supervised for name, row in rows.items() if row.supervised}
    assert {name for name in rows if name.startswith("supervised-")} == set(beside.values())
    kept = ("name", "depth", "width", "stem", "hidden")
    for name, twin in beside.items():
        ours, theirs = (load(rows[row].config, rows[row].settings) for row in (name, twin))
        assert theirs.method.name == "supervised"
        assert ours.data.name == theirs.data.name
        assert [ours.model[key] for key in kept] == [theirs.model[key] for key in kept], name
    assert beside["swav-imagenet-800"] == beside["byol-imagenet-1000"]
    assert "swav-cifar100-1000" not in beside


def test_the_tables_have_a_column_for_them(reproduce):
    def run(row, **numbers):
        facts = dict(seed=0, epochs=1, minutes=1.0, device="1 x cpu", commit="0")
        return dict(row=row, numbers=numbers, best=numbers, **facts)

    records = [
        run("swav-digits", **{"knn/top1": 0.9}),
        run("supervised-digits", **{"knn/top1": 0.8, "classifier/top1": 0.75}),
        run("swav-cifar10-small", **{"knn/top1": 0.3}),
    ]
    head, _, *lines = reproduce["table"](records).splitlines()
    column = head.split(" | ").index("supervised")
    cells = {line.split("`")[1]: line.split(" | ")[column] for line in lines}
    expected = {"swav-digits": "0.750", "supervised-digits": "0.750", "swav-cifar10-small": "-"}
    assert cells == expected
    records.append(run("supervised-imagenet-resnet50-100", **{"classifier/top1": 0.761}))
    head, _, *lines = reproduce["published_table"](records).splitlines()
    column = head.split(" | ").index("supervised")
    lines = [line for line in lines if "`, then |" not in line]
    cells = {line.split("`")[1]: line.split(" | ")[column] for line in lines}
    name = "supervised-imagenet-resnet50-100"
    assert cells["swav-imagenet-800"] == f"top-1 76.5, ours 76.1 (`{name}`)"
    assert cells["anchor_neighbourhood-cifar100-alexnet-1000"] == (
        "kNN 69.7, linear 71.0 (`supervised-cifar100-alexnet-200`)"
    )
    assert cells["conr-byol-stl10-1000"] == "-"
