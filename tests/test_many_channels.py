"""Images of other than 1 or 3 channels, through every command."""

import jax
import numpy as np
import pytest
from helpers.runs import quiet, tiny
from helpers.trained import opened, scores
from PIL import Image

import ssl_jax
from ssl_jax import build, figures, train
from ssl_jax.clustering import contact_sheet
from ssl_jax.clustering.label import label
from ssl_jax.clustering.output_files import OutputFiles
from ssl_jax.data.augment import View, colour_jitter, draw_view
from ssl_jax.data.channels import shown
from ssl_jax.preview import grid
from ssl_jax.reporting import make, record
from ssl_jax.runs.restore import config_of

RNG = np.random.default_rng(0)
BANDS = 13


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An epoch on 16-bit images of 13 bands, stored channels first, of two kinds."""
    folder = tmp_path_factory.mktemp("bands")
    kind = np.arange(64) % 2
    images = RNG.normal(1000 + 500 * kind, 50, (BANDS, 8, 8, 64)).transpose(3, 0, 1, 2)
    np.savez(folder / "a.npz", images=images.astype(np.uint16), labels=kind * 10)
    config = tiny("instance")
    config.data.update(name="array", dir=str(folder / "a.npz"), limit=0)
    config.epochs = 1
    config.evals = dict(knn=dict(k=5))
    config.augment.one.update(jitter=0.8, grayscale=0.2)
    train.run(config, folder / "run", console=quiet())
    return folder / "run"


def test_a_run_is_evaluated(run):
    results = scores(run)["knn"]
    assert results["knn/top1"] > 0.9


def test_images_are_assigned_and_drawn(run, tmp_path):
    trained = opened(run)
    report = label(trained, config_of(run), {}, count=2, report=lambda line: None)
    output = OutputFiles(tmp_path / "clusters.csv", False)
    output.write(report, 3)
    assert len((tmp_path / "clusters.csv").read_text().splitlines()) == 65
    with Image.open(next((tmp_path / "clusters").glob("*.png"))) as sheet:
        assert sheet.mode == "RGB"


def test_the_encoder_takes_as_many_channels(run):
    encoder = ssl_jax.load_encoder(run)
    assert encoder.channels == BANDS
    images = RNG.integers(0, 256, (3, 8, 8, BANDS), dtype=np.uint8)
    assert encoder(images).shape[0] == 3


def test_the_report_has_all_parts(run, tmp_path):
    notes = make.write(record.read([run]), tmp_path / "a.html", most=60, say=lambda line: None)
    assert not [note for note in notes if "neighbour" in note]
    assert "Test images and their nearest training images" in (tmp_path / "a.html").read_text()


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 13])
def test_pictures_are_of_the_first_three_bands(channels, key):
    images = RNG.integers(0, 256, (2, 8, 8, channels), dtype=np.uint8)
    pixels = shown(images)
    expected = images[..., [0, 1, 2] if channels > 2 else [0, 0, 0]]
    np.testing.assert_array_equal(pixels, expected)
    assert grid(images, (View(size=8),), key, ["a", "b"]).shape[2] == 3
    page = np.asarray(contact_sheet.sheet(list(images), ["a", "b"], "title"))
    np.testing.assert_array_equal(page, contact_sheet.sheet(list(expected), ["a", "b"], "title"))
    both = [
        figures.neighbour_grid(x, [0], [[1]], [[0.5]]).axes[0].images[0].get_array()
        for x in (images, expected)
    ]
    np.testing.assert_array_equal(*both)


@pytest.mark.parametrize("channels", [2, 13])
def test_changes_of_colour_are_off(channels):
    image = jax.numpy.asarray(RNG.random((8, 8, channels)), jax.numpy.float32)
    u = jax.random.uniform(jax.random.key(0), (8,))
    jittered = colour_jitter(u, image, 0.0, 0.0, 0.9, 0.5)  # saturation and hue only
    np.testing.assert_allclose(jittered, image, atol=1e-6)
    whole = dict(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, jitter=0.0)
    pixels = RNG.integers(0, 256, (8, 8, channels), dtype=np.uint8)
    u = jax.random.uniform(jax.random.key(0), (36,))
    grey = draw_view(u, pixels, View(size=8, grayscale=1.0, **whole))
    plain = draw_view(u, pixels, View(size=8, grayscale=0.0, **whole))
    np.testing.assert_array_equal(grey, plain)


def test_what_is_off_is_said_in_training_alone(run):
    note = "images have 13 channels, so changes of hue, saturation and grey are off"
    config = config_of(run)
    assert note in build.build(config).notes
    dataset = build.load_data(build.completed(config))
    assert note not in dataset.notes
