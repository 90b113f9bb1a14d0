"""The recipes for a user's own images: what is chosen, when, and that a run keeps it."""

import dataclasses
import json
import runpy
import shutil

import numpy as np
import pytest
from helpers.plans import CONFIGS, TINY_MODEL, config_of
from helpers.runs import assert_same_run, quiet
from PIL import Image

from ssl_jax import train
from ssl_jax.build import build, check, completed, fitted, load_data
from ssl_jax.data.datasets import Dataset, Images
from ssl_jax.data.whole import WholePictures
from ssl_jax.inference.pretrained import load_encoder
from ssl_jax.runs.restore import config_of as recorded_config
from ssl_jax.settings import automatic
from ssl_jax.settings.automatic import MANY, ImageFacts, resolved
from ssl_jax.settings.dotted import matching, replaced, value_at
from ssl_jax.settings.resolve import SettingError

RECIPES = (
    "swav",
    "instance",
    "local_aggregation",
    "anchor_neighbourhood",
    "byol",
    "simsiam",
    "moco",
    "conr",
    "conr+simsiam",
    "conr+moco",
)
# What 40, 1,500, 10,000 and 100,000 photographs of ten classes, stored with 128 pixels, get.
TABLE = {
    "batch_size": {
        "swav": (16, 64, 256, 256),
        "byol simsiam moco": (16, 64, 256, 512),
        "conr conr+simsiam conr+moco": (16, 64, 256, 256),
        "instance local_aggregation anchor_neighbourhood": (16, 64, 128, 128),
    },
    "method.prototypes": {"swav": (10, 128, 303, 3000)},
    "method.queue_length": {
        "swav": (0, 0, 0, 3840),
        "moco": (16, 320, 2304, 4096),
        "conr+moco": (16, 320, 2304, 4096),
    },
    "model.bn_groups": {"moco": (2, 2, 8, 8), "conr+moco": (2, 2, 8, 8), "byol": (1, 1, 1, 1)},
    "method.clusters": {"local_aggregation": (10, 35, 234, 2342)},
    "method.background": {"local_aggregation": (16, 500, 3333, 4096)},
    "method.close_neighbours": {"local_aggregation": (10, 10, 10, 10)},
    "method.neighbours": {"anchor_neighbourhood": (1, 1, 1, 1)},
    "positives.k": {"conr conr+moco": (3, 6, 10, 10)},
    "positives.k1": {"conr conr+moco": (3, 6, 10, 10)},
    "positives.k2": {"conr conr+moco": (2, 2, 2, 2)},
    "positives.boundary.clusters": {"conr conr+moco": (10, 10, 10, 10)},
    "optim.schedule.warmup_epochs": {"byol conr": (10.0,) * 4, "swav moco": (0.0,) * 4},
    "evals.knn.k": {" ".join(RECIPES): (4, 20, 133, 200)},
    "augment.large.size": {" ".join(RECIPES): (96,) * 4},
    "augment.small.size": {"swav": (48,) * 4},
    "model.stem": {" ".join(RECIPES): ("imagenet",) * 4},
}


def recipe(name, variant="array"):
    """The config of a recipe, such as "conr+moco"."""
    file, plus, base = name.partition("+")
    return config_of(file, f"{variant}{plus}{base}")


def dataset(count, *, classes=10, side=8, channels=3):
    """`count` images for training, without labels if `classes` is 0, and four to test on."""

    def split(n):
        labels = np.arange(n, dtype=np.int32) % classes if classes else np.full(n, -1, np.int32)
        images = np.random.default_rng(n).integers(0, 256, (min(n, 64), side, side, channels))
        rows = np.resize(images.astype(np.uint8), (n, side, side, channels))
        return Images(rows, labels)

    names = tuple(map(str, range(classes)))
    return Dataset(split(count), split(4), names, (0.5,) * channels, (0.25,) * channels)


@pytest.mark.parametrize("setting", TABLE)
def test_numbers_follow_from_the_images(setting):
    for names, numbers in TABLE[setting].items():
        for name in names.split():
            settings = completed(recipe(name, "folder"))
            chosen = [
                value_at(resolved(settings, ImageFacts(count, 10, 128))[0], setting)
                for count in (40, 1500, 10_000, 100_000)
            ]
            assert tuple(chosen) == numbers, name


def test_the_table_covers_every_rule():
    settings = {name: completed(recipe(name)) for name in RECIPES}
    settings["conr neighbours"] = completed(recipe("conr"))
    settings["conr neighbours"]["positives"]["name"] = "neighbours"
    names = {
        name
        for pattern in automatic.RULES
        for values in settings.values()
        for name in matching(values, pattern)
    }
    assert names == set(TABLE)


@pytest.mark.parametrize(
    ("name", "published", "variant"),
    [
        ("swav", ("batch_size", "method.prototypes", "method.queue_length"), "imagenet_bs256"),
        ("instance", ("batch_size", "evals.knn.k"), "cifar10"),
        ("local_aggregation", ("batch_size", "method.background", "evals.knn.k"), "cifar10"),
        ("anchor_neighbourhood", ("batch_size", "method.neighbours", "evals.knn.k"), "cifar10"),
        ("byol", ("batch_size", "evals.knn.k"), "cifar10"),
        ("simsiam", ("batch_size", "evals.knn.k"), "cifar10"),
        ("moco", ("batch_size", "method.queue_length", "model.bn_groups"), "cifar10"),
        ("conr", ("batch_size", "positives.k", "positives.k1", "positives.k2"), "paper_cifar10"),
    ],
)
def test_many_images_get_the_published_numbers(name, published, variant):
    many, _ = resolved(completed(recipe(name)), MANY)
    reference = completed(config_of(name, variant))
    for setting in published:
        assert value_at(many, setting) == value_at(reference, setting), setting


@pytest.mark.parametrize(
    ("side", "large", "small", "stem"),
    [(8, 8, 4, "cifar"), (28, 28, 14, "cifar"), (64, 64, 32, "cifar"), (65, 64, 32, "imagenet")]
    + [(80, 64, 32, "imagenet"), (112, 80, 40, "imagenet"), (128, 96, 48, "imagenet")]
    + [(224, 96, 48, "imagenet"), (1000, 96, 48, "imagenet")],
)
def test_views_and_stem_follow_from_the_stored_side(side, large, small, stem):
    chosen, _ = resolved(completed(recipe("swav")), ImageFacts(1500, 10, side))
    sizes = {name: view["size"] for name, view in chosen["augment"].items()}
    assert (sizes, chosen["model"]["stem"]) == (dict(large=large, small=small), stem)


def test_a_small_view_is_half_of_the_users_large_one():
    config = recipe("swav")
    config.augment.large.size = 160
    chosen, _ = resolved(completed(config), ImageFacts(1500, 10, 224))
    assert chosen["augment"]["small"]["size"] == 80


@pytest.mark.parametrize("classes", [0, 2, 300])
@pytest.mark.parametrize("count", [2, 3, 6, 15, 17, 40, 350, 5000])
def test_few_images_fit(count, classes):
    """Nothing that is chosen is more than the images allow."""
    for name in RECIPES:
        if name.startswith("conr") and count < 3:
            continue  # refused
        chosen, _ = resolved(completed(recipe(name)), ImageFacts(count, classes, 32))
        batch = chosen["batch_size"]
        method = chosen["method"]
        positives = chosen["positives"]
        assert 1 <= batch <= count
        assert batch % chosen["model"]["bn_groups"] == 0
        assert 1 <= chosen["evals"]["knn"]["k"] <= count
        if name == "swav":
            assert 2 <= method["prototypes"] <= count
        if name.endswith(("swav", "moco")):
            assert method["queue_length"] % batch == 0
            assert method["queue_length"] <= count
        if name == "local_aggregation":
            assert 2 <= method["clusters"] <= count
            assert 1 <= method["background"] <= count
            assert 1 <= method["close_neighbours"] <= count
        if name.startswith("conr"):
            assert 2 <= positives["k2"] <= positives["k1"] < batch
            assert positives["k"] < batch


def test_whole_steps_of_a_symmetric_queue_and_odd_batches():
    config = recipe("moco")
    config.batch_size = 50
    config.method.symmetric = True
    chosen, _ = resolved(completed(config), ImageFacts(1500, 10, 32))
    assert (chosen["method"]["queue_length"], chosen["model"]["bn_groups"]) == (700, 2)
    config.batch_size = 45
    chosen, _ = resolved(completed(config), ImageFacts(1500, 10, 32))
    assert (chosen["method"]["queue_length"], chosen["model"]["bn_groups"]) == (720, 1)


def test_a_short_run_has_no_queue_that_starts_late():
    config = recipe("swav")
    assert resolved(completed(config), MANY)[0]["method"]["queue_length"] == 3840
    config.epochs = 32
    assert resolved(completed(config), MANY)[0]["method"]["queue_length"] == 0
    check(completed(config))


def numbers_of_rules(settings):
    """The value of every setting that a rule could choose."""
    names = [name for pattern in automatic.RULES for name in matching(settings, pattern)]
    return {name: value_at(settings, name) for name in names}


@pytest.mark.parametrize("name", RECIPES)
def test_a_number_that_is_given_stays(name):
    settings = completed(recipe(name))
    chosen = {}
    for setting in numbers_of_rules(settings):
        chosen[setting] = "narrow" if setting == "model.stem" else 7
        settings = replaced(settings, setting, chosen[setting])
    whole, note = resolved(settings, ImageFacts(1500, 10, 128))
    assert numbers_of_rules(whole) == chosen
    assert (whole["automatic"], note) == (False, "")


def test_only_automatic_recipes_are_changed():
    settings = completed(config_of("swav", "digits"))
    assert settings["method"]["queue_length"] == 0
    assert resolved(settings, MANY) == (settings, "")
    settings["batch_size"] = 0
    with pytest.raises(SettingError, match="batch_size=0: at least 1"):
        completed(settings)


@pytest.mark.parametrize("classes", [4, 0])
@pytest.mark.parametrize("variant", ["folder", "array"])
@pytest.mark.parametrize("name", RECIPES)
def test_forty_pictures_train_at_once(name, variant, classes, tmp_path):
    config = recipe(name, variant)
    config.model.update(TINY_MODEL)
    config.data.update(dir=str(tmp_path / "images"), cache=str(tmp_path / "cache"))
    pixels = np.random.default_rng(0).integers(0, 256, (40, 28, 28, 3), dtype=np.uint8)
    labels = np.arange(40) % classes if classes else np.zeros(40, int)
    if variant == "array":
        config.data.dir += ".npz"
        np.savez(config.data.dir, images=pixels, **({"labels": labels} if classes else {}))
    for i in range(40 if variant == "folder" else 0):
        folder = tmp_path / "images" / (f"class {labels[i]}" if classes else "")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[i]).save(folder / f"{i}.png")
    plan = build(config)
    count = 36 if classes else 40
    assert (len(plan.dataset.train), plan.batch_size, plan.steps_per_epoch) == (count, 16, 2)
    kind = f"{classes} classes" if classes else "no classes"
    (note,) = [note for note in plan.notes if note.startswith("chosen for")]
    assert note.startswith(f"chosen for {count} images of {kind}: batch_size 16, ")
    assert plan.stages[-1].views[0].size == (28 if variant == "array" else 96)
    json.dumps(plan.record)
    assert plan.record["automatic"] is False
    unset = {key for key, value in numbers_of_rules(plan.record).items() if value in (0, "")}
    assert unset <= {"optim.schedule.warmup_epochs", "method.queue_length"}
    assert "method.queue_length" not in unset or name == "swav"  # few images need none


@pytest.mark.parametrize("count", [6, 3])
@pytest.mark.parametrize("name", RECIPES)
def test_six_images_and_three_build(name, count):
    config = recipe(name)
    config.model.update(TINY_MODEL)
    assert build(config, dataset(count, classes=2)).batch_size == count
    assert build(config, dataset(count, classes=0)).steps_per_epoch == 1


@pytest.mark.parametrize(("epochs", "until"), [(1, None), (2, 1), (3, 2), (10, 8)])
def test_both_stages_of_few_steps_have_one(epochs, until):
    config = recipe("conr")
    config.model.update(TINY_MODEL)
    config.epochs = epochs
    if until:
        assert [stage.until for stage in build(config, dataset(6, classes=2)).stages] == [
            until,
            epochs,
        ]
        return
    with pytest.raises(SettingError, match=r"until_epoch=0.8: the run has a single step"):
        build(config, dataset(6, classes=2))


def test_one_image_is_too_few():
    for name in RECIPES:
        with pytest.raises(SettingError, match="1 training images: give at least two"):
            build(recipe(name), dataset(1, classes=0))
    for name in ("conr", "conr+moco"):
        with pytest.raises(SettingError, match="^2 training images are too few for CoNR: give at"):
            build(recipe(name), dataset(2, classes=0))
        config = recipe(name)
        config.batch_size = 2
        with pytest.raises(SettingError, match="^batch_size=2 is too small for CoNR"):
            build(config, dataset(40, classes=0))


def small_run(name, folder, **changes):
    """A run of a recipe on 40 images of 8x8 pixels in an array, for five epochs of two steps."""
    config = recipe(name)
    config.model.update(TINY_MODEL)
    config.epochs = config.eval_epochs = config.checkpoint_epochs = 5
    config.log_steps = 1
    config.evals = dict(knn=dict(config.evals.knn))
    config.baselines = False
    config.data.dir = str(folder / "images.npz")
    if not (folder / "images.npz").exists():
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
        np.savez(config.data.dir, images=images, labels=np.arange(40) % 4)
    config.update(changes)
    return config


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "name", [pytest.param("swav", marks=SLOW), "moco", pytest.param("conr", marks=SLOW)]
)
def test_forty_images_make_steps(name, tmp_path):
    config = small_run(name, tmp_path)
    scores = train.run(config, tmp_path / "run", console=quiet())
    assert 0 <= scores["eval/knn/top1"] <= 1


def without_later_steps(folder, copy, step):
    """A copy of a run folder as it was when `step` had been saved last."""
    shutil.copytree(folder, copy)
    for path in (copy / "checkpoints").iterdir():
        if path.name.isdecimal() and int(path.name) > step:
            shutil.rmtree(path)
    return copy


def test_a_run_keeps_its_numbers(tmp_path, monkeypatch):
    config = small_run("swav", tmp_path, checkpoint_epochs=1, keep_checkpoints=0)
    whole = tmp_path / "whole"
    train.run(config, whole, console=quiet())
    record = json.loads((whole / "config.json").read_text())
    assert (record["batch_size"], record["automatic"]) == (16, False)
    assert (record["method"]["prototypes"], record["evals"]["knn"]["k"]) == (9, 5)
    assert record["augment"]["large"]["size"] == 8
    assert recorded_config(whole)["method"]["prototypes"] == 9
    assert load_encoder(whole).size == 8
    # The same command resumes the run, also under later rules.
    monkeypatch.setitem(automatic.RULES, "batch_size", lambda images, settings: 4)
    monkeypatch.setitem(automatic.RULES, "evals.*[knn].k", lambda images, settings: 3)
    resumed = without_later_steps(whole, tmp_path / "resumed", step=4)
    train.run(config, resumed, console=quiet())
    assert_same_run(resumed, whole, last=10)
    assert json.loads((resumed / "config.json").read_text()) == record
    # Numbers given by hand are compared as ever.
    config.batch_size = 8
    with pytest.raises(SettingError, match="was trained with batch_size=16, not 8; choose another"):
        train.run(config, whole, console=quiet())


def test_other_images_are_refused_as_ever(tmp_path):
    config = small_run("instance", tmp_path)
    train.run(config, tmp_path / "run", console=quiet())
    for count in (400, 6):  # six are fewer than the run's batch
        images = np.zeros((count, 8, 8, 3), np.uint8)
        np.savez(config.data.dir, images=images, labels=np.arange(count) % 4)
        with pytest.raises(SettingError, match="was trained on different images"):
            train.run(config, tmp_path / "run", console=quiet())


@pytest.mark.slow
def test_a_run_of_the_recipe_before_numbers_were_automatic_resumes(tmp_path):
    config = small_run("swav", tmp_path, automatic=False, batch_size=12)
    config.augment.large.size = config.augment.small.size = 8
    config.model.stem = "imagenet"
    config.evals.knn.k = 20
    train.run(config, tmp_path / "run", console=quiet())
    path = tmp_path / "run" / "config.json"
    record = json.loads(path.read_text())
    del record["automatic"]
    path.write_text(json.dumps(record))
    train.run(small_run("swav", tmp_path), tmp_path / "run", console=quiet())
    assert json.loads(path.read_text()) == record | {"automatic": False}
    assert (record["batch_size"], record["method"]["prototypes"]) == (12, 0)


def test_the_record_of_another_config_fills_nothing():
    settings = completed(recipe("swav"))
    other = completed(config_of("byol", "digits"))
    assert automatic.as_recorded(settings, other) == settings


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("swav", {"method.queue_length": 960}),  # of batches of 64, which 1,500 images get
        ("moco", {"method.queue_length": 96}),
        ("conr", {"positives.k1": 9, "batch_size": 10}),
        ("anchor_neighbourhood", {"epochs": 5}),
    ],
)
def test_what_some_number_of_images_makes_valid_is_not_refused_before_they_are_read(name, changes):
    settings = completed(recipe(name))
    for setting, value in changes.items():
        settings = replaced(settings, setting, value)
    check(settings)


def test_what_no_images_make_valid_is_refused_before_they_are_read(monkeypatch):
    monkeypatch.setattr(
        "ssl_jax.build.datasets.load_from", lambda *_: pytest.fail("data were read")
    )
    config = recipe("swav", "folder")
    config.data.size = 48
    config.augment.large.size = 96
    with pytest.raises(SettingError, match="data.size=48 is below the largest view, 96 pixels"):
        build(config)
    config = recipe("byol")
    config.augment.large.size = -1
    with pytest.raises(SettingError, match=r"augment.large: size and count must be at least 1"):
        build(config)


@pytest.mark.parametrize("data", ["array", "folder"])
@pytest.mark.parametrize("name", [name for name in RECIPES if "+" not in name])
def test_digits_recipes_on_larger_images_name_the_recipe(name, data):
    config = config_of(name, "digits")
    config.data.name = data
    side = dict(array=28, folder=128)[data]
    few = dict(array=3, folder=4)[data]  # more of whole pictures
    with pytest.raises(SettingError) as caught:
        fitted(completed(config), dataset(300, side=side))
    group = next(iter(config.augment))
    assert str(caught.value) == (
        f"augment.{group}.size=8: too small for the images of data.name={data!r}, which have "
        f"{side} pixels a side; --config={name}:{data} has views for such images, or set "
        f"augment.{group}.size to at least {-(-side // few)}"
    )
    config.augment[group].size = -(-side // few)  # on purpose
    assert fitted(completed(config), dataset(300, side=side))[1] == ()


def test_pictures_are_not_decoded_for_views_that_are_refused(monkeypatch):
    monkeypatch.setattr(
        "ssl_jax.build.datasets.load_from", lambda *_: pytest.fail("data were read")
    )
    config = config_of("instance", "digits")
    config.data.name = "folder"
    for _ in range(2):
        with pytest.raises(SettingError, match="size=8: too small for .* --config=instance:folder"):
            build(config)
        config.data.size = 64


def test_encoders_with_small_views_take_any_images(tmp_path):
    """Only training is refused: `assign` and `evaluate` of a run of the digits are not."""
    images = np.zeros((20, 28, 28, 1), np.uint8)
    np.savez(tmp_path / "images.npz", images=images, labels=np.arange(20) % 2)
    config = config_of("instance", "digits")
    config.data.update(name="array", dir=str(tmp_path / "images.npz"))
    assert len(load_data(completed(config)).train) == 18
    with pytest.raises(SettingError, match="--config=instance:array has views for such images"):
        build(config)
    config.batch_size = 4
    config.evals = {}
    config.model.update(TINY_MODEL)
    assert build(config, recorded=True).notes == ()


def test_views_far_from_the_stored_size_are_a_note():
    config = config_of("swav", "cifar10")
    for data, recipe_for in (("tfds:mine", "folder --config.data.name=tfds:mine"), ("array",) * 2):
        config.data.name = data
        _, notes = fitted(completed(config), dataset(600, side=100))
        assert notes == (
            "augment.large.size=32: the images have 100 pixels a side; "
            f"--config=swav:{recipe_for} has views for such images",
        )
    _, notes = fitted(completed(config), dataset(600, side=10))
    expected = "augment.large.size=32: the images have only 10 pixels a side and are enlarged"
    assert notes == (expected,)
    assert build(config, dataset(600, side=10)).notes == notes


def test_views_of_whole_pictures_may_be_a_quarter_of_their_squares():
    """Their crops are small parts of the square: 96 of 340 pixels suit ImageNet-10."""
    config = config_of("conr", "imagenet10")
    for keep, side, notes in (("whole", 384, 0), ("whole", 385, 1), ("centre", 289, 1)):
        config.data.keep = keep
        found = fitted(completed(config), dataset(600, side=side))[1]
        assert len([note for note in found if f"have {side} pixels a side" in note]) == notes


@pytest.mark.parametrize(
    ("sizes", "note"),
    [
        (
            [(90, 128), (100, 75)],
            "than 128 pixels: data.size=128 keeps all of their detail in 25 %",
        ),
        ([(30, 40), (20, 60)], "than 60 pixels: data.size=96 keeps all of their detail in 14 %"),
        ([(90, 200), (100, 75)], ""),  # smaller squares would hardly take less
        ([(90, 128), (256, 256)], ""),  # the true size of a square picture is not known
    ],
)
def test_pictures_smaller_than_their_squares_are_a_note(sizes, note):
    data = dataset(len(sizes) * 300, side=256)
    sizes = np.resize(np.array(sizes, np.float32), (len(data.train), 2))
    whole = Images(WholePictures(data.train.images, sizes), data.train.labels)
    data = dataclasses.replace(data, train=whole)
    _, notes = fitted(completed(recipe("swav", "folder")), data)
    found = [text for text in notes if text.startswith("no image is longer")]
    assert found == ([f"no image is longer {note} of the space"] if note else [])


def every_variant():
    """(name, variant) of all configs."""
    for path in sorted(CONFIGS.glob("*.py")):
        variants = runpy.run_path(str(path))["VARIANTS"]
        yield from ((path.stem, variant) for variant in variants)


@pytest.mark.parametrize(("name", "variant"), list(every_variant()))
def test_no_recipe_is_refused_on_its_own_data(name, variant):
    settings = completed(config_of(name, variant))
    data = settings["data"]
    side = dict(digits=8, cifar10=32, cifar100=32).get(data["name"], data["size"])
    _, notes = fitted(settings, dataset(100, side=side))
    assert not any("pixels a side" in note for note in notes)


def test_a_queue_of_more_images_than_there_are_is_refused():
    config = config_of("moco", "digits")
    config.model.update(TINY_MODEL)
    for symmetric, queue, longest in ((False, 384, 256), (True, 1024, 512)):
        config.method.update(symmetric=symmetric, queue_length=queue)
        message = (
            f"method.queue_length={queue}: longer than the 300 training images fill, so each would "
            f"be its own negative; give at most {longest}"
        )
        with pytest.raises(SettingError, match=message):
            build(config, dataset(300))
        config.method.queue_length = longest
        build(config, dataset(300))
    config = config_of("conr", "digits+moco")
    config.model.update(TINY_MODEL)
    config.method.queue_length = 384
    with pytest.raises(SettingError, match="method.queue_length=384: longer than the 300 training"):
        build(config, dataset(300))


@pytest.mark.parametrize(
    ("name", "variant", "count"),
    [
        ("moco", "cifar10", 50_000),
        ("moco", "cifar10_propos", 60_000),
        ("moco", "imagenet", 1_281_167),
        ("conr", "paper_cifar10+moco", 60_000),
        ("conr", "released_cifar10+moco", 60_000),
    ],
)
def test_published_queues_hold_fewer_images_than_there_are(name, variant, count):
    config = config_of(name, variant)
    config.model.update(TINY_MODEL)
    images = np.broadcast_to(np.uint8(0), (count, 8, 8, 3))
    split = Images(images, np.arange(count, dtype=np.int32) % 10)
    data = dataclasses.replace(dataset(10), train=split)
    assert build(config, data).stages[-1].method.queue_length in (4096, 65536)


@pytest.mark.slow
def test_an_earlier_run_with_too_long_a_queue_opens_and_resumes(tmp_path, monkeypatch):
    config = small_run("moco", tmp_path, checkpoint_epochs=1, keep_checkpoints=0)
    config.method.queue_length = 48
    with monkeypatch.context() as patch:
        patch.setattr("ssl_jax.methods.moco.MoCo.check", lambda *_: None)
        train.run(config, tmp_path / "whole", console=quiet())
    assert load_encoder(tmp_path / "whole").size == 8
    resumed = without_later_steps(tmp_path / "whole", tmp_path / "resumed", step=6)
    train.run(config, resumed, console=quiet())
    assert_same_run(resumed, tmp_path / "whole", last=10)
    with pytest.raises(SettingError, match="method.queue_length=48: longer than the 36 training"):
        train.run(config, tmp_path / "new", console=quiet())


def test_two_processes_choose_the_same(tmp_path):
    """What is chosen depends on counts and sizes only, not on pixels or order."""
    one, other = (dataset(40, classes=4) for _ in range(2))
    shuffled = Images(other.train.images[::-1], other.train.labels[::-1])
    other = dataclasses.replace(other, train=shuffled)
    settings = completed(recipe("conr"))
    assert fitted(settings, one) == fitted(settings, other)
