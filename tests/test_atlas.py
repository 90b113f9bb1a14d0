"""The Parquet table of clusters: rows, thumbnails, places in the plane, and how it is opened."""

import dataclasses
import io
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import shapes
from helpers.runs import environment, tiny
from helpers.trained import made, opened
from PIL import Image

from ssl_jax.clustering import assignment, atlas, plane
from ssl_jax.clustering.label import label
from ssl_jax.clustering.output import ClusterReport, Extras
from ssl_jax.data.source import Dataset, Images
from ssl_jax.runs.restore import config_of
from ssl_jax.settings.resolve import SettingError

RNG = np.random.default_rng(0)


def report_of(names, classes=(), labels=None, shape=(8, 8, 1)):
    """Of images of noise in three clusters."""
    count = len(names)
    features = RNG.standard_normal((count, 6)).astype(np.float32)
    found = assignment.to_centroids(assignment.unit(features), np.eye(6)[:3])
    labels = np.full(count, -1) if labels is None else labels
    images = Images(RNG.integers(0, 256, (count, *shape), dtype=np.uint8), labels)
    none = Images(images.images[:0], images.labels[:0])
    data = Dataset(images, none, tuple(classes), (0.5,), (0.5,), listed=lambda: names)
    return ClusterReport(found, data, Extras(features=features))


NAMES = ["a/1.png", "=cmd.png", "caf\udce9.png", "a\nb.png", "5.png", "6.png", "7.png"]


def test_rows_are_those_of_the_assignment(tmp_path, monkeypatch):
    monkeypatch.setattr(atlas, "_BLOCK", 3)
    classes = ("cat", "dog")
    report = report_of(NAMES, classes, np.array([0, 1, 0, 1, -1, 0, 1]))
    lines = atlas.write(report, tmp_path / "a.parquet")
    assert lines[0] == f"wrote {tmp_path}/a.parquet: 7 images with thumbnails and places"
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]
    table = pq.read_table(tmp_path / "a.parquet")
    rows = table.to_pylist()
    assert table.column_names == [
        *("file", "cluster", "cluster_name", "similarity", "margin", "rank", "label"),
        *("image", "x", "y"),
    ]
    assert [row["file"] for row in rows] == [name.replace("\udce9", r"\xe9") for name in NAMES]
    assert [row["label"] for row in rows] == ["cat", "dog", "cat", "dog", None, "cat", "dog"]
    found = report.assignment
    assert [row["cluster"] for row in rows] == found.labels.tolist()
    assert [row["cluster_name"] for row in rows] == [f"cluster {i}" for i in found.labels]
    assert [row["rank"] for row in rows] == found.ranks.tolist()
    np.testing.assert_allclose([row["similarity"] for row in rows], found.similarity, atol=1e-6)
    np.testing.assert_allclose(
        [(row["x"], row["y"]) for row in rows], plane.places(report.extras.features), atol=1e-5
    )
    for i, row in enumerate(rows):
        assert row["image"]["path"] == row["file"]
        with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
            np.testing.assert_array_equal(np.asarray(image)[..., :1], report.picture(i))
    notes = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert notes["image"] == {"_type": "Image"}
    assert notes["cluster"] == {"dtype": "int32", "_type": "Value"}


def test_a_table_without_classes(tmp_path):
    atlas.write(report_of(NAMES), tmp_path / "a.parquet")
    assert "label" not in pq.read_table(tmp_path / "a.parquet").column_names
    found = assignment.to_centroids(np.eye(4, dtype=np.float32), np.eye(4)[:4])
    assert atlas._cluster_name(found, 3, 2) == "cluster 03"
    assert atlas._cluster_name(found, -1, 2) == "outlier"
    named = dataclasses.replace(found, names=("", "", "", "caf\udce9"))
    assert atlas._cluster_name(named, 3, 1) == "cluster 3 caf\\xe9"


def test_hugging_face_reads_the_pictures(tmp_path):
    datasets = pytest.importorskip("datasets", reason="needs the extra hf")
    atlas.write(report_of(NAMES), tmp_path / "a.parquet")
    data = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "a.parquet"), cache_dir=str(tmp_path / "cache")
    )
    assert data["train"][0]["image"].size == (8, 8)


@pytest.mark.parametrize(
    ("shape", "size", "kind"),
    [
        ((8, 8, 1), (8, 8), "PNG"),
        ((48, 20, 3), (20, 48), "PNG"),
        ((100, 400, 3), (64, 16), "JPEG"),
        ((400, 1, 3), (1, 64), "JPEG"),
        ((64, 64, 5), (64, 64), "JPEG"),
    ],
)
def test_thumbnails(shape, size, kind):
    pixels = np.full(shape, 77, np.uint8)
    with Image.open(io.BytesIO(atlas.thumbnail(pixels))) as image:
        assert (image.format, image.mode, image.size) == (kind, "RGB", size)
        assert np.abs(np.asarray(image).astype(int) - 77).max() <= 2


def test_thumbnails_of_whole_pictures_have_true_proportions(tmp_path):
    shapes.write(tmp_path / "x")
    run = opened(made(tmp_path / "run", tiny("swav")))
    given = dict(
        name="folder", dir=str(tmp_path / "x"), cache=str(tmp_path / "cache"), size=shapes.SIDE
    )
    settings = config_of(run.folder)
    settings["data"].update(given)
    report = label(run, settings, given, count=2, report=lambda line: None)
    atlas.write(report, tmp_path / "a.parquet")
    rows = pq.read_table(tmp_path / "a.parquet").to_pylist()
    for row, (height, width) in zip(
        sorted(rows, key=lambda row: row["file"]), shapes.SHOWN.values()
    ):
        with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
            assert image.size == (width, height)


# places


def blobs(count, near=20):
    """Points around `count` axes, and which each belongs to."""
    kinds = np.repeat(np.arange(count), near)
    points = np.eye(count)[kinds] + 0.02 * RNG.standard_normal((len(kinds), count))
    return points.astype(np.float32), kinds


@pytest.mark.parametrize("most", [1000, 30])
def test_similar_images_are_near(most):
    points, kinds = blobs(4)
    found = plane.places(points, most)
    assert found.shape == (80, 2)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found, plane.places(points, most))
    centres = np.stack([found[kinds == i].mean(axis=0) for i in range(4)])
    distance = np.linalg.norm(found[:, None] - centres, axis=-1)
    np.testing.assert_array_equal(distance.argmin(axis=1), kinds)


def test_a_copy_of_a_placed_image_lies_on_it():
    points, _ = blobs(4)
    rows = np.sort(np.random.default_rng(plane._SEED).choice(160, 80, replace=False))
    everything = np.empty((160, 4), np.float32)
    everything[rows] = points
    everything[np.setdiff1d(np.arange(160), rows)] = points
    found = plane.places(everything, 80)
    scale = np.ptp(found[rows], axis=0).max()
    others = found[np.setdiff1d(np.arange(160), rows)]
    assert np.abs(others - found[rows]).max() < 0.02 * scale


@pytest.mark.parametrize("count", [1, 2, 4, 5])
@pytest.mark.parametrize("width", [1, 3])
def test_few_images_have_places(count, width):
    found = plane.places(RNG.standard_normal((count, width)))
    assert found.shape == (count, 2)
    assert np.isfinite(found).all()


def test_equal_images_have_places():
    assert np.isfinite(plane.places(np.ones((9, 3)))).all()


# files


def test_files_that_cannot_be_written(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    atlas.check(path, overwrite=False)
    for bad in (tmp_path / "a.csv", tmp_path / "nowhere" / "a.parquet"):
        with pytest.raises(SettingError, match="--parquet=.*: give a file that ends in .parquet"):
            atlas.check(bad, overwrite=True)
    path.write_bytes(b"mine")
    with pytest.raises(SettingError, match="already exists; --overwrite replaces a file"):
        atlas.check(path, overwrite=False)
    atlas.check(path, overwrite=True)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atlas, "thumbnail", full)
    with pytest.raises(SettingError, match=r"cannot be written \(No space left on device\)"):
        atlas.write(report_of(NAMES), path)
    assert path.read_bytes() == b"mine"
    assert [file.name for file in tmp_path.iterdir()] == ["a.parquet"]


@pytest.mark.parametrize("name", ["a.parquet", "my clusters' table.parquet", "-x.parquet"])
def test_the_command_line_names_the_file(name):
    words = shlex.split(atlas.command(Path(name)))
    assert words[0] == "embedding-atlas"
    assert words[1].removeprefix("./") == name
    assert not words[1].startswith("-")
    assert words[2:] == ["--x", "x", "--y", "y", "--image", "image", "--text", "file"]


def test_embedding_atlas_takes_the_command(tmp_path):
    """Its own export of the page, which ends by itself."""
    program = shutil.which("embedding-atlas")
    if not program:
        pytest.skip("needs embedding-atlas, which is optional: pip install embedding-atlas")
    atlas.write(report_of(NAMES), tmp_path / "a.parquet")
    words = shlex.split(atlas.command(tmp_path / "a.parquet"))
    call = [program, *words[1:], f"--export-application={tmp_path / 'page.zip'}"]
    done = subprocess.run(call, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "page.zip").stat().st_size > 10_000


@pytest.mark.slow
def test_assign_writes_it(tmp_path):
    run = made(tmp_path / "run", tiny("swav"))
    call = [sys.executable, "-m", "ssl_jax.assign", f"--workdir={run}", "--sheets=0"]
    call += ["--out=c.csv", "--parquet=c.parquet"]
    settings = dict(env=environment(), capture_output=True, text=True, timeout=300, cwd=tmp_path)
    done = subprocess.run(call, **settings)
    assert (done.returncode, done.stderr) == (0, "")
    assert "wrote c.parquet: 616 images with thumbnails and places" in done.stdout
    assert done.stdout.endswith("embedding-atlas c.parquet --x x --y y --image image --text file\n")
    assert pq.read_table(tmp_path / "c.parquet").num_rows == 616
    done = subprocess.run([*call[:-2], "--out=d.csv", "--parquet=c.parquet"], **settings)
    assert "--parquet=c.parquet already exists; --overwrite replaces" in done.stderr
    assert not (tmp_path / "d.csv").exists()
