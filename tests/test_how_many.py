"""The number of clusters: silhouettes, stability, and how sure the choice is."""

import dataclasses

import numpy as np
import pytest
from helpers.runs import tiny
from helpers.trained import made, opened
from PIL import Image
from sklearn.metrics import silhouette_samples

from ssl_jax.clustering import assignment, how_many
from ssl_jax.clustering.how_many import HowMany
from ssl_jax.clustering.label import given_count, label
from ssl_jax.clustering.output_files import OutputFiles
from ssl_jax.inference.pretrained import of_run
from ssl_jax.ops.silhouette import silhouettes
from ssl_jax.runs.restore import config_of
from ssl_jax.settings.resolve import SettingError

RNG = np.random.default_rng(3)


def unit(points):
    return np.float32(points / np.linalg.norm(points, axis=1, keepdims=True))


def blobs(count, images=240, spread=0.3, dim=16):
    """Around corners of a cube, which are about equally far from each other."""
    points = np.eye(dim)[np.arange(images) % count]
    return unit(points + spread * RNG.normal(size=(images, dim)) / dim**0.5)


def test_silhouettes_are_those_of_scikit_learn():
    points = unit(RNG.normal(size=(80, 5)))
    labels = RNG.integers(0, 4, 80)
    labels[:2] = [4, 6]  # alone; 5 and 7 are empty
    expected = silhouette_samples(points, labels, metric="cosine")
    np.testing.assert_allclose(silhouettes(points, labels, 8), expected, atol=1e-5)
    without = np.where(labels == 3, -1, labels)
    kept = without >= 0
    expected = silhouette_samples(points[kept], labels[kept], metric="cosine")
    np.testing.assert_allclose(silhouettes(points, without, 8)[kept], expected, atol=1e-5)
    assert not np.asarray(silhouettes(points, without, 8))[~kept].any()
    assert not np.asarray(silhouettes(points, np.zeros(80, int), 3)).any()
    assert not np.asarray(silhouettes(points[[0] * 80], labels, 8)).any()


@pytest.mark.parametrize("count", [3, 7, 15])
def test_blobs_are_counted(count):
    search = how_many.search(blobs(count))
    assert search.chosen == count
    assert search.clear
    assert search.words().startswith(f"chose K={count} from 2 to 24: silhouette 0.")
    assert "stability 1.00; clear: the next best, K=" in search.words()


@pytest.mark.parametrize("dim", [2, 16])
def test_a_single_blob_has_no_number(dim):
    search = how_many.search(blobs(1, dim=dim))
    assert not search.clear
    assert "; no clear number: " in search.words()
    again = how_many.search(blobs(1, dim=dim), seed=1)
    assert not again.clear


def test_equal_pictures_have_no_number():
    search = how_many.search(unit(np.ones((40, 4))))
    assert not search.clear
    assert "no clear number" in search.words()


def test_at_most_some_rows_are_looked_at(monkeypatch):
    monkeypatch.setattr(how_many, "MOST_ROWS", 60)
    lines = []
    points = blobs(3, images=500)
    search = how_many.search(points, report=lines.append)
    assert search.chosen == 3
    assert search.counts[-1] == 6
    assert lines[0] == "trying 2 clusters"
    np.testing.assert_array_equal(how_many.search(points).scores, search.scores)


def test_steps_are_geometric_and_then_fine():
    assert how_many._steps(4) == [2, 3, 4]
    assert how_many._steps(100) == [2, 3, 4, 6, 8, 11, 16, 23, 33, 47, 66, 93, 100]
    scores = np.zeros((3, 13))
    scores[:, 5] = 1.0
    measured = HowMany(np.array(how_many._steps(100)), scores[0], scores[0], scores)
    assert how_many._around(measured) == [9, 10, 12, 13, 14, 15]
    scores[:, 9] = 2.0
    near = how_many._around(dataclasses.replace(measured, scores=scores))
    assert near == [34, 36, 39, 41, 44, 46, 48, 51, 55, 58, 62, 65]


def choice(scores, stability=1.0):
    counts = np.arange(2, 2 + len(scores[0]))
    return HowMany(
        counts, np.array(scores[0]), np.full(len(counts), stability), np.array(scores, float)
    )


def test_how_sure_it_is():
    sure = choice([[0.2, 0.5, 0.4], [0.2, 0.5, 0.4]])
    assert sure.clear
    assert sure.words() == (
        "chose K=3 from 2 to 4: silhouette 0.50, stability 1.00; clear: the next best, K=4, scores "
        "20% less"
    )
    close = choice([[0.2, 0.5, 0.48], [0.2, 0.5, 0.48]])
    assert close.words().endswith("; no clear number: K=3 to 4 are about as good")
    chance = choice([[0.2, 0.6, 0.3], [0.2, 0.4, 0.5]])  # the halves differ
    assert chance.as_good.tolist() == [3, 4]
    unstable = choice([[0.2, 0.5, 0.4], [0.2, 0.5, 0.4]], stability=0.7)
    assert unstable.words().endswith(
        "no clear number: halves of the images disagree on the clusters"
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Of digits, with 16 prototypes."""
    config = tiny("swav")
    config.data.limit = 60
    config.method.queue_length = 32
    return opened(made(tmp_path_factory.mktemp("swav") / "run", config))


def test_from_a_run_to_files(run, tmp_path):
    lines = []
    report = label(run, config_of(run.folder), {}, count="auto", report=lines.append)
    assert lines[-3].endswith("on digits: clusters by k-means; looking for their number")
    search = report.extras.how_many
    assert lines[-2] == search.words()
    assert lines[-1].startswith("comparing with k-means on raw pixels")
    assert len(report.assignment.sizes) == search.chosen
    files = OutputFiles(tmp_path / "c.csv", overwrite=False)
    assert "/ with overview.png, how_many.png and 1 sheet;" in files.write(report, 1)
    picture = np.asarray(Image.open(tmp_path / "c" / "how_many.png"))
    assert picture.shape[0] > 300
    for colour in ("#0072B2", "#D55E00", "#009E73"):  # both curves, and those about as good
        pixels = tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
        assert (picture == pixels).all(axis=2).any()
    OutputFiles(tmp_path / "c.csv", overwrite=True).check()
    encoder = of_run(run)
    images = RNG.integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
    found = how_many.search(np.asarray(assignment.unit(encoder(images, "embedding"))))
    assert len(assignment.assign(encoder, images, clusters="auto").sizes) == found.chosen


def test_the_flag():
    assert [given_count(value) for value in ("", "0", "12", "auto")] == [0, 0, 12, "auto"]
    for value in ("many", "-1", "2.5", "Auto"):
        with pytest.raises(SettingError, match=f"--clusters={value}: give a number of at least 2"):
            given_count(value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(by="own"), "--clusters=auto: the encoder has 16 clusters of its own"),
        (dict(by="hdbscan"), "--clusters=auto: hdbscan makes as many clusters as there are"),
        ({}, "--clusters=auto: needs at least 20 images, there are 19; give a number"),
    ],
)
def test_what_auto_cannot_do(run, tmp_path, settings, message):
    images = RNG.integers(0, 256, (19, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images)
    given = dict(name="array", dir=str(tmp_path / "a.npz"), limit=0)
    config = config_of(run.folder)
    config["data"].update(given)
    with pytest.raises(SettingError, match=message):
        label(run, config, given, count="auto", report=lambda line: None, **settings)
    with pytest.raises(ValueError, match="clusters='many': give a number, or auto"):
        assignment.assign(of_run(run), images, clusters="many")
