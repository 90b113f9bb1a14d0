"""Folders of image files: layouts, decoding, the cache."""

import errno
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers.images import assert_same_images, pixels_in, sizes_in
from PIL import Image

from ssl_jax.data import cache, cache_files, datasets, decode, parallel, pictures
from ssl_jax.data.walk import Walk
from ssl_jax.runtime import file_lock
from ssl_jax.settings.resolve import SettingError

RNG = np.random.default_rng(0)
ROOT = Path(__file__).parent.parent


def draw(path, colour=(200, 30, 30), size=(20, 14), **options):
    """A picture of one colour with a little noise."""
    pixels = np.clip(RNG.normal(colour, 3, (size[1], size[0], 3)), 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


COLOURS = {"blue": (30, 30, 200), "green": (30, 200, 30), "red": (200, 30, 30)}


def classes_below(folder, each):
    for name, colour in COLOURS.items():
        for i in range(each):
            draw(folder / name / f"{i}.png", colour)


@pytest.fixture
def load(tmp_path):
    settings = dict(dir=str(tmp_path / "images"), cache=str(tmp_path / "cache"), size=8)
    return lambda **more: datasets.load("folder", **settings | more)


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


def brightest(images):
    """The class by colour: blue 0, green 1, red 2."""
    return 2 - pixels_in(images).mean(axis=(1, 2)).argmax(axis=1)


@pytest.mark.parametrize("test", ["val", "valid", "validation", "test"])
def test_splits_with_class_folders(images, load, test):
    classes_below(images / "train", 10)
    classes_below(images / test, 2)
    data = load()
    assert data.classes == ("blue", "green", "red")
    assert data.train.images.shape == (30, 8, 8, 3)
    for split, each in ((data.train, 10), (data.test, 2)):
        np.testing.assert_array_equal(brightest(split.images), split.labels)
        np.testing.assert_array_equal(np.bincount(split.labels), [each] * 3)
        assert isinstance(split.images.pixels, np.memmap)
    assert len(np.unique(load(limit=8).train.labels)) == 3
    assert_same_images(load(limit=8).train.images, data.train.images[:8])
    shares = data.train.images.pixels / 255
    np.testing.assert_allclose(data.mean, shares.mean(axis=(0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(data.std, shares.std(axis=(0, 1, 2)), atol=1e-4)


def test_class_folders_alone_hold_a_share_out(images, load):
    classes_below(images, 10)
    draw(images / "red" / "deep" / "er" / "more.JPEG")
    draw(images / ".hidden" / "x.png")
    draw(images / "red" / "._x.png")
    (images / "docs").mkdir()
    (images / "readme.txt").write_text("not an image")
    data = load(test_share=0.2)
    np.testing.assert_array_equal(np.bincount(data.test.labels), [2, 2, 2])
    np.testing.assert_array_equal(np.bincount(data.train.labels), [8, 8, 9])
    np.testing.assert_array_equal(brightest(data.test.images), data.test.labels)


@pytest.mark.parametrize("below", ["", "train"])
def test_flat_folders_are_unlabelled(images, load, below):
    for i in range(7):
        draw(images / below / f"{i}.png")
    data = load()
    assert data.classes == ()
    assert (data.train.labels == -1).all()
    assert len(data.train) == 7
    assert data.test.images.shape == (0, 8, 8, 3)


def test_without_labels_everything_is_read(images, load):
    classes_below(images, 2)
    draw(images / "loose.png")
    data = load(labels="none")
    assert data.classes == ()
    assert len(data.train) == 7
    assert len(data.test) == 0


def test_a_class_may_be_called_train(images, load):
    for name, colour in zip(("bus", "plane", "train"), COLOURS.values()):
        for i in range(3):
            draw(images / name / f"{i}.png", colour)
    assert load().classes == ("bus", "plane", "train")


def test_links_that_loop_are_left_out(images, load):
    classes_below(images, 3)
    (images / "red" / "again").symlink_to(images / "red")
    assert len(load(labels="none").train) == 9
    draw(images / "red2" / "0.png")
    # Already read, and its name only starts like the link's folder.
    (images / "red" / "those").symlink_to(images / "red2")
    data = load(labels="none")
    assert len(data.train) == 10
    assert data.notes[0].endswith(
        f"links to {images}/red, which is already read; 2 such links are left out"
    )


@pytest.mark.parametrize(
    ("links", "count", "note"),
    [
        (
            {"cat/d": "dog", "dog/c": "cat"},
            4,
            "{im}/cat/d links to {im}/dog, which is already read; 2 such links are ",
        ),
        (
            {"cat/d": "dog", "cat/e": "dog", "dog/c": "cat", "dog/b": "cat"},
            4,
            "; 4 such links are left out",
        ),
        ({"cat/up": ".."}, 4, "{im}/cat/up links to {top}, which contains the link; left out"),
        (
            {"kitty": "cat"},
            4,
            "{im}/kitty links to {im}/cat, which is already read; left out; no image is left in ",
        ),
        ({"kitty": "cat"}, 4, "no image is left in the class folder kitty"),
        (
            {"cat/far": "../far"},
            6,
            "1 link leads out of data.dir and is followed, the first: {im}/cat/far to {top}/far",
        ),
        ({"cat/f": "../far/a.png"}, 4, None),  # no image by its name
        (
            {"cat/f.png": "../far/a.png", "dog/f.png": "cat/f.png"},
            6,
            "2 links lead out of data.dir and are followed, ",
        ),
        (
            {"cat/x": "../far/in", "dog/y": "../far"},
            6,
            "{im}/dog/y/in links to {im}/cat/x, which is already read; left",
        ),
        ({"cat/self": "cat/self", "cat/gone": "nowhere"}, 4, None),
    ],
)
def test_no_folder_is_read_twice(images, load, links, count, note):
    for place in ("cat/0", "cat/1", "dog/0", "dog/1", "../far/a", "../far/in/b"):
        draw(images / f"{place}.png")
    for link, target in links.items():
        (images / link).symlink_to(os.path.normpath(images / target))
    data = load()
    assert len(data.train) + len(data.test) == count
    assert data.classes == ("cat", "dog")
    notes = load(store="stream").notes
    assert notes == data.notes
    if note is None:
        assert notes == ()
    else:
        assert note.format(im=images, top=images.parent) in " ".join(notes)


def test_links_to_nothing_are_not_called_followed(images):
    draw(images / "cat/0.png")
    draw(images / "../far/a.png")
    (images / "cat" / "far.png").symlink_to("../../far/a.png")
    (images / "cat" / "gone.png").symlink_to("../../far/gone.png")
    walk = Walk(images, "", (".png",))
    assert walk.files == ["cat/0.png", "cat/far.png", "cat/gone.png"]  # named when it is decoded
    assert [link for link, _ in walk.outside] == ["cat/far.png"]


def test_each_split_reads_links_for_itself(images, load):
    classes_below(images / "train", 3)
    (images / "val").symlink_to(images / "train")
    data = load()
    assert (len(data.train), len(data.test), data.notes) == (9, 9, ())


def special(kind, path):
    """Something that is no regular file."""
    if kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))
    else:
        path.symlink_to("/dev/null")


@pytest.mark.parametrize("kind", ["socket", "device"])
def test_what_is_no_file_is_a_bad_file(images, load, kind, monkeypatch):
    for i in range(4):
        draw(images / f"{i}.png")
    monkeypatch.chdir(images)
    special(kind, Path("x.png"))
    assert len(load(skip_corrupt=True).train) == 4
    for store in ("cache", "stream"):
        with pytest.raises(SettingError, match=r"x.png cannot be read \(not a regular file\)"):
            load(store=store)


@pytest.mark.parametrize(
    ("files", "settings", "message"),
    [
        ([], {}, "no images to train on in data.dir="),
        (["a/1.svg"], {}, "no images to train on"),
        (["val/a/1.png", "train/x.txt"], {}, "no images to train on"),
        (
            ["a/1.png", "b/2.png"],
            {"limit": 1},
            "the first 1 training images of .* are of one class, '[ab]'; .*data.labels=none",
        ),
        (
            ["a/1.png", "b/2.png", "3.png"],
            {},
            "3.png is outside the class folders; .*data.labels=none",
        ),
        (
            ["train/a/1.png", "train/b/1.png", "val/c/1.png"],
            {},
            "val/c is a class that train/ lacks",
        ),
        (
            ["train/a/1.png", "train/b/1.png", "val/1.png"],
            {},
            "val/1.png is outside the class folders",
        ),
        (["1.png"], {"mean": (0.5,)}, "the images have 3 channels"),
        (["1.png"], {"size": 0}, "data.size=0: at least 1"),
        (["1.png"], {"test_share": 1.0}, "data.test_share=1.0: strictly between 0 and 1"),
        (["1.png"], {"dir": ""}, "data.dir is empty"),
        (["1.png"], {"dir": "/nowhere"}, "data.dir=/nowhere is not a folder"),
        (["1.png"], {"labels": "coarse"}, "folder has no coarse labels"),
        (["1.png"], {"download": True}, "folder cannot be downloaded, only cifar10 and cifar100"),
        (["1.png"], {"limit": 2}, "folder has 1 training images"),
        (["1.png"], {"cache": "/proc/x"}, "the cache /proc/x cannot be written .*; set data.cache"),
    ],
)
def test_mistakes_end_in_one_line(images, load, files, settings, message):
    for name in files:
        path = images / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch() if path.suffix in (".svg", ".txt") else draw(path)
    with pytest.raises(SettingError, match=message) as caught:
        load(**settings)
    assert "\n" not in str(caught.value)


def png(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def grey_ramp(dtype, top):
    return np.tile(np.linspace(0, top, 16).astype(dtype), (16, 1))


def test_modes_become_rgb(tmp_path):
    ramp = np.repeat(grey_ramp(np.uint8, 255)[..., None], 3, axis=-1).astype(int)
    rgba = np.dstack([np.full((16, 16, 3), 0, np.uint8), grey_ramp(np.uint8, 255)])
    palette = Image.fromarray(rgba[..., 3]).convert("P")
    palette.save(tmp_path / "palette.png", transparency=bytes(range(255, -1, -1)))
    Image.fromarray(ramp.astype(np.uint8)).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    files = {
        png(tmp_path / "grey.png", grey_ramp(np.uint8, 255)): ramp,
        png(tmp_path / "grey16.png", grey_ramp(np.uint16, 65535)): ramp,
        png(tmp_path / "rgba.png", rgba): 255 - ramp,
        png(tmp_path / "la.png", rgba[..., 2:]): 255 - ramp,
        tmp_path / "cmyk.jpg": ramp,
        png(tmp_path / "grey.webp", grey_ramp(np.uint8, 255), lossless=True): ramp,
        png(tmp_path / "grey.bmp", grey_ramp(np.uint8, 255)): ramp,
        png(tmp_path / "bits.png", grey_ramp(np.uint8, 255) > 100): 255 * (ramp > 100),
    }
    for path, expected in files.items():
        found = decode.read(path, 16, limits=(0, 65535))
        assert found.shape == (16, 16, 3), path
        assert found.dtype == np.uint8
        np.testing.assert_allclose(found.astype(int), expected, atol=3, err_msg=str(path))
    assert decode.read(tmp_path / "palette.png", 16)[0, 0].tolist() == [0, 0, 0]
    assert decode.read(tmp_path / "palette.png", 16)[0, 15].tolist() == [255, 255, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(tmp_path, orientation):
    pixels = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    upright = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: pixels.transpose(1, 0, 2)[:, ::-1],
        7: pixels.transpose(1, 0, 2)[::-1, ::-1],
        8: pixels.transpose(1, 0, 2)[::-1],
    }[orientation]
    expected = decode.square(Image.fromarray(np.ascontiguousarray(upright)), 6)
    np.testing.assert_allclose(
        decode.read(tmp_path / "x.png", 6).astype(int), expected.astype(int), atol=1
    )


def test_the_central_square_is_kept_and_shrunk_without_aliasing(tmp_path):
    pixels = np.zeros((8, 20, 3), np.uint8)
    pixels[:, 6:14] = RNG.integers(0, 256, (8, 8, 3))
    np.testing.assert_array_equal(decode.read(png(tmp_path / "x.png", pixels), 8), pixels[:, 6:14])
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    assert (
        np.ptp(decode.read(png(tmp_path / "stripes.png", stripes), 32)[4:-4, 4:-4].astype(int)) < 5
    )
    draw(tmp_path / "large.jpg", size=(900, 700))
    assert decode.read(tmp_path / "large.jpg", 50).shape == (50, 50, 3)
    draw(tmp_path / "small.jpg", size=(3, 2))
    assert decode.read(tmp_path / "small.jpg", 50).shape == (50, 50, 3)


def damaged(images):
    """Four files that cannot be decoded, among the others, and why."""
    draw(images / "whole.jpg", size=(200, 200))
    whole = (images / "whole.jpg").read_bytes()
    (images / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (images / "empty.png").touch()
    (images / "text.png").write_text("no picture")
    huge = Image.new("1", (20_000, 9_000))
    huge.save(images / "huge.png")
    large = Image.new("1", (10_000, 9_500))  # Pillow only warns of it
    large.save(images / "large.png")
    return {
        "cut.jpg": "truncated",
        "empty.png": "empty",
        "text.png": "not an image",
        "huge.png": "178,956,970 pixels",
    }


def test_bad_files_are_named_or_left_out(images, load):
    reasons = damaged(images)
    for i in range(9):
        draw(images / f"{i}.png")
    for name, why in reasons.items():
        with pytest.raises(decode.CorruptError, match=why), parallel.quiet():
            decode.read(images / name, 8)
    with pytest.raises(
        SettingError, match=r"cannot be read \(.*\); data.skip_corrupt=True skips such files"
    ):
        load()
    data = load(skip_corrupt=True)
    assert len(data.train) == 11
    assert len(data.notes) == 1
    assert data.notes[0].startswith("4 of 15 images cannot be read and are skipped; the first: ")
    assert load(skip_corrupt=True).notes == data.notes
    with pytest.raises(SettingError, match="data.skip_corrupt=True skips such files"):
        load()  # although they are left out of the cache


def test_labels_keep_their_images_where_files_are_left_out(images, load):
    classes_below(images / "train", 6)
    classes_below(images / "val", 3)
    for bad in ("train/red/0.png", "train/blue/3.png", "val/green/1.png"):
        (images / bad).write_bytes(b"")
    data = load(skip_corrupt=True)
    np.testing.assert_array_equal(np.bincount(data.train.labels), [5, 6, 5])
    np.testing.assert_array_equal(np.bincount(data.test.labels), [3, 2, 3])
    np.testing.assert_array_equal(brightest(data.train.images), data.train.labels)
    np.testing.assert_array_equal(brightest(data.test.images), data.test.labels)


def test_nothing_but_bad_files(images, load, tmp_path):
    for i in range(3):
        (images / f"{i}.png").touch()
    with pytest.raises(
        SettingError, match="no training image of .* can be read, the first: .*the file is empty"
    ):
        load(skip_corrupt=True)
    assert list((tmp_path / "cache" / "folders").iterdir()) == []


def test_decoding_stops_soon_after_a_bad_file(images, load, monkeypatch):
    for i in range(300):
        (images / f"{i}.png").touch()
    calls = []

    def counted(*args, **settings):
        calls.append(1)
        return decode.decode(*args, **settings)

    monkeypatch.setattr(pictures, "_image", lambda contents, *args: counted(contents(args[-1]), 8))
    with pytest.raises(SettingError, match="the file is empty"):
        load()
    assert len(calls) <= 5 * (os.cpu_count() or 1)


def test_decoded_once_and_again_when_a_file_changes(images, load, capsys, tmp_path):
    classes_below(images, 4)
    first = load()
    assert capsys.readouterr().err.startswith("decoding 12 images of ")
    again = load()
    assert capsys.readouterr().err == ""
    assert_same_images(first.train.images, again.train.images)
    draw(images / "red" / "0.png", size=(9, 9))
    load()
    load(size=6)
    load(labels="none")
    load(test_share=0.5)
    assert capsys.readouterr().err.count("decoding") == 4
    names = json.loads(next((tmp_path / "cache" / "folders").glob("*/names.json")).read_text())
    assert set(names) == {f"{c}/{i}.png" for c in COLOURS for i in range(4)}


def test_of_several_that_want_the_same_images_one_decodes_them(images, load, capsys, monkeypatch):
    classes_below(images, 3)
    create = cache_files.create
    monkeypatch.setattr(
        cache_files,
        "create",
        lambda *args, **settings: (time.sleep(0.5), create(*args, **settings)),
    )
    with ThreadPoolExecutor() as all_:
        found = [call.result() for call in [all_.submit(load) for _ in range(3)]]
    said = capsys.readouterr().err.splitlines()
    assert sorted(line.split(" of ")[0].split(" /")[0] for line in said) == [
        "decoding 9 images",
        *["waiting for another process that is decoding"] * 2,
    ]
    for other in found[1:]:
        assert_same_images(found[0].train.images, other.train.images)
    assert not list((images.parent / "cache" / "folders").glob(".*"))


@pytest.fixture
def check_anew(images, load, tmp_path):
    """A function that checks that loading repairs the cache after `change(its folder)`."""
    classes_below(images, 3)
    folder = tmp_path / "cache" / "folders"

    def capture(data):
        return (
            sizes_in(data.train.images).tolist(),
            data.train.labels.tolist(),
            data.names(),
            data.classes,
            data.mean,
            data.std,
            data.notes,
        )

    data = load()
    pixels = np.array(data.train.images.pixels)
    facts = capture(data)
    entry = next(folder.iterdir())

    def check(change):
        change(entry)
        for _ in range(2):
            again = load()
            np.testing.assert_array_equal(again.train.images.pixels, pixels)
            assert capture(again) == facts
        assert list(folder.iterdir()) == [entry]

    return check


def put(file, content):
    """A change of a cache's folder: replaces a file by `content`, or by a function of the old."""

    def change(folder):
        before = (folder / file).read_bytes()
        (folder / file).unlink()
        if content == "folder":
            (folder / file).mkdir()
        elif content == "device":
            special(content, folder / file)
        elif content is not None:
            (folder / file).write_bytes(content(before) if callable(content) else content)

    return change


@pytest.mark.parametrize(
    "file", ["images.npy", "labels.npy", "sizes.npy", "index.json", "names.json"]
)
@pytest.mark.parametrize(
    "content", [None, b"", b"\x93NUMPY garbage", b"{}", b"[" * 99_999, "folder", "device"]
)
def test_a_damaged_cache_is_decoded_anew(check_anew, file, content):
    check_anew(put(file, content))


def array(values, dtype, **header):
    """A .npy file."""
    file = io.BytesIO()
    values = np.asarray(values, dtype)
    facts = {"descr": values.dtype.str, "fortran_order": False, "shape": values.shape}
    np.lib.format.write_array_header_1_0(file, facts | header)
    return file.getvalue() + values.tobytes()


@pytest.mark.parametrize(
    "labels",
    [
        array([0.0] * 9, "f4"),
        array([0] * 8, "i4"),
        array([[0]] * 9, "i4"),
        array([7] * 9, "i4"),
        array([1, 0] + [2] * 7, "i4"),  # as good as any, but others
        array([0] * 9, "i4", shape=(2**60,)),
        array([0] * 9, "i4") + b"more",
    ],
)
def test_damaged_labels_are_made_anew(check_anew, labels):
    check_anew(put("labels.npy", labels))


@pytest.mark.parametrize(
    "wrong",
    [
        {"shape": "9"},
        {"shape": [9.0, 8, 8, 3]},
        {"train": True},
        {"train": 10},
        {"skipped": [1]},
        {"skipped": {}},
        {"skipped": [["x", "y", "z"]]},
        {"classes": 3},
        {"classes": [1, 2, 3]},
        {"classes": ["a", "b"]},
        {"mean": [0.5, 0.5]},
        {"mean": ["a", "b", "c"]},
        {"std": [0.0, 0.5, 0.5]},
        {"std": [float("nan"), 0.5, 0.5]},
        {"sha256": {"names.json": "0"}},
        {"sha256": {"../names.json": "0"}},
        {"sha256": {}},  # the true sizes would be lost
        {"sha256": ["names.json"]},
    ],
)
def test_a_damaged_index_is_made_anew(check_anew, wrong):
    check_anew(put("index.json", lambda before: json.dumps(json.loads(before) | wrong).encode()))


@pytest.mark.parametrize(
    "before", [lambda x: x.write_bytes(b"x"), lambda x: x.symlink_to("nowhere"), os.mkfifo]
)
def test_what_is_in_the_way_of_a_cache_is_replaced(check_anew, before):
    check_anew(lambda folder: (shutil.rmtree(folder), before(folder)))


@pytest.mark.parametrize("names", [["a"] * 9, ["a"] * 8, [1] * 9, {"a": 1}])
def test_caches_without_checksums_stay_valid(images, load, tmp_path, names, capsys):
    """Those of before there were any, as far as their names are names of all images."""
    classes_below(images, 3)
    load(keep="centre")
    folder = next((tmp_path / "cache" / "folders").iterdir())
    index = json.loads((folder / "index.json").read_text())
    assert set(index.pop("sha256")) == {"names.json", "labels.npy"}
    (folder / "index.json").write_text(json.dumps(index))
    (folder / "names.json").write_text(json.dumps(names))
    capsys.readouterr()
    own = load(keep="centre").names() == ["a"] * 9
    assert own == (names == ["a"] * 9)
    assert ("decoding" not in capsys.readouterr().err) == own


@pytest.mark.parametrize(
    "content",
    [
        array([0.0] * 3, "f4"),
        array([0] * 2, "i4"),
        array([[0]] * 3, "i4"),
        array([0] * 3, "i4", shape=(2**60,)),
        array([0] * 3, "i4")[:-1],
        b"PK\x03\x04",
        "folder",
        "device",
    ],
)
def test_damaged_arrays_that_are_kept_are_made_anew(tmp_path, content):
    calls = []
    source = datasets.Source(cache=str(tmp_path))

    def make():
        return (calls.append(1), np.arange(3, dtype=np.int32))[1]

    def get():
        return cache.kept(source, "labels", ["facts"], make, "counting", 3)

    get()
    put(next((tmp_path / "labels").iterdir()).name, content)(tmp_path / "labels")
    for _ in range(2):
        np.testing.assert_array_equal(get(), np.arange(3))
    assert len(calls) == 2


def test_names_that_are_lost_later_are_one_line(images, load, tmp_path):
    classes_below(images, 3)
    data = load()
    next((tmp_path / "cache" / "folders").glob("*/names.json")).unlink()
    with pytest.raises(SettingError, match="names.json cannot be read .*; restart to rebuild it"):
        data.names()


def test_a_cut_cache_is_decoded_anew(images, load, tmp_path):
    classes_below(images, 3)
    expected = np.array(load().train.images.pixels)
    path = next((tmp_path / "cache" / "folders").glob("*/images.npy"))
    os.truncate(path, path.stat().st_size - 10)
    np.testing.assert_array_equal(load().train.images.pixels, expected)


def test_what_a_killed_decode_leaves_is_not_taken_and_goes_after_a_day(images, load, tmp_path):
    classes_below(images, 3)
    old, new = (tmp_path / "cache" / "folders" / name for name in (".0-old", ".0-new"))
    for folder in (old, new):
        folder.mkdir(parents=True)
        (folder / "images.npy").write_bytes(b"half")
    for path in (old / "images.npy", old):
        os.utime(path, (time.time() - 2 * 86400,) * 2)
    load()
    assert not old.exists()
    assert new.exists()


def test_without_locks_another_process_may_be_first(images, load, tmp_path, monkeypatch):
    classes_below(images, 3)
    monkeypatch.setattr(file_lock, "fcntl", None)
    fill = cache_files._fill
    inner = []

    def slow(*args):
        if not inner:
            inner.append(None)
            inner[0] = load()
        return fill(*args)

    monkeypatch.setattr(cache_files, "_fill", slow)
    data = load()
    assert_same_images(data.train.images, inner[0].train.images)
    assert len(list((tmp_path / "cache" / "folders").iterdir())) == 1


def test_full_disks(images, load, monkeypatch, tmp_path):
    classes_below(images, 3)
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(cache_files.shutil, "disk_usage", lambda _: usage(100))
    with pytest.raises(
        SettingError,
        match="9 images of .* need 1,728 bytes, but .* has 100; set data.cache to a folder",
    ):
        load()
    monkeypatch.setattr(cache_files.shutil, "disk_usage", lambda _: usage(10**9))

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache_files.os, "fsync", full)
    with pytest.raises(
        SettingError, match=r"cannot be written \(No space left on device\); set data.cache"
    ):
        load()
    assert list((tmp_path / "cache" / "folders").iterdir()) == []


def test_odd_names_fit_on_one_line(images, load):
    (images / "two\nlines.png").touch()
    with pytest.raises(SettingError, match=r"two\?lines.png") as caught:
        load()
    assert "\n" not in str(caught.value)


def test_the_cache_has_a_place_of_its_own(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert str(cache.root(datasets.Source())) == "/somewhere/ssl_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.root(datasets.Source()) == Path.home() / ".cache" / "ssl_jax"


def test_data_need_no_accelerator():
    code = "import sys; from ssl_jax.data import datasets; assert 'jax' not in sys.modules"
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=60,
    )
