"""Pictures of more than 8 bits, and of other bands than red, green and blue."""

import builtins
import io
import pickle
import struct
import zlib

import numpy as np
import pytest
from helpers.images import assert_same_images
from helpers.runs import tiny
from PIL import Image

from ssl_jax import train
from ssl_jax.data import cache, datasets, decode, deep, formats, pictures, tiff
from ssl_jax.runs.metrics import read_records
from ssl_jax.settings.resolve import SettingError

RNG = np.random.default_rng(0)
SIDE = 8
COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}


def png(values):
    """A PNG file with the pixels uint8 or uint16 [H, W, C], written without Pillow."""
    height, width, channels = values.shape
    bits = 8 * values.dtype.itemsize
    rows = b"".join(b"\0" + row.astype(values.dtype.newbyteorder(">")).tobytes() for row in values)

    def chunk(kind, content):
        size, check = struct.pack(">I", len(content)), struct.pack(">I", zlib.crc32(kind + content))
        return size + kind + content + check

    header = struct.pack(">IIBBBBB", width, height, bits, COLOUR_TYPES[channels], 0, 0, 0)
    parts = {b"IHDR": header, b"IDAT": zlib.compress(rows), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts.items())


def tif(values, **settings):
    """A TIFF file, written with tifffile."""
    tifffile = pytest.importorskip("tifffile")
    file = io.BytesIO()
    tifffile.imwrite(file, values, **settings)
    return file.getvalue()


def noise(channels, top=65536, dtype=np.uint16, side=SIDE):
    return RNG.integers(0, top, (side, side, channels)).astype(dtype)


def read_values(raw, bands=0):
    """All bits of a deep picture, as `decode` takes them."""
    with Image.open(io.BytesIO(raw)) as image:
        assert deep.is_deep(image)
        return deep.values_of(image, raw)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


@pytest.fixture
def load(tmp_path, root):
    settings = dict(dir=str(root), cache=str(tmp_path / "cache"), size=SIDE)
    return lambda **more: datasets.load("folder", **settings | more)


def both(load, **settings):
    """The data from the cache, after a check that the stream gives the same."""
    cached = load(**settings)
    streamed = load(store="stream", **settings)
    assert_same_images(streamed.train.images, cached.train.images)
    assert_same_images(streamed.test.images, cached.test.images)
    assert (streamed.notes, streamed.facts()) == (cached.notes, cached.facts())
    pickle.dumps(streamed.train.images)
    return cached


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_all_bits_of_png_files_are_read(channels):
    values = noise(channels)
    np.testing.assert_array_equal(read_values(png(values)).reshape(values.shape), values)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("more", [{}, {"compression": "zlib"}, {"byteorder": ">"}])
def test_all_bits_of_tiff_files_are_read(channels, more):
    values = noise(channels)
    raw = tif(values.squeeze(), photometric="rgb" if channels > 1 else "minisblack", **more)
    np.testing.assert_array_equal(read_values(raw).reshape(values.shape), values)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint32, np.float32])
def test_other_numbers_are_read(dtype):
    values = (noise(1)[..., 0].astype(np.int64) - 20_000 * (dtype != np.uint32)).astype(dtype)
    values = values * 60_000 if dtype == np.uint32 else values // 2 if dtype != np.int16 else values
    np.testing.assert_array_equal(read_values(tif(values)), values)
    expected = deep.scaled(values, values.min(), values.max())
    pixels = decode.decode(tif(values), SIDE, limits=deep.limits(values))
    np.testing.assert_array_equal(pixels, np.repeat(expected[..., None], 3, axis=-1))


def test_scaling():
    assert deep.scaled(np.array([-5, 0, 50, 100, 300]), 0, 100).tolist() == [0, 0, 128, 255, 255]
    odd = np.array([np.nan, -np.inf, np.inf, 0.5], np.float32)
    assert deep.scaled(odd, 0.0, 1.0).tolist() == [0, 0, 255, 128]
    assert deep.limits(odd) == (0.5, 0.5)
    everything = np.arange(4096, dtype=np.uint16)
    counts = np.bincount(deep.scaled(everything, 0, 4095), minlength=256)
    assert counts[1:-1].min() >= 16
    assert counts[[0, -1]].min() >= 8


def test_an_x_ray_of_12_bits_uses_all_grey_levels(root, load):
    """The range is that of the training images alone."""
    for split, top in (("train", 4095), ("val", 65535)):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for i in range(3):
                values = np.linspace(0, top, SIDE * SIDE).astype(np.uint16).reshape(SIDE, SIDE, 1)
                (root / split / name / f"{i}.png").write_bytes(png(values))
    data = both(load)
    assert data.range == (0.0, 4095.0)
    assert data.facts()["range"] == [0.0, 4095.0]
    expected = deep.scaled(np.linspace(0, 4095, 64).astype(np.uint16), 0, 4095)
    for image in data.train.images:
        np.testing.assert_array_equal(image, np.repeat(expected.reshape(8, 8, 1), 3, axis=-1))
    assert (np.asarray(data.test.images)[:, 1:] == 255).all()
    assert data.notes == (
        "12 images have more than 8 bits; 0 to 4,095 become black to white (the training images' "
        "range; data.range sets it)",
        "test images reach 65,535; all above 4,095 become white, unless data.range is given",
    )


@pytest.mark.parametrize(
    ("top", "note"),
    [
        (2200, "test images reach 2,200; all above 1,100 become white, unless data.range is given"),
        (2100, None),
        (151, None),
        (149, "test images reach 149 only, so they are nearly black, unless data.range is given"),
    ],
)
def test_test_images_far_from_the_range_are_noted(root, load, capsys, top, note):
    for split, high in (("train", 1100), ("val", top)):
        for i in range(3):
            values = np.linspace(100, high, SIDE * SIDE).astype(np.uint16).reshape(SIDE, SIDE, 1)
            (root / split).mkdir(exist_ok=True)
            (root / split / f"{i}.png").write_bytes(png(values))
    data = both(load)
    assert data.range == (100.0, 1100.0)
    assert data.notes[1:] == ((note,) if note else ())
    capsys.readouterr()
    assert load().notes == data.notes
    assert "range" not in capsys.readouterr().err  # the cache has it
    assert len(load(range=(0, 50.0)).notes) == 1


def test_a_given_range_and_the_cache(root, load, capsys):
    (root / "x.png").write_bytes(png(noise(3)))
    (root / "y.png").write_bytes(png(noise(3, 256, np.uint8)))
    first = both(load)
    low, high = first.range
    assert 0 <= low < 2000 < 63_000 < high < 65_536
    assert first.notes[0].startswith("1 image has more than 8 bits; ")
    given = both(load, range=(0.0, 1000.0))
    assert given.range == (0.0, 1000.0)
    assert given.notes[0].endswith("0 to 1,000 become black to white (data.range)")
    brighter = np.asarray(given.train.images).astype(int) - first.train.images
    # Only the picture of 16 bits changes.
    assert sorted((brighter.mean(axis=(1, 2, 3)) > 50).tolist()) == [False, True]
    assert capsys.readouterr().err.count("decoding") == 2
    both(load)
    both(load, range=(0.0, 1000.0))
    assert capsys.readouterr().err == ""


def test_pictures_of_8_bits_have_no_range(root, load):
    values = noise(3, 256, np.uint8)
    (root / "x.png").write_bytes(png(values))
    data = both(load)
    assert (data.range, data.notes) == ((), ())
    assert "range" not in data.facts()
    np.testing.assert_array_equal(data.train.images[0], values)
    assert both(load, range=(0.0, 9.0)).notes == (
        "data.range=(0.0, 9.0) changes nothing: all images have 8 bits, by their headers",
    )


def test_a_range_of_one_value(root, load):
    (root / "x.png").write_bytes(png(np.full((8, 8, 1), 700, np.uint16)))
    data = both(load)
    assert data.range == (700.0, 701.0)
    datasets.Source(range=data.range)  # a run that is opened again sets it
    assert not np.any(data.train.images)


def test_names_that_hide_more_bits(root, load):
    """A PNG file of 16 bits that is called .jpg."""
    values = noise(1, 4096)
    (root / "x.jpg").write_bytes(png(values))
    with pytest.raises(SettingError, match="x.jpg cannot be read .*more than 8 bits.*data.range"):
        load()
    data = both(load, range=(0.0, 4095.0))
    expected = deep.scaled(values, 0, 4095)
    np.testing.assert_array_equal(data.train.images[0], np.repeat(expected, 3, axis=-1))


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_transparency_of_16_bits(kind):
    values = noise(4)
    raw = (
        png(values)
        if kind == "png"
        else tif(values, photometric="rgb", extrasamples=["unassalpha"])
    )
    assert decode.limits_of(raw, 0) == (values[..., :3].min(), values[..., :3].max())
    assert decode.limits_of(raw, 4) == (values.min(), values.max())
    over_white = decode.decode(raw, SIDE, limits=(0, 65535)).astype(float)
    share = values[..., 3:] / 65535
    expected = values[..., :3] / 257 * share + 255 * (1 - share)
    np.testing.assert_allclose(over_white, expected, atol=1.6)
    four = decode.decode(raw, SIDE, bands=4, limits=(0, 65535))
    np.testing.assert_array_equal(four, deep.scaled(values, 0, 65535))


def test_grey_with_transparency_of_16_bits():
    values = noise(2)
    assert decode.limits_of(png(values), 0) == (values[..., 0].min(), values[..., 0].max())
    two = decode.decode(png(values), SIDE, bands=2, limits=(0, 65535))
    np.testing.assert_array_equal(two, deep.scaled(values, 0, 65535))
    share = values[..., 1:] / 65535
    over_white = decode.decode(png(values), SIDE, limits=(0, 65535))
    expected = np.broadcast_to(values[..., :1] / 257 * share + 255 * (1 - share), (8, 8, 3))
    np.testing.assert_allclose(over_white, expected, atol=1.6)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_files_are_turned_upright_once(orientation, channels, dtype):
    values = noise(channels, 256, dtype)
    settings = dict(photometric="rgb" if channels > 1 else "minisblack")
    raw = tif(values.squeeze(), extratags=[(274, "H", 1, orientation, True)], **settings)
    turns = {1: 0, 3: 2, 6: 3, 8: 1}[orientation]
    expected = decode.decode(tif(np.rot90(values, turns).squeeze(), **settings), 8, limits=(0, 255))
    np.testing.assert_array_equal(decode.decode(raw, 8, limits=(0, 255)), expected)


def resized(values, side):
    """Each band [H, W] of 8 bits by itself."""
    bands = [
        Image.fromarray(np.ascontiguousarray(values[..., i])).resize(
            (side, side), Image.Resampling.BICUBIC, reducing_gap=3.0
        )
        for i in range(values.shape[-1])
    ]
    return np.stack([np.asarray(band) for band in bands], axis=-1)


def test_bands_are_read_as_they_are(root, load):
    """The fourth band of a satellite's picture is no transparency."""
    values = noise(4, 256, np.uint8, side=20)
    values[..., 3] //= 4
    (root / "x.png").write_bytes(png(values))
    over_white = both(load)
    assert over_white.notes == (
        "1 image has a band besides colour or grey, taken for transparency over white or left out; "
        "data.bands=4 (2 for grey images) reads it as a channel",
    )
    four = both(load, bands=4)
    assert four.notes == ()
    assert four.train.images.shape == (1, 8, 8, 4)
    np.testing.assert_array_equal(four.train.images[0], resized(values, 8))
    assert len(four.mean) == len(four.std) == 4
    np.testing.assert_array_equal(both(load, bands=2).train.images, four.train.images[..., :2])
    grey = both(load, bands=1).train.images
    assert grey.shape == (1, 8, 8, 1)
    luma = Image.fromarray(over_white.train.images[0]).convert("L")
    np.testing.assert_allclose(grey[0, ..., 0].astype(int), np.asarray(luma).astype(int), atol=1)
    np.testing.assert_array_equal(both(load, bands=3).train.images, over_white.train.images)
    mean = (0.1, 0.2, 0.3, 0.4)
    assert load(bands=4, mean=mean, std=mean).mean == mean
    with pytest.raises(SettingError, match="data.mean=.*: the images have 4 channels; give 4 num"):
        load(bands=4, mean=(0.5,) * 3)


def test_too_few_bands_are_one_line(root, load):
    (root / "x.png").write_bytes(png(noise(3, 256, np.uint8)))
    for bands in (4, 5):
        message = f"x.png cannot be read .it has 3 bands, but data.bands={bands}.; data.skip_corr"
        with pytest.raises(SettingError, match=message):
            load(bands=bands)


@pytest.mark.parametrize(("suffix", "lossless"), [(".webp", True), (".webp", False), (".tif", 0)])
def test_transparency_is_said_of_other_formats(root, load, suffix, lossless):
    settings = dict(lossless=lossless) if suffix == ".webp" else {}
    Image.fromarray(noise(4, 256, np.uint8)).save(root / f"a{suffix}", **settings)
    Image.fromarray(noise(3, 256, np.uint8)).save(root / f"b{suffix}", **settings)
    assert load().notes[0].startswith("1 image has a band besides colour or grey")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("bands", [2, 4])
def test_bands_without_a_meaning(root, load, bands, dtype):
    """Such as near infrared beside red, green and blue; Pillow drops it."""
    values = noise(bands, 256, dtype)
    kind = dict(photometric="rgb" if bands == 4 else "minisblack", planarconfig="contig")
    (root / "x.tif").write_bytes(tif(values, extrasamples=["unspecified"], **kind))
    given = dict(range=(0.0, 255.0)) if dtype == np.uint16 else {}
    np.testing.assert_array_equal(both(load, bands=bands, **given).train.images[0], values)
    if dtype == np.uint8:
        colours = np.broadcast_to(values[..., : bands - 1], (8, 8, 3))
        data = both(load)
        np.testing.assert_array_equal(data.train.images[0], colours)
        assert data.notes[0].startswith("1 image has a band besides colour or grey")
    else:
        with pytest.raises(SettingError, match=f"it has {bands} bands; data.bands={bands} reads"):
            load()


def test_headers_of_many_pictures_are_kept(root, load, monkeypatch):
    for i in range(6):
        (root / f"{i}.png").write_bytes(png(noise(1, 4096)))
    monkeypatch.setattr(pictures, "_MANY", 5)
    calls = []
    header = deep.png_header
    monkeypatch.setattr(deep, "png_header", lambda head: (calls.append(1), header(head))[1])
    data = both(load)
    assert len(calls) == 6
    (root / "0.png").write_bytes(png(np.full((8, 8, 1), 60_000, np.uint16)))
    assert load().range[1] == 60_000 > data.range[1]
    assert len(calls) == 12


@pytest.mark.parametrize("how", ["proc", "full"])
def test_streaming_needs_no_cache(root, load, monkeypatch, how):
    for i in range(6):
        (root / f"{i}.png").write_bytes(png(noise(1, 4096)))
    expected = load(store="stream")
    monkeypatch.setattr(pictures, "_MANY", 5)
    settings = dict(cache="/proc/x") if how == "proc" else {}
    if how == "full":

        def full(*args):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(cache.np, "save", full)
    data = load(store="stream", **settings)
    assert data.facts() == expected.facts()
    with pytest.raises(SettingError, match="cannot be written"):
        load(**settings)


LAYOUTS = {
    "contig": dict(photometric="minisblack", planarconfig="contig"),
    "planes": dict(photometric="minisblack", planarconfig="separate"),
    "pages": dict(photometric="minisblack"),
    "as_it_comes": {},
}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_many_bands(root, load, dtype, layout):
    """Bands last, planes, a page each, and bands last as tifffile stores them unasked."""
    values = noise(13, 256, dtype, side=16)
    stored = np.moveaxis(values, -1, 0) if layout in ("planes", "pages") else values
    raw = tif(np.ascontiguousarray(stored), **LAYOUTS[layout])
    (root / "x.tif").write_bytes(raw)
    data = both(load, bands=13, range=(0.0, 255.0))
    np.testing.assert_array_equal(data.train.images[0], resized(values.astype(np.uint8), 8))
    assert data.range == (() if dtype == np.uint8 else (0.0, 255.0))
    five = both(load, bands=5, range=(0.0, 255.0))
    np.testing.assert_array_equal(five.train.images, data.train.images[..., :5])
    four = both(load, bands=4, range=(0.0, 255.0))
    np.testing.assert_array_equal(four.train.images, data.train.images[..., :4])
    if dtype != np.uint8:
        low, high = load(bands=13).range
        assert (low, high) == (values.min(), values.max())
    with pytest.raises(SettingError, match="x.tif cannot be read .it has 13 bands, but data.bands"):
        load(bands=14)
    if layout in ("contig", "planes"):
        with pytest.raises(SettingError, match="it has 13 bands; data.bands=13 reads them as they"):
            load()


@pytest.mark.parametrize("planes", ["contig", "separate"])
def test_colour_in_numbers_that_pillow_cannot_read(root, load, planes):
    values = noise(3, 256, np.float32)
    stored = values if planes == "contig" else np.moveaxis(values, -1, 0)
    raw = tif(np.ascontiguousarray(stored), photometric="rgb", planarconfig=planes)
    (root / "x.tif").write_bytes(raw)
    np.testing.assert_array_equal(both(load, range=(0.0, 255.0)).train.images[0], values)
    raw = tif(
        np.ascontiguousarray(stored.astype(np.uint16)), photometric="rgb", planarconfig=planes
    )
    (root / "x.tif").write_bytes(raw)
    np.testing.assert_array_equal(both(load, range=(0.0, 255.0)).train.images[0], values)


def test_without_tifffile_its_extra_is_named(root, load, monkeypatch):
    (root / "x.tif").write_bytes(tif(noise(3, 256, np.float32), photometric="rgb"))
    (root / "y.png").write_bytes(png(noise(3, 256, np.uint8)))
    find = builtins.__import__

    def without(name, *args):
        if name == "tifffile":
            raise ImportError(name)
        return find(name, *args)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "__import__", without)
        patch.setattr(tiff, "packages", list)
        with pytest.raises(SettingError, match=r"x.tif cannot be .*install 'ssl_jax\[tiff\]'"):
            load()
        assert load(skip_corrupt=True).left_out == {"unreadable": 1}
    assert load(skip_corrupt=True).left_out == {}


@pytest.mark.parametrize("cut", [10, 100, 200, 400])
def test_damaged_deep_pictures_are_one_line(root, load, cut):
    for name, raw in {"a.png": png(noise(3)), "b.tif": tif(noise(3), photometric="rgb")}.items():
        (root / "whole.png").write_bytes(png(noise(1, 256, np.uint8)))
        (root / name).write_bytes(raw[:cut])
        with pytest.raises(SettingError, match=f"{name} cannot be read") as error:
            load()
        assert "\n" not in str(error.value)
        assert load(skip_corrupt=True).left_out == {"unreadable": 1}
        (root / name).unlink()


def test_bands_beyond_pillow_print_nothing(root, load, capfd):
    """Pillow would log a line or three for each picture."""
    for i in range(3):
        (root / f"{i}.tif").write_bytes(tif(noise(13), **LAYOUTS["contig"]))
    load(bands=13)
    assert "samples per pixel" not in capfd.readouterr().err


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("most", [4095, 65535])
def test_all_bits_of_netpbm_files_are_read(root, load, channels, most):
    """Pillow stretches grey values, and drops bits of colours."""
    values = noise(channels, 4000)
    values[0, 0], values[0, 1] = 7, 3999
    header = f"P{5 if channels == 1 else 6}\n# twelve bits\n{SIDE} {SIDE}\n{most}\n"
    raw = header.encode() + values.astype(">u2").tobytes()
    (root / "x.ppm").write_bytes(raw)
    data = both(load)
    assert data.range == (values.min(), values.max())
    expected = deep.scaled(values, values.min(), values.max())
    np.testing.assert_array_equal(data.train.images[0], np.broadcast_to(expected, (SIDE, SIDE, 3)))
    with pytest.raises(SettingError, match="x.ppm cannot be read .it has .* band.*data.bands=4"):
        load(bands=4)
    (root / "x.ppm").write_bytes(raw[:-1])
    with pytest.raises(SettingError, match="x.ppm cannot be read .the file is truncated"):
        load()


def test_netpbm_files_of_8_bits_stay_as_they_are(root, load):
    values = noise(3, 256, np.uint8)
    (root / "x.ppm").write_bytes(f"P6 {SIDE} {SIDE} 255\n".encode() + values.tobytes())
    data = both(load)
    assert data.range == ()
    np.testing.assert_array_equal(data.train.images[0], values)


def test_pictures_without_a_finite_value_are_named(root, load):
    values = noise(1, 100, np.float32)[..., 0]
    (root / "a.tif").write_bytes(tif(values))
    (root / "b.tif").write_bytes(tif(np.full_like(values, np.nan)))
    with pytest.raises(SettingError, match="b.tif cannot be read .it has no finite values"):
        load()
    data = load(skip_corrupt=True)
    assert (len(data.train), data.left_out) == (1, {"unreadable": 1})


def test_endings():
    names = ["a.JPG", "b.tar.gz", "c", ".d", "e.0001", "f. g", "h.", "1.2.840.11", "i.mp4"]
    expected = [".jpg", ".gz", "", "", "", "", "", "", ".mp4"]
    assert [formats.ending(name) for name in names] == expected


@pytest.mark.slow
def test_a_run_on_four_bands(tmp_path, root):
    """Transforms that need red, green and blue are left out of the views."""
    for name in ("a", "b"):
        (root / name).mkdir()
        for i in range(40):
            (root / name / f"{i}.png").write_bytes(png(noise(4, 4096)))
    config = tiny("instance")
    config.update(epochs=1, evals={}, baselines=False)
    config.data = dict(name="folder", dir=str(root), cache=str(tmp_path / "c"), size=8, bands=4)
    config.augment.one.update(jitter=1.0, hue=0.1, saturation=0.4, grayscale=0.5)
    train.run(config, tmp_path / "run")
    losses = [
        record["train/loss"] for record in read_records(tmp_path / "run") if "train/loss" in record
    ]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
