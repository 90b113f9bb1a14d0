"""Published data sets in their official layouts, on tiny copies."""

import json

import numpy as np
import pytest
from helpers import official
from helpers.images import pixels_in, sizes_in
from helpers.official import KINDS, TEST, TRAIN
from scipy.io import loadmat, savemat

from ssl_jax.data import datasets
from ssl_jax.data.voc07 import CLASSES
from ssl_jax.settings.resolve import SettingError

NAMES = {
    "places205": ("abbey", "arch", "yard/indoor"),
    "voc07": CLASSES,
    "inat18": ("Avis a", "Avis b", "Avis c"),
    "cub200": ("Black_footed_Albatross", "Laysan_Albatross", "Sooty_Albatross"),
    "dogs": ("Chihuahua", "Japanese_spaniel", "Maltese_dog"),
}
SINGLE = [name for name in official.MADE if name != "voc07"]


@pytest.fixture
def load(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()

    def made_and_loaded(name, change=None, **settings):
        if not any(folder.iterdir()):
            official.MADE[name](folder)
        if change:
            change(folder)
        settings = dict(dir=str(folder), size=8, cache=str(tmp_path / "cache")) | settings
        return datasets.load(name, **settings)

    return made_and_loaded


def numbers(images):
    """The numbers of pictures, by their grey level."""
    levels = pixels_in(images).mean(axis=(1, 2, 3))
    return np.round(levels / 7).astype(int)


@pytest.mark.parametrize("name", SINGLE)
def test_pictures_have_their_labels_splits_and_class_names(load, name):
    data = load(name)
    assert data.classes == NAMES[name]
    assert sorted(numbers(data.train.images)) == list(range(TRAIN))
    assert list(numbers(data.test.images)) == list(range(TRAIN, TRAIN + TEST))
    assert list(numbers(data.train.images)) != list(range(TRAIN))  # any first images are a sample
    for split in (data.train, data.test):
        np.testing.assert_array_equal(split.labels, numbers(split.images) % KINDS)
        assert split.targets is None
        assert (sizes_in(split.images) == official.SIZE).all()


def test_images_of_voc_have_targets(load):
    data = load("voc07")
    assert data.classes == CLASSES
    assert data.several_classes
    for split, rows in ((data.train, range(TRAIN)), (data.test, range(TRAIN, TRAIN + TEST))):
        assert sorted(numbers(split.images)) == list(rows)
        expected = np.stack([official.targets(i) for i in numbers(split.images)])
        np.testing.assert_array_equal(split.targets, expected)
        assert split.targets.dtype == np.int8
        assert (split.labels == -1).all()
        assert split.labelled.all()


def test_targets_stay_with_their_images(load):
    plain = load("voc07")
    limited = load("voc07", limit=5, whole=True, store="stream")
    targets = np.concatenate([plain.train.targets[:5], plain.test.targets])
    np.testing.assert_array_equal(limited.train.targets, targets)
    broken = plain.names()[3]

    def damage(folder):
        (folder / "VOCdevkit/VOC2007" / broken).write_bytes(b"no picture")

    rest = load("voc07", damage, skip_corrupt=True)
    assert rest.left_out == {"unreadable": 1}
    expected = np.stack([official.targets(i) for i in numbers(rest.train.images)])
    np.testing.assert_array_equal(rest.train.targets, expected)
    assert len(rest.train) == TRAIN - 1
    assert rest.fingerprint() != plain.fingerprint()


def test_the_fingerprint_depends_on_targets(load):
    before = load("voc07")

    def relabel(folder):
        path = folder / "VOCdevkit/VOC2007/ImageSets/Main/cat_test.txt"
        path.write_text(path.read_text().replace(" -1", "  1"))

    assert load("voc07", relabel).fingerprint() != before.fingerprint()


@pytest.mark.parametrize("name", official.MADE)
def test_streamed_pictures_are_those_of_the_cache(load, name):
    cached = load(name)
    streamed = load(name, store="stream")
    assert streamed.names() == cached.names()
    for ours, theirs in ((streamed.train, cached.train), (streamed.test, cached.test)):
        np.testing.assert_array_equal(pixels_in(ours.images), pixels_in(theirs.images))
        np.testing.assert_array_equal(ours.labels, theirs.labels)


@pytest.mark.parametrize("name", official.MADE)
def test_without_labels(load, name):
    data = load(name, labels="none")
    assert data.classes == ()
    assert (data.train.labels == -1).all()
    assert data.train.targets is None


def remove(path):
    return lambda folder: (folder / path).unlink()


LISTS = {
    "places205": ("train_places205.csv", "val_places205.csv"),
    "voc07": (
        "VOCdevkit/VOC2007/ImageSets/Main/cat_trainval.txt",
        "VOCdevkit/VOC2007/ImageSets/Main/dog_test.txt",
    ),
    "inat18": ("train2018.json", "val2018.json"),
    "cub200": tuple(
        f"CUB_200_2011/{name}.txt"
        for name in ("images", "image_class_labels", "train_test_split", "classes")
    ),
    "dogs": ("train_list.mat", "test_list.mat"),
}


@pytest.mark.parametrize(
    ("name", "path"), [(name, path) for name, paths in LISTS.items() for path in paths]
)
def test_a_missing_list_is_named_with_the_layout(load, name, path):
    with pytest.raises(SettingError) as error:
        load(name, remove(path))
    message = str(error.value)
    assert path.rpartition("/")[2] in message
    assert f"{name} needs a folder DIR with" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "path"), [(name, path) for name, paths in LISTS.items() for path in paths]
)
def test_a_damaged_list_is_named(load, name, path):
    def damage(folder):
        (folder / path).write_bytes(b"\xff\xfe nothing of use \n")

    with pytest.raises(SettingError) as error:
        load(name, damage)
    assert path.rpartition("/")[2] in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", official.MADE)
def test_a_missing_picture_is_named_before_any_is_decoded(load, name):
    missing = load(name, store="stream").names()[-1]

    def take(folder):
        next(folder.rglob(missing.rpartition("/")[2])).unlink()

    for settings in ({}, {"store": "stream"}):
        with pytest.raises(SettingError, match=r"is missing of 36 listed pictures; data\.skip_"):
            load(name, take if not settings else None, **settings)
    rest = load(name, skip_corrupt=True)
    assert len(rest.test) == TEST - 1
    assert rest.left_out == {"unreadable": 1}


@pytest.mark.parametrize("name", official.MADE)
@pytest.mark.parametrize("folder", ["", "nowhere", "."])
def test_another_folder_is_refused_with_the_layout(tmp_path, name, folder):
    where = str(tmp_path / folder) if folder else ""
    with pytest.raises(SettingError, match=f"{name} needs a folder DIR with"):
        datasets.load(name, dir=where, cache=str(tmp_path / "cache"))


def test_places_in_other_forms(load):
    def rearrange(folder):
        (folder / "categoryIndex_places205.csv").unlink()
        lists = folder / "trainvalsplit_places205"
        lists.mkdir()
        for split in ("train", "val"):
            text = (folder / f"{split}_places205.csv").read_text()
            (lists / f"{split}_places205.txt").write_text(text.replace(" ", ","))
            (folder / f"{split}_places205.csv").unlink()
        (folder / "images256").rename(folder / "images")

    data = load("places205", rearrange)
    assert data.classes == NAMES["places205"]
    np.testing.assert_array_equal(data.train.labels, numbers(data.train.images) % KINDS)


def test_species_without_names_have_the_numbers_of_the_list(load):
    assert load("inat18", remove("categories.json")).classes == ("0", "10", "20")


def test_lists_of_voc_must_agree(load):
    def drop(folder):
        path = folder / "VOCdevkit/VOC2007/ImageSets/Main/cat_test.txt"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))

    with pytest.raises(SettingError, match=r"cat_test.txt lists other images than aeroplane_test"):
        load("voc07", drop)


def test_a_class_without_training_images_is_named(load):
    def empty(folder):
        path = folder / "train2018.json"
        record = json.loads(path.read_text())
        record["annotations"] = [x for x in record["annotations"] if x["category_id"] != 20]
        kept = {x["image_id"] for x in record["annotations"]}
        record["images"] = [x for x in record["images"] if x["id"] in kept]
        path.write_text(json.dumps(record))

    with pytest.raises(SettingError, match="'Avis c', but no training image has"):
        load("inat18", empty)


def test_a_label_beyond_the_classes_is_named(load):
    def relabel(folder):
        path = folder / "CUB_200_2011/image_class_labels.txt"
        path.write_text(path.read_text().replace("1 1\n", "1 9\n", 1))

    with pytest.raises(SettingError, match="class 9, which classes.txt lacks"):
        load("cub200", relabel)


def edited(path, change):
    """A change of a data set: replaces the text of its file `path` by `change(text)`."""

    def edit(folder):
        file = folder / path
        file.write_text(change(file.read_text()))

    return edit


def edited_json(path, change):
    """A change of a data set: applies `change` to what its JSON file `path` holds."""

    def edit(text):
        record = json.loads(text)
        change(record)
        return json.dumps(record)

    return edited(path, edit)


def edited_mat(path, change):
    """A change of a data set: applies `change` to the arrays of its MATLAB file `path`."""

    def edit(folder):
        arrays = loadmat(folder / path)
        kept = {name: arrays[name] for name in ("file_list", "labels")}
        change(kept)
        savemat(folder / path, kept)

    return edit


PLACES = "train_places205.csv"
INAT = "train2018.json"
CONTRADICTIONS = {
    "a picture of both splits": (
        "places205",
        edited("val_places205.csv", lambda text: text + "a/abbey/00.jpg 0\n"),
        r"'?a/abbey/00\.jpg'? for training and for testing",
    ),
    "a picture of two classes": (
        "places205",
        edited(PLACES, lambda text: text + "a/abbey/00.jpg 1\n"),
        r"give a/abbey/00\.jpg two labels",
    ),
    "a label of no type": (
        "places205",
        edited(PLACES, lambda text: text.replace(" 2\n", " 99999999999999999999\n", 1)),
        r"train_places205\.csv, line 3: .* expected a name and a whole number",
    ),
    "an empty list of classes": (
        "places205",
        edited("categoryIndex_places205.csv", lambda text: ""),
        r"categoryIndex_places205\.csv is empty",
    ),
    "a path that leads out": (
        "places205",
        edited(PLACES, lambda text: text + "../../00.jpg 0\n"),
        r"'\.\./\.\./00\.jpg', which is no path below DIR",
    ),
    "a NUL in a path": (
        "places205",
        edited(PLACES, lambda text: text + "a/\0.jpg 0\n"),
        "which is no path below DIR",
    ),
    "half a surrogate in a path": (
        "inat18",
        edited_json(INAT, lambda record: record["images"][0].update(file_name="\ud800.jpg")),
        "which is no path below DIR",
    ),
    "an absolute path": (
        "inat18",
        edited_json(INAT, lambda record: record["images"][0].update(file_name="/etc/passwd")),
        r"'/etc/passwd', which is no path below DIR",
    ),
    "no path": (
        "inat18",
        edited_json(INAT, lambda record: record["images"][0].update(file_name=None)),
        r"train2018\.json lacks .*None is no file name",
    ),
    "a fractional category": (
        "inat18",
        edited_json(INAT, lambda record: record["annotations"][0].update(category_id=10.5)),
        r"train2018\.json lacks .*10\.5",
    ),
    "an infinite identifier": (
        "inat18",
        edited_json(INAT, lambda record: record["images"][0].update(id=float("inf"))),
        r"train2018\.json lacks .*inf",
    ),
    "an image without a category": (
        "inat18",
        edited_json(INAT, lambda record: record["annotations"].pop()),
        r"train2018\.json has images without a category",
    ),
    "a category twice": (
        "inat18",
        edited_json("categories.json", lambda record: record.append({"id": 0, "name": "Avis z"})),
        r"categories\.json has a category twice",
    ),
    "a third split": (
        "cub200",
        edited("CUB_200_2011/train_test_split.txt", lambda text: text.replace(" 1\n", " 2\n", 1)),
        r"train_test_split\.txt has numbers besides 0 and 1",
    ),
    "fractional labels": (
        "dogs",
        edited_mat("train_list.mat", lambda arrays: arrays.update(labels=arrays["labels"] + 0.5)),
        r"train_list\.mat has no .*label 1\.5",
    ),
    "infinite labels": (
        "dogs",
        edited_mat("train_list.mat", lambda arrays: arrays.update(labels=np.full((24, 1), np.inf))),
        r"train_list\.mat has no .*infinity",
    ),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_contradictions_and_odd_entries_are_named(load, case):
    name, change, message = CONTRADICTIONS[case]
    with pytest.raises(SettingError, match=message) as error:
        load(name, change)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["places205", "inat18", "cub200"])
def test_lists_may_have_windows_line_ends_and_a_byte_order_mark(load, name):
    def convert(folder):
        for ending in ("csv", "json", "txt"):
            for path in folder.rglob(f"*.{ending}"):
                path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))

    data = load(name, convert)
    assert data.classes == NAMES[name]
    np.testing.assert_array_equal(data.train.labels, numbers(data.train.images) % KINDS)


def test_the_first_picture_of_places_may_be_missing(load):
    def take(folder):
        (folder / "images256/a/abbey/00.jpg").unlink()

    with pytest.raises(SettingError, match=r"a/abbey/00\.jpg is missing of 36 listed pictures"):
        load("places205", take)
    data = load("places205", skip_corrupt=True)
    assert len(data.train) == TRAIN - 1
