"""Tar files of WebDataset: keys, labels, splits, order, and damaged files."""

import gzip
import io
import json
import pickle
import tarfile

import numpy as np
import pytest
from helpers.images import assert_same_images, pixels_in
from PIL import Image

from ssl_jax.data import datasets, tar_index
from ssl_jax.settings.resolve import SettingError

KINDS = ("cat", "dog", "eel")


def picture(i, kind="PNG"):
    """A picture of one colour, by which it is told apart."""
    file = io.BytesIO()
    Image.new("RGB", (10, 8), (8 * i, 0, 0)).save(file, kind)
    return file.getvalue()


def packed(path, members, form=tarfile.PAX_FORMAT):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in members.items():
            raw = content if isinstance(content, bytes) else str(content).encode()
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    return path


def samples(numbers, label=lambda i: {"cls": i % 3}, folder=""):
    members = {}
    for i in numbers:
        members[f"{folder}{i:04}.png"] = picture(i)
        members |= {f"{folder}{i:04}.{kind}": text for kind, text in label(i).items()}
    return members


@pytest.fixture
def load(tmp_path):
    def load(place="data", **settings):
        settings = dict(size=4, cache=str(tmp_path / "cache")) | settings
        return datasets.load("webdataset", dir=str(tmp_path / place), **settings)

    return load


def contents(data):
    """(number of the picture, class, whether to train on it) of all images, sorted."""
    rows = []
    for split, train in ((data.train, True), (data.test, False)):
        for image, label in zip(pixels_in(split.images), split.labels):
            name = data.classes[label] if label >= 0 else ""
            rows.append((round(image[0, 0, 0] / 8), name, train))
    return sorted(rows)


EXPECTED = [(i, str(i % 3), i < 12) for i in range(18)]


def test_training_and_test_files(load, tmp_path):
    packed(tmp_path / "data" / "train-000.tar", samples(range(6)))
    packed(tmp_path / "data" / "train-001.tar", samples(range(6, 12)))
    packed(tmp_path / "data" / "Test-000.tar", samples(range(12, 18)))
    data = load()
    assert contents(data) == EXPECTED
    assert data.names()[-1] == "Test-000.tar/0017.png"
    assert (data.left_out, data.notes) == ({}, ())
    # A fixed random order, which a sample of the first is fair in.
    assert data.names()[:12] != sorted(data.names()[:12])
    assert load().names() == data.names()
    first = load(limit=5)
    assert_same_images(first.train.images, data.train.images[:5])


@pytest.mark.parametrize(
    "place", ["data/{train,test}-{000..001}.tar", "data/*-00?.tar", "data/t*-{000,001}.tar"]
)
def test_patterns(load, tmp_path, place):
    for i, name in enumerate(("train-000", "train-001", "test-000")):
        packed(tmp_path / "data" / f"{name}.tar", samples(range(6 * i, 6 * i + 6)))
    packed(tmp_path / "data" / "test-001.tar", {})
    packed(tmp_path / "data" / "train-100.tar", samples(range(20, 22)))
    assert contents(load(place)) == EXPECTED


def test_subfolders_and_other_names(load, tmp_path):
    packed(tmp_path / "data" / "TRAIN" / "a.tar", samples(range(6)))
    packed(tmp_path / "data" / "imagenet-train-7.tar", samples(range(6, 12)))
    packed(tmp_path / "data" / "val" / "a.tar", samples(range(12, 18)))
    (tmp_path / "data" / "sizes.json").write_text("{}")
    data = load()
    assert contents(data) == EXPECTED
    assert data.left_out == {".json": 1}


def test_one_file_holds_out_a_share(load, tmp_path):
    packed(tmp_path / "data" / "val.tar", samples(range(18)))
    data = load("data/val.tar", test_share=0.2)
    np.testing.assert_array_equal(np.bincount(data.test.labels), [1, 1, 1])
    assert len(data.train) == 15
    (note,) = data.notes
    assert "has only a validation split, which takes the place of the training split" in note


@pytest.mark.parametrize(
    ("label", "left_out"),
    [
        (lambda i: {"cls": f"{i % 3}\n"}, {}),
        (lambda i: {"json": json.dumps({"label": i % 3, "width": 10})}, {}),
        (lambda i: {"txt": i % 3}, {}),
        (lambda i: {"cls": i % 3, "txt": f"a picture, the {i}th"}, {".txt": 18}),
        (lambda i: {"cls": i % 3, "json": "{}"}, {".json": 18}),
        (
            lambda i: {"CLS": i % 3, "mask.png": picture(30), "npy": b"123"},
            {".png": 18, ".npy": 18},
        ),
    ],
)
def test_labels(load, tmp_path, label, left_out):
    packed(tmp_path / "data" / "train.tar", samples(range(12), label))
    packed(tmp_path / "data" / "test.tar", samples(range(12, 18), label))
    data = load()
    assert contents(data) == EXPECTED
    assert data.left_out == left_out


def test_labels_that_are_names(load, tmp_path):
    label = {"json": lambda i: {"json": json.dumps({"label": KINDS[i % 3]})}}
    label["txt"] = lambda i: {"txt": KINDS[i % 3]}
    for kind, function in label.items():
        packed(tmp_path / kind / "train.tar", samples(range(12), function))
        packed(tmp_path / kind / "test.tar", samples(range(12, 18), function))
        assert contents(load(kind)) == [(i, KINDS[i % 3], i < 12) for i in range(18)]


def test_captions_are_no_classes(load, tmp_path):
    packed(tmp_path / "data" / "a.tar", samples(range(6), lambda i: {"txt": f"{i} cats"}))
    data = load()
    assert data.classes == ()
    assert len(data.train) == 6
    assert data.notes == ("the members .txt are captions, no classes, and are not read",)
    assert data.left_out == {".txt": 6}


def test_no_labels(load, tmp_path):
    packed(tmp_path / "data" / "train.tar", samples(range(6)))
    packed(tmp_path / "data" / "unlabelled.tar", samples(range(6, 12)))
    packed(tmp_path / "data" / "test.tar", samples(range(12, 18)))
    rows = contents(load())
    assert rows == [(i, "" if 6 <= i < 12 else name, train) for i, name, train in EXPECTED]
    data = load(labels="none")
    assert (data.classes, len(data.train), len(data.test), data.left_out) == ((), 12, 6, {})


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_of_any_tar(load, tmp_path, form):
    long = "" if form == tarfile.USTAR_FORMAT else "ä" * 150 + "/" + "b" * 120 + "/"
    members = samples(range(6), folder=f"./{long}") | {
        "._0000.png": b"of macOS",
        "readme": b"text",
        "notes.txt": b"text",
        "other/0000.PNG": picture(17),
        "other/0000.png": picture(16),
    }
    path = packed(tmp_path / "data" / "a.tar", members, form)
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("9999.png")
        link.type = tarfile.SYMTYPE
        link.linkname = "0000.PNG"
        tar.addfile(link)
        folder = tarfile.TarInfo("folder.jpg")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    data = load(labels="none")
    assert [i for i, *_ in contents(data)] == [0, 1, 2, 3, 4, 5, 16]
    assert data.left_out == {"": 1, ".png": 2, ".txt": 1}
    assert f"a.tar/{long}0003.png" in data.names()


def test_files_are_listed_once(load, tmp_path, monkeypatch):
    packed(tmp_path / "data" / "a.tar", samples(range(6)))
    packed(tmp_path / "data" / "b.tar", samples(range(6, 12)))
    listed = []
    index = tar_index.index
    monkeypatch.setattr(tar_index, "index", lambda path: (listed.append(path.name), index(path))[1])
    data = load(store="stream")
    load(store="stream")
    assert listed == ["a.tar", "b.tar"]
    packed(tmp_path / "data" / "b.tar", samples(range(6, 13)))
    packed(tmp_path / "data" / "c.tar", samples(range(13, 18)))
    assert len(load(store="stream").names()) == 18
    assert listed[2:] == ["b.tar", "c.tar"]
    for path in (tmp_path / "cache" / "tars").iterdir():
        path.write_text(path.read_text().replace("png", "pnf"))
    assert len(load(store="stream").names()) == 18
    assert len(listed) == 7
    assert pixels_in(data.train.images).shape == (9, 4, 4, 3)


def test_streamed_pictures_are_those_of_the_cache_also_in_other_processes(load, tmp_path):
    packed(tmp_path / "data" / "train.tar", samples(range(12)))
    packed(tmp_path / "data" / "test.tar", samples(range(12, 18)))
    cached = load()
    streamed = load(store="stream")
    assert streamed.fingerprint() == cached.fingerprint()
    again = pickle.loads(pickle.dumps(streamed.train.images))
    assert_same_images(again, cached.train.images)


def test_pictures_that_cannot_be_read(load, tmp_path):
    packed(tmp_path / "data" / "a.tar", samples(range(6)) | {"0003.png": b"no picture"})
    with pytest.raises(SettingError, match=r"data/a.tar/0003.png cannot be read"):
        load()
    data = load(skip_corrupt=True, labels="none")
    assert len(data.train) == 5
    assert data.left_out == {"unreadable": 1}


def damaged(path, change):
    raw = bytearray(packed(path, samples(range(6))).read_bytes())
    path.write_bytes(change(raw))


def overwritten(raw):
    raw[2048 : 2048 + 512] = b"x" * 512
    return raw


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw[:3000], "a.tar is a damaged tar file .*fetch it or make it again"),
        (lambda raw: raw[:1024], "is a damaged tar file .it has no end mark"),
        (overwritten, "is a damaged tar file .byte 2,048 is no header"),
        (lambda raw: raw + raw, "is a damaged tar file .members follow its end mark"),
        (lambda raw: b"not a tar file" * 100, "is a damaged tar file"),
        (lambda raw: b"", "is a damaged tar file .empty"),
        (gzip.compress, "a.tar is compressed; unpack it to a plain .tar file .gunzip"),
    ],
)
def test_damaged_files_end_in_one_line(load, tmp_path, change, message):
    damaged(tmp_path / "data" / "a.tar", change)
    with pytest.raises(SettingError, match=message) as caught:
        load()
    assert "\n" not in str(caught.value)


def test_places_without_tar_files(load, tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(SettingError, match="holds no .tar files"):
        load()
    for name in ("a.tar.gz", "a.tgz", "a.TAR.zst"):
        (tmp_path / "data" / name).write_bytes(b"")
        with pytest.raises(SettingError, match=f"{name} is compressed; unpack it to a plain .tar"):
            load()
        (tmp_path / "data" / name).unlink()
    packed(tmp_path / "data" / "train-0.tar", {"a.cls": b"1", "b.txt": b"x"})
    with pytest.raises(SettingError, match="no member of 1 tar file ends in .jpg"):
        load()
    for place, message in (
        ("nowhere", "no such file or folder; give a folder of .tar files"),
        ("data/train-{0..1}.tar", "there is no file .*train-1.tar"),
        ("data/x*.tar", "no such file or folder"),
        ("data/{0..9999999}.tar", "names more than 1,000,000 files"),
    ):
        with pytest.raises(SettingError, match=message):
            load(place)
    with pytest.raises(SettingError, match="data.dir is empty: give the folder of the .tar files"):
        datasets.load("webdataset")


def test_folders_in_tar_files_are_no_classes(load, tmp_path):
    members = {f"train/{kind}/{i}.png": picture(i) for kind in KINDS for i in range(3)}
    packed(tmp_path / "data" / "a.tar", members)
    data = load()
    assert (len(data.train), data.classes) == (9, ())
    (note,) = data.notes
    assert note.startswith("there are no labels (.cls, .json or .txt), and folders in the tar")
    assert "(train/cat/, train/dog/, ...)" in note
    assert load(labels="none").notes == ()


def test_folders_of_labelled_pictures_are_not_named(load, tmp_path):
    members = samples(range(6), folder="a/") | samples(range(6, 12), folder="b/")
    packed(tmp_path / "data" / "a.tar", members)
    assert load().notes == ()
