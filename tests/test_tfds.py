"""tensorflow_datasets read without TensorFlow; tfds itself prepared fixtures/tfds.zip."""

import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers.images import assert_same_images, pixels_in

from ssl_jax.data import datasets
from ssl_jax.settings.resolve import SettingError

FIXTURE = Path(__file__).parent / "fixtures" / "tfds.zip"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    zipfile.ZipFile(FIXTURE).extractall(folder)
    return folder


@pytest.fixture
def load(prepared, tmp_path):
    return lambda name, **settings: datasets.load(
        f"tfds:{name}", **dict(dir=str(prepared), cache=str(tmp_path / "cache"), size=16) | settings
    )


def colours(images):
    """The brightest channel: the fixture's images are red, green or blue by their label."""
    return pixels_in(images).mean(axis=(1, 2)).argmax(axis=1)


def test_images_of_odd_shapes_become_squares(load):
    data = load("tiny_shapes")
    assert data.train.images.shape == (24, 16, 16, 3)
    assert data.test.images.shape == (8, 16, 16, 3)
    assert data.classes == ("red", "green", "blue")
    np.testing.assert_array_equal(colours(data.train.images), data.train.labels)
    np.testing.assert_array_equal(colours(data.test.images), data.test.labels)
    assert sorted(np.bincount(data.train.labels)) == [8, 8, 8]
    assert "tensorflow" not in sys.modules


def test_small_images_of_one_shape_stay_and_a_test_split_is_held_out(load):
    data = load("tiny_grey:1.0.0", test_share=0.25)
    assert data.train.images.shape == (18, 8, 8, 1)
    assert data.test.images.shape == (6, 8, 8, 1)
    np.testing.assert_array_equal(np.bincount(data.test.labels), [2, 2, 2])
    assert load("tiny_grey", size=6).train.images.shape[1:] == (6, 6, 3)


def test_decoded_once(load, capsys, monkeypatch):
    first = load("tiny_shapes")
    assert "decoding 32 images of tfds:tiny_shapes" in capsys.readouterr().err
    monkeypatch.setattr("ssl_jax.data.tfds._work", None)
    again = load("tiny_shapes")
    assert capsys.readouterr().err == ""
    assert_same_images(first.train.images, again.train.images)
    np.testing.assert_array_equal(first.test.labels, again.test.labels)


def test_without_labels(load):
    data = load("tiny_shapes", labels="none")
    assert data.classes == ()
    assert (data.train.labels == -1).all()
    assert len(data.train) == 24
    assert len(data.test) == 8


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "cifar10",
            {},
            r"is not prepared in .*='array_record', data_dir='.*'\).download_and_prepare\(\)",
        ),
        (
            "cifr10",
            {},
            "'tfds:cifr10': tensorflow_datasets has no such data set; did you mean 'cifar10'",
        ),
        ("tiny_boxes", {}, "has no uint8 feature 'image', only x"),
        ("tiny_grey:1.0.1", {}, "is not prepared; choose one of the versions 1.0.0"),
        ("tiny_shapes", {"labels": "coarse"}, "has no coarse labels"),
        ("tiny_grey", {"mean": (0.5, 0.5, 0.5)}, "the images have 1 channel;"),
        ("../x", {}, "give tfds:<name>"),
        ("", {}, "give tfds:<name>"),
    ],
)
def test_mistakes_end_in_one_line(load, name, settings, message):
    with pytest.raises(SettingError, match=message) as caught:
        load(name, **settings)
    assert "\n" not in str(caught.value)


def copied(prepared, folder, name="tiny_shapes"):
    """A copy of one data set, below `folder`."""
    target = folder / name / "1.0.0"
    target.mkdir(parents=True)
    for path in (prepared / "tiny_shapes" / "1.0.0").iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


@pytest.mark.parametrize("content", [None, b'{"name": "tiny'])
@pytest.mark.parametrize("name", ["features.json", "dataset_info.json"])
def test_what_tfds_says_of_a_set_that_is_damaged(load, prepared, tmp_path, name, content):
    path = copied(prepared, tmp_path) / name
    path.unlink() if content is None else path.write_bytes(content)
    message = "cannot be read .*; prepare it again|has no such data set"
    with pytest.raises(SettingError, match=message) as caught:
        load("tiny_shapes", dir=str(tmp_path))
    assert "\n" not in str(caught.value)


def test_other_formats_and_damaged_files(load, prepared, tmp_path):
    target = copied(prepared, tmp_path)
    info = json.loads((target / "dataset_info.json").read_text())
    (target / "tiny_shapes-test.array_record-00000-of-00001").write_bytes(b"not a record" * 1000)
    with pytest.raises(SettingError, match="cannot be read .*; prepare it again") as caught:
        load("tiny_shapes", dir=str(tmp_path))
    assert "\n" not in str(caught.value)
    (target / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    with pytest.raises(
        SettingError, match="is prepared as tfrecord, which needs tensorflow; .*_array_record"
    ):
        load("tiny_shapes", dir=str(tmp_path))


def test_configs(load, prepared, tmp_path):
    copied(prepared, tmp_path / "many", "one")
    assert len(load("many", dir=str(tmp_path)).train) == 24
    assert len(load("many/one", dir=str(tmp_path)).train) == 24
    copied(prepared, tmp_path / "many", "two")
    with pytest.raises(SettingError, match="name its config, one of: one, two"):
        load("many", dir=str(tmp_path))


def test_a_further_split_is_trained_on_without_its_labels(load):
    plain = load("tiny_shapes")
    more = load("tiny_shapes", unlabelled="test", test_share=0.25)
    assert len(more.train) + len(more.test) == len(plain.train) + len(plain.test)
    assert (more.train.labels == -1).sum() == len(plain.test)
    assert (more.test.labels >= 0).all()
    with pytest.raises(
        SettingError, match="data.unlabelled='extra': the splits of tfds:tiny_shapes are"
    ):
        load("tiny_shapes", unlabelled="extra")
    with pytest.raises(SettingError, match="only tfds:<name> data sets have extra splits"):
        datasets.load("digits", unlabelled="extra")
