"""Ten-crop testing: the crops against Pillow and torchvision's rules, and the mean over them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.runs import tiny
from helpers.trained import made, opened
from PIL import Image
from sklearn.datasets import load_sample_image

from ssl_jax.data import datasets, ten_crop
from ssl_jax.data.augment import clean
from ssl_jax.data.whole import WholePictures
from ssl_jax.evaluation.augmented import Augmented
from ssl_jax.evaluation.probe import Probe
from ssl_jax.evaluation.ten_crop import mean_probabilities
from ssl_jax.inference import on_demand as on_demand_file
from ssl_jax.inference.transfer import evaluation_of
from ssl_jax.interface import RunFacts, Split
from ssl_jax.ops.mesh import make_mesh
from ssl_jax.runs.restore import config_for

PUBLISHED = 0.875
ten_crops = jax.jit(ten_crop.ten_crops, static_argnames=("size", "mean", "std", "crop"))
IDENTITY = dict(mean=(0.0,) * 3, std=(1.0,) * 3)
FACTS = RunFacts(classes=3)


def torchvisions(picture, resized, cropped):
    """`Resize(resized)` and `TenCrop(cropped)` of a picture of Pillow's: uint8 [10, S, S, C]."""
    width, height = picture.size
    if width <= height:
        size = (resized, int(resized * height / width))
    else:
        size = (int(resized * width / height), resized)
    small = picture.resize(size, Image.Resampling.BILINEAR)
    return np.concatenate(
        [five(np.asarray(small), cropped), five(np.asarray(small)[:, ::-1], cropped)]
    )


def five(image, side):
    """Upper left, upper right, lower left, lower right, centre."""
    height, width = image.shape[:2]
    down = int(round((height - side) / 2.0))
    across = int(round((width - side) / 2.0))
    places = [(0, 0), (0, width - side), (height - side, 0), (height - side, width - side)]
    return np.stack([image[y : y + side, x : x + side] for y, x in [*places, (down, across)]])


# Ours mirror each crop, torchvision the image: its upper left corner was the upper right one.
ORDER = [0, 1, 2, 3, 4, 6, 5, 8, 7, 9]


def test_corners_and_centre_of_arrays_exactly():
    """Where nothing has to be resized, and sides leave an odd number of pixels."""
    for shape in ((64, 64, 3), (64, 97, 3), (83, 64, 3)):
        images = np.random.default_rng(0).integers(0, 256, (2, *shape), dtype=np.uint8)
        crops = np.asarray(ten_crops(images, size=56, **IDENTITY, crop=PUBLISHED))
        assert crops.shape == (2, 10, 56, 56, 3)
        for image, found in zip(images, crops):
            expected = np.concatenate([five(image, 56), five(image[:, ::-1], 56)])[ORDER]
            np.testing.assert_allclose(found[:4], expected[:4] / np.float32(255), atol=1e-6)
            np.testing.assert_allclose(found[5:9], expected[5:9] / np.float32(255), atol=1e-6)
            np.testing.assert_allclose(found[4], np.float32(expected[4]) / 255, atol=1e-6)
            np.testing.assert_allclose(found[9], found[4][:, ::-1], atol=1e-6)


def photographs():
    """Parts of two photographs in several shapes."""
    parts = []
    for name in ("china.jpg", "flower.jpg"):
        picture = Image.fromarray(load_sample_image(name))
        for width, height in ((192, 128), (128, 192), (160, 160), (400, 128), (128, 320)):
            parts.append(picture.crop((30, 60, 30 + width, 60 + height)))
    return parts


def test_pictures_of_any_shape_against_pillow(tmp_path):
    """In grey levels; whole pictures are stored as squares, which costs a little."""
    for i, picture in enumerate(photographs()):
        path = tmp_path / "folder" / "train" / "ab"[i % 2] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    data = datasets.load(
        "folder",
        dir=str(tmp_path / "folder"),
        size=256,
        cache=str(tmp_path / "cache"),
        labels="none",
    )
    rows = np.arange(len(data.train))
    images = data.train.images[rows]
    assert isinstance(images, WholePictures)
    crops = np.asarray(ten_crops(images, size=56, **IDENTITY, crop=PUBLISHED)) * 255
    expected = [np.float32(torchvisions(p, 64, 56)[ORDER]) for p in photographs()]
    left = list(range(len(expected)))
    for found in crops:  # in the order of the data set, which is by class
        error = [np.abs(found - expected[i]).mean(axis=(1, 2, 3)) for i in left]
        best = int(np.argmin([e.mean() for e in error]))
        assert error[best].mean() < 0.7
        assert error[best].max() < 1.8
        left.pop(best)
    assert not left


def test_the_centre_is_what_scores_see():
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 24, 3), dtype=np.uint8)
    for crop in (PUBLISHED, 0.6):
        seen = clean(images, 16, **IDENTITY, crop=crop)
        crops = ten_crops(images, size=16, **IDENTITY, crop=crop)
        np.testing.assert_allclose(crops[:, 4], seen, atol=1e-5)
        np.testing.assert_allclose(crops[:, 9], seen[:, :, ::-1], atol=1e-5)
    square = images[:, :24]
    same = ten_crops(square, size=24, **IDENTITY, crop=1.0)
    np.testing.assert_allclose(same[:, :5], np.stack([square] * 5, 1) / np.float32(255), atol=1e-6)


def softmax(x):
    shares = np.exp(x - x.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


@pytest.fixture
def splits():
    """Three overlapping classes of five numbers, whose ten crops are very noisy."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 5))

    def split(count):
        labels = np.arange(count, dtype=np.int32) % 3
        x = np.float32(centres[labels] + 0.5 * rng.normal(size=(count, 5)))
        return x, labels

    x, labels = split(90)
    test_x, test_labels = split(60)
    noise = rng.standard_t(1.5, size=(60, 10, 5))
    crops = np.float32(test_x[:, None] + noise)
    test_labels[-3:] = -1
    asked = []

    def blocks(names, crop):
        asked.append((names, crop))
        for start in range(0, 60, 25):
            yield {name: crops[start : start + 25] for name in names}

    def draw(key, rows, names, **crop):
        return {name: x[rows] for name in names}

    names = ("backbone", "stage1")
    train = Split(dict.fromkeys(names, x), labels, draw, blocks)
    test = Split(dict.fromkeys(names, test_x), test_labels, draw, blocks)
    return dict(train=train, test=test), crops, asked


def accuracy(scores, labels, mean):
    """Of the mean over the crops of what `mean` makes of the scores [n, 10, C]."""
    keep = labels >= 0
    return np.mean(mean(scores).mean(1).argmax(1)[keep] == labels[keep])


def test_probabilities_are_averaged_neither_scores_nor_features(splits):
    both, crops, asked = splits
    labels = both["test"].labels
    method = Augmented(epochs=3, learning_rate=3.0, ten_crop=PUBLISHED, facts=FACTS)
    weights = method._train(both["train"], {"backbone": 5}, print)["backbone"]
    scores = np.float64(crops) @ np.float64(weights["kernel"]) + np.float64(weights["bias"])
    expected = accuracy(scores, labels, softmax)
    assert expected != accuracy(scores, labels, lambda x: x)
    scored = dict(method.run(both, None))
    assert scored.pop("top1") > 0.6
    assert scored == {"top1_ten_crop": expected}
    assert asked == [(("backbone",), PUBLISHED)]


def test_one_pass_serves_all_classifiers_of_a_probe(splits):
    both, crops, asked = splits
    labels = both["test"].labels
    given = dict(rates=(0.1,), decays=(1e-3,), steps=60, facts=FACTS)
    method = Probe(features=("backbone", "stage1"), shares=(0.2, 1.0), ten_crop=0.5, **given)
    both["train"] = both["train"]._replace(  # two features, so that two probes are trained
        features={name: x + 0 for name, x in both["train"].features.items()}
    )
    scored = dict(method.run(both, None))
    ends = ("_backbone_0.2", "_backbone", "_stage1_0.2", "_stage1")
    assert {name for name in scored if "ten" in name} == {f"top1_ten_crop{end}" for end in ends}
    assert asked == [(("backbone", "stage1"), 0.5)]
    (share, _, classifier), *_ = method._probe(
        both["train"].features["backbone"],
        both["train"].labels,
        both["test"].features["backbone"],
        labels,
        print,
    )
    assert share == 0.2
    scores = np.stack([classifier(jnp.asarray(crops[:, i])) for i in range(10)], axis=1)
    expected = accuracy(np.float64(scores), labels, softmax)
    assert scored["top1_ten_crop_backbone_0.2"] == pytest.approx(expected)
    plain = dict(Probe(shares=(1.0,), **given).run(both, None))
    assert scored["top1_backbone"] == plain["top1"]  # of clean images, as ever


def test_raw_pixels_have_no_crops(splits):
    both = {name: split._replace(draw=None, ten_crops=None) for name, split in splits[0].items()}
    given = dict(rates=(0.1,), decays=(1e-3,), steps=5, shares=(1.0,), facts=FACTS)
    scored = dict(Probe(ten_crop=PUBLISHED, **given).run(both, None))
    assert set(scored) == {"top1", "held_out", "rate", "decay"}
    assert dict(Augmented(ten_crop=PUBLISHED, facts=FACTS).run(both, None)) == {}


@pytest.mark.parametrize("cls", [Probe, Augmented])
def test_bad_crops(cls):
    for crop in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"^ten_crop=.*between 0 and 1$"):
            cls(ten_crop=crop)
    assert cls().ten_crop == 0


def test_blocks_of_a_run(tmp_path, monkeypatch):
    """Features of crops through the encoder, on two devices, in blocks of one shape."""
    config = tiny("instance")
    config.evals = dict(
        probe=dict(shares=(1.0,), steps=5, rates=(0.1,), decays=(0.0,), ten_crop=PUBLISHED),
        augmented=dict(
            epochs=1, batch_size=300, features=("stage1", "backbone"), ten_crop=PUBLISHED
        ),
    )
    config.best = "eval/probe/top1"
    folder = made(tmp_path / "run", config)
    run = opened(folder)
    monkeypatch.setattr(on_demand_file, "_CHUNK", 101)
    names = ("stage1", "backbone")
    with jax.set_mesh(make_mesh()):
        evaluation = evaluation_of(run, config_for(folder, ()))
        split = evaluation.scorer.splits(evaluation.stage, run.state)["test"]
        blocks = list(split.ten_crops(names, PUBLISHED))
        scores = {name: x for _, part in evaluation() for name, x in part.items()}
    assert [len(block["backbone"]) for block in blocks] == [101, 101, 101, 57]
    crops = {name: np.concatenate([block[name] for block in blocks]) for name in names}
    data = datasets.load("digits").test
    stage = evaluation.stage
    rows = np.array([0, 100, 101, 359])
    views = ten_crop.ten_crops(data.images[rows], 8, stage.mean, stage.std, PUBLISHED)
    features = jax.jit(functools.partial(stage.method.features, names=("backbone",)))
    for i in (0, 3, 4, 6):
        expected = features(run.state, views[:, i])["backbone"]
        np.testing.assert_allclose(crops["backbone"][rows, i], expected, atol=1e-3)
    assert crops["stage1"].shape == (360, 10, split.features["stage1"].shape[1])
    ends = ("probe/top1_ten_crop", "augmented/top1_ten_crop_stage1")
    assert {*ends, "augmented/top1_ten_crop_backbone"} < scores.keys()
    assert evaluation.scorer.largest_class(ends) == dict.fromkeys(ends, 37 / 360)


def test_means_come_in_the_order_of_the_images():
    x = np.float32(np.random.default_rng(0).normal(size=(7, 10, 3)))

    def blocks(names, crop):
        yield {"a": x[:4]}
        yield {"a": x[4:]}

    shares = mean_probabilities(blocks, 1.0, {"k": ("a", lambda rows: 2 * rows)})
    np.testing.assert_allclose(shares["k"], softmax(2 * x).mean(1), atol=1e-6)
