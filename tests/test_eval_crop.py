"""`evals.crop`: what scores, refreshes and encoders see of an image."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from helpers.runs import TINY, environment, quiet, tiny
from helpers.trained import made, opened
from ml_collections import ConfigDict
from PIL import Image
from sklearn.datasets import load_sample_image

import ssl_jax
from ssl_jax import train
from ssl_jax.build import build, check, completed, fresh_state
from ssl_jax.clustering.label import label
from ssl_jax.data import datasets
from ssl_jax.data.augment import clean
from ssl_jax.data.whole import WholePictures
from ssl_jax.inference import scorer
from ssl_jax.inference.transfer import evaluation_of
from ssl_jax.ops.mesh import make_mesh
from ssl_jax.runs.restore import config_for, config_of
from ssl_jax.runs.run_folder import claim
from ssl_jax.runtime.sharding import state_shardings
from ssl_jax.settings import automatic, eval_settings
from ssl_jax.settings.defaults import get_config, only_observes
from ssl_jax.settings.old_records import with_later_settings
from ssl_jax.settings.resolve import SettingError
from ssl_jax.training import refresh

PUBLISHED = 0.875  # torchvision's resize to 256 and central crop of 224
BORDER = 16  # pixels that it cuts off a square of 256
IDENTITY = dict(mean=(0.0,) * 3, std=(1.0,) * 3)


def with_other_borders(images):
    """Squares with random pixels in their outer `BORDER` pixels."""
    changed = np.random.default_rng(1).integers(0, 256, images.shape, dtype=np.uint8)
    inner = slice(BORDER, -BORDER)
    changed[:, inner, inner] = images[:, inner, inner]
    return changed


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """Two files of the same 32 + 8 squares of 256 pixels, except for their borders."""
    folder = tmp_path_factory.mktemp("squares")
    images = np.random.default_rng(0).integers(0, 256, (40, 256, 256, 3), dtype=np.uint8)
    images[::2] //= 2  # two classes
    labels = np.arange(40) % 2
    paths = {}
    for name, x in (("same", images), ("changed", with_other_borders(images))):
        paths[name] = folder / f"{name}.npz"
        np.savez(
            paths[name],
            images=x[:32],
            labels=labels[:32],
            test_images=x[32:],
            test_labels=labels[32:],
        )
    return paths


def config_on(path, crop, variant="instance"):
    config = tiny(variant)
    config.data.update(name="array", dir=str(path), limit=0)
    for group in config.augment.values():
        group.update(size=32, jitter=0.0, grayscale=0.0)
    config.batch_size = 16
    config.evals = dict(
        crop=crop,
        knn=dict(k=3, feature="backbone"),
        clustering=dict(restarts=1, iterations=3),
        probe=dict(shares=(1.0,), steps=3, rates=(0.1,), decays=(0.0,), features=("backbone",)),
        knn_grid=dict(k=(1, 3)),
    )
    return config


@pytest.fixture(scope="module")
def runs(squares, tmp_path_factory):
    """Run folders of the squares that nobody trained, by crop."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        crop: made(folder / str(crop), config_on(squares["same"], crop)) for crop in (PUBLISHED, 0)
    }


@pytest.mark.parametrize("crop", [PUBLISHED, 0])
def test_borders_count_only_where_they_are_seen(crop, runs, squares):
    """Features, scores and raw pixels of images that differ in their borders alone."""
    features = {}
    scores = {}
    pixels = {}
    encoded = {}
    for name, path in squares.items():
        config = config_for(runs[crop], ())
        config.data.dir = str(path)
        with jax.set_mesh(make_mesh()):
            evaluation = evaluation_of(opened(runs[crop]), config)
            stage = evaluation.stage
            assert stage.crop == crop
            splits = evaluation.scorer.splits(stage, evaluation.run.state)
            pixels[name] = evaluation.scorer.pixels(stage)
            scores[name] = dict(evaluation())
        assert not [x for x in scores[name].values() if isinstance(x, Exception)]
        features[name] = np.asarray(splits["train"].features["backbone"])
        images = np.load(path)["images"]
        encoded[name] = np.asarray(ssl_jax.load_encoder(runs[crop])(images))
        np.testing.assert_allclose(encoded[name], features[name], atol=1e-5)
    if crop:
        np.testing.assert_array_equal(features["same"], features["changed"])
        np.testing.assert_array_equal(encoded["same"], encoded["changed"])
        assert scores["same"] == scores["changed"]
        assert pixels["same"] == pixels["changed"]
    else:
        assert np.abs(features["same"] - features["changed"]).max() > 1e-3


@pytest.mark.parametrize("crop", [PUBLISHED, 0])
def test_refreshes_see_what_scores_see(crop, squares):
    """CoNR's boundary clusters the embeddings of clean images."""
    plan = build(config_on(squares["same"], crop, "conr"))
    stage = plan.stages[-1]
    assert {other.crop for other in plan.stages} == {crop}
    mesh = make_mesh()
    centroids = []
    with jax.set_mesh(mesh):
        shardings = state_shardings(mesh, plan.shapes)
        state = fresh_state(plan, jax.random.key(0), shardings)
        for path in squares.values():
            images = np.load(path)["images"]
            after, _ = refresh.refresh(
                stage, state, images, shardings, 0, jax.random.key(1), anew=True
            )
            centroids.append(jax.tree.map(np.asarray, jax.tree.leaves(after.positives)))
    equal = [np.array_equal(a, b) for a, b in zip(*centroids, strict=True)]
    assert all(equal) == (crop > 0)


def photographs():
    """Parts of two photographs, of several shapes whose crops have whole pixels."""
    parts = []
    for name in ("china.jpg", "flower.jpg"):
        picture = Image.fromarray(load_sample_image(name))
        for width, height in ((192, 128), (128, 192), (160, 160), (416, 128), (128, 320)):
            parts.append(picture.crop((30, 60, 30 + width, 60 + height)))
    return parts


def published(picture, resized, cropped):
    """The picture as torchvision resizes and crops it, by Pillow."""
    shrink = resized / min(picture.size)
    width, height = (round(side * shrink) for side in picture.size)
    small = picture.resize((width, height), Image.Resampling.BILINEAR)
    left = (width - cropped) // 2
    top = (height - cropped) // 2
    return np.asarray(small.crop((left, top, left + cropped, top + cropped)))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A class folder of pictures of all shapes, and an array of them prepared by Pillow."""
    root = tmp_path_factory.mktemp("pictures")
    prepared = []
    labels = []
    for split in ("train", "test"):
        for i, picture in enumerate(photographs()):
            name = ("china", "flower")[i // 5]
            path = root / "folder" / split / name / f"{i:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
            prepared.append(published(picture, 64, 56))
            labels.append(i // 5)
    half = len(prepared) // 2
    np.savez(
        root / "prepared.npz",
        images=prepared[:half],
        labels=labels[:half],
        test_images=prepared[half:],
        test_labels=labels[half:],
    )
    return root


def test_pictures_of_any_shape_are_cut_as_published(folders):
    """The evaluation input, against Pillow; in grey levels."""
    data = datasets.load(
        "folder", dir=str(folders / "folder"), size=256, cache=str(folders / "cache")
    )
    images = data.test.images[np.arange(len(data.test))]
    assert isinstance(images, WholePictures)
    seen = np.asarray(clean(images, 56, **IDENTITY, crop=PUBLISHED)) * 255
    with np.load(folders / "prepared.npz") as file:
        expected = np.float32(file["test_images"])
    error = np.abs(seen - expected).mean(axis=(1, 2, 3))
    assert error.mean() < 0.6
    assert error.max() < 1.6
    squeezed = np.asarray(clean(images, 56, **IDENTITY)) * 255
    assert np.abs(squeezed - expected).mean(axis=(1, 2, 3)).min() > 5


def test_arrays_of_any_shape_are_cut_exactly():
    """The central square itself, where nothing has to be resized."""
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3), dtype=np.uint8)
    seen = np.asarray(clean(images, 56, **IDENTITY, crop=PUBLISHED))
    np.testing.assert_allclose(seen, np.float32(images[:, 4:60, 20:76]) / 255, atol=1e-6)
    one_pixel = np.asarray(clean(images, 4, **IDENTITY, crop=1e-30))
    assert np.isfinite(one_pixel).all()


@pytest.fixture(scope="module")
def photo_run(folders, tmp_path_factory):
    """A run of pictures of all shapes, scored as published, that nobody trained."""
    config = config_on(folders / "folder", PUBLISHED)
    config.data.update(name="folder", size=128, cache=str(folders / "cache"))
    config.batch_size = 8
    for group in config.augment.values():
        group.size = 56
    config.evals = dict(knn=dict(k=3), augmented=dict(epochs=1, batch_size=8), crop=PUBLISHED)
    return made(tmp_path_factory.mktemp("photo") / "run", config)


def test_encoders_see_whole_pictures_as_scores_do(photo_run, folders):
    run = opened(photo_run)
    config = config_for(photo_run, ())
    with jax.set_mesh(make_mesh()):
        evaluation = evaluation_of(run, config)
        splits = evaluation.scorer.splits(evaluation.stage, run.state)
        scores = dict(evaluation())
        # Views are drawn from all of a picture: those of the whole square are not the crop.
        whole = dict(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0)
        drawn = splits["train"].draw(jax.random.key(0), np.arange(4), ("backbone",), **whole)
    assert set(scores) == {"knn", "augmented"}
    assert 0 <= scores["augmented"]["augmented/top1"] <= 1
    encoder = ssl_jax.load_encoder(photo_run)
    assert encoder.crop == PUBLISHED
    images = evaluation.scorer._images
    assert isinstance(images, WholePictures)
    assert drawn["backbone"].shape[0] == 4
    features = splits["train"].features
    np.testing.assert_allclose(encoder(images, "embedding"), features["embedding"], atol=1e-5)
    np.testing.assert_allclose(encoder(images), features["backbone"], atol=1e-5)
    host = WholePictures(np.asarray(images.pixels), np.asarray(images.sizes))
    np.testing.assert_allclose(encoder(host), features["backbone"], atol=1e-5)
    assert np.abs(encoder(images.pixels) - features["backbone"]).max() > 1e-3
    settings = dict(names=("backbone",), report=lambda line: None)
    with jax.set_mesh(make_mesh()):
        streamed = datasets.load(
            "folder", dir=str(folders / "folder"), size=128, store="stream", limit=0
        )
        found = scorer.features(evaluation.stage, run.state, streamed.train.images, **settings)
    np.testing.assert_allclose(found["backbone"], features["backbone"], atol=1e-5)


def test_clusters_keep_the_crop(photo_run):
    run = opened(photo_run)
    config = config_of(photo_run)

    def centroids(config):
        report = label(run, config, {}, count=2, report=lambda line: None)
        return np.asarray(report.assignment.centroids)

    kept = centroids(config)
    other = json.loads(json.dumps(config))
    other["evals"]["crop"] = 0.5
    assert np.abs(kept - centroids(other)).max() > 1e-3


def test_a_run_keeps_its_crop(tmp_path):
    config = tiny("instance")
    config.evals.crop = PUBLISHED
    plan = build(config)
    assert plan.record["evals"]["crop"] == PUBLISHED
    folder = made(tmp_path / "run", config)
    facts = (plan.dataset.fingerprint(), plan.dataset.facts())
    for crop in (0.0, 0.5):
        config.evals.crop = crop
        with (
            pytest.raises(SettingError, match=f"trained with evals.crop=0.875, not {crop}; choose"),
            claim(folder, completed(config), *facts),
        ):
            pass
    config.evals.crop = PUBLISHED
    config.evals.knn.k = 7  # merely observes
    with claim(folder, completed(config), *facts):
        pass
    for names in ((), ("knn",), ("purity", "knn")):
        assert config_for(folder, names).evals.crop == PUBLISHED
    with pytest.raises(SettingError, match="^--evals: crop is a number that all evaluators share"):
        config_for(folder, ("my_package.crop",))


def test_older_runs_saw_all_of_an_image(tmp_path):
    config = tiny("instance")
    config.epochs = 1
    config.baselines = False
    config.evals = dict(knn=dict(k=5))
    train.run(config, tmp_path, console=quiet())
    path = tmp_path / "config.json"
    record = json.loads(path.read_text())
    assert record["evals"].pop("crop") == 0
    path.write_text(json.dumps(record))
    assert with_later_settings(record)["evals"]["crop"] == 0
    train.run(config, tmp_path, console=quiet())  # finished
    config.evals.crop = 0.5
    with pytest.raises(SettingError, match="was trained with evals.crop=0.0, not 0.5"):
        train.run(config, tmp_path, console=quiet())


def test_it_is_no_evaluator():
    assert get_config().evals.crop == 0
    assert not only_observes("evals.crop")
    assert only_observes("evals.knn.k")
    config = tiny("instance")
    config.evals = dict(knn=dict(k=5), crop=1)  # a whole number
    plan = build(config)
    assert list(plan.evaluators) == ["knn"]
    assert plan.record["evals"]["crop"] == plan.stages[-1].crop == 1.0
    settings = completed(config) | {"automatic": True}
    settings["evals"]["knn"]["k"] = 0
    chosen, _ = automatic.resolved(settings, automatic.MANY)
    assert chosen["evals"]["crop"] == 1.0
    config.evals = dict(crop=0.5)  # no evaluators: nothing is scored, so `best` may be anything
    assert build(config).evaluators == {}
    config.evals = {}
    assert completed(config)["evals"] == {"crop": 0.0}
    config = tiny("instance")
    config.data.labels = "none"
    (note,) = (note for note in build(config).notes if "no scores" in note)
    assert "no scores (clustering, knn, linear);" in note


@pytest.mark.parametrize(
    ("crop", "message"),
    [
        (-0.1, "evals.crop=-0.1: between 0 and 1"),
        (1.5, "evals.crop=1.5: between 0 and 1"),
        (float("nan"), "evals.crop=nan: give a finite number"),
        (True, "evals.crop=True has the wrong type"),
        ("0.875", "evals.crop='0.875' has the wrong type"),
        (dict(name="knn"), "evals.crop is a number that all evaluators share; an evaluator called"),
    ],
)
def test_mistakes_are_one_line(crop, message):
    config = tiny("instance").to_dict()
    config["evals"]["crop"] = crop
    with pytest.raises(SettingError, match=f"^{message}") as error:
        check(completed(config))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("evals", [dict(knn=dict(k=5)), dict(crop=0, knn=dict(k=5)), {}])
def test_flags_can_set_it_in_any_config(evals):
    config = ConfigDict(dict(evals=evals)).lock()
    eval_settings.complete(config)
    assert type(config.evals.crop) is float
    assert config.is_locked
    assert config.evals.is_locked
    for other in (ConfigDict(), None, ConfigDict(dict(evals=3))):
        eval_settings.complete(other)


@pytest.mark.slow
def test_commands_take_and_keep_it(tmp_path):
    def call(module, *flags):
        done = subprocess.run(
            [sys.executable, "-m", f"ssl_jax.{module}", f"--workdir={tmp_path}/run", *flags],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr

    short = ["--config.epochs=1", "--config.baselines=false", "--config.evals.crop=1"]
    call("main", f"--config={TINY}:instance", *short)
    assert config_of(tmp_path / "run")["evals"]["crop"] == 1.0
    call("evaluate", "--evals=knn")
    call("evaluate", "--evals=knn", "--config.evals.crop=0.5")
    lines = (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["settings"]["evals"]["crop"] for record in records] == [1.0, 0.5]
    assert all(set(record["settings"]["evals"]) == {"crop", "knn"} for record in records)


def test_encoders_of_grey_images_take_whole_pictures_in_colour(folders, tmp_path):
    config = tiny("instance")
    config.evals.crop = PUBLISHED
    encoder = ssl_jax.load_encoder(made(tmp_path / "run", config))
    settings = dict(dir=str(folders / "folder"), size=64)
    cached = datasets.load("folder", **settings, cache=str(tmp_path / "cache")).train.images
    streamed = datasets.load("folder", **settings, store="stream").train.images
    features = np.asarray(encoder(cached))
    np.testing.assert_allclose(encoder(streamed), features, atol=1e-6)
    np.testing.assert_allclose(encoder(jax.device_put(cached)), features, atol=1e-5)
    np.testing.assert_allclose(encoder(cached[:3]), features[:3], atol=1e-5)
    np.testing.assert_allclose(encoder(cached[0]), features[:1], atol=1e-5)
