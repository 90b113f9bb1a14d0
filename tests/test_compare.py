"""Clusters beside those of raw pixels, and the captions of contact sheets."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import shapes
from helpers.runs import tiny
from helpers.trained import made, opened
from PIL import Image, ImageDraw
from sklearn import metrics

from ssl_jax.clustering import assignment, compare, contact_sheet
from ssl_jax.clustering.compare import comparison
from ssl_jax.clustering.label import label
from ssl_jax.clustering.output import ClusterReport
from ssl_jax.data import datasets
from ssl_jax.data.source import Dataset, Images
from ssl_jax.runs.restore import config_of

RNG = np.random.default_rng(0)
GREY_ENCODER = SimpleNamespace(channels=1, mean=(0.5,), std=(0.25,), crop=0.0)
COUNT = 120


@pytest.fixture
def pictures():
    """Grey images in three brightnesses with gradients, and which brightness each has."""
    kinds = RNG.integers(0, 3, COUNT)
    gradient = np.linspace(0, 1, 8)
    patterns = np.stack([np.outer(gradient, np.ones(8)), np.outer(np.ones(8), gradient)])
    patterns = np.concatenate([patterns, 1 - patterns[:1]])
    images = 40 + 170 * patterns[kinds] + RNG.normal(0, 3, (COUNT, 8, 8))
    return images.clip(0, 255).astype(np.uint8)[..., None], kinds


def clusters_of(labels):
    """An assignment with these clusters, and features that have them."""
    features = np.eye(5)[labels] + 0.1 * RNG.standard_normal((COUNT, 5))
    return assignment.to_centroids(assignment.unit(np.float32(features)), np.eye(5)), features


def compared(images, clusters, labels, **settings):
    found, features = clusters
    splits = [images[:70], images[70:]]
    return comparison(found, features, splits, labels, GREY_ENCODER, **settings)


UNKNOWN = np.full(COUNT, -1)


def test_clusters_that_are_those_of_pixels(pictures):
    images, kinds = pictures
    silhouette, shared = compared(images, clusters_of(kinds), UNKNOWN)
    assert silhouette.startswith("silhouette by cosine: 0.9")
    assert silhouette.endswith("in the pixels; two spaces, so neither is better by it")
    assert "NMI 1.00, 1.00 beyond chance" in shared
    assert shared.endswith("they follow what raw pixels show, such as brightness and colour")


def test_clusters_that_are_none_of_pixels(pictures):
    images, kinds = pictures
    others = RNG.integers(0, 3, COUNT)
    _, shared = compared(images, clusters_of(others), UNKNOWN)
    expected = metrics.normalized_mutual_info_score(others, kinds)
    assert f"NMI {expected:.2f}, " in shared
    assert shared.endswith("something else than raw pixels; the sheets show what")


def test_labels_decide(pictures):
    images, kinds = pictures
    other = RNG.integers(0, 3, COUNT)
    lines = compared(images, clusters_of(other), np.where(np.arange(COUNT) < 90, kinds, -1))
    assert lines[1] == (
        "raw pixels against the labels: ACC 1.0000, NMI 1.0000, ARI 1.0000; these clusters, no "
        "better than raw pixels: the encoder adds nothing here"
    )
    lines = compared(images, clusters_of(other), other)
    assert lines[1].endswith("; these clusters, better than raw pixels")
    nmi = metrics.normalized_mutual_info_score(other, kinds)
    assert f"NMI {nmi:.4f}" in lines[1]


def test_a_mixed_verdict_names_the_scores():
    scores = {"ACC": (0.5, 0.4), "NMI": (0.3, 0.4), "ARI": (0.2, 0.2)}
    lines = list(compare.Comparison(9, 9, (0.1, 0.2), 0.5, 0.4, scores).lines())
    assert lines[1].endswith("; these clusters, better than raw pixels by ACC only")
    lines = list(compare.Comparison(9, 1009, (0.1, 0.2), 0.5, 0.4, scores).lines())
    assert lines[1] == (
        "raw pixels against the labels (on 9 of 1,009 images): ACC 0.4000, NMI 0.4000, ARI 0.2000; "
        "these clusters there: ACC 0.5000, NMI 0.3000, ARI 0.2000, better than raw pixels by ACC "
        "only"
    )


def test_many_images_are_sampled(pictures, monkeypatch):
    images, kinds = pictures
    read = []

    class Watched:
        shape = images.shape

        def __len__(self):
            return len(images)

        def __getitem__(self, rows):
            read.extend(np.asarray(rows).tolist())
            return images[rows]

    monkeypatch.setattr(compare, "ROWS", 40)
    found, features = clusters_of(kinds)
    lines = comparison(found, features, [Watched()], kinds, GREY_ENCODER)
    assert len(set(read)) == 40
    assert all("(on 40 of 120 images)" in line for line in lines)
    assert "these clusters there: ACC 1.0000" in lines[1]


def test_what_is_not_compared(pictures, monkeypatch):
    images, kinds = pictures
    found, features = clusters_of(np.zeros(COUNT, int))
    assert comparison(found, features, [images], UNKNOWN, GREY_ENCODER) == []
    monkeypatch.setattr(compare, "CLUSTERS", 2)
    assert compared(images, clusters_of(kinds), UNKNOWN) == [
        "no comparison with raw pixels: 3 clusters, more than 2"
    ]


def test_outliers_are_left_out_on_both_sides(pictures):
    images, kinds = pictures
    found, features = clusters_of(kinds)
    outliers = np.arange(COUNT) % 4 == 0
    labels = np.where(outliers, -1, found.labels)
    mixed = dataclasses.replace(found, labels=labels)
    kept = np.where(outliers, RNG.integers(0, 3, COUNT), kinds)  # labels of outliers play no part
    lines = compared(images, (mixed, features), kept)
    assert all(" (on 90 of 120 images, without the outliers): " in line for line in lines)
    assert "these clusters there: ACC 1.0000" in lines[1]
    assert "NMI 1.00, 1.00 beyond chance" in lines[2]
    alone = dataclasses.replace(found, labels=np.full(COUNT, -1))
    assert compared(images, (alone, features), kept) == []


def test_whole_pictures_in_colour_are_compared_as_the_encoder_sees_them(tmp_path):
    """Of a run of grey images, with the central square of each."""
    shapes.write(tmp_path / "x")
    config = tiny("swav")
    config.evals.crop = 0.875
    run = opened(made(tmp_path / "run", config))
    given = dict(name="folder", dir=str(tmp_path / "x"), cache=str(tmp_path / "cache"), size=64)
    settings = config_of(run.folder)
    settings["data"].update(given)
    lines = []
    report = label(run, settings, given, count=2, report=lines.append)
    assert lines[-1] == "comparing with k-means on raw pixels of 6 images"
    silhouette, shared = list(report.lines())[-2:]
    assert silhouette.startswith("silhouette by cosine: ")
    assert shared.startswith("what the clusters share with those of raw pixels: NMI ")


def test_pixels_are_those_of_the_scores():
    data = datasets.load("digits", limit=40)
    encoder = SimpleNamespace(channels=1, mean=data.mean, std=data.std, crop=0.0)
    rows = np.array([0, 7, 39, 41, 60])
    pixels = compare._pixels([data.train.images, data.test.images], rows, encoder)
    images = np.concatenate([data.train.images, data.test.images])[rows]
    expected = (images / 255 - data.mean[0]) / data.std[0]
    np.testing.assert_allclose(pixels, expected.reshape(5, -1), atol=1e-5)


# captions


@pytest.mark.parametrize("names", [["a/b/short.png", "x" * 90 + "_00042.jpeg", "caf\udce9\n.png"]])
def test_captions_name_the_files(names):
    count = len(names)
    images = Images(np.zeros((count, 8, 8, 1), np.uint8), np.full(count, -1))
    none = Images(images.images[:0], images.labels[:0])
    found = assignment.ClusterAssignment(
        np.zeros(count, int), np.array([0.9, 0.8, 0.7]), np.zeros(count), np.eye(2)
    )
    report = ClusterReport(found, Dataset(images, none, (), (), (), listed=lambda: names))
    _, captions = report._typical(0, 9)
    assert captions == ["0.90 short.png", f"0.80 {names[1]}", "0.70 caf??.png"]
    assert list(dict(report.pages(1))) == ["overview.png", "cluster_0.png"]
    rows = ClusterReport(found, Dataset(images, none, (), (), ()))
    assert rows._typical(0, 9)[1][0] == "0.90 train[0]"


def test_long_captions_lose_their_middle():
    draw = ImageDraw.Draw(Image.new("RGB", (9, 9)))
    assert contact_sheet.shortened_inside(draw, "0.93 a.png", 118) == "0.93 a.png"
    for text in ("0.93 " + "holiday" * 9 + "_0042.jpeg", "0.93 " + "W" * 10_000 + "_0042.jpeg"):
        short = contact_sheet.shortened_inside(draw, text, 118)
        assert short.startswith("0.93 ")
        assert short.endswith("042.jpeg")
        assert short.count("…") == 1
        assert 90 < draw.textlength(short, font=contact_sheet.ImageFont.load_default(12)) <= 118
