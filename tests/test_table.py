"""Tables of pictures, as Excel, pandas and others write them."""

import csv
import io
import os

import numpy as np
import pytest
from helpers.images import pixels_in
from PIL import Image

from ssl_jax.data import datasets
from ssl_jax.settings.resolve import SettingError

RNG = np.random.default_rng(0)
NAMES = [f"images/{i:02}.png" for i in range(12)]
KINDS = ["dog", "cat", "ärmel"]
LABELS = [KINDS[i % 3] for i in range(12)]


@pytest.fixture
def folder(tmp_path):
    """Twelve pictures of one colour each, by which they are told apart."""
    (tmp_path / "images").mkdir()
    for i, name in enumerate(NAMES):
        Image.new("RGB", (10, 8), (20 * i, 0, 0)).save(tmp_path / name)
    return tmp_path


@pytest.fixture
def load(folder):
    def write_and_load(content, name="table.csv", **settings):
        raw = content if isinstance(content, bytes) else content.encode()
        (folder / name).write_bytes(raw)
        settings = dict(size=4, cache=str(folder / "cache")) | settings
        return datasets.load("table", dir=str(folder / name), **settings)

    return write_and_load


def text(*columns, header=("path", "label", "split"), delimiter=",", end="\n", quoting=0):
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerow(header[: len(columns)])
    writer.writerows(zip(*columns))
    return out.getvalue()


def contents(data):
    """(number of the picture, class, whether to train on it) of all images, sorted."""
    rows = []
    for split, train in ((data.train, True), (data.test, False)):
        for image, label in zip(pixels_in(split.images), split.labels):
            assert (image == image[0, 0]).all()
            name = data.classes[label] if label >= 0 else ""
            rows.append((round(image[0, 0, 0] / 20), name, train))
    return sorted(rows)


SPLITS = ["train"] * 9 + ["test"] * 3
EXPECTED = [(i, LABELS[i], i < 9) for i in range(12)]
WRITTEN = {
    "pandas": text(NAMES, LABELS, SPLITS).encode(),
    "pandas with its index": text(
        range(12), NAMES, LABELS, SPLITS, header=("", "path", "label", "split")
    ).encode(),
    "an index read back": text(
        range(12), NAMES, LABELS, SPLITS, header=("Unnamed: 0", "path", "label", "split")
    ).encode(),
    "Excel": text(NAMES, LABELS, SPLITS, delimiter=";", end="\r\n").encode("utf-8-sig"),
    "old Excel": text(NAMES, LABELS, SPLITS, delimiter=";", end="\r\n").encode("cp1252"),
    "Unicode": text(NAMES, LABELS, SPLITS, delimiter="\t", end="\r\n").encode("utf-16"),
    "Excel with a hint": b"sep=;\r\n" + text(NAMES, LABELS, SPLITS, delimiter=";").encode(),
    "quoted": text(NAMES, LABELS, SPLITS, quoting=csv.QUOTE_ALL).encode(),
    "old Mac": text(NAMES, LABELS, SPLITS, end="\r").encode(),
    "empty lines": text(NAMES, LABELS, SPLITS).encode() + b"\n,,\n  \n\n",
    "spaces": text(NAMES, LABELS, SPLITS, delimiter=",").replace(",", " , ").encode(),
    "Windows": text([n.replace("/", "\\") for n in NAMES], LABELS, SPLITS).encode(),
    "other names": text(NAMES, LABELS, SPLITS, header=("File Name", "CLASS", "Data Set")).encode(),
    "other order": text(SPLITS, LABELS, NAMES, header=("split", "category", "image")).encode(),
    "other words": text(
        NAMES, LABELS, ["Training", ""] * 4 + ["TRAIN"] + ["Testing", "TEST", "test"]
    ).encode(),
    "dots": text([f"./images/../{n}" for n in NAMES], LABELS, SPLITS).encode(),
}


@pytest.mark.parametrize("form", WRITTEN)
def test_tables_as_programs_write_them(load, form):
    data = load(WRITTEN[form])
    assert contents(data) == EXPECTED
    assert data.classes == ("cat", "dog", "ärmel")
    western = ["is not in UTF-8, and read as Western European text (cp1252)"]
    expected = western if form == "old Excel" else []
    assert [note.partition("table.csv ")[2] for note in data.notes] == expected
    assert sorted(data.names()) == NAMES


def test_tsv_and_absolute_paths(load, folder):
    absolute = [str(folder / name) for name in NAMES]
    data = load(text(absolute, LABELS, SPLITS, delimiter="\t"), "table.tsv")
    assert contents(data) == EXPECTED
    assert sorted(data.names()) == NAMES


def test_a_folder_with_one_table(load, folder):
    load(WRITTEN["pandas"])
    data = datasets.load("table", dir=str(folder), size=4, cache=str(folder / "cache"))
    assert contents(data) == EXPECTED


def test_parquet(load, folder):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pa.table(
        {
            "index": list(range(12)),
            "path": NAMES,
            "label": pa.array(LABELS).dictionary_encode(),
            "split": SPLITS[:-1] + ["val"],
        }
    )
    parquet.write_table(table, folder / "made.parquet")
    data = load((folder / "made.parquet").read_bytes(), "table.parquet")
    assert contents(data) == [row for row in EXPECTED if row[0] != 11]
    expected = "the validation split, 1 image, is left out; scores are on the test split"
    assert data.notes == (expected,)
    table = pa.table({"path": [*NAMES[:3], None], "label": [0.0, None, 5.0, None]})
    parquet.write_table(table, folder / "made.parquet")
    data = load((folder / "made.parquet").read_bytes(), "table.parquet", test_share=0.01)
    assert contents(data) == [(0, "0", True), (1, "", True), (2, "5", True)]
    parquet.write_table(pa.table({"image": [{"bytes": b"", "path": ""}]}), folder / "made.parquet")
    with pytest.raises(SettingError, match="image is no column of text; .*data.name=hf:"):
        load((folder / "made.parquet").read_bytes(), "table.parquet")
    with pytest.raises(SettingError, match="is not a readable Parquet file"):
        load(b"PAR1 and then nothing", "table.parquet")


def test_only_paths_are_unlabelled(load):
    data = load(text(NAMES, header=("path",)))
    assert data.classes == ()
    assert len(data.train) == 12
    assert data.names() != NAMES  # in a fixed random order
    assert data.names() == load(text(NAMES, header=("path",))).names()
    assert len(load(text(NAMES, header=("path",)), limit=5).train) == 5


def test_a_share_is_held_out_without_splits(load):
    data = load(text(NAMES, LABELS), test_share=0.25)
    np.testing.assert_array_equal(np.bincount(data.test.labels), [1, 1, 1])
    assert len(data.train) == 9
    assert {name for _, name, _ in contents(data)} == set(KINDS)


def test_labels_that_are_numbers(load):
    labels = [10, 2, ""] * 4
    data = load(text(NAMES, labels, SPLITS))
    assert data.classes == ("2", "10")
    assert contents(data) == [(i, str(labels[i]), i < 9) for i in range(12)]
    floats = load(text(NAMES, ["10.0", "2.0", ""] * 4, SPLITS))
    assert contents(floats) == contents(data)
    minus = load(text(NAMES, ["10", "2", "-1"] * 4, SPLITS))
    assert contents(minus) == contents(data)
    assert minus.notes == ("4 rows with the label -1, read as unlabelled",)


def test_labels_are_not_read_if_unwanted(load):
    data = load(text(NAMES, np.linspace(0, 1, 12), SPLITS), labels="none")
    assert (data.classes, len(data.train), len(data.test)) == ((), 9, 3)


def test_rows_of_an_unlabelled_split_train_without_a_label(load):
    splits = ["train"] * 6 + ["Unlabeled"] * 3 + ["test"] * 3
    rows = contents(load(text(NAMES, LABELS, splits)))
    assert rows == [(i, "" if 6 <= i < 9 else LABELS[i], i < 9) for i in range(12)]


def test_validation_rows_test_if_the_test_rows_have_no_labels(load):
    splits = ["train"] * 6 + ["val"] * 3 + ["test"] * 3
    data = load(text(NAMES, LABELS[:9] + [""] * 3, splits))
    assert contents(data) == [(i, LABELS[i], i < 6) for i in range(9)]
    expected = "the test split, 3 images, is left out; scores are on the validation split"
    assert data.notes == (expected,)


def test_rows_that_repeat_a_picture(load, folder):
    names = [*NAMES, NAMES[0], NAMES[1], NAMES[10]]
    data = load(text(names, [*LABELS, "dog", "dog", "cat"], [*SPLITS, *["train"] * 3]))
    assert len(data.train) == 12
    expected = (
        f"3 rows with a picture of an earlier row, the first in line 14 ({folder / NAMES[0]}), "
        "1 with another label, 1 in another split"
    )
    assert data.notes == (expected,)


def test_missing_files(load, folder):
    os.remove(folder / NAMES[4])
    (folder / NAMES[5]).write_bytes(b"no picture")
    table = text(NAMES, LABELS, SPLITS)
    with pytest.raises(SettingError, match=r"table.csv, line 6: there is no file images/04.png; p"):
        load(table)
    with pytest.raises(SettingError, match=r"line 2: there is no file x, and 2 more are missing"):
        load(text(["x", "y", *NAMES[2:]], LABELS, SPLITS))
    data = load(table, skip_corrupt=True)
    assert contents(data) == [row for row in EXPECTED if row[0] not in (4, 5)]
    assert data.left_out == {"unreadable": 2}
    with pytest.raises(SettingError, match="there is no file images/04.png"):
        load(table, store="stream")


def test_streamed_pictures_are_those_of_the_cache(load):
    cached = load(WRITTEN["pandas"])
    streamed = load(WRITTEN["pandas"], store="stream")
    assert streamed.fingerprint() == cached.fingerprint()
    assert streamed.names() == cached.names()


def test_pictures_of_more_than_8_bits_are_scaled(load, folder):
    for i, name in enumerate(NAMES):
        Image.fromarray(np.full((8, 10), 300 * i, np.uint16)).save(folder / name)
    data = load(text(NAMES, LABELS, SPLITS))
    assert data.range == (0.0, 2400.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "table.csv has the columns ; expected path .or file"),
        (text(header=()), "expected path"),
        (text(NAMES, LABELS, header=("picture", "label")), "has the columns picture, label; exp"),
        (text(header=("path", "label")) + "path,label\n", "table.csv has no rows"),
        (
            text(NAMES, LABELS, header=("file", "image")),
            "has the columns file and image, each of which could be the path; rename one to path",
        ),
        (
            text(NAMES, LABELS, LABELS, header=("path", "class", "target")),
            "has the columns class and target, each of which could be the label; rename one to l",
        ),
        (text(NAMES, LABELS, ["1"] * 12), "line 2: the split is '1'; write train, val or test"),
        (text(["", *NAMES[1:]], LABELS), "line 2: no path"),
        (text(NAMES, LABELS, ["test"] * 12), "has no training images, only 12 in other splits"),
        (text(NAMES, ["a"] * 12), "are of one class, 'a'"),
        (
            text(NAMES, [*LABELS[:11], "fox"], SPLITS),
            "test images have the label 'fox', but no training image has",
        ),
        (
            text(NAMES, np.linspace(0, 1, 12)),
            "the labels hold numbers such as 0.0909.*which are no classes",
        ),
        (text(NAMES, LABELS) + "images/a,b.png,dog\n", "line 14: 3 fields for 2 columns; put"),
        (b"PK\x03\x04....", "is an Excel workbook or a zip archive; save the sheet as CSV"),
        (b"\x1f\x8b....", "is compressed; unpack it"),
        (b"path\0label", "is not a text file; save it as CSV in UTF-8"),
        (b"\xff\xfea", "is not valid text"),
        (b'path\n"' + b"x" * 200_000, "is not a readable CSV file .field larger"),
    ],
)
def test_mistakes_end_in_one_line(load, content, message):
    with pytest.raises(SettingError, match=message) as caught:
        load(content)
    assert "\n" not in str(caught.value)


def test_tables_that_are_none(folder):
    for directory, message in (
        ("", "data.dir is empty: give the table"),
        (str(folder / "a.csv"), "no such file; give a table"),
        (str(folder), "is a folder with 0 tables"),
    ):
        with pytest.raises(SettingError, match=message):
            datasets.load("table", dir=directory)


def test_columns_that_may_be_labels_are_named(load):
    numbers = [str(i) for i in range(12)]
    header = ("Unnamed: 0", "path", "diagnosis", "age")
    data = load(text(numbers, NAMES, LABELS, numbers, header=header))
    assert data.classes == ()
    assert data.notes == (
        "not read: 2 columns (diagnosis, age); one of labels must be called label",
    )
    assert load(text(NAMES, LABELS, numbers, header=("path", "label", "age"))).notes == ()
    assert load(text(NAMES, LABELS, header=("path", "dx")), labels="none").notes == ()


@pytest.mark.parametrize("word", ["NA", "NaN", "#N/A", "None"])
def test_words_for_missing_labels_are_said_to_be_a_class(load, word):
    data = load(text(NAMES, [word, word, *LABELS[2:]]))
    assert word in data.classes
    assert data.notes == (
        f"2 rows with the label {word}, read as a class; leave the cells empty if there is no "
        "label",
    )
