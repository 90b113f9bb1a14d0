"""Folders as people have them: names of splits, images without labels, other files."""

import os
import shutil

import numpy as np
import pytest
from helpers.images import pixels_in
from PIL import Image

from ssl_jax.data import datasets, formats
from ssl_jax.data.layout import layout_of
from ssl_jax.settings.resolve import SettingError

VALUES = {"cat": 20, "dog": 120, "emu": 220, "unlabelled": 250}


def fill(folder, each, value=100, suffix=".png"):
    """Pictures of one grey value."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(each):
        Image.new("RGB", (12, 10), (value,) * 3).save(folder / f"{i}{suffix}")


def classes_below(folder, each, names=("cat", "dog")):
    for name in names:
        fill(folder / name, each, VALUES[name])


@pytest.fixture
def root(tmp_path):
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


@pytest.fixture
def load(tmp_path, root):
    settings = dict(dir=str(root), cache=str(tmp_path / "cache"), size=8)
    return lambda **more: datasets.load("folder", **settings | more)


def values(images):
    """The grey value of each image [N, H, W, C]."""
    return pixels_in(images)[:, 4, 4, 0].tolist()


def assert_labels_fit(data):
    for split in (data.train, data.test):
        names = [data.classes[i] if i >= 0 else "unlabelled" for i in split.labels]
        assert values(split.images) == [VALUES[name] for name in names]


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Training", "Testing"),
        ("Train", "Val"),
        ("TRAIN", "TEST"),
        ("training", "Validation"),
        ("train", "VALID"),
        ("train", "testing"),
    ],
)
def test_splits_are_named_in_any_case(root, load, train, test):
    classes_below(root / train, 4)
    classes_below(root / test, 2)
    data = load()
    assert data.classes == ("cat", "dog")
    assert (len(data.train), len(data.test), data.notes) == (8, 4, ())
    assert_labels_fit(data)
    assert set(data.names()[8:]) == {f"{test}/{c}/{i}.png" for c in data.classes for i in range(2)}


def test_the_first_of_several_test_splits_is_read_and_the_others_are_named(root, load):
    for name, each in {"train": 4, "test": 3, "Val": 2, "extra": 5}.items():
        classes_below(root / name, each)
    (root / "__MACOSX" / "train").mkdir(parents=True)
    data = load()
    assert (len(data.train), len(data.test)) == (8, 4)
    assert data.notes == ("extra/ and test/ are not read, only train/ and Val/",)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("train/cat", "Train/cat"), "has Train/ and train/, which mean the same split; rename"),
        (("train/cat", "training/dog"), "has train/ and training/, which mean the same split"),
        (("train/cat", "TEST/cat", "test/cat"), "has TEST/ and test/, which mean the same split"),
        (
            ("test/cat", "val/cat", "test/dog"),
            "has test/ and val/ but no train/; rename the folder",
        ),
        (("Test/cat", "Test/dog"), "are in cat/ and dog/ of .*images/Test; give data.dir=.*/Test"),
        (("all/cat", "all/dog"), "images are in cat/ and dog/ of .*; give data.dir=.*images/all"),
        (("a/data/train/cat", "a/data/val/cat"), "in train/ and val/ of .*; give .*/images/a/data"),
        (("train/all/a", "train/all/b"), "in a/ and b/ of .*images/train/all; give data.dir="),
        (("train/a", "train/b", "val/unlabeled"), "val/unlabeled is a class that train/ lacks"),
    ],
)
def test_layouts_that_can_be_read_in_two_ways_are_one_line(root, load, folders, message):
    for folder in folders:
        fill(root / folder, 2)
    with pytest.raises(SettingError, match=message) as error:
        load()
    assert "\n" not in str(error.value)


def test_class_folders_may_have_the_names_of_splits(root, load):
    classes_below(root, 3)
    fill(root / "Train", 3)
    fill(root / "test", 3)
    (root / "Train").rename(root / "bus")
    assert load().classes == ("bus", "cat", "dog", "test")
    fill(root / "Train", 3)
    shutil.rmtree(root / "test")
    assert load().classes == ("Train", "bus", "cat", "dog")


def test_a_flat_train_folder_with_a_test_split_is_a_split(root, load):
    fill(root / "train", 5, 20)
    fill(root / "test", 2, 120)
    (root / "annotations").mkdir()
    data = load()
    assert (data.classes, values(data.train.images), values(data.test.images)) == (
        (),
        [20] * 5,
        [120] * 2,
    )
    assert data.notes == ("annotations/ is not read, only train/ and test/",)


@pytest.mark.parametrize("name", ["unlabelled", "Unlabeled", "unsup", "UNSUPERVISED"])
@pytest.mark.parametrize("layout", ["classes", "inside", "beside"])
def test_folders_without_labels(root, load, name, layout):
    top = "" if layout == "classes" else "Train"
    classes_below(root / top, 10)
    if top:
        classes_below(root / "test", 2)
    place = name if layout != "inside" else f"Train/{name}"
    fill(root / place, 30, VALUES["unlabelled"])
    data = load()
    assert data.classes == ("cat", "dog")
    assert_labels_fit(data)
    each = 10 if top else 9
    assert np.bincount(data.train.labels + 1).tolist() == [30, each, each]
    assert np.bincount(data.test.labels).tolist() == [10 - each or 2] * 2
    assert data.notes == (f"30 images of {place}/ have no label",)
    assert set(data.train.labels[:20]) == {-1, 0, 1}
    again = load(store="stream")
    assert again.names() == data.names()
    np.testing.assert_array_equal(again.train.labels, data.train.labels)
    everything = load(labels="none")
    assert (len(everything.train), everything.classes) == (50, ())
    assert everything.notes == ()


def test_nothing_but_images_without_labels(root, load):
    fill(root / "unlabeled", 3)
    data = load()
    assert (len(data.train), data.classes, data.notes) == (3, (), ())
    fill(root / "cat", 3)
    data = load()
    assert (len(data.train), data.classes) == (6, ())
    assert data.notes[0].startswith("cat/ is the only class folder, so all images are read without")


@pytest.mark.parametrize("place", ["all", "train/all", "all/images", "test"])
def test_a_single_folder_is_no_class(root, load, place):
    fill(root / place, 5)
    fill(root / place / "more" / "still", 1)
    data = load()
    assert data.classes == ()
    assert data.train.labels.tolist() == [-1] * 6
    assert len(data.test) == 0
    name = place.removesuffix("/images")
    assert data.notes == (
        f"{name}/ is the only class folder, so all images are read without labels; for labels, put "
        "the images of each class into a folder of their own",
    )
    assert load(store="stream").notes == data.notes
    assert load(labels="none").notes == ()


def test_a_test_split_of_a_single_folder_is_kept(root, load):
    fill(root / "Training" / "all", 5, 20)
    fill(root / "Testing" / "all", 2, 120)
    data = load()
    assert (data.classes, len(data.train), values(data.test.images)) == ((), 5, [120, 120])
    assert data.test.labels.tolist() == [-1, -1]
    assert data.notes[0].startswith("Training/all/ is the only class folder")


def test_other_files_are_counted_by_their_ending(root, load):
    classes_below(root / "train", 3)
    classes_below(root / "val", 3)
    others = (
        "train/list.CSV", "train/cat/a.csv", "val/dog/README", "val/x.tar.gz", "labels.txt",
        "train/scan.0001", "train/scan.0002", "train/Mr. Smith", "train/.hidden.txt",
        ".git/config.txt", "train/dot.",
    )  # fmt: skip
    for name in others:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).touch()
    (root / "train" / "gone").symlink_to("nowhere")
    os.mkfifo(root / "val" / "pipe")
    expected = {".csv": 2, "": 7, ".gz": 1, ".txt": 1}
    assert load().left_out == expected
    assert load(store="stream").left_out == expected
    shutil.rmtree(root / "train")
    shutil.rmtree(root / "val")
    fill(root, 2)
    assert load().left_out == {".txt": 1}


def test_formats_as_people_have_them(root, load):
    noise = np.random.default_rng(0).integers(0, 256, (10, 12, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    counts = {".jpg": 3, ".TIF": 7, ".jfif": 2, ".gif": 2, ".heic": 1}
    for suffix, count in counts.items():
        for i in range(count):
            kind = {".jpg": "JPEG", ".jfif": "JPEG", ".heic": "PNG"}.get(suffix, suffix[1:])
            kind = "TIFF" if suffix == ".TIF" else kind
            picture.save(root / f"{i}{suffix}", kind)
    picture.save(root / "none", "PNG")
    readable = ".heic" in formats.suffixes()
    data = load()
    assert len(data.train) == 14 + readable
    assert data.left_out == {"": 1} | ({} if readable else {".heic": 1})


def test_without_its_package_heic_is_left_out_and_said(root, load, monkeypatch):
    known = tuple(x for x in formats.formats() if x not in ("HEIF", "AVIF"))
    monkeypatch.setattr(formats, "formats", lambda: known)
    fill(root, 2)
    for name in ("a.heic", "b.HEIF", "c.avif"):
        (root / name).touch()
    data = load()
    assert data.left_out == {".heic": 1, ".heif": 1, ".avif": 1}
    assert data.notes == (
        "2 .heic/.heif files are left out; to read them: pip install 'ssl_jax[heic]'",
        "1 .avif file is left out; to read them: pip install --upgrade pillow",
    )
    for path in root.glob("*.png"):
        path.unlink()
    message = r"it has 3 files \(.avif 1, .heic 1, .heif 1\); .*pip install 'ssl_jax\[heic\]'"
    with pytest.raises(SettingError, match=message):
        load()


@pytest.mark.skipif("HEIF" not in formats.formats(), reason="pillow-heif is not installed")
def test_heic_is_read(root, load):
    fill(root, 2, suffix=".heic")
    data = load()
    np.testing.assert_allclose(pixels_in(data.train.images), 100, atol=6)


@pytest.mark.skipif("AVIF" not in formats.formats(), reason="Pillow lacks AVIF")
def test_avif_is_read(root, load):
    fill(root, 2, suffix=".avif")
    np.testing.assert_allclose(pixels_in(load().train.images), 100, atol=6)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "MPO"])
def test_the_first_frame_is_read(root, load, kind):
    frames = [Image.new("RGB", (12, 10), (value,) * 3) for value in (40, 140, 240)]
    suffix = ".jpg" if kind == "MPO" else f".{kind.lower()}"  # as cameras name their stereo pairs
    frames[0].save(root / f"x{suffix}", kind, save_all=True, append_images=frames[1:])
    with Image.open(root / f"x{suffix}") as image:
        assert (image.format, image.n_frames) == (kind, 3)
    np.testing.assert_allclose(pixels_in(load().train.images), 40, atol=2)


def test_what_the_error_says_of_a_folder_without_images(root, load):
    with pytest.raises(SettingError, match="no images .*images; file names must end in .jpg .jpeg"):
        load()
    (root / "a").mkdir()
    for name in ("a/1.svg", "a/2.svg", "3.pdf", "README"):
        (root / name).touch()
    message = r"in data.dir=.*; it has 4 files \(.svg 2, 1 without ending, .pdf 1\); file names"
    with pytest.raises(SettingError, match=message) as error:
        load()
    assert "\n" not in str(error.value)
    for i in range(20):
        (root / f"x.e{i}x").touch()
    with pytest.raises(SettingError, match=r"it has 24 files \(.svg 2, .*, 16 others\)"):
        load()


def bad(kind, path):
    """A file that cannot be read."""
    if kind == "dangling":
        path.symlink_to("nowhere")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "damaged":
        path.write_bytes(b"\x89PNG\r\n\x1a\n and no more of it than this")
    elif kind == "forbidden":
        shutil.copy(path.parent / "0.png", path)
        path.chmod(0)


@pytest.fixture
def as_user(monkeypatch):
    """Access rights hold, for root as well."""
    if os.geteuid() == 0:
        really_open = open

        def checked(path, *args, **settings):
            if not os.stat(path).st_mode & 0o400:
                raise PermissionError(13, "Permission denied", path)
            return really_open(path, *args, **settings)

        monkeypatch.setattr("ssl_jax.data.decode.open", checked, raising=False)
        monkeypatch.setattr("ssl_jax.data.folder.os.access", lambda path, mode: False)


@pytest.mark.parametrize("kind", ["dangling", "loop", "pipe", "damaged", "forbidden"])
@pytest.mark.usefixtures("as_user")
def test_files_that_cannot_be_read(root, load, kind):
    classes_below(root, 4)
    bad(kind, root / "cat" / "bad.png")
    for settings in ({}, {"store": "stream"}):
        with pytest.raises(SettingError, match="cat/bad.png cannot be read .*data.skip_corrupt=T"):
            load(**settings)
    data = load(skip_corrupt=True)
    assert len(data.train) + len(data.test) == 8
    assert data.left_out == {"unreadable": 1}
    assert data.notes[-1].startswith("1 of 9 images cannot be read and are skipped; the first: ")
    assert_labels_fit(data)


@pytest.mark.usefixtures("as_user")
def test_files_that_can_be_read_again_are_read(root, load, monkeypatch):
    classes_below(root, 4)
    bad("forbidden", root / "cat" / "x.png")
    bad("dangling", root / "dog" / "y.png")
    assert load(skip_corrupt=True).left_out == {"unreadable": 2}
    (root / "cat" / "x.png").chmod(0o644)
    fill(root / "dog" / "nowhere", 1, VALUES["dog"])
    (root / "dog" / "nowhere" / "0.png").rename(root / "dog" / "z")
    (root / "dog" / "y.png").unlink()
    (root / "dog" / "y.png").symlink_to("z")
    assert load(skip_corrupt=True).left_out == {"": 1}


def test_too_many_open_files_are_no_damage(root, load, monkeypatch):
    classes_below(root, 4)

    def full(path, *args):
        raise OSError(24, "Too many open files", path)

    monkeypatch.setattr("ssl_jax.data.decode.open", full, raising=False)
    with pytest.raises(SettingError, match=r"cannot be read \(Too many open files\)$"):
        load(skip_corrupt=True)


def test_the_layout_of_a_folder(root):
    for name in ("Train/cat", "Test", "unsup", "docs", ".git"):
        (root / name).mkdir(parents=True)
    (root / "a.txt").touch()
    layout = layout_of(datasets.Source(dir=str(root)), root)
    assert layout.tops == ["Train", "Test", "unsup"]
    assert (layout.unread, layout.left_out) == (("docs",), {".txt": 1})


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("seg_train", "seg_test"),
        ("training_set", "test_set"),
        ("Train ", "Test "),
        ("trainset", "val2"),
    ],
)
def test_splits_with_longer_names_are_no_classes(root, load, train, test):
    """Kaggle's Intel images, cats and dogs; they would make two classes."""
    classes_below(root / train, 3)
    classes_below(root / test / test, 2)
    with pytest.raises(
        SettingError, match="are splits by their names, not classes; call"
    ) as caught:
        load()
    assert "\n" not in str(caught.value)
    assert len(load(labels="none").train) == 10


def test_classes_that_have_the_word_of_a_split(root, load):
    classes_below(root, 3, ("cat", "dog"))
    fill(root / "Test", 3)
    data = load()
    assert data.classes == ("Test", "cat", "dog")
    assert data.notes == ("Test/ is read as a class, in spite of its name",)
    shutil.move(root / "Test", root / "train station")
    assert load().notes == ()
    fill(root / "test tube", 3)
    assert load().notes == ()


def test_an_empty_validation_folder_does_not_hide_the_test_images(root, load):
    classes_below(root / "train", 4)
    (root / "val" / "cat").mkdir(parents=True)
    (root / "val" / "cat" / "up").symlink_to(root / "val")
    (root / "val" / "cat" / "list.txt").write_text("x")
    (root / "valid").mkdir()
    classes_below(root / "test", 2)
    data = load()
    assert (len(data.train), len(data.test)) == (8, 4)
    assert_labels_fit(data)
    assert data.notes[0] == "val/ and valid/ have no images, so test/ is read"
    assert not any("not read" in note for note in data.notes)
    fill(root / "val" / "cat", 1, VALUES["cat"])
    data = load()
    assert len(data.test) == 1
    assert data.notes[0] == "test/ and valid/ are not read, only train/ and val/"
