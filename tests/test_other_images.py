"""Runs on other images than they were trained on: channels, values, limits, labels."""

import csv
import importlib
import shutil
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.images import pixels_in, sizes_in
from helpers.runs import tiny
from helpers.trained import made, opened
from PIL import Image

from ssl_jax import load_encoder
from ssl_jax.clustering import assignment, contact_sheet
from ssl_jax.clustering.label import label
from ssl_jax.clustering.output_files import OutputFiles
from ssl_jax.data import channels, datasets
from ssl_jax.data.luma import luma
from ssl_jax.data.source import Dataset, Images, Source, stand_in
from ssl_jax.inference import snippets
from ssl_jax.inference.images import notes_on
from ssl_jax.inference.pretrained import export, of_run
from ssl_jax.inference.transfer import evaluation_of
from ssl_jax.models import weight_files
from ssl_jax.models.weight_files import WeightsError
from ssl_jax.ops.mesh import make_mesh
from ssl_jax.runs.restore import config_for, config_of, other_data
from ssl_jax.settings.resolve import SettingError

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
GREY = np.stack([np.asarray(Image.fromarray(x).convert("L")) for x in COLOURS])[..., None]
LABELS = np.arange(24) % 2


def save(path, images):
    """A labelled .npz file; returns its path."""
    np.savez(path, images=images, labels=LABELS)
    return str(path)


def run_on(folder, data, prototypes=16, **model):
    """A run of SwAV on all images of `data`, opened."""
    config = tiny("swav")
    config.data.update(limit=0, **data)
    config.batch_size = 8
    config.evals = dict(knn=dict(k=3))
    config.method.update(prototypes=prototypes, queue_length=0)
    config.model.update(model)
    return opened(made(folder / "run", config))


@pytest.fixture(scope="module")
def grey_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grey")
    return run_on(folder, dict(name="array", dir=save(folder / "a.npz", GREY)))


@pytest.fixture(scope="module")
def colour_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("colour")
    return run_on(folder, dict(name="array", dir=save(folder / "a.npz", COLOURS)))


def assigned(run, given, **settings):
    """A report, and the lines that were printed about images and clusters."""
    config = config_of(run.folder)
    config["data"].update(given)
    lines = []
    report = label(run, config, given, report=lines.append, **settings)
    return report, [line for line in lines if not line.startswith("comparing with")]


def similarities(report):
    return dict(zip(report.names, report.assignment.similarity.tolist()))


def evaluated(run, **given):
    """Scores of another data set, and notes on it; as the command does it."""
    config = config_for(run.folder, ())
    config.data.update(given)
    config.evals.knn.k = 3
    settings = other_data(config.to_dict(), given, run.plan.source)
    with jax.set_mesh(make_mesh()):
        evaluation = evaluation_of(run, settings)
        return dict(evaluation())["knn"]["knn/top1"], evaluation


def draw(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


# grey and colour


def test_luma_is_pillows():
    values = np.array([0, 1, 77, 128, 254, 255], np.uint8)
    cube = np.stack(np.meshgrid(values, values, values), axis=-1).reshape(1, 36, 6, 3)
    cube = np.concatenate([cube, RNG.integers(0, 256, (1, 36, 6, 3), dtype=np.uint8)])
    expected = np.stack([np.asarray(Image.fromarray(x).convert("L")) for x in cube])
    np.testing.assert_array_equal(luma(cube)[..., 0], expected)
    np.testing.assert_array_equal(np.asarray(luma(jnp.asarray(cube)))[..., 0], expected)


def test_images_that_are_converted_when_read():
    images = channels.as_channels(COLOURS, 1)
    assert isinstance(images, channels.MappedImages)
    assert (images.shape, images.dtype, images.ndim, len(images)) == (GREY.shape, np.uint8, 4, 24)
    rows = np.array([5, 0, 5])
    np.testing.assert_array_equal(images[rows], GREY[rows])
    np.testing.assert_array_equal(images[7], GREY[7])
    np.testing.assert_array_equal(np.asarray(images[3:9]), GREY[3:9])
    np.testing.assert_array_equal(np.asarray(images), GREY)
    assert np.asarray(images, np.float32).dtype == np.float32
    back = channels.as_channels(GREY, 3)
    assert (back.shape, back.strides[-1]) == (COLOURS.shape, 0)  # no memory
    assert channels.as_channels(GREY, 1) is GREY
    for present, wanted in ((4, 3), (3, 4), (13, 1), (1, 2)):
        with pytest.raises(ValueError, match="cannot have"):
            channels.as_channels(np.zeros((1, 2, 2, present), np.uint8), wanted)


@pytest.mark.parametrize("store", ["memory", "memmap", "cache", "stream"])
def test_a_data_set_in_grey(store, tmp_path):
    if store in ("memory", "memmap"):
        images = COLOURS
        if store == "memmap":
            np.save(tmp_path / "a.npy", COLOURS)
            images = np.load(tmp_path / "a.npy", mmap_mode="r")
        split = Images(images, LABELS.astype(np.int32))
        data = Dataset(
            split, Images(images[:5], split.labels[:5]), ("a", "b"), (0.5,) * 3, (1,) * 3
        )
    else:
        for i, pixels in enumerate(COLOURS):
            draw(tmp_path / "pictures" / f"{i}.png", pixels)
        data = datasets.load(
            "folder",
            dir=str(tmp_path / "pictures"),
            cache=str(tmp_path / "cache"),
            size=8,
            store=store,
        )
    in_grey = channels.converted(data, 1)
    assert isinstance(in_grey.train.images, np.ndarray) == (store == "memory")
    for before, after in ((data.train, in_grey.train), (data.test, in_grey.test)):
        expected = luma(pixels_in(before.images))
        np.testing.assert_array_equal(pixels_in(after.images), expected)
        np.testing.assert_array_equal(sizes_in(after.images), sizes_in(before.images))
        np.testing.assert_array_equal(after.labels, before.labels)
    share = pixels_in(in_grey.train.images) / 255
    assert in_grey.mean == pytest.approx((share.mean(),), abs=1e-3)
    assert in_grey.std == pytest.approx((share.std(),), abs=1e-3)
    colour = channels.converted(in_grey, 3)
    assert (colour.mean, colour.std) == (in_grey.mean * 3, in_grey.std * 3)
    np.testing.assert_array_equal(
        pixels_in(colour.test.images), np.repeat(pixels_in(in_grey.test.images), 3, axis=-1)
    )


def test_encoders_take_grey_and_colour(grey_run, colour_run, tmp_path):
    in_grey = load_encoder(grey_run.folder)
    expected = np.asarray(in_grey(GREY))
    np.save(tmp_path / "a.npy", COLOURS)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    for images in (COLOURS, mapped, jnp.asarray(COLOURS), COLOURS.tolist()):
        images = images if hasattr(images, "ndim") else np.array(images, np.uint8)
        np.testing.assert_allclose(in_grey(images), expected, atol=1e-5)
    np.testing.assert_allclose(in_grey(GREY[..., 0]), in_grey(GREY), atol=1e-6)
    in_colour = load_encoder(colour_run.folder)
    expected = np.asarray(in_colour(np.repeat(GREY, 3, axis=-1)))
    for images in (GREY, jnp.asarray(GREY)):
        np.testing.assert_allclose(in_colour(images), expected, atol=1e-5)
    for images in (COLOURS[..., :2], np.repeat(COLOURS, 2, axis=-1), GREY[:0]):
        with pytest.raises(ValueError, match=r"give uint8 \[N, H, W, 1\], N >= 1"):
            in_grey(images)
    for images in (GREY.astype(np.uint16), GREY / 255, np.full((1, 2, 2, 1), "a")):
        with pytest.raises(ValueError, match=r"from 0..1: \(255 \* images\).round\(\)"):
            in_grey(images)


@pytest.mark.parametrize("by_colour", [False, True])
def test_scores_of_grey_and_colour(by_colour, grey_run, colour_run, tmp_path):
    run = colour_run if by_colour else grey_run
    theirs = GREY if by_colour else COLOURS
    ours = np.repeat(GREY, 3, axis=-1) if by_colour else GREY
    other = save(tmp_path / "theirs.npz", theirs)
    score, evaluation = evaluated(run, name="array", dir=other)
    expected, own = evaluated(run, name="array", dir=save(tmp_path / "ours.npz", ours))
    assert score == expected
    assert own.notes == ()
    become = "three equal channels" if by_colour else "grey"
    count = "1 channel" if by_colour else "3 channels"
    wanted = 3 if by_colour else 1
    note = f"the images have {count}, the encoder {wanted}: converted to {become}"
    assert evaluation.notes == (note,)
    report, lines = assigned(run, dict(name="array", dir=other))
    expected, _ = assigned(run, dict(name="array", dir=str(tmp_path / "ours.npz")))
    assert similarities(report) == pytest.approx(similarities(expected), abs=1e-5)
    assert lines[0] == note
    assert report.picture(0).shape == theirs.shape[1:]  # sheets show the images as they are


@pytest.mark.parametrize("store", ["cache", "stream"])
def test_colour_pictures_by_a_grey_run(store, grey_run, tmp_path):
    for i, pixels in enumerate(COLOURS):
        draw(tmp_path / "pictures" / f"{i:02}.png", pixels)
    given = dict(
        name="folder",
        dir=str(tmp_path / "pictures"),
        cache=str(tmp_path / "cache"),
        size=8,
        store=store,
    )
    report, lines = assigned(grey_run, given, by="own")
    found = assignment.assign(of_run(grey_run), GREY)
    expected = dict(zip((f"{i:02}.png" for i in range(24)), found.similarity.tolist()))
    assert similarities(report) == pytest.approx(expected, abs=1e-5)
    assert lines[0] == "the images have 3 channels, the encoder 1: converted to grey"


def test_pictures_of_several_shapes_by_a_grey_run(grey_run, tmp_path):
    """They are the same from the cache and streamed, whole, and not those of their centres."""
    shapes = ((12, 18), (18, 12), (10, 10), (8, 40))
    for i in range(12):
        pixels = RNG.integers(0, 256, (*shapes[i % 4], 3), dtype=np.uint8)
        draw(tmp_path / "pictures" / f"{i:02}.png", pixels)
    given = dict(
        name="folder", dir=str(tmp_path / "pictures"), cache=str(tmp_path / "cache"), size=8
    )

    def found(**more):
        return similarities(assigned(grey_run, given | more, by="own")[0])

    cached = found()
    assert found(store="stream") == pytest.approx(cached, abs=1e-6)
    pictures = datasets.load(**given).train.images
    whole = channels.as_channels(pictures, 1)[np.arange(12)]
    expected = assignment.assign(of_run(grey_run), whole).similarity.tolist()
    assert sorted(cached.values()) == pytest.approx(sorted(expected), abs=1e-5)
    centres = found(keep="centre")
    differ = [abs(centres[name] - cached[name]) > 1e-4 for name in cached]
    assert sum(differ) == 9  # all but the squares


@pytest.mark.parametrize(
    ("name", "present", "wanted", "end"),
    [
        ("folder", 4, 3, "4 channels, the encoder was trained on 3; data.bands=3 reads colour"),
        ("array", 1, 4, "1 channel, the encoder was trained on 4; data.bands=4 reads the first 4"),
        ("hf:photos", 3, 13, "3 channels, the encoder was trained on 13; data.bands=13 reads"),
        ("cifar10", 3, 4, "3 channels, the encoder was trained on 4$"),
        ("tfds:mnist", 1, 4, "1 channel, the encoder was trained on 4$"),
        ("my.data", 1, 4, "1 channel, the encoder was trained on 4$"),
    ],
)
def test_channels_that_no_run_can_convert(name, present, wanted, end):
    with pytest.raises(SettingError, match=f"^data.name='{name}' has {end}"):
        channels.check(name, present, wanted)


def test_numbers_and_nouns_agree():
    with pytest.raises(SettingError, match="the images have 1 channel; give 1 number$"):
        Source(mean=(0.5, 0.5)).check_channels(1)
    with pytest.raises(SettingError, match="the images have 3 channels; give 3 numbers$"):
        Source(mean=(0.5,)).check_channels(3)


def test_sheets_show_any_number_of_channels():
    for count in (1, 2, 3, 4, 13):
        picture = np.full((60, 60, count), 9, np.uint8)
        picture[..., 0] = 200
        page = np.asarray(contact_sheet.sheet([picture], [""], "a"))
        middle = page[60 + contact_sheet.SIDE // 2, 16 + contact_sheet.SIDE // 2]
        expected = (200, 200, 200) if count < 3 else (200, 9, 9)
        np.testing.assert_array_equal(middle, expected)


# more than 8 bits


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """A run on 16-bit pictures of two classes, values 100 to 4000, and the pictures."""
    folder = tmp_path_factory.mktemp("deep")
    pictures = {}
    for i in range(24):
        low, high = (100, 900) if i % 2 else (100, 4001)
        pixels = RNG.integers(low, high, (8, 8)).astype(np.uint16)
        pixels[0, 0] = 100
        pixels[0, 1] = high - 1
        name = f"{'dark' if i % 2 else 'bright'}/{i}.png"
        pictures[name] = pixels
        draw(folder / "pictures" / name, pixels)
    data = dict(name="folder", dir=str(folder / "pictures"), cache=str(folder / "cache"), size=8)
    run = run_on(folder, data | dict(bands=1), name="resnet", width=4)
    assert run.plan.dataset.range == (100.0, 4000.0)
    return SimpleNamespace(run=run, pictures=pictures, folder=folder)


def test_dark_pictures_elsewhere_mean_what_they_meant_in_training(deep, tmp_path):
    ours = similarities(assigned(deep.run, {})[0])
    assert len(ours) == 24
    shutil.copytree(deep.folder / "pictures" / "dark", tmp_path / "x-rays" / "dark")
    given = dict(dir=str(tmp_path / "x-rays"), cache=str(tmp_path / "cache"))
    report, lines = assigned(deep.run, given, by="own")
    theirs = {f"dark/{name.split('/')[-1]}": x for name, x in similarities(report).items()}
    expected = {name: x for name, x in ours.items() if name.startswith("dark/")}
    assert theirs == pytest.approx(expected, abs=1e-6)
    assert any("100 to 4,000 become black to white (the range of the run)" in x for x in lines)
    stretched, _ = assigned(deep.run, given | dict(range=(100.0, 899.0)), by="own")
    assert report.picture(0).max() < 60
    assert stretched.picture(0).max() == 255


def test_scores_of_dark_pictures(deep, tmp_path):
    for i, name in enumerate(name for name in deep.pictures if name.startswith("dark/")):
        draw(tmp_path / "x-rays" / "ab"[i % 2] / f"{i}.png", deep.pictures[name])
    _, evaluation = evaluated(
        deep.run, dir=str(tmp_path / "x-rays"), cache=str(tmp_path / "cache"), test_share=0.3
    )
    assert evaluation.settings["data"]["range"] == (100.0, 4000.0)
    assert evaluation.settings["data"]["bands"] == 1
    images = np.asarray(evaluation.scorer._images)
    assert 0 < images.max() <= round(799 / 3900 * 255)


def test_pictures_of_8_bits_by_a_run_of_16(deep, tmp_path):
    for i in range(12):
        draw(tmp_path / "pictures" / f"{i}.png", GREY[i, ..., 0])
    report, lines = assigned(
        deep.run, dict(dir=str(tmp_path / "pictures"), cache=str(tmp_path / "cache")), by="own"
    )
    assert (
        "8 bits and are used as they are; the encoder was trained on values of 100 to 4000"
        in " ".join(lines)
    )
    found = assignment.assign(of_run(deep.run), GREY[:12])
    expected = dict(zip((f"{i}.png" for i in range(12)), found.similarity.tolist()))
    assert similarities(report) == pytest.approx(expected, abs=1e-5)


def test_encoders_scale_as_in_training(deep, tmp_path):
    encoder = load_encoder(deep.run.folder)
    assert encoder.range == (100.0, 4000.0)
    names = list(deep.pictures)
    values = np.stack([deep.pictures[name] for name in names])[..., None]
    report, _ = assigned(deep.run, {})
    rows = [report.names.index(name) for name in names]
    stored = np.stack([report.picture(row) for row in rows])
    expected = np.asarray(encoder(stored))
    np.save(tmp_path / "a.npy", values)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    kinds = (values, mapped, values.astype(np.int32), values.astype(np.float64))
    for images in (*kinds, jnp.asarray(values, np.float32), np.repeat(values, 3, axis=-1)):
        np.testing.assert_allclose(encoder(images), expected, atol=1e-5)
    dark = encoder(values[:1] // 10)  # each image by itself
    assert np.abs(np.asarray(dark) - expected[:1]).max() > 1e-4
    with pytest.raises(
        ValueError, match="values in 0..1: the encoder was trained on values of 100"
    ):
        encoder(values / 4000)
    with pytest.raises(ValueError, match="not finite"):
        encoder(np.where(values > 800, np.nan, values))
    encoder(np.zeros((1, 8, 8, 1)))  # black, which is fine


def test_weight_files_keep_the_range(deep, colour_run, tmp_path):
    path = tmp_path / "a.safetensors"
    tensors = export(deep.run, path)
    values = np.stack(list(deep.pictures.values()))[..., None]
    encoder = load_encoder(path)
    assert encoder.range == (100.0, 4000.0)
    np.testing.assert_allclose(encoder(values), of_run(deep.run)(values), atol=1e-5)
    notes = '{"size": 8, "mean": [0.5], "std": [0.5], "range": %s}'
    for bad in (
        "[1, 2, 3]",
        "[2, 1]",
        "[NaN, 1]",
        "[1, Infinity]",
        "4000",
        '["a", "b"]',
        "[1, true]",
    ):
        weight_files.write(path, tensors, notes % bad)
        with pytest.raises(
            WeightsError, match=r"notes range=.* of its images; give range yourself"
        ):
            load_encoder(path)
        assert load_encoder(path, range=(0.0, 9.0)).range == (0.0, 9.0)
    with pytest.raises(WeightsError, match=r"range=\(9.0, 0.0\): give \(darkest, brightest\)"):
        load_encoder(path, range=(9.0, 0.0))
    weight_files.write(path, tensors, notes.replace(', "range": %s', ""))
    assert load_encoder(path).range == ()
    assert of_run(colour_run).range == ()


def test_the_printed_lines_name_the_range():
    line = snippets.images(8, 1, (0.5,), (0.25,), (0.0, 4095.0))
    assert "1 channel in 0..1 (values of 0 and below are 0, of 4095 and above 1), norm" in line
    line = snippets.here("a.safetensors", 1, (0.0, 4095.0))[-1]
    assert "# uint8, or values where 0 is black and 4095 white, [N, H, W, 1]" in line
    assert "(values" not in snippets.images(8, 1, (0.5,), (0.25,))


def test_bands_go_along(tmp_path):
    def pictures(name, count):
        for i in range(count):
            draw(tmp_path / name / f"{i}.png", RNG.integers(0, 256, (8, 8, 4), dtype=np.uint8))
        return dict(name="folder", dir=str(tmp_path / name), cache=str(tmp_path / "cache"), size=8)

    config = tiny("instance")
    config.augment.one.update(jitter=0.0, grayscale=0.0)
    config.data.update(limit=0, bands=4, **pictures("a", 24))
    config.batch_size = 8
    run = opened(made(tmp_path / "run", config))
    assert run.plan.dataset.train.images.shape[-1] == 4
    report, lines = assigned(run, pictures("b", 13), count=2)
    assert (len(report.names), report.picture(0).shape) == (13, (8, 8, 4))
    assert len(lines) == 1  # nothing to say of the channels
    with pytest.raises(
        SettingError, match="has 3 channels, the encoder was trained on 4; data.bands=4"
    ):
        assigned(run, pictures("c", 3) | dict(bands=0), count=2)


# limits


@pytest.fixture
def limited(tmp_path):
    """A run on the first 16 of 24 images in a file."""
    config = tiny("byol")
    config.data.update(name="array", dir=save(tmp_path / "own.npz", COLOURS), limit=16)
    config.batch_size = 8
    return opened(made(tmp_path / "run", config))


def rows_of(run, given, out):
    """Rows of the table that assign writes."""
    report, _ = assigned(run, given, count=2)
    OutputFiles(out, overwrite=True).write(report, most=0)
    with open(out, newline="") as file:
        return len(list(csv.reader(file))) - 1


def test_no_row_is_missing_for_another_file(limited, tmp_path, monkeypatch):
    out = tmp_path / "c.csv"
    assert rows_of(limited, {}, out) == 16 + 2  # 2 of the 24 are held out
    (tmp_path / "link.npz").symlink_to(tmp_path / "own.npz")
    assert rows_of(limited, dict(dir=str(tmp_path / "link.npz")), out) == 18
    other = save(tmp_path / "other.npz", COLOURS)
    assert rows_of(limited, dict(dir=other), out) == 24
    assert rows_of(limited, dict(dir=other, limit=3), out) == 3 + 2
    for i, pixels in enumerate(COLOURS):
        draw(tmp_path / "pictures" / f"{i}.png", pixels)
    given = dict(name="folder", dir=str(tmp_path / "pictures"), cache=str(tmp_path / "cache"))
    assert rows_of(limited, given, out) == 24


def test_no_row_is_missing_for_a_module_of_the_users(tmp_path, monkeypatch):
    (tmp_path / "their").mkdir()
    (tmp_path / "their" / "__init__.py").write_text("")
    (tmp_path / "their" / "images.py").write_text(
        "from ssl_jax.data.arrays import arrays\nload = arrays\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    config = tiny("byol")
    config.data.update(name="their.images", dir=save(tmp_path / "own.npz", COLOURS), limit=16)
    config.batch_size = 8
    run = opened(made(tmp_path / "run", config))
    other = dict(dir=save(tmp_path / "other.npz", COLOURS))
    assert rows_of(run, other, tmp_path / "c.csv") == 24
    monkeypatch.delitem(sys.modules, "their.images")
    monkeypatch.delitem(sys.modules, "their")


# labels and clusters


@pytest.mark.parametrize(
    ("layout", "reason"),
    [
        (["all/{}.png"], "all/ is the only class folder"),
        (["a/{}.png", "b/{}.png", "loose{}.png"], "is outside the class folders"),
        (["train/a/{}.png", "train/b/{}.png", "val/c/{}.png"], "is a class that train/ lacks"),
        (["new/{}.png", "other/{}.png"], ""),
    ],
)
def test_assign_needs_no_labels(layout, reason, colour_run, tmp_path):
    for i, pixels in enumerate(COLOURS):
        draw(tmp_path / "D" / layout[i % len(layout)].format(i), pixels)
    given = dict(name="folder", dir=str(tmp_path / "D"), cache=str(tmp_path / "cache"), size=8)
    report, lines = assigned(colour_run, given)
    assert len(report.names) == 24
    assert any(reason in line for line in lines)
    assert all("; give images" not in line for line in lines)
    OutputFiles(tmp_path / "c.csv", overwrite=False).write(report, most=1)
    head, *rows = csv.reader((tmp_path / "c.csv").read_text().splitlines())
    assert ("label" in head) == (not reason)
    assert {row[0] for row in rows} == {layout[i % len(layout)].format(i) for i in range(24)}


def test_files_without_a_row_are_counted(colour_run, tmp_path, monkeypatch):
    data = datasets.load("array", dir=save(tmp_path / "a.npz", COLOURS))
    left_out = {".heic": 1, "": 2, "unreadable": 5}
    monkeypatch.setattr(
        "ssl_jax.inference.images.load_data",
        lambda settings, **more: Dataset(**{**vars(data), "left_out": left_out}),
    )
    _, lines = assigned(colour_run, {})
    assert lines[0] == "left out 8 files (.heic 1, without ending 2, 5 unreadable)"


@pytest.mark.parametrize(
    ("images", "expected"),
    [(2, 2), (3, 2), (9, 4), (20, 10), (200, 10), (450, 15), (800, 20), (10**6, 20)],
)
def test_a_few_clusters_to_look_at(images, expected):
    assert assignment.few_clusters(images) == expected


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory):
    """SwAV with 24 prototypes on pictures without labels."""
    folder = tmp_path_factory.mktemp("unlabelled")
    for i, pixels in enumerate(COLOURS):
        draw(folder / "pictures" / f"{i}.png", pixels)
    data = dict(name="folder", dir=str(folder / "pictures"), cache=str(folder / "cache"), size=8)
    return run_on(folder, data, prototypes=24)


def test_an_unlabelled_run_gives_a_few_clusters(unlabelled, tmp_path):
    report, lines = assigned(unlabelled, {})
    assert (len(report.assignment.sizes), report.used) == (10, 10)
    assert lines[-1].endswith(
        ": 10 clusters by k-means; --clusters=K makes another number, "
        "--by=own uses the 24 prototypes"
    )
    report, lines = assigned(unlabelled, {}, by="own")
    assert len(report.assignment.sizes) == 24
    assert lines[-1].endswith(": 24 prototypes of its own")
    report, lines = assigned(unlabelled, {}, count=3)
    assert len(report.assignment.sizes) == 3
    assert lines[-1].endswith(": 3 clusters by k-means")
    classes = dict(name="array", dir=save(tmp_path / "a.npz", COLOURS))
    report, _ = assigned(unlabelled, classes)  # these have classes
    assert len(report.assignment.sizes) == 24
    report, _ = assigned(unlabelled, classes, by="kmeans")
    assert len(report.assignment.sizes) == 2


def test_a_labelled_run_keeps_its_clusters(colour_run, limited, unlabelled):
    given = dict(name="folder", dir=unlabelled.plan.source.dir, cache=unlabelled.plan.source.cache)
    report, _ = assigned(colour_run, given)
    assert len(report.assignment.sizes) == 16
    report, lines = assigned(limited, given)  # without prototypes
    assert len(report.assignment.sizes) == 10
    assert lines[-1].endswith(": 10 clusters by k-means; --clusters=K makes another number")


def test_a_single_picture(unlabelled, limited, tmp_path):
    draw(tmp_path / "D" / "a.png", COLOURS[0])
    given = dict(name="folder", dir=str(tmp_path / "D"), cache=str(tmp_path / "cache"), size=8)
    report, _ = assigned(unlabelled, given)
    assert len(report.assignment.sizes) == 24
    with pytest.raises(SettingError, match="there is only one image, k-means needs two"):
        assigned(limited, given)


def test_a_table_beside_the_run_folder(unlabelled, tmp_path):
    (tmp_path / "RUN").mkdir()
    (tmp_path / "RUN" / "config.json").write_text("{}")
    report, _ = assigned(unlabelled, {})
    files = OutputFiles(tmp_path / "RUN.csv", overwrite=False)
    files.check()
    written = files.write(report, most=1)
    assert f"and {tmp_path}/RUN_sheets/ with overview.png and 1 sheet" in written
    assert [path.name for path in (tmp_path / "RUN").iterdir()] == ["config.json"]
    with pytest.raises(SettingError, match="already exists; --overwrite replaces"):
        OutputFiles(tmp_path / "RUN.csv", overwrite=False).check()
    files = OutputFiles(tmp_path / "RUN.csv", overwrite=True)
    files.check()
    files.write(report, most=2)
    assert len([*(tmp_path / "RUN_sheets").glob("cluster_*")]) == 2


def test_images_of_another_size_are_said():
    def square(side):
        return stand_in(dict(shape=[4, side, side, 3], classes=[], mean=[0.5] * 3, std=[0.2] * 3))

    assert notes_on(square(24), square(8)) == ()
    assert notes_on(square(24), square(64)) == ()
    (note,) = notes_on(square(128), square(8))
    assert note.startswith("the images have 128 pixels a side, those in training 8;")
    (note,) = notes_on(square(8), square(128))
    assert note.startswith("the images have 8 pixels a side, those in training 128;")
