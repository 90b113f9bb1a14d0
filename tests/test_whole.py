"""Whole pictures as squares with their true sizes: decoded, kept, streamed, put on devices."""

import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.images import assert_same_images, pixels_in, sizes_in
from helpers.runs import assert_same_run, environment, quiet, records, tiny
from PIL import Image, ImageOps

from ssl_jax import train
from ssl_jax.data import cache, cache_files, channels, datasets, decode, whole
from ssl_jax.data.luma import luma
from ssl_jax.data.source import Dataset, Images
from ssl_jax.data.whole import WholePictures, geometry
from ssl_jax.settings.resolve import SettingError

RNG = np.random.default_rng(0)
SIDE = 12
SHAPES = ((20, 30), (31, 17), (14, 14), (16, 13))  # height, width
LONG = ((10, 60), (70, 10))
TRUE = {(14, 14): (SIDE, SIDE)}  # a square picture needs no other geometry


def noise(height, width, bands=3, dtype=np.uint8):
    return RNG.integers(0, 256, (height, width, bands)).astype(dtype)


def encoded(pixels, kind="PNG", **settings):
    """A file with the pixels [H, W, C], 8 bits."""
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(
        file, kind, **settings
    )
    return file.getvalue()


def squeezed(pixels, side, box=None):
    """Each band [H, W] of 8 bits by itself, all of it or what is in a box, as a square."""
    bands = [
        Image.fromarray(np.ascontiguousarray(pixels[..., i])).resize(
            (side, side), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0
        )
        for i in range(pixels.shape[-1])
    ]
    return np.stack([np.asarray(band) for band in bands], axis=-1)


def read(raw, side=SIDE, **settings):
    picture = decode.decode(raw, side, keep="whole", **settings)
    assert isinstance(picture, WholePictures)
    assert (picture.pixels.dtype, picture.sizes.dtype) == (np.uint8, np.float32)
    return picture


# decoding


@pytest.mark.parametrize("shape", [(30, 44), (44, 30), (10, 40), (5, 7)])
def test_all_of_a_picture_is_kept(shape):
    pixels = noise(*shape)
    picture = read(encoded(pixels))
    assert picture.sizes.tolist() == list(shape)
    np.testing.assert_array_equal(picture.pixels, squeezed(pixels, SIDE))


def test_a_square_picture_is_as_large_as_its_square():
    pixels = noise(30, 30)
    picture = read(encoded(pixels))
    assert picture.sizes.tolist() == [SIDE, SIDE]
    np.testing.assert_array_equal(picture.pixels, decode.decode(encoded(pixels), SIDE))


@pytest.mark.parametrize("shape", [(301, 450), (455, 300), (120, 478)])
def test_a_photograph_decoded_at_a_smaller_scale_has_its_true_size(shape, monkeypatch):
    smooth = Image.fromarray(noise(4, 6)).resize(shape[::-1], Image.Resampling.BICUBIC)
    raw = encoded(np.asarray(smooth), "JPEG", quality=95)
    loaded = []
    resized = decode._resized
    monkeypatch.setattr(
        decode, "_resized", lambda parts, *more: (loaded.append(parts[0]), resized(parts, *more))[1]
    )
    picture = read(raw)
    assert loaded[0].width < shape[1] / 4
    assert picture.sizes.tolist() == list(shape)
    expected = squeezed(np.asarray(Image.open(io.BytesIO(raw))), SIDE)
    assert np.abs(picture.pixels.astype(int) - expected).mean() < 0.6


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("shape", [(20, 30), (10, 60)])
def test_pictures_on_their_side_are_turned_with_their_sizes(kind, orientation, shape):
    exif = Image.Exif()
    exif[0x0112] = orientation
    settings = dict(lossless=True) if kind == "WEBP" else {}
    raw = encoded(noise(*shape), kind, exif=exif, **settings)
    with Image.open(io.BytesIO(raw)) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    assert upright.shape[:2] == (shape if orientation < 5 else shape[::-1])
    expected = read(encoded(upright), 20)
    picture = read(raw, 20)
    assert picture.sizes.tolist() == expected.sizes.tolist() == list(upright.shape[:2])
    # Rows and columns are resized one after the other, and rounded in between.
    np.testing.assert_allclose(picture.pixels.astype(int), expected.pixels.astype(int), atol=2)


def test_a_photograph_that_is_turned_and_decoded_at_a_smaller_scale():
    exif = Image.Exif()
    exif[0x0112] = 6
    raw = encoded(noise(200, 300), "JPEG", exif=exif)
    assert read(raw).sizes.tolist() == [300, 200]


@pytest.mark.parametrize("bands", [1, 3, 4])
def test_pictures_of_16_bits(bands):
    values = noise(20, 30, bands, np.uint16)
    tifffile = pytest.importorskip("tifffile")
    file = io.BytesIO()
    tifffile.imwrite(file, values.squeeze(), photometric="rgb" if bands > 1 else "minisblack")
    picture = read(file.getvalue(), bands=bands, limits=(0, 255))
    assert picture.sizes.tolist() == [20, 30]
    np.testing.assert_array_equal(picture.pixels, squeezed(values.astype(np.uint8), SIDE))


@pytest.mark.parametrize("orientation", [1, 6])
def test_many_bands(orientation):
    tifffile = pytest.importorskip("tifffile")
    values = noise(20, 30, 7, np.float32)
    file = io.BytesIO()
    tag = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(file, values, photometric="minisblack", planarconfig="contig", extratags=tag)
    picture = read(file.getvalue(), bands=7, limits=(0, 255))
    assert picture.sizes.tolist() == ([20, 30] if orientation == 1 else [30, 20])
    expected = squeezed(values.astype(np.uint8), SIDE)
    turned = np.rot90(expected, 0 if orientation == 1 else 3)
    np.testing.assert_array_equal(picture.pixels, turned)


@pytest.mark.parametrize("most", [255, 4095])
def test_netpbm(most):
    values = noise(20, 30, 3, np.uint16)
    stored = values.astype(">u2") if most > 255 else values.astype(np.uint8)
    raw = f"P6\n30 20\n{most}\n".encode() + stored.tobytes()
    picture = read(raw, limits=(0, 255))
    assert picture.sizes.tolist() == [20, 30]
    np.testing.assert_array_equal(picture.pixels, squeezed(values.astype(np.uint8), SIDE))


def test_transparent_pictures_lie_on_white():
    pixels = noise(20, 30, 4)
    pixels[:, :15, 3] = 0
    pixels[:, 15:, 3] = 255
    over_white = np.where(pixels[..., 3:] > 0, pixels[..., :3], 255).astype(np.uint8)
    picture = read(encoded(pixels))
    assert picture.sizes.tolist() == [20, 30]
    np.testing.assert_array_equal(picture.pixels, squeezed(over_white, SIDE))
    four = read(encoded(pixels), bands=4)
    assert four.sizes.tolist() == [20, 30]
    np.testing.assert_array_equal(four.pixels, squeezed(pixels, SIDE))


@pytest.mark.parametrize(
    ("shape", "box"),  # left, top, right, bottom
    [
        ((10, 40), (0, 0, 40, 10)),
        ((40, 10), (0, 0, 10, 40)),
        ((10, 41), (0.5, 0, 40.5, 10)),
        ((10, 60), (10, 0, 50, 10)),
        ((400, 10), (0, 180, 10, 220)),
        ((1, 300), (148, 0, 152, 1)),
    ],
)
def test_of_long_pictures_the_middle_is_kept(shape, box):
    pixels = noise(*shape)
    picture = read(encoded(pixels))
    np.testing.assert_array_equal(picture.pixels, squeezed(pixels, SIDE, box))
    assert picture.sizes.tolist() == list(shape)
    left, top, right, bottom = box
    assert tuple(geometry(picture)) == (bottom - top, right - left)
    is_cut = (bottom, right) != shape
    assert len(whole.note_on_cut(picture.sizes[None])) == is_cut
    pixels[:, :, :] = 0
    pixels[int(np.ceil(top)) : int(bottom), int(np.ceil(left)) : int(right)] = 200
    middle = read(encoded(pixels)).pixels[4:-4, 4:-4]  # away from the edges, which are filtered
    assert (middle == 200).all()


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
def test_pictures_are_indexed_like_an_array(kind):
    pixels = noise(5 * 8, 8).reshape(5, 8, 8, 3)
    sizes = RNG.integers(1, 99, (5, 2)).astype(np.float32)
    pictures = WholePictures(kind(pixels), kind(sizes))
    assert (pictures.shape, pictures.ndim, pictures.dtype) == ((5, 8, 8, 3), 4, np.uint8)
    assert (len(pictures), pictures.nbytes) == (5, 5 * (8 * 8 * 3 + 8))
    for rows in (3, -1, slice(1, 4), np.array([4, 0, 0])):
        np.testing.assert_array_equal(pictures[rows].pixels, pixels[rows])
        np.testing.assert_array_equal(pictures[rows].sizes, sizes[rows])
    assert [picture.sizes.tolist() for picture in pictures] == sizes.tolist()
    with pytest.raises(TypeError, match="pictures of several shapes are no array"):
        np.asarray(pictures)


# data sets


def fill(folder, shapes, each=4):
    """Pictures of two classes, whose names tell their shapes."""
    for height, width in shapes:
        for i in range(each):
            path = folder / "ab"[i % 2] / f"{height}x{width}_{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise(height, width)).save(path)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "images"


@pytest.fixture
def load(tmp_path, root):
    settings = dict(dir=str(root), cache=str(tmp_path / "cache"), size=SIDE)
    return lambda **more: datasets.load("folder", **settings | more)


def sizes_by_name(names):
    """The true sizes that the names of pictures tell."""
    sizes = []
    for name in names:
        height, width = map(int, name.split("/")[-1].split("_")[0].split("x"))
        sizes.append(TRUE.get((height, width), (height, width)))
    return sizes


def check_sizes(data):
    """Every image has the true size that its name tells, whichever way it is read."""
    names = data.names()
    train_count = len(data.train) - data.joined
    train = names[:train_count] + names[train_count:] * bool(data.joined)
    for images, expected in ((data.train.images, train), (data.test.images, names[train_count:])):
        assert len(images) == len(expected)
        np.testing.assert_array_equal(sizes_in(images), sizes_by_name(expected))
        rows = np.arange(len(images))[::-2]
        np.testing.assert_array_equal(images[rows].sizes, sizes_in(images)[rows])
        np.testing.assert_array_equal(images[2].sizes, sizes_in(images)[2])
        np.testing.assert_array_equal(sizes_in(images[1:3]), sizes_in(images)[1:3])


@pytest.mark.parametrize("store", ["cache", "stream"])
@pytest.mark.parametrize("more", [{}, dict(limit=9), dict(whole=True), dict(labels="none")])
def test_sizes_belong_to_their_pictures(root, load, store, more):
    fill(root / "train", (*SHAPES, *LONG))
    fill(root / "test", SHAPES)
    check_sizes(load(store=store, **more))


@pytest.mark.parametrize("store", ["cache", "stream"])
@pytest.mark.parametrize(("shown", "wanted"), [(3, 1), (1, 3)])
def test_sizes_survive_other_channels(root, load, store, shown, wanted):
    fill(root / "train", SHAPES)
    fill(root / "test", SHAPES)
    data = load(store=store, bands=shown)
    if store == "cache":  # kept in memory, besides
        train, test = (
            Images(WholePictures(pixels_in(split.images), sizes_in(split.images)), split.labels)
            for split in (data.train, data.test)
        )
        in_memory = channels.converted(dataclasses.replace(data, train=train, test=test), wanted)
        assert isinstance(in_memory.train.images.pixels, np.ndarray)
        check_sizes(in_memory)
    other = channels.converted(data, wanted)
    check_sizes(other)
    pixels = pixels_in(data.train.images)
    expected = luma(pixels) if wanted == 1 else pixels.repeat(3, axis=-1)
    np.testing.assert_array_equal(pixels_in(other.train.images), expected)
    np.testing.assert_array_equal(other.train.images[3].pixels, expected[3])


@pytest.mark.parametrize(
    ("shapes", "note"),
    [
        (((10, 40), (40, 10)), None),
        (((10, 40), (10, 41)), "1 {}is over 4 times as long as wide; only the middle is kept"),
        (((41, 10), (10, 90)), "2 {}are over 4 times as long as wide; only the middle is kept"),
    ],
)
def test_long_pictures_are_counted(root, load, shapes, note):
    """Whether they train or test; streamed, as far as they are looked at."""
    fill(root / "train", ((20, 30),), 3)
    fill(root / "train", shapes[:1], 1)
    fill(root / "train", shapes[1:], 1)
    fill(root / "test", ((20, 30),), 2)
    for settings in ({}, dict(mean=(0.5,) * 3, std=(0.2,) * 3)):
        cached = load(labels="none", **settings)
        images = "image " if note and note.startswith("1") else "images "
        assert cached.notes == ((note.format(images),) if note else ())
        streamed = load(labels="none", store="stream", **settings)
        assert streamed.notes == ((note.format("of 5 images looked at "),) if note else ())
        assert_same_images(streamed.train.images, cached.train.images)
        assert_same_images(streamed.test.images, cached.test.images)
    fill(root / "test", ((10, 50), (60, 10)), 1)
    count = 2 + int(note[0] if note else 0)
    expected = f"{count} images are over 4 times as long as wide; only the middle is kept"
    assert load(labels="none").notes == (expected,)


@pytest.mark.parametrize("store", ["cache", "stream"])
def test_data_of_squares_are_as_if_their_centres_were_kept(root, load, store):
    fill(root / "train", ((14, 14), (30, 30)))
    fill(root / "test", ((9, 9),))
    centre = load(keep="centre")
    data = load(store=store)
    for ours, theirs in ((data.train, centre.train), (data.test, centre.test)):
        assert_same_images(ours.images, theirs.images)
        if store == "cache":
            assert type(ours.images) is type(theirs.images) is np.memmap
        np.testing.assert_array_equal(ours.labels, theirs.labels)
    assert (data.fingerprint(), data.facts()) == (centre.fingerprint(), centre.facts())
    assert (data.mean, data.std, data.notes) == (centre.mean, centre.std, ())
    assert data.resident(1.0) == (store == "cache")


def test_a_few_squares_of_many_pictures_have_one_fingerprint(root, load):
    """Where the pictures that are looked at are squares, but others are not."""
    fill(root / "train", ((14, 14),), 8)
    fill(root / "train", ((20, 30),), 2)
    data = load(labels="none")
    rows = np.flatnonzero(sizes_in(data.train.images)[:, 0] == SIDE)

    def squares(images):
        split = Images(images[rows], np.full(8, -1, np.int32))
        return dataclasses.replace(data, train=split).fingerprint()

    plain = squares(data.train.images.pixels)
    assert squares(data.train.images) == squares(load(labels="none", store="stream").train.images)
    assert squares(data.train.images) == plain


def test_the_fingerprint_is_of_sizes_too():
    pixels = noise(3, 8 * 8).reshape(3, 8, 8, 3)
    labels = np.zeros(3, np.int32)

    def fingerprint(*sizes):
        split = Images(WholePictures(pixels, np.float32(sizes)), labels)
        return Dataset(split, split, (), (0.5,) * 3, (0.2,) * 3).fingerprint()

    first = fingerprint((20, 30), (8, 8), (9, 8))
    assert first == fingerprint((20, 30), (8, 8), (9, 8))
    others = [
        fingerprint((20, 31), (8, 8), (9, 8)),
        fingerprint((20, 30), (9, 8), (8, 8)),
        fingerprint((8, 8), (8, 8), (8, 8)),
    ]
    assert len({first, *others}) == 4


def test_what_is_kept_on_devices_counts_sizes(root, load):
    fill(root, SHAPES)
    images = load().train.images
    count = len(images)
    assert images.nbytes == count * (SIDE * SIDE * 3 + 8)
    assert load().resident(images.nbytes / 2**30)
    assert not load().resident((images.nbytes - 1) / 2**30)
    assert not load(store="stream").resident(1000.0)
    assert load(store="stream").train.images.row_bytes == SIDE * SIDE * 3 + 8
    assert load(store="stream", keep="centre").train.images.row_bytes == SIDE * SIDE * 3


# the cache


def folders(tmp_path):
    return {path.name for path in (tmp_path / "cache" / "folders").iterdir()}


def test_a_cache_of_central_squares_stays_where_it_was(root, load, tmp_path, monkeypatch, capsys):
    fill(root, SHAPES)
    facts = []
    hashed = cache._hash
    monkeypatch.setattr(cache, "_hash", lambda x: (facts.append(x), hashed(x))[1])
    centre = load(keep="centre")
    names, stamps, labels, train, classes, size = facts[-1]
    assert (sorted(names), size) == (sorted(centre.names()), SIDE)
    assert (len(stamps), len(labels), train) == (16, 16, len(centre.train))
    assert classes == ("a", "b")
    (first,) = folders(tmp_path)
    data = load()
    assert facts[-1] == [names, stamps, labels, train, classes, SIDE, "whole"]
    assert len(folders(tmp_path)) == 2
    assert isinstance(centre.train.images, np.memmap)
    assert isinstance(data.train.images, WholePictures)
    assert (centre.mean, centre.fingerprint()) != (data.mean, data.fingerprint())
    assert not (tmp_path / "cache" / "folders" / first / "sizes.npy").exists()
    capsys.readouterr()
    load(keep="centre")
    load()
    assert "decoding" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: os.truncate(path, path.stat().st_size - 4),
        lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\1"),
        lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    ],
)
def test_damaged_sizes_are_read_anew(root, load, tmp_path, capsys, damage):
    fill(root, SHAPES)
    check_sizes_are_read_anew(load, tmp_path, capsys, damage)


@pytest.mark.parametrize(
    "values",
    [
        np.ones((15, 2), np.float32),
        np.ones((16, 3), np.float32),
        np.ones((16, 2)),
        np.zeros((16, 2), np.float32),
        np.full((16, 2), np.nan, np.float32),
        np.full((16, 2), np.inf, np.float32),
    ],
)
def test_sizes_of_no_pictures_are_read_anew(root, load, tmp_path, capsys, values):
    """Although the index has their checksum."""
    fill(root, SHAPES)

    def damage(path):
        np.save(path, values)
        index = json.loads((path.parent / "index.json").read_text())
        index["sha256"]["sizes.npy"] = cache_files._sha256(path)
        (path.parent / "index.json").write_text(json.dumps(index))

    check_sizes_are_read_anew(load, tmp_path, capsys, damage)


def check_sizes_are_read_anew(load, tmp_path, capsys, damage):
    expected = sizes_in(load(labels="none").train.images)
    damage(next((tmp_path / "cache" / "folders").glob("*/sizes.npy")))
    capsys.readouterr()
    np.testing.assert_array_equal(sizes_in(load(labels="none").train.images), expected)
    assert "decoding 16 images" in capsys.readouterr().err
    load(labels="none")
    assert capsys.readouterr().err == ""


# devices

SHARDED = """
import sys
import jax, numpy as np
from helpers.images import assert_same_images
from ssl_jax.data import datasets
from ssl_jax.data.rng import Order
from ssl_jax.data.whole import WholePictures
from ssl_jax.ops.mesh import make_mesh
from ssl_jax.runtime.sharding import put_rows
from ssl_jax.training.batches import Batches

folder, cache = sys.argv[1:]
jax.config.update("jax_num_cpu_devices", 8)
settings = dict(dir=folder, cache=cache, size=12, labels="none")
load = lambda store: datasets.load("folder", store=store, **settings).train.images
lazy, mapped = load("stream"), load("cache")
memory = WholePictures(np.array(mapped.pixels), np.array(mapped.sizes))
mesh = make_mesh()
assert mesh.size == 8

rows = np.array([5, 2, 9, 1, 15, 0, 3, 3, 7, 8, 11])
last = np.minimum(np.arange(16), 10)  # padded to the devices
for images in (lazy, mapped, memory):
    put = put_rows(images, rows, mesh)
    assert isinstance(put, WholePictures)
    assert_same_images(put, memory[rows[last]])
    for x in (put.pixels, put.sizes):
        assert {s.data.shape for s in x.addressable_shards} == {(2, *x.shape[1:])}

order = Order(jax.random.key(0), 16, 6)
for images, resident in ((lazy, False), (mapped, False), (memory, False), (memory, True)):
    feed = Batches(images, mesh, jax.random.key(0), batch_size=6, resident=resident)
    for step in (0, 1, 2, 3, 1):
        batch, index = feed.batch(step)
        np.testing.assert_array_equal(index, order(step))
        if resident:
            assert_same_images(batch, memory)
            assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves(batch))
        else:
            assert_same_images(batch[:6], memory[order(step)])
            assert len(batch.pixels) == len(batch.sizes) == 8
            for x in jax.tree.leaves(batch):
                assert {s.data.shape for s in x.addressable_shards} == {(1, *x.shape[1:])}
    feed.close()
print("same")
"""


@pytest.mark.slow
def test_sizes_go_to_eight_devices(root, load, tmp_path):
    fill(root, SHAPES)
    load(labels="none")
    result = subprocess.run(
        [sys.executable, "-c", SHARDED, str(root), str(tmp_path / "cache")],
        env=environment() | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "same\n"


# training


def config(images, cache_folder, store, resident):
    config = tiny("byol")
    config.update(epochs=4, batch_size=8, baselines=True, evals=dict(knn=dict(k=3)))
    config.resident_gb = 8.0 if resident else 0.0
    config.keep_checkpoints = 0
    config.augment.pair.update(jitter=0.5)
    config.data.update(
        name="folder", dir=str(images), cache=cache_folder, size=SIDE, limit=0, store=store
    )
    return config


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Returns a finished run on pictures of several shapes, and its config."""
    folder = tmp_path_factory.mktemp("runs")
    fill(folder / "images" / "train", (*SHAPES, *LONG))
    fill(folder / "images" / "test", SHAPES, 2)
    made = {}

    def run(store, resident):
        settings = config(folder / "images", str(folder / "cache"), store, resident)
        path = folder / f"{store}-{resident}"
        if path not in made:
            train.run(settings, path, console=quiet())
            made[path] = settings
        return path, settings

    return run


@pytest.mark.parametrize(
    ("store", "resident"),
    [
        pytest.param("cache", 1, marks=pytest.mark.slow),
        pytest.param("cache", 0, marks=pytest.mark.slow),
        pytest.param("stream", 0, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_is_interrupted_is_the_same_run(runs, store, resident, tmp_path):
    path, settings = runs(store, resident)
    half = tmp_path / "half"
    shutil.copytree(path, half)
    steps = sorted(int(checkpoint.name) for checkpoint in (half / "checkpoints").iterdir())
    assert steps == [3, 6, 9, 12]
    for step in steps[2:]:
        shutil.rmtree(half / "checkpoints" / str(step))
    train.run(settings, half, console=quiet())
    assert_same_run(half, path, last=12)


@pytest.mark.slow
def test_a_streamed_run_is_the_run_from_the_cache(runs):
    assert_same_run(runs("stream", 0)[0], runs("cache", 0)[0], last=12)


def test_a_resident_run_is_nearly_the_run_from_the_host(runs):
    resident, host = (
        [record["train/loss"] for record in records(runs("cache", x)[0]) if "train/loss" in record]
        for x in (1, 0)
    )
    assert len(resident) == 12
    np.testing.assert_allclose(resident, host, rtol=1e-4)


def test_a_run_on_whole_pictures_is_not_one_on_their_centres(runs, tmp_path):
    path, settings = runs("cache", 0)
    settings = settings.copy_and_resolve_references()
    settings.data.keep = "centre"
    with pytest.raises(SettingError, match="was trained on different images|data.keep='whole', no"):
        train.run(settings, path, console=quiet())
