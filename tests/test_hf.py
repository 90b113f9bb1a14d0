"""Local data sets of Hugging Face: saved to disk, Parquet files, folders of images."""

import io
import json
import pickle
import socket
import sys

import numpy as np
import pytest
from helpers.images import assert_same_images, pixels_in
from PIL import Image

from ssl_jax.data import datasets
from ssl_jax.settings.resolve import SettingError

KINDS = ["cat", "dog", "eel"]


def picture(i):
    """A picture of one colour, by which it is told apart."""
    file = io.BytesIO()
    Image.new("RGB", (10, 8), (8 * i, 0, 0)).save(file, "PNG")
    return file.getvalue()


def contents(data):
    """(number of the picture, class, whether to train on it) of all images, sorted."""
    rows = []
    for split, train in ((data.train, True), (data.test, False)):
        for image, label in zip(pixels_in(split.images), split.labels):
            name = data.classes[label] if label >= 0 else ""
            rows.append((round(image[0, 0, 0] / 8), name, train))
    return sorted(rows)


EXPECTED = [(i, KINDS[i % 3], i < 12) for i in range(18)]


@pytest.fixture
def load(tmp_path):
    def load(place="data", **settings):
        settings = dict(size=4, cache=str(tmp_path / "cache")) | settings
        return datasets.load(f"hf:{tmp_path / place}", **settings)

    return load


def test_the_package_is_missing(load, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "data").mkdir()
    with pytest.raises(SettingError, match=r"needs the package datasets; pip install 'ssl_jax\[hf"):
        load()


def test_places_that_are_no_folder(load):
    with pytest.raises(SettingError, match="data.name='hf:.*is not a folder; .*nothing is downlo"):
        load("nowhere")
    with pytest.raises(SettingError, match="names no folder; give hf:FOLDER"):
        datasets.load("hf:")


class TestWithPackage:
    """What needs the package `datasets`, which is large and no dependency of the tests."""

    @pytest.fixture(autouse=True)
    def package(self, monkeypatch, tmp_path):
        self.hf = pytest.importorskip("datasets", reason="the package datasets is not installed")

        def refuse(*_):
            raise AssertionError("the network was used")

        monkeypatch.setattr(socket.socket, "connect", refuse)

    def table(self, numbers, **columns):
        hf = self.hf
        features = {"image": hf.Image(), "label": hf.ClassLabel(names=KINDS)}
        values = {"image": [], "label": []}
        for i in numbers:
            values["image"].append({"bytes": picture(i), "path": None})
            values["label"].append(i % 3)
        values |= columns
        for name in columns:
            features.pop(name, None)
        table = hf.Dataset.from_dict(
            {name: value for name, value in values.items() if name in features},
            hf.Features(features),
        )
        for name, column in columns.items():
            if column is not None:
                table = table.add_column(name, column)
        return table

    def save(self, path, **splits):
        self.hf.DatasetDict(splits).save_to_disk(str(path))

    def test_saved_to_disk(self, load, tmp_path):
        self.save(tmp_path / "data", train=self.table(range(12)), test=self.table(range(12, 18)))
        data = load()
        assert contents(data) == EXPECTED
        assert data.classes == tuple(KINDS)
        assert data.notes == ()
        assert data.names()[-1] == "test[5]"
        assert data.names()[0] != "train[0]"  # in a fixed random order
        first = load(limit=5)
        assert_same_images(first.train.images, data.train.images[:5])
        assert (
            datasets.load(
                "hf:data", dir=str(tmp_path), size=4, cache=str(tmp_path / "cache")
            ).names()
            == data.names()
        )

    def test_streamed_pictures_are_those_of_the_cache_also_in_other_processes(self, load, tmp_path):
        self.save(tmp_path / "data", train=self.table(range(12)), test=self.table(range(12, 18)))
        cached = load()
        streamed = load(store="stream")
        assert streamed.fingerprint() == cached.fingerprint()
        again = pickle.loads(pickle.dumps(streamed.train.images))
        assert_same_images(again, cached.train.images)

    def test_parquet(self, load, tmp_path):
        (tmp_path / "data" / "data").mkdir(parents=True)
        for split, numbers in (("train", range(12)), ("validation", range(12, 18))):
            path = tmp_path / "data" / "data" / f"{split}-00000-of-00001.parquet"
            self.table(numbers).to_parquet(str(path))
        assert contents(load()) == EXPECTED

    def test_bytes_without_types_of_the_package(self, load, tmp_path):
        pa = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        (tmp_path / "data").mkdir()
        for split, numbers in (("train", range(12)), ("test", range(12, 18))):
            values = [{"bytes": picture(i), "path": f"{i}.png"} for i in numbers]
            labels = [KINDS[i % 3] for i in numbers]
            path = tmp_path / "data" / f"{split}.parquet"
            parquet.write_table(pa.table({"img": values, "class": labels}), path)
        assert contents(load()) == EXPECTED

    def test_folders_of_images(self, load, tmp_path):
        for i in range(18):
            folder = tmp_path / "data" / ("train" if i < 12 else "test") / KINDS[i % 3]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{i}.png").write_bytes(picture(i))
        assert contents(load()) == EXPECTED
        (tmp_path / "data" / "train" / "cat" / "0.png").write_bytes(picture(30))
        assert contents(load())[-1] == (30, "cat", True)

    def test_folders_with_metadata(self, load, tmp_path):
        for split, numbers in (("train", range(12)), ("test", range(12, 18))):
            (tmp_path / "data" / split).mkdir(parents=True)
            lines = []
            for i in numbers:
                (tmp_path / "data" / split / f"{i}.png").write_bytes(picture(i))
                lines.append(json.dumps({"file_name": f"{i}.png", "label": KINDS[i % 3]}))
            (tmp_path / "data" / split / "metadata.jsonl").write_text("\n".join(lines))
        assert contents(load()) == EXPECTED

    def test_a_single_table_holds_out_a_share(self, load, tmp_path):
        self.table(range(18)).save_to_disk(str(tmp_path / "data"))
        data = load(test_share=0.2)
        np.testing.assert_array_equal(np.bincount(data.test.labels), [1, 1, 1])
        assert len(data.train) == 15

    def test_a_test_split_without_labels_is_left_out(self, load, tmp_path):
        self.save(
            tmp_path / "data",
            train=self.table(range(12)),
            validation=self.table(range(12, 18)),
            test=self.table(range(18, 20), label=[-1, -1]),
            extra=self.table(range(20, 24)),
            unsupervised=self.table(range(24, 26)),
        )
        data = load()
        assert contents(data)[:18] == EXPECTED
        assert contents(data)[18:] == [(24, "", True), (25, "", True)]
        assert any("1 split (extra)" in note for note in data.notes)
        left_out = "the test split, 2 images, is left out; scores are on the validation split"
        assert left_out in data.notes

    def test_one_split_of_another_name_trains(self, load, tmp_path):
        self.save(tmp_path / "data", test=self.table(range(18)))
        data = load()
        assert len(data.train) + len(data.test) == 18
        assert "has only a test split, which takes the place of the training" in data.notes[0]

    def test_other_labels(self, load, tmp_path):
        numbers = [10 * (i % 3) for i in range(18)]
        self.table(range(18), label=numbers).save_to_disk(str(tmp_path / "ints"))
        assert load("ints").classes == ("0", "10", "20")
        self.table(range(18), label=None).save_to_disk(str(tmp_path / "none"))
        assert load("none").classes == ()
        self.table(range(18), label=[[0, 1]] * 18).save_to_disk(str(tmp_path / "several"))
        with pytest.raises(SettingError, match="label is not one class per picture; set data.lab"):
            load("several")
        assert load("several", labels="none").classes == ()
        coarse = self.table(range(18), coarse_label=[i % 2 for i in range(18)])
        coarse.save_to_disk(str(tmp_path / "coarse"))
        assert load("coarse").classes == tuple(KINDS)
        assert load("coarse", labels="coarse").classes == ("0", "1")
        with pytest.raises(SettingError, match="has no coarse labels; choose fine or none"):
            load("ints", labels="coarse")

    def test_bad_data_end_in_one_line(self, load, tmp_path):
        (tmp_path / "data").mkdir()
        with pytest.raises(SettingError, match="the package datasets cannot read .*data") as caught:
            load()
        assert "\n" not in str(caught.value)
        self.hf.Dataset.from_dict({"text": ["a"]}).save_to_disk(str(tmp_path / "text"))
        with pytest.raises(SettingError, match="it has no pictures, only the columns text"):
            load("text")
        self.save(tmp_path / "names", other=self.table(range(3)), more=self.table(range(3)))
        with pytest.raises(SettingError, match="has the splits other, more; one must be called tr"):
            load("names")
        table = self.table(range(6)).to_dict()
        table["image"][3]["bytes"] = b"no picture"
        features = self.table(range(6)).features
        self.hf.Dataset.from_dict(table, features).save_to_disk(str(tmp_path / "bad"))
        with pytest.raises(SettingError, match=r"bad/train\[3\] cannot be read"):
            load("bad")
        assert load("bad", skip_corrupt=True, labels="none").left_out == {"unreadable": 1}


def test_splits_with_other_class_names_are_refused(load, tmp_path):
    hub = pytest.importorskip("datasets")
    splits = {}
    for split, names in (("train", KINDS), ("test", KINDS[::-1])):
        features = hub.Features(image=hub.Image(), label=hub.ClassLabel(names=names))
        rows = dict(
            image=[{"bytes": picture(i)} for i in range(6)], label=[i % 3 for i in range(6)]
        )
        splits[split] = hub.Dataset.from_dict(rows, features=features)
    hub.DatasetDict(splits).save_to_disk(tmp_path / "data")
    with pytest.raises(SettingError, match="label has other class names, or another order of"):
        load()
    assert load(labels="none").classes == ()
