"""Arrays as people have them: other keys, axes, types, labels, and .npy files."""

import numpy as np
import pytest

from ssl_jax.data import array_forms, datasets
from ssl_jax.data.arrays import arrays
from ssl_jax.data.source import Source, stand_in
from ssl_jax.settings.resolve import SettingError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (40, 6, 5, 3), dtype=np.uint8)
IMAGES[0, 0, 0] = (0, 128, 255)
LABELS = np.arange(40) % 4


@pytest.fixture
def load(tmp_path):
    def save_and_load(settings=None, **arrays):
        np.savez(tmp_path / "data.npz", **arrays)
        settings = {"cache": str(tmp_path / "cache")} | (settings or {})
        return datasets.load("array", dir=str(tmp_path / "data.npz"), **settings)

    return save_and_load


@pytest.fixture
def load_files(tmp_path):
    def save_and_load(settings=None, **arrays):
        folder = tmp_path / "arrays"
        folder.mkdir(exist_ok=True)
        for key, array in arrays.items():
            np.save(folder / f"{key}.npy", array)
        settings = {"cache": str(tmp_path / "cache")} | (settings or {})
        return datasets.load("array", dir=str(folder), **settings)

    return save_and_load


def notes_of(data):
    return "; ".join(data.notes)


def test_keys_of_medmnist(load):
    data = load(
        train_images=IMAGES,
        train_labels=LABELS[:, None].astype(np.uint8),
        val_images=IMAGES[:7],
        val_labels=LABELS[:7, None],
        test_images=IMAGES[:9],
        test_labels=LABELS[:9, None],
    )
    np.testing.assert_array_equal(data.train.images, IMAGES)
    np.testing.assert_array_equal(data.train.labels, LABELS)
    np.testing.assert_array_equal(data.test.images, IMAGES[:9])
    np.testing.assert_array_equal(data.test.labels, LABELS[:9])
    assert data.notes == ("val_images, 7 images, are left out; scores are on test_images",)
    assert data.names()[-1] == "test_images[8]"


def test_validation_images_test_where_the_test_images_have_no_labels(load):
    parts = dict(x_train=IMAGES, y_train=LABELS, x_val=IMAGES[:7], y_val=LABELS[:7])
    assert len(load(**parts).test) == 7
    assert load(**parts).notes == ()
    data = load(**parts, x_test=IMAGES[:9])
    assert len(data.test) == 7
    assert data.names()[-1] == "val_images[6]"
    assert data.notes == ("x_test, 9 images, are left out; scores are on x_val",)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("X", "y"),
        ("data", "targets"),
        ("image", "label"),
        ("X_train", "Y_train"),
        ("images_train", "labels_train"),
        ("arr_0", "arr_1"),
        ("training_data", "training_targets"),
    ],
)
def test_other_words_for_images_and_labels(load, images, labels):
    data = load(dict(test_share=0.2), **{images: IMAGES, labels: LABELS})
    assert len(data.train) == 32
    assert data.classes == ("0", "1", "2", "3")


@pytest.mark.parametrize(
    ("shape", "expected", "channels_first"),
    [
        ((9, 28, 28), (28, 28, 1), False),
        ((9, 32, 32, 3), (32, 32, 3), False),
        ((9, 3, 32, 32), (32, 32, 3), True),
        ((9, 1, 28, 28), (28, 28, 1), True),
        ((9, 28, 28, 1), (28, 28, 1), False),
        ((9, 13, 64, 64), (64, 64, 13), True),
        ((9, 64, 64, 13), (64, 64, 13), False),
        ((9, 13, 8, 8), (8, 8, 13), True),
        ((9, 8, 8, 13), (8, 8, 13), False),
        ((9, 4, 30, 40), (30, 40, 4), True),
        ((9, 30, 40, 4), (30, 40, 4), False),
        ((9, 200, 64, 64), (64, 64, 200), True),
        ((9, 2, 30, 40), (30, 40, 2), True),
        ((9, 3, 30, 40), (30, 40, 3), True),
        ((9, 3, 2, 2), (2, 2, 3), True),
        # The shape leaves it open: [N, H, W, C].
        ((9, 3, 3, 3), (3, 3, 3), False),
        ((9, 3, 32, 3), (3, 32, 3), False),
        ((9, 1, 1, 1), (1, 1, 1), False),
        ((9, 8, 8, 8), (8, 8, 8), False),
        ((9, 4, 4, 4), (4, 4, 4), False),
        ((9, 6, 7, 6), (6, 7, 6), False),
    ],
)
def test_where_the_channels_are(load, shape, expected, channels_first):
    stored = RNG.integers(0, 256, shape, dtype=np.uint8)
    assert array_forms.shape_of(shape) == expected
    data = load(images=stored)
    images = stored[..., None] if stored.ndim == 3 else stored
    images = images.transpose(0, 2, 3, 1) if channels_first else images
    np.testing.assert_array_equal(data.train.images, images)
    axes = "[N, C, H, W]" if channels_first else "[N, H, W, C]"
    said = f"images have shape {shape}, read as {axes}" in data.notes
    assert said == (channels_first or expected[2] not in (1, 3))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_floats_from_0_to_1(load, dtype):
    data = load(images=(IMAGES / 255).astype(dtype))
    np.testing.assert_array_equal(data.train.images, IMAGES)
    assert data.train.images.dtype == np.uint8
    assert data.range == (0.0, 1.0)
    assert "0 to 1 become black to white" in notes_of(data)


@pytest.mark.parametrize(
    "dtype", [np.float16, np.float32, np.float64, np.int64, np.uint16, np.int16, ">u2"]
)
def test_values_from_0_to_255(load, dtype):
    data = load(images=IMAGES.astype(dtype))
    np.testing.assert_array_equal(data.train.images, IMAGES)
    assert data.range == (0.0, 255.0)
    assert f"images are {np.dtype(dtype)}; 0 to 255 become black to white" in notes_of(data)


def test_booleans_are_black_and_white(load):
    data = load(images=IMAGES > 100)
    np.testing.assert_array_equal(data.train.images, (IMAGES > 100) * 255)
    assert data.range == (0.0, 1.0)


@pytest.mark.parametrize(
    ("stored", "low", "high"),
    [
        (IMAGES.astype(np.uint16) * 16, 0, 4080),
        (IMAGES.astype(np.float32) / 100 - 1, -1, 1.55),
        (IMAGES.astype(np.int32) - 128, -128, 127),
        (np.round(IMAGES / 17), 0, 15),  # few levels, which 0..255 would leave nearly black
        (IMAGES.astype(np.int64) * 10**12, 0, 255 * 10**12),
    ],
)
def test_other_values_take_the_range_of_the_training_images(load, stored, low, high):
    bright = stored[:8] * 2
    data = load(images=stored, labels=LABELS, test_images=bright, test_labels=LABELS[:8])
    np.testing.assert_allclose(data.range, (low, high), rtol=1e-6)
    for split, values in ((data.train, stored), (data.test, bright)):
        share = (np.clip(values.astype(float), low, high) - low) / (high - low)
        np.testing.assert_allclose(split.images, share * 255, atol=0.501)
    assert "the training images' range; data.range sets it" in notes_of(data)
    assert stand_in(data.facts()).range == data.range


def test_the_range_is_that_of_the_images_that_are_not_held_out(load):
    stored = IMAGES.astype(np.uint16)
    rows = [int(name[7:-1]) for name in load(images=IMAGES, labels=LABELS).names()]
    held_out = rows[36:]
    stored[held_out] *= 100
    data = load(images=stored, labels=LABELS)
    assert data.range == (0.0, 255.0)
    assert data.test.images.max() == 255


def test_a_range_that_is_given(load):
    data = load(dict(range=(100, 200)), images=IMAGES.astype(np.uint16))
    assert data.range == (100.0, 200.0)
    share = (np.clip(IMAGES.astype(float), 100, 200) - 100) / 100
    expected = np.floor(share * 255 + 0.5)
    np.testing.assert_array_equal(data.train.images, expected)
    assert "100 to 200 become black to white (data.range)" in notes_of(data)


def test_dark_uint8_images_are_named_and_follow_a_given_range(load, load_files):
    masks = (IMAGES > 128).astype(np.uint8)
    for read in (load, load_files):
        plain = read(images=masks, labels=LABELS)
        assert (plain.train.images.max(), plain.range) == (1, ())
        assert "images are uint8 with no value above 1, so nearly black; data.range=0,1" in (
            notes_of(plain)
        )
        scaled = read(dict(range=(0, 1)), images=masks, labels=LABELS, test_images=masks[:4])
        np.testing.assert_array_equal(scaled.train.images, masks * 255)
        np.testing.assert_array_equal(scaled.test.images, masks[:4] * 255)
        assert scaled.range == (0.0, 1.0)
        assert notes_of(scaled) == "images are uint8; 0 to 1 become black to white (data.range)"
    bright = load(images=np.concatenate([masks, IMAGES]))
    assert (bright.notes, bright.range) == ((), ())
    whole = load(dict(range=(0, 255)), images=IMAGES)
    assert (whole.notes, whole.range, whole.fingerprint()) == (
        (),
        (),
        load(images=IMAGES).fingerprint(),
    )


def read_for_run(tmp_path, images, limits):
    np.savez(tmp_path / "run.npz", images=images)
    return arrays(Source(name="array", dir=str(tmp_path / "run.npz"), range=limits, of_run=True))


def test_uint8_images_follow_the_range_of_a_run_that_they_could_have(tmp_path):
    masks = (IMAGES > 128).astype(np.uint8)
    data = read_for_run(tmp_path, masks, (0.0, 1.0))
    np.testing.assert_array_equal(data.train.images, masks * 255)
    assert notes_of(data).endswith("0 to 1 become black to white (the range of the run)")
    for limits in ((0.0, 1.0), (0.0, 4095.0)):
        data = read_for_run(tmp_path, IMAGES, limits)
        np.testing.assert_array_equal(data.train.images, IMAGES)
        assert (data.notes, data.range) == ((), ())
    with pytest.raises(SettingError, match=r"^the range of the run=.*; give data.range, the range"):
        read_for_run(tmp_path, IMAGES.astype(np.uint16) + 9000, (0.0, 4095.0))


def test_a_range_of_other_values(load):
    with pytest.raises(SettingError, match=r"data.range=\(0.0, 4095.0\): all values of .*images"):
        load(dict(range=(0, 4095)), images=IMAGES / 255)


def test_constant_images(load):
    data = load(images=np.full((4, 5, 5), 700, np.uint16))
    assert data.range == (700.0, 701.0)
    assert (data.train.images == 0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("key", ["images", "test_images"])
def test_values_that_are_not_finite_name_key_and_row(load, key, bad):
    arrays = dict(images=IMAGES / 255, test_images=IMAGES / 255)
    arrays[key] = arrays[key].copy()
    arrays[key][[5, 9], 2, 1] = bad
    with pytest.raises(SettingError, match=rf"data.npz: {key}\[5\] cannot be read .*not finite"):
        load(**arrays)


def test_bands(load):
    deep = RNG.integers(0, 256, (6, 8, 8, 13), dtype=np.uint8)
    assert load(images=deep).train.images.shape == (6, 8, 8, 13)
    for count in (1, 3, 4):
        data = load(dict(bands=count), images=deep)
        np.testing.assert_array_equal(data.train.images, deep[..., :count])
    first = load(dict(bands=4), images=deep.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(first.train.images, deep[..., :4])
    three = load(dict(bands=3), images=IMAGES[..., 0])
    np.testing.assert_array_equal(three.train.images, IMAGES[..., :1].repeat(3, -1))


@pytest.mark.parametrize("channels", [3, 4])
def test_grey_of_colours_is_pillows(load, channels):
    from PIL import Image

    colours = RNG.integers(0, 256, (3, 16, 16, channels), dtype=np.uint8)
    grey = [np.asarray(Image.fromarray(image[..., :3]).convert("L")) for image in colours]
    data = load(dict(bands=1), images=colours)
    np.testing.assert_array_equal(data.train.images[..., 0], grey)
    scaled = load(dict(bands=1), images=colours / 255)
    np.testing.assert_array_equal(scaled.train.images[..., 0], grey)


def test_the_range_is_that_of_the_bands_that_are_read(load):
    stored = np.zeros((5, 8, 8, 4), np.uint16)
    stored[..., 0] = np.arange(40).reshape(5, 1, 8)
    stored[..., 3] = 9000
    assert load(dict(bands=2), images=stored).range == (0.0, 39.0)
    assert load(images=stored).range == (0.0, 9000.0)


def test_labels_with_gaps_are_the_classes_that_occur(load):
    data = load(
        images=IMAGES, labels=LABELS * 10, test_images=IMAGES[:2], test_labels=LABELS[:2] * 10
    )
    assert data.classes == ("0", "10", "20", "30")
    np.testing.assert_array_equal(data.train.labels, LABELS)
    np.testing.assert_array_equal(data.test.labels, [0, 1])
    assert data.notes == ("labels are 4 numbers from 0 to 30, which name the classes",)
    labels = np.where(np.arange(40) < 20, LABELS + 7, -1)
    data = load(images=IMAGES, labels=labels, test_images=IMAGES[:2])
    assert data.classes == ("7", "8", "9", "10")
    np.testing.assert_array_equal(data.train.labels[20:], -1)


def test_class_names_keep_the_numbers(load):
    data = load(images=IMAGES, labels=LABELS * 2, classes=list("abcdefgh"), test_images=IMAGES[:1])
    assert data.classes == tuple("abcdefgh")
    np.testing.assert_array_equal(data.train.labels, LABELS * 2)


@pytest.mark.parametrize("dtype", [np.str_, np.bytes_])
def test_labels_that_are_text(load, dtype):
    names = np.array(["dog", "cat", "", "ärmel"]).astype("U")
    if dtype is np.bytes_:
        names = np.char.encode(names, "utf-8")
    arrays = dict(images=IMAGES, labels=names[LABELS], test_images=IMAGES[:2])
    data = load(**arrays, test_labels=names[[1, 0]])
    assert data.classes == ("cat", "dog", "ärmel")
    np.testing.assert_array_equal(data.train.labels[:4], [1, 0, -1, 2])
    np.testing.assert_array_equal(data.test.labels, [0, 1])
    data = load(**arrays, classes=["ärmel", "dog", "cat"])
    np.testing.assert_array_equal(data.train.labels[:4], [1, 2, -1, 0])


def test_text_that_is_numbers_is_sorted_as_numbers(load):
    data = load(images=IMAGES, labels=np.array(["10", "9", "-1", "2"])[LABELS])
    assert data.classes == ("2", "9", "10")
    assert (data.train.labels == -1).sum() == 10


def test_labels_that_are_floats(load):
    labels = np.where(LABELS == 3, np.nan, LABELS.astype(np.float32))
    data = load(images=IMAGES, labels=labels, test_images=IMAGES[:1])
    np.testing.assert_array_equal(data.train.labels, np.where(LABELS == 3, -1, LABELS))


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, bool])
def test_labels_that_are_one_hot(load, dtype):
    data = load(images=IMAGES, labels=np.eye(4)[LABELS].astype(dtype), test_images=IMAGES[:1])
    np.testing.assert_array_equal(data.train.labels, LABELS)
    assert "labels have shape (40, 4), read as one-hot" in notes_of(data)


def test_runs_of_arrays_that_were_right_before_are_of_the_same_data(load):
    data = load(images=IMAGES, labels=LABELS, test_images=IMAGES[:8], test_labels=LABELS[:8])
    assert data.fingerprint() == "c98f536cb77c68cc"
    assert (data.notes, data.range) == ((), ())
    assert load(images=IMAGES, labels=LABELS).fingerprint() == "c533063a065e6521"


def test_files_of_images_are_mapped_not_read(load_files, tmp_path):
    expected = dict(images=IMAGES, labels=LABELS, test_images=IMAGES[:8], test_labels=LABELS[:8])
    data = load_files(**expected)
    for split, images in ((data.train, IMAGES), (data.test, IMAGES[:8])):
        assert isinstance(split.images, np.memmap)
        np.testing.assert_array_equal(split.images, images)
    assert not (tmp_path / "cache").exists()
    assert data.names()[38:42] == ["images[38]", "images[39]", "test_images[0]", "test_images[1]"]
    alone = datasets.load("array", dir=str(tmp_path / "arrays" / "images.npy"))
    assert isinstance(alone.train.images, np.memmap)
    assert alone.classes == ()
    assert len(alone.train) == 40


def test_mapped_grey_images_have_a_channel(load_files):
    data = load_files(images=IMAGES[..., 0])
    assert isinstance(data.train.images, np.memmap)
    np.testing.assert_array_equal(data.train.images, IMAGES[..., :1])


FORMS = {
    "held out": dict(images=IMAGES, labels=LABELS),
    "floats": dict(images=IMAGES / 255),
    "other range": dict(images=IMAGES / 255 - 3, labels=LABELS),
    "channels first": dict(
        images=IMAGES.transpose(0, 3, 1, 2), test_images=IMAGES[:3].transpose(0, 3, 1, 2)
    ),
    "Fortran order": dict(images=np.asfortranarray(IMAGES)),
    "deep": dict(images=IMAGES.astype(np.uint16) * 9, labels=np.array(list("dabc"))[LABELS]),
}


@pytest.mark.parametrize("form", FORMS)
def test_files_of_other_forms_are_converted_once(load, load_files, monkeypatch, form):
    expected = load(**FORMS[form])
    data = load_files(**FORMS[form])
    assert isinstance(data.train.images, np.memmap)
    for ours, theirs in ((data.train, expected.train), (data.test, expected.test)):
        np.testing.assert_array_equal(ours.images, theirs.images)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
    same = ("classes", "range", "notes")
    assert [getattr(data, name) for name in same] == [getattr(expected, name) for name in same]
    assert data.names() == expected.names()

    def refuse(*_):
        raise AssertionError

    monkeypatch.setattr(array_forms, "ends", refuse)
    monkeypatch.setattr(array_forms.Form, "__call__", refuse)
    again = load_files()
    np.testing.assert_array_equal(again.train.images, data.train.images)


def test_only_one_image_is_converted_at_a_time(load_files, monkeypatch):
    sizes = []
    convert = array_forms.Form.__call__

    def watched(self, stored):
        sizes.append(len(stored))
        return convert(self, stored)

    monkeypatch.setattr(array_forms.Form, "__call__", watched)
    load_files(images=IMAGES / 255)
    assert sizes == [1] * 40


def test_files_with_values_that_are_not_finite(load_files):
    bad = IMAGES / 255 * 9
    bad[7, 0, 0, 0] = np.nan
    with pytest.raises(SettingError, match=r"images\[7\] cannot be read .*not finite.*skip_corr"):
        load_files(images=bad)
    data = load_files(dict(skip_corrupt=True), images=bad)
    assert len(data.train) == 39
    assert data.left_out == {"unreadable": 1}
    assert data.range[1] == pytest.approx(9)


def test_a_folder_of_other_files(load_files, tmp_path):
    with pytest.raises(SettingError, match="arrays has the keys weights; expected images"):
        load_files(weights=IMAGES)
    (tmp_path / "arrays" / "weights.npy").unlink()
    with pytest.raises(SettingError, match="holds 0 .npz files; give one .*or with images.npy"):
        load_files()


def test_the_whole_of_mapped_files_is_trained_on(load_files):
    data = load_files(dict(whole=True, limit=30), images=IMAGES, test_images=IMAGES[:8])
    np.testing.assert_array_equal(data.train.images, np.concatenate([IMAGES[:30], IMAGES[:8]]))
    assert data.joined == 8


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize(("train", "test"), [(1 / 255, 1.0), (1.0, 1 / 255)])
def test_test_images_in_another_range_are_refused(load, load_files, mapped, train, test):
    """They would be all white or all black."""
    images = IMAGES.astype(np.float32)
    arrays = dict(images=images * train, labels=LABELS, test_labels=LABELS[:8])
    read = load_files if mapped else load
    with pytest.raises(SettingError, match="test_images.* run from 0 to .*, but images are in 0"):
        read(**arrays, test_images=images[:8] * test)
    np.testing.assert_array_equal(
        read(**arrays, test_images=images[:8] * train).test.images, IMAGES[:8]
    )
    read({"range": (0.0, 255.0)}, **arrays, test_images=images[:8] * test)


@pytest.mark.parametrize("limits", [(0.0, 1.0), (1000.0, 2000.0), (-2.0, -1.0)])
def test_a_range_beyond_all_values_is_refused(load, limits):
    """Such as that of a run on floats in 0..1 for floats in 0..255."""
    images = IMAGES.astype(np.float32)
    with pytest.raises(SettingError, match="of the values of .*images lie outside of it, so imag"):
        load({"range": limits}, images=images)
    load({"range": (100.0, 140.0)}, images=images)  # a window
