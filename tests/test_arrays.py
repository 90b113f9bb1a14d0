"""Images from .npz files."""

import io
import zipfile

import numpy as np
import pytest

from ssl_jax.data import array_files, datasets
from ssl_jax.settings.resolve import SettingError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (40, 6, 5, 3), dtype=np.uint8)
LABELS = np.arange(40) % 4


@pytest.fixture
def load(tmp_path):
    def save_and_load(settings=None, **arrays):
        np.savez(tmp_path / "data.npz", **arrays)
        return datasets.load("array", dir=str(tmp_path / "data.npz"), **settings or {})

    return save_and_load


def test_rows_and_labels_stay(load):
    data = load(
        images=IMAGES,
        labels=LABELS,
        test_images=IMAGES[:8],
        test_labels=LABELS[:8],
        classes=list("abcd"),
    )
    np.testing.assert_array_equal(data.train.images, IMAGES)
    np.testing.assert_array_equal(data.train.labels, LABELS)
    np.testing.assert_array_equal(data.test.images, IMAGES[:8])
    assert data.classes == ("a", "b", "c", "d")
    np.testing.assert_allclose(data.mean, (IMAGES / 255).mean(axis=(0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(data.std, (IMAGES / 255).std(axis=(0, 1, 2)), atol=1e-4)


def test_names_of_keras(load, tmp_path):
    data = load(
        x_train=IMAGES[..., 0],
        y_train=LABELS[:, None],
        x_test=IMAGES[:3, ..., 0],
        y_test=LABELS[:3, None],
    )
    assert data.train.images.shape == (40, 6, 5, 1)
    np.testing.assert_array_equal(data.test.labels, LABELS[:3])
    assert data.classes == ("0", "1", "2", "3")
    np.testing.assert_array_equal(
        datasets.load("array", dir=str(tmp_path)).train.images, data.train.images
    )


def test_a_stratified_share_is_held_out_without_a_test_split(load):
    partly = np.where(np.arange(40) < 20, LABELS, -1)
    for labels, share, each in (
        (LABELS, 0.2, 2),
        (partly, 0.4, 2),
        (LABELS, 0.001, 1),
        (LABELS, 0.999, 9),
    ):
        data = load(dict(test_share=share), images=IMAGES, labels=labels)
        np.testing.assert_array_equal(np.bincount(data.test.labels), [each] * 4)
        assert len(data.train) + len(data.test) == 40
        rows = {image.tobytes() for image in (*data.train.images, *data.test.images)}
        assert len(rows) == 40


def test_without_labels(load):
    for settings, labels in (
        ({}, {}),
        ({}, {"labels": np.full(40, -1)}),
        ({"labels": "none"}, {"labels": LABELS}),
    ):
        data = load(settings, images=IMAGES, **labels)
        assert data.classes == ()
        assert data.test.images.shape == (0, 6, 5, 3)
        assert (data.train.labels == -1).all()
        assert len(data.train) == 40


def test_own_statistics(load):
    data = load(dict(mean=[0.5, 0.5, 0.5], std=(1, 0.5, 0.5)), images=IMAGES)
    assert data.mean == (0.5, 0.5, 0.5)
    assert data.std == (1.0, 0.5, 0.5)


@pytest.mark.parametrize(
    ("arrays", "settings", "message"),
    [
        (dict(pictures=IMAGES), {}, "has the keys pictures; expected images .*x_train"),
        (dict(images=IMAGES, weights=LABELS), {}, "has the keys images, weights; expected"),
        (dict(images=IMAGES, labels=LABELS, y=LABELS), {}, "has the keys images, labels, y; exp"),
        (dict(train=IMAGES), {}, "has the keys train; expected"),
        (dict(arr_0=IMAGES, arr_1=LABELS, arr_2=IMAGES), {}, "has the keys arr_0, arr_1, arr_2"),
        (dict(images=IMAGES, x_train=IMAGES), {}, "has the keys images, x_train; expected"),
        (dict(images=IMAGES.astype(complex)), {}, "images are complex128; save numbers"),
        (dict(images=IMAGES.astype("S3")), {}, "images are .S3; save numbers"),
        (dict(images=IMAGES[0, 0]), {}, r"images have shape \(5, 3\); save \[N, H, W\]"),
        (
            dict(images=np.zeros((480, 640, 3), np.uint8)),
            {},
            r"images have shape \(480, 640, 3\), which is a single picture; save \[N, H, W, C\]",
        ),
        (dict(images=IMAGES[None]), {}, r"images have shape \(1, 40, 6, 5, 3\); save \[N, H, W\]"),
        (dict(images=IMAGES), {"bands": 4}, "data.bands=4: .*images have 3 channels; 0 reads all"),
        (dict(images=IMAGES[..., 0]), {"bands": 2}, "data.bands=2: .*images have 1 channel;"),
        (
            dict(images=IMAGES, test_images=IMAGES / 255),
            {},
            "images are uint8 but test_images are float64; save both with the same type",
        ),
        (dict(images=IMAGES[:0]), {}, "so no pixels; save some images"),
        (dict(images=np.array([None, 1])), {}, "images holds Python objects"),
        (
            dict(images=IMAGES, labels=LABELS[:39]),
            {},
            r"labels have shape \(39,\) for 40 images",
        ),
        (
            dict(images=IMAGES, labels=LABELS / 2),
            {},
            "labels hold numbers such as 0.5, which are no classes; .* data.labels=none",
        ),
        (dict(images=IMAGES, labels=LABELS + 0j), {}, "labels are complex128; save whole numbers"),
        (
            dict(images=IMAGES, labels=np.eye(40)[:, :4] * 0),
            {},
            r"labels have shape \(40, 4\) and are not one-hot; save one class per image",
        ),
        (
            dict(images=IMAGES, labels=np.array([b"\xff", b"a"] * 20)),
            {},
            "labels hold invalid Unicode",
        ),
        (dict(images=IMAGES, labels=LABELS - 2), {}, "labels run from -2 to 1"),
        (
            dict(images=IMAGES, labels=LABELS, classes=["a", "b"]),
            {},
            "labels reach 3, but there are 2 classes",
        ),
        (dict(images=IMAGES, labels=LABELS, classes=[1, 2, 3, 4]), {}, "classes are int64"),
        (dict(images=IMAGES, test_images=IMAGES[:, 1:]), {}, "give both the same shape"),
        (
            dict(images=IMAGES, labels=LABELS, test_images=IMAGES[:2], test_labels=[4, 0]),
            {},
            "test images have the label '4', but no training image has; give such training images",
        ),
        (
            dict(
                images=IMAGES,
                labels=LABELS,
                test_images=IMAGES[:2],
                test_labels=[4, 0],
                classes=list("abcd"),
            ),
            {},
            "labels reach 4, but there are 4 classes",
        ),
        (
            dict(images=IMAGES, labels=LABELS, test_images=IMAGES[:2], test_labels=["a", "b"]),
            {},
            "labels of training and test images must both be numbers or both be text",
        ),
        (
            dict(images=IMAGES, labels=np.array(list("abcd"))[LABELS], classes=["a", "b", "c"]),
            {},
            "the labels d are not among classes",
        ),
        (
            dict(images=IMAGES, labels=LABELS * 0),
            {},
            "all 40 training images of .* are of one class, '0'",
        ),
        (
            dict(images=IMAGES, labels=np.sort(LABELS)),
            {"limit": 5},
            "the first 5 training images .* of one class, '0'",
        ),
        (
            dict(images=IMAGES),
            {"mean": (0.5,)},
            r"data.mean=\(0.5,\): the images have 3 channels; give 3 numbers",
        ),
        (dict(images=IMAGES), {"std": (0.5, 0.0, 1.0)}, r"data.std=\(0.5, 0.0, 1.0\): above 0"),
        (dict(images=IMAGES), {"mean": (120.0, 110.0, 100.0)}, "data.mean=.*: between 0 and 1"),
    ],
)
def test_mistakes_end_in_one_line(load, arrays, settings, message):
    if "labels" in arrays and arrays["labels"].tolist() == [0] * 40:
        arrays["test_images"] = IMAGES[:2]
        arrays["test_labels"] = LABELS[:2] * 0
    with pytest.raises(SettingError, match=message) as caught:
        load(settings, **arrays)
    assert "\n" not in str(caught.value)


def test_files_that_are_none(tmp_path):
    path = tmp_path / "a.npz"
    for content in (b"", b"PK\x03\x04 and then nothing", b"text"):
        path.write_bytes(content)
        with pytest.raises(SettingError, match=r"a.npz is not a readable .npz file"):
            datasets.load("array", dir=str(path))
    np.savez(path, images=IMAGES)
    path.write_bytes(path.read_bytes()[:900] + bytes(50) + path.read_bytes()[950:])
    with pytest.raises(SettingError, match=r"a.npz is not a readable .npz file"):
        datasets.load("array", dir=str(path))
    np.save(tmp_path / "b.npy", IMAGES)
    (tmp_path / "b.npy").write_bytes((tmp_path / "b.npy").read_bytes()[:-1])
    with pytest.raises(SettingError, match="b.npy is not a readable .npy file .its size does not"):
        datasets.load("array", dir=str(tmp_path / "b.npy"))
    with pytest.raises(SettingError, match="no such file or folder"):
        datasets.load("array", dir=str(tmp_path / "c.npz"))
    with pytest.raises(SettingError, match="data.dir is empty"):
        datasets.load("array")
    np.savez(tmp_path / "d.npz", images=IMAGES)
    with pytest.raises(SettingError, match="holds 2 .npz files"):
        datasets.load("array", dir=str(tmp_path))


def test_the_whole_data_set_is_trained_on_and_the_test_images_stay_what_they_are(load):
    arrays = dict(images=IMAGES, labels=LABELS, test_images=IMAGES[:8], test_labels=LABELS[:8])
    data = load(dict(whole=True, limit=20), **arrays)
    np.testing.assert_array_equal(data.train.images, np.concatenate([IMAGES[:20], IMAGES[:8]]))
    np.testing.assert_array_equal(data.train.labels, np.concatenate([LABELS[:20], LABELS[:8]]))
    np.testing.assert_array_equal(data.test.images, IMAGES[:8])
    assert data.joined == 8
    assert load(**arrays).joined == 0


def array(values, **header):
    """A .npy file, its header as `header` says."""
    file = io.BytesIO()
    values = np.asarray(values)
    facts = {"descr": values.dtype.str, "fortran_order": False, "shape": values.shape}
    np.lib.format.write_array_header_1_0(file, facts | header)
    return file.getvalue() + values.tobytes()


PACKED = dict(compress_type=zipfile.ZIP_DEFLATED)
HUGE = array(np.zeros((3000, 32, 32), np.uint8))
LONG = b"\x93NUMPY\x02\x00" + (2**31).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            {"images.npy": array(IMAGES), "labels": b"0 1 2"},
            r"labels cannot be read \(it is not a .npy array\); save it again",
        ),
        (
            {"images.npy": array(IMAGES), "readme.txt": b"x"},
            "has the keys images, readme.txt; expected",
        ),
        ({f"{i:099}": b"" for i in range(9)}, r"has the keys 0+, 0+1\.\.\.; expected"),
        (
            {"images.npy": (array(IMAGES), dict(compress_type=zipfile.ZIP_BZIP2))},
            "images has a compression that numpy never writes",
        ),
        (
            {"images.npy": (array(IMAGES), dict(flag_bits=1))},
            "images is encrypted; save it again with np.savez",
        ),
        (
            {"images.npy": LONG},
            r"images cannot be read \(its header has 2,147,483,648 bytes, more than 10,000\)",
        ),
        (
            {"images.npy": b"\x93NUMPY\x01\x00\x04\x00(((("},
            r"images cannot be read \(its header is damaged\)",
        ),
        (
            {"images.npy": b"\x93NUMPY\x01\x00\x99"},
            r"images cannot be read \(its header is truncated\)",
        ),
        (
            {"images.npy": b"\x93NUMPY\x09\x00" + bytes(99)},
            r"images cannot be read \(its .npy version is 9\)",
        ),
        ({"images.npy": array(IMAGES, shape=(-40, 6, 5, 3))}, "its header is damaged"),
        (
            {"images.npy": array(IMAGES, shape=(2**62, 2**62, 3))},
            "images has 3,728 bytes, but its header says 63,.*; save it again",
        ),
        (
            {"images.npy": array(IMAGES) + b"more"},
            "images has 3,732 bytes, but its header says 3,728; save it again",
        ),
        ({"images.npy": (HUGE, PACKED), "labels.npy": array([0.5j] * 3000)}, "labels are compl"),
        (
            {"images.npy": (HUGE, PACKED), "labels.npy": array([0] * 7)},
            r"labels have shape \(7,\) for 3000 images",
        ),
        ({"images.npy": (HUGE, PACKED), "classes.npy": array([1, 2])}, "classes are int64"),
        (
            {"images.npy": (HUGE, PACKED), "test_images.npy": array(IMAGES)},
            "give both the same shape",
        ),
        ({"images.npy": (array(np.zeros((900, 32, 32), "M8[s]")), PACKED)}, "images are dateti"),
        (
            {"images.npy": (array(np.zeros(2**20, np.uint8)), PACKED)},
            r"images have shape \(1048576,\)",
        ),
    ],
)
def test_files_are_refused_by_their_headers(tmp_path, monkeypatch, members, message):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        for name, content in members.items():
            content, facts = content if isinstance(content, tuple) else (content, {})
            file.writestr(name, content, facts.get("compress_type"))
            file.getinfo(name).flag_bits |= facts.get("flag_bits", 0)
    read = zipfile.ZipExtFile.read
    inflated = []
    monkeypatch.setattr(
        zipfile.ZipExtFile, "read", lambda *args: (inflated.append(read(*args)), inflated[-1])[1]
    )
    with pytest.raises(SettingError, match=message) as caught:
        datasets.load("array", dir=str(tmp_path / "a.npz"))
    assert "\n" not in str(caught.value)
    assert sum(map(len, inflated)) < 1000


def test_files_that_the_memory_cannot_hold(load, monkeypatch):
    monkeypatch.setattr(array_files, "memory", lambda: 4000)
    load(images=IMAGES)
    with pytest.raises(
        SettingError,
        match="holds 4,176 bytes of arrays, but this machine has 4,000 bytes of memory; save",
    ):
        load(images=IMAGES, labels=LABELS)


def test_classes_that_are_no_text(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("images.npy", array(IMAGES))
        file.writestr("labels.npy", array(LABELS))
        file.writestr("classes.npy", array(np.frombuffer(b"\xff" * 16, "<U1")))
    with pytest.raises(SettingError, match="classes hold invalid Unicode; save strings"):
        datasets.load("array", dir=str(tmp_path / "a.npz"))


def test_arrays_in_any_form_that_numpy_saves(load, tmp_path):
    order = dict(
        images=np.asfortranarray(IMAGES), labels=LABELS.astype(">i2"), classes=list("abcd")
    )
    expected = load(**order)
    np.savez_compressed(tmp_path / "b.npz", **order)
    found = datasets.load("array", dir=str(tmp_path / "b.npz"))
    for data in (found, expected):
        rows = [int(name.removeprefix("images[").removesuffix("]")) for name in data.names()]
        np.testing.assert_array_equal(
            np.concatenate([data.train.images, data.test.images]), IMAGES[rows]
        )
        np.testing.assert_array_equal(
            np.concatenate([data.train.labels, data.test.labels]), LABELS[rows]
        )


def test_pipes_beside_a_file_do_not_count(tmp_path):
    np.savez(tmp_path / "a.npz", images=IMAGES)
    (tmp_path / "b.npz").symlink_to("/dev/null")
    assert len(datasets.load("array", dir=str(tmp_path)).train) == 40
