"""Features as files: the same as from the encoder, with names, in bounded memory, whole or not."""

import os
import subprocess
import sys
import tracemalloc
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.foreign_names import random_weights
from helpers.runs import environment
from PIL import Image
from pyarrow import parquet
from safetensors.numpy import save_file

import ssl_jax
from ssl_jax.data import datasets
from ssl_jax.data.source import Dataset, Images
from ssl_jax.inference import feature_files
from ssl_jax.inference.feature_files import FeatureFile
from ssl_jax.models.resnet import ResNet
from ssl_jax.settings.resolve import SettingError

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    save_file(random_weights(ResNet(depth=10, width=4, stem="cifar")), path)
    return path


@pytest.fixture(scope="module")
def encoder(weights):
    return ssl_jax.load_encoder(weights, size=8, crop=0.875)


@pytest.fixture
def pictures(tmp_path):
    """Two class folders of pictures of several shapes, and one name that is not UTF-8."""
    folder = tmp_path / "pictures"
    for i in range(23):
        place = folder / "ab"[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = RNG.integers(0, 256, (9 + i % 5, 12, 3), dtype=np.uint8)
        name = os.fsdecode(b"7\xff.png") if i == 7 else f"{i:02}.png"
        Image.fromarray(pixels).save(os.fsencode(place / name), format="PNG")
    return dict(name="folder", dir=str(folder), cache=str(tmp_path / "cache"), size=10)


def loaded(kind, pictures):
    if kind == "plain":
        images = RNG.integers(0, 256, (41, 9, 9, 3), dtype=np.uint8)
        labels = np.array([0, 1, -1, *RNG.integers(0, 2, 38)], np.int32)
        train, test = Images(images[:30], labels[:30]), Images(images[30:], labels[30:])
        return Dataset(train, test, ("a", "é"), (0.5,) * 3, (0.2,) * 3)
    return datasets.load(**pictures, store="stream" if kind == "streamed" else "cache")


def read(path):
    """Features, names, splits and class names (None: unknown) of a file."""
    if path.suffix == ".npz":
        with np.load(path) as file:  # allow_pickle is off
            labels = [str(file["classes"][x]) if x >= 0 else None for x in file["labels"]]
            return file["features"], file["names"].tolist(), file["splits"].tolist(), labels
    table = parquet.read_table(path).to_pydict()
    names = table.get("file")
    if names is None:
        names = [f"{split}[{row}]" for split, row in zip(table["split"], table["row"])]
    return np.array(table["features"]), names, table["split"], table["label"]


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
@pytest.mark.parametrize("kind", ["plain", "whole", "streamed"])
def test_features_are_those_of_the_encoder(kind, suffix, encoder, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_files, "CHUNK", 8)
    monkeypatch.setattr(feature_files, "_ROW_GROUP", 1000)
    dataset = loaded(kind, pictures)
    path = tmp_path / f"features{suffix}"
    lines = []
    count, dim = FeatureFile(path).write(encoder, dataset, report=lines.append)
    features, names, splits, labels = read(path)
    own = [np.asarray(encoder(part.images)) for part in (dataset.train, dataset.test)]
    np.testing.assert_allclose(features, np.concatenate(own), atol=1e-6)
    assert features.shape == (count, dim)
    trained = len(dataset.train)
    assert splits == ["train"] * trained + ["test"] * len(dataset.test)
    given = np.concatenate([dataset.train.labels, dataset.test.labels])
    assert labels == [dataset.classes[x] if x >= 0 else None for x in given]
    assert len(set(names)) == count
    if kind == "plain":
        assert (names[0], names[-1]) == ("train[0]", "test[10]")
        assert labels[2] is None
    else:
        assert "b/7\\xff.png" in names
    assert lines[-1] == f"features of {count} of {count} images"
    assert len(lines) >= 4
    assert not [name for name in os.listdir(tmp_path) if name.endswith("-new")]


def test_half_precision_and_joined_images(encoder, tmp_path):
    dataset = loaded("plain", None)
    both = np.concatenate([dataset.train.images, dataset.test.images])
    labels = np.full(41, -1, np.int32)
    whole = Dataset(
        Images(both, labels), dataset.test, (), dataset.mean, dataset.std, joined=len(dataset.test)
    )
    for suffix in (".npz", ".parquet"):
        path = tmp_path / f"half{suffix}"
        assert FeatureFile(path).write(encoder, whole, dtype="float16")[0] == 41
        if suffix == ".npz":
            with np.load(path) as file:
                features = file["features"]
                assert "labels" not in file
                assert (file["names"][-1], file["splits"][-1]) == ("test[10]", "test")
        else:
            table = parquet.read_table(path)
            assert table.column_names == ["split", "row", "features"]
            features = np.array(table["features"].to_pylist(), np.float16)
        assert features.dtype == np.float16
        np.testing.assert_allclose(features, np.asarray(encoder(both)), rtol=1e-3, atol=1e-3)


def flat_encoder(dim, value=1.0):
    """An encoder whose features are all `value`."""

    def features(state, images, names):
        return {names[0]: jnp.full((len(images), dim), value)}

    return SimpleNamespace(
        names=("backbone",),
        channels=1,
        size=2,
        view=dict(size=2, mean=(0.0,), std=(1.0,), crop=0.0),
        range=(),
        method=Fixed(features),
        state=(),
    )


class Fixed:
    def __init__(self, features):
        self.features = features


def blank(count):
    """`count` images that take no memory."""
    images = np.broadcast_to(np.uint8(7), (count, 2, 2, 1))
    train = Images(images, np.full(count, -1, np.int32))
    return Dataset(train, Images(images[:0], np.zeros(0, np.int32)), (), (0.5,), (0.2,))


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_memory_does_not_grow_with_the_images(suffix, tmp_path):
    encoder = flat_encoder(4096)
    peaks = []
    FeatureFile(tmp_path / f"first{suffix}").write(encoder, blank(512))  # compiles
    for count in (2048, 8192):  # 34 and 134 MB of features
        path = tmp_path / f"{count}{suffix}"
        tracemalloc.start()
        FeatureFile(path).write(encoder, blank(count))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        path.unlink()
    assert peaks[1] < peaks[0] + 8e6, peaks


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_what_is_stopped_leaves_nothing(suffix, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_files, "CHUNK", 8)
    path = tmp_path / f"features{suffix}"
    path.write_text("earlier")

    def stop(line):
        if line.startswith("features of 16"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FeatureFile(path, overwrite=True).write(flat_encoder(3), blank(40), report=stop)
    assert os.listdir(tmp_path) == [path.name]
    assert path.read_text() == "earlier"
    FeatureFile(path, overwrite=True).write(flat_encoder(3), blank(40))
    assert path.read_bytes()[:4] in (b"PK\x03\x04", b"PAR1")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.csv", r"--out=.*a.csv: give a file that ends in .npz or .parquet"),
        ("none/a.npz", r"in a folder that exists"),
        ("there.npz", r"there.npz already exists; --overwrite replaces a file"),
        ("folder.npz", r"folder.npz already exists"),
    ],
)
def test_files_that_cannot_be_written(name, message, tmp_path):
    (tmp_path / "there.npz").touch()
    (tmp_path / "folder.npz").mkdir()
    overwrite = name == "folder.npz"
    with pytest.raises(SettingError, match=message):
        FeatureFile(tmp_path / name, overwrite).check()


def test_features_that_cannot_be_written(tmp_path, monkeypatch):
    file = FeatureFile(tmp_path / "a.npz")
    with pytest.raises(SettingError, match="--feature=scores: the encoder has backbone$"):
        file.write(flat_encoder(3), blank(4), "scores")
    with pytest.raises(SettingError, match=r"values up to 1e\+05, which float16 cannot hold"):
        file.write(flat_encoder(3, 1e5), blank(4), dtype="float16")
    with pytest.raises(SettingError, match="there are no images"):
        file.write(flat_encoder(3), blank(0))
    usage = SimpleNamespace(free=10**6)
    monkeypatch.setattr(feature_files.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(SettingError, match="the features take 8.0 GB, and 0.0 GB are free"):
        file.write(flat_encoder(10**6), blank(2000))
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_the_command(weights, pictures, tmp_path):
    flags = [f"--config.data.{name}={value}" for name, value in pictures.items()]
    flags = [flag for flag in flags if ".name=" not in flag and ".size=" not in flag]
    out = tmp_path / "out.npz"
    call = [sys.executable, "-m", "ssl_jax", "embed", f"--weights={weights}", "--size=8"]
    call += ["--crop=0.875", f"--out={out}", *flags]
    done = subprocess.run(call, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "it takes images of 8x8 pixels" in done.stdout
    assert "wrote" in done.stdout.splitlines()[-1]
    assert "23 images, 32 numbers each" in done.stdout
    encoder = ssl_jax.load_encoder(weights, size=8, crop=0.875)
    dataset = datasets.load(**pictures | {"size": 9})  # 8 / 0.875
    own = [np.asarray(encoder(part.images)) for part in (dataset.train, dataset.test)]
    with np.load(out) as file:
        np.testing.assert_allclose(file["features"], np.concatenate(own), atol=1e-6)
        assert str(file["encoder"]) == str(weights)
    again = subprocess.run(call, env=environment(), capture_output=True, text=True, timeout=300)
    assert again.returncode == 2
    assert again.stderr.count("\n") == 1
    assert "already exists; --overwrite" in again.stderr
