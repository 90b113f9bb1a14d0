import functools
import gzip
import hashlib
import http.server
import io
import tarfile
import threading

import jax
import numpy as np
import pytest

from ssl_jax.data import cifar, datasets
from ssl_jax.data.rng import epoch_order, key_for
from ssl_jax.settings.resolve import SettingError


def test_digits_are_split_for_good():
    data = datasets.load("digits")
    assert data.train.images.shape == (1437, 8, 8, 1)
    assert data.test.images.shape == (360, 8, 8, 1)
    assert data.train.images.dtype == np.uint8
    assert data.train.images.max() == 255
    np.testing.assert_allclose(
        np.bincount(data.test.labels) / 360, np.bincount(data.train.labels) / 1437, atol=0.003
    )
    again = datasets.load("digits", limit=100)
    np.testing.assert_array_equal(again.train.images, data.train.images[:100])
    pixels = data.train.images / 255
    np.testing.assert_allclose(data.mean, pixels.mean(), atol=0.01)
    np.testing.assert_allclose(data.std, pixels.std(), atol=0.01)


def write_cifar(root, name, files, label_bytes, seed=0):
    """Random records in the official layout; returns what was written."""
    rng = np.random.default_rng(seed)
    folder = root / name
    records = {}
    folder.mkdir(parents=True)
    for file, count in files.items():
        block = rng.integers(0, 256, (count, label_bytes + 3072), dtype=np.uint8)
        block[:, 0] %= 10
        if label_bytes == 2:
            block[:, 0] %= 20
            block[:, 1] %= 100
        block.tofile(folder / file)
        records[file] = block
    return records


CIFAR10 = {f"data_batch_{i}.bin": 10_000 for i in range(1, 6)} | {"test_batch.bin": 10_000}


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory):
    root = tmp_path_factory.mktemp("cifar10")
    return root, write_cifar(root, "cifar-10-batches-bin", CIFAR10, 1)


def test_cifar10_from_its_binary_files(cifar10):
    root, records = cifar10
    for folder in (root, root / "cifar-10-batches-bin"):
        data = datasets.load("cifar10", dir=str(folder))
        assert data.train.images.shape == (50_000, 32, 32, 3)
        row = records["data_batch_2.bin"][17]
        np.testing.assert_array_equal(
            data.train.images[10_017], row[1:].reshape(3, 32, 32).transpose(1, 2, 0)
        )
        assert data.train.labels[10_017] == row[0]
        np.testing.assert_array_equal(data.test.labels, records["test_batch.bin"][:, 0])


def test_cifar10_from_its_archive(cifar10, tmp_path):
    root, records = cifar10
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz", compresslevel=0) as tar:
        tar.add(root / "cifar-10-batches-bin", "cifar-10-batches-bin")
    expected = datasets.load("cifar10", dir=str(root), limit=50)
    for place in (tmp_path, tmp_path / "cifar-10-binary.tar.gz"):
        found = datasets.load("cifar10", dir=str(place), limit=50)
        np.testing.assert_array_equal(found.train.images, expected.train.images)


def test_cifar100_fine_and_coarse(tmp_path):
    records = write_cifar(
        tmp_path, "cifar-100-binary", {"train.bin": 50_000, "test.bin": 10_000}, 2
    )
    for column, labels in enumerate(("coarse", "fine")):
        data = datasets.load("cifar100", dir=str(tmp_path), labels=labels)
        np.testing.assert_array_equal(data.train.labels, records["train.bin"][:, column])
        assert len(data.classes) == (20, 100)[column]
        pixels = records["test.bin"][5, 2:].reshape(3, 32, 32).transpose(1, 2, 0)
        np.testing.assert_array_equal(data.test.images[5], pixels)


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(SettingError, match=r"data.dir is empty.*cifar-10-binary.tar.gz.*https://"):
        datasets.load("cifar10")
    with pytest.raises(
        SettingError, match=r"no data_batch_1.bin or cifar-10-binary.tar.gz in data.dir=.*https://"
    ):
        datasets.load("cifar10", dir=str(tmp_path))
    write_cifar(tmp_path, "cifar-10-batches-bin", CIFAR10 | {"data_batch_3.bin": 9_999}, 1)
    with pytest.raises(
        SettingError,
        match=r"data_batch_3.bin has 30726927 bytes instead of 30730000; fetch it again",
    ):
        datasets.load("cifar10", dir=str(tmp_path))
    cut = tmp_path / "cut"
    cut.mkdir()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
        tar.add(
            tmp_path / "cifar-10-batches-bin" / "data_batch_1.bin",
            "cifar-10-batches-bin/data_batch_1.bin",
        )
    whole = packed.getvalue()
    for damaged in (whole[:1_000_000], whole[:500_000] + bytes(range(256)) * 40 + whole[510_240:]):
        (cut / "cifar-10-binary.tar.gz").write_bytes(damaged)
        with pytest.raises(
            SettingError,
            match=r"cifar-10-binary.tar.gz:cifar-10-batches-bin/data_batch_1.bin cannot be",
        ):
            datasets.load("cifar10", dir=str(cut))


def packed(folder, members):
    """CIFAR-10's archive, with members of so many zeros."""
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz", compresslevel=1) as tar:
        for name, size in members.items():
            member = tarfile.TarInfo(name)
            member.size = size
            tar.addfile(member, io.BytesIO(bytes(size)))
    return str(folder)


OWN = "cifar-10-batches-bin/data_batch_1.bin"


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            {"big": 30_730_001, OWN: 30_730_000},
            "a member has 30,730,001 bytes, but the largest file should have 30,730,000",
        ),
        ({OWN: 40_000_000}, "a member has 40,000,000 bytes"),
        ({"1": 900_000, "2": 900_000, OWN: 30_730_000}, "it holds more than 1,000,000 bytes"),
        ({OWN: 9000}, "data_batch_1.bin has 9000 bytes instead of 30730000; fetch it again"),
        ({"more": 9000}, r"cannot be read \(the archive has no such file\); fetch it again"),
    ],
)
def test_archives_with_other_files_are_not_inflated(tmp_path, monkeypatch, members, message):
    read = []
    monkeypatch.setattr(cifar, "_MOST", 1_000_000)
    monkeypatch.setattr(tarfile.ExFileObject, "read", lambda *args: read.append(args) or b"")
    with pytest.raises(SettingError, match=message):
        datasets.load("cifar10", dir=packed(tmp_path, members))
    assert not read


def test_long_names_of_archives_are_not_inflated(tmp_path):
    member = tarfile.TarInfo("x")
    member.type = tarfile.XHDTYPE
    member.size = 31_000_000
    with gzip.open(tmp_path / "cifar-10-binary.tar.gz", "wb", compresslevel=1) as file:
        file.write(member.tobuf() + bytes(31_000_064))
    with pytest.raises(SettingError, match="a member has 31,000,064 bytes"):
        datasets.load("cifar10", dir=str(tmp_path))


def test_labels_out_of_range_are_damage(tmp_path):
    records = write_cifar(
        tmp_path, "cifar-100-binary", {"train.bin": 50_000, "test.bin": 10_000}, 2
    )
    records["test.bin"][7, 0] = 20
    records["test.bin"].tofile(tmp_path / "cifar-100-binary" / "test.bin")
    with pytest.raises(
        SettingError,
        match=r"test.bin is damaged \(labels out of range\); fetch it again from https://",
    ):
        datasets.load("cifar100", dir=str(tmp_path))


def test_class_names_of_cifar100(tmp_path):
    assert cifar._FINE.split() == sorted(cifar._FINE.split())
    assert len(set(cifar._FINE.split())) == 100
    assert len(set(cifar._COARSE.split())) == 20


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A local server instead of the official one: its folder, and the list of its requests."""
    folder = tmp_path / "site"
    asked = []
    folder.mkdir()

    class Handler(Quiet):
        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setattr(cifar, "SITE", f"http://127.0.0.1:{server.server_port}/")
        yield folder, asked
        server.shutdown()
        thread.join()


def test_download(site, tmp_path, monkeypatch):
    folder, asked = site
    name = "cifar-100-binary.tar.gz"
    zeros = {"train.bin": 50_000, "test.bin": 10_000}
    with tarfile.open(folder / name, "w:gz", compresslevel=1) as tar:
        for file, count in zeros.items():
            member = tarfile.TarInfo(f"cifar-100-binary/{file}")
            records = np.zeros((count, 3074), np.uint8)
            records[::2, :2] = 1
            member.size = records.size
            tar.addfile(member, io.BytesIO(records))

    def load(**more):
        return datasets.load("cifar100", download=True, cache=str(tmp_path / "cache"), **more)

    target = tmp_path / "cache" / "downloads"
    with pytest.raises(SettingError, match=r"was fetched, but its checksum is wrong; try again"):
        load()
    assert list(target.iterdir()) == []
    monkeypatch.setitem(cifar.MD5, name, hashlib.md5((folder / name).read_bytes()).hexdigest())
    assert load().train.labels[:2].tolist() == [1, 0]
    assert [p.name for p in target.iterdir()] == [name]
    load(dir=str(tmp_path / "mine"))
    assert (tmp_path / "mine" / name).is_file()
    assert len(asked) == 3
    load()
    assert len(asked) == 3
    assert len(datasets.load("cifar100", dir=str(target), labels="none").classes) == 0


def test_download_without_a_network(site, tmp_path, monkeypatch):
    with pytest.raises(
        SettingError, match=r"binary.tar.gz cannot be fetched into .*HTTP status 404"
    ) as caught:
        datasets.load("cifar10", download=True, cache=str(tmp_path / "cache"))
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(cifar, "SITE", "http://127.0.0.1:9/")
    with pytest.raises(
        SettingError,
        match=r"\(ConnectionError\); fetch it by other means and give its folder as data.dir",
    ):
        datasets.load("cifar10", download=True, dir=str(tmp_path / "mine"))
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
    with pytest.raises(SettingError, match="cannot be fetched into /proc/x"):
        datasets.load("cifar10", download=True, dir="/proc/x")


def test_any_data_set_without_labels():
    data = datasets.load("digits", labels="none", mean=(0.5,))
    assert data.classes == ()
    assert (data.train.labels == -1).all()
    assert (data.test.labels == -1).all()
    assert data.mean == (0.5,)
    assert data.std == (0.376,)


def test_unknown_data_sets_and_limits():
    with pytest.raises(
        SettingError,
        match="one of: digits, cifar10, .* array, table, webdataset, .* cub200, dogs, tfds:<name>",
    ):
        datasets.load("mnist")
    for settings, message in (
        (dict(labels="super"), "data.labels='super': choose fine, coarse or none"),
        (dict(labels="coarse"), "digits has no coarse labels"),
        (dict(bands=1), "data.bands=1: the images of digits have channels of 8 bits that are read"),
        (dict(range=(0.0, 9.0)), r"data.range=\(0.0, 9.0\): the images of digits have channels"),
        (dict(download=True), "digits cannot be downloaded, only cifar10 and cifar100"),
        (dict(std=(0.1, 0.2)), "the images have 1 channel; give 1 number"),
        (dict(mean=("a",)), r"data.mean\[0\]='a' has the wrong type"),
        (dict(dri="x"), "data.dri is not a setting; did you mean 'dir'"),
        (dict(limit=-1), "data.limit=-1: at least 0"),
        (
            dict(dir="gs://bucket/images"),
            "data.dir=gs://bucket/images: must be a local path; mount the bucket",
        ),
    ):
        with pytest.raises(SettingError, match=message):
            datasets.load("digits", **settings)
    with pytest.raises(SettingError, match="digits has 1437 training images"):
        datasets.load("digits", limit=2000)


def test_order_is_a_function_of_seed_and_epoch():
    def order(seed, epoch):
        return np.asarray(epoch_order(jax.random.key(seed), epoch, 50, 8))

    assert order(0, 0).shape == (6, 8)
    assert len(np.unique(order(0, 0))) == 48
    np.testing.assert_array_equal(order(0, 3), order(0, 3))
    assert (order(0, 0) != order(0, 1)).any()
    assert (order(0, 0) != order(1, 0)).any()


def test_streams_differ():
    key = jax.random.key(0)
    draws = {
        float(jax.random.uniform(key_for(key, name, step)))
        for name in range(5)
        for step in range(5)
    }
    assert len(draws) == 25
