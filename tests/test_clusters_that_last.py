"""Clusters that are the same tomorrow: saved, read, used for other pictures, and refused."""

import csv
import dataclasses
import io
import json
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.runs import tiny
from helpers.trained import made, opened

import ssl_jax
from ssl_jax.clustering import assignment, density, saved
from ssl_jax.clustering.fingerprint import differences, fingerprint
from ssl_jax.clustering.label import label
from ssl_jax.clustering.output import ClusterReport
from ssl_jax.clustering.output_files import OutputFiles
from ssl_jax.clustering.placement import ClusterAssignment
from ssl_jax.data.source import Dataset, Images
from ssl_jax.inference.pretrained import export, of_run
from ssl_jax.runs.restore import config_of
from ssl_jax.settings.resolve import SettingError

RNG = np.random.default_rng(5)
IMAGES = RNG.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("byol")
    config = tiny("byol")
    np.savez(folder / "a.npz", images=IMAGES)
    config.data.update(name="array", dir=str(folder / "a.npz"), limit=0)
    return opened(made(folder / "run", config))


@pytest.fixture(scope="module")
def encoder(run):
    return of_run(run)


def array(folder, name, images):
    path = folder / f"{name}_images.npz"
    np.savez(path, images=images)
    return dict(name="array", dir=str(path))


def assigned(run, given, **settings):
    config = config_of(run.folder)
    config["data"].update(given)
    lines = []
    return label(run, config, given, report=lines.append, **settings), lines


def written(report, out, overwrite=False):
    files = OutputFiles(out, overwrite)
    files.check()
    files.write(report, 1)
    with open(out, newline="") as file:
        return [int(row["cluster"]) for row in csv.DictReader(file)]


def test_ids_stay_when_other_pictures_join(run, tmp_path):
    first = written(
        assigned(run, array(tmp_path, "first", IMAGES[:40]), count=5)[0], tmp_path / "c.csv"
    )
    use = tmp_path / "c.npz"
    more = array(tmp_path, "more", np.concatenate([IMAGES[40:], IMAGES[:40]]))
    report, lines = assigned(run, more, use=use)
    joined = written(report, tmp_path / "more.csv")
    assert joined[20:] == first
    assert lines[-2].endswith(f"the 5 clusters of {use}")
    assert lines[-1] == "comparing with k-means on raw pixels of 60 images"
    again = written(
        assigned(run, array(tmp_path, "first", IMAGES[:40]), count=5)[0],
        tmp_path / "c.csv",
        overwrite=True,
    )
    assert again == first
    one = array(tmp_path, "one", IMAGES[7:8])
    report, lines = assigned(run, one, use=use)
    assert written(report, tmp_path / "one.csv") == [first[7]]
    assert lines[-1].endswith(f"the 5 clusters of {use}")  # one picture is not compared
    assert report.extras.comparison == []
    alone = assigned(run, one, use=tmp_path / "one.npz")[0]  # clusters travel with every table
    assert alone.assignment.labels.tolist() == [first[7]]


@pytest.mark.parametrize("flags", [dict(count=3), dict(count="auto"), dict(by="kmeans")])
def test_clusters_in_use_are_not_made_anew(run, tmp_path, flags):
    with pytest.raises(SettingError, match=r"these clusters are made already; leave one out"):
        assigned(run, {}, use=tmp_path / "c.npz", **flags)
    with pytest.raises(ValueError, match="these clusters are made already"):
        assignment.assign(None, IMAGES, clusters=3, use=kmeans_of(np.eye(3)))


def kmeans_of(centroids, **settings):
    facts = dict(feature="embedding", weights="a", size=8, channels=3, mean=[0.5], std=[0.5])
    return saved.SavedClusters(
        np.float32(centroids), "kmeans", {}, facts | dict(range=[], crop=0.0), **settings
    )


def test_from_python(encoder, tmp_path):
    path = tmp_path / "mine.npz"
    clusters = assignment.assign(encoder, IMAGES, clusters=4)
    named = dataclasses.replace(clusters, names=("cat", "", "caf\udce9", "=1"))
    assignment.save(path, named, encoder)
    assignment.save(path, named, encoder)  # replaced
    assert [p.name for p in tmp_path.iterdir()] == ["mine.npz"]
    back = assignment.load(path)
    assert (back.kind, back.names, back.version) == ("kmeans", named.names, ssl_jax.__version__)
    assert back.settings == dict(clusters=4, restarts=10, iterations=100, seed=0)
    placed = assignment.assign(encoder, IMAGES[30:], use=back)
    np.testing.assert_array_equal(placed.labels, clusters.labels[30:])
    np.testing.assert_allclose(placed.margin, clusters.margin[30:], atol=1e-5)
    assert placed.names == named.names
    with pytest.raises(SettingError, match=r"ends in \.npz"):
        assignment.save(tmp_path / "mine.csv", clusters, encoder)
    np.savez(path, images=IMAGES)
    with pytest.raises(SettingError, match="holds something else than clusters"):
        assignment.save(path, clusters, encoder)
    with pytest.raises(SettingError, match="holds something else than clusters"):
        assignment.load(path)


def test_names_are_a_column(tmp_path):
    clusters = ClusterAssignment(
        np.array([1, 0, 1]), np.ones(3), np.ones(3), np.eye(2), names=("=x", "a,b")
    )
    images = Images(np.zeros((3, 8, 8, 1), np.uint8), np.full(3, -1))
    none = Images(images.images[:0], images.labels[:0])
    rows = [*ClusterReport(clusters, Dataset(images, none, (), (0.5,), (0.5,))).records()]
    assert rows[0][2:4] == ("cluster", "name")
    assert [row[2:4] for row in rows[1:]] == [(1, "a,b"), (0, "'=x"), (1, "a,b")]


def test_another_encoder_is_refused(run, encoder, tmp_path):
    clusters = assignment.assign(encoder, IMAGES, clusters=4)
    assignment.save(tmp_path / "c.npz", clusters, encoder)
    back = assignment.load(tmp_path / "c.npz")
    target = encoder.state.method.target
    moved = target.replace(params=jax.tree.map(lambda x: x + 1, target.params))
    others = {
        "other weights": dict(
            state=encoder.state.replace(method=encoder.state.method.replace(target=moved))
        ),
        "size 16 instead of 8": dict(size=16),
        "crop 0.875 instead of 0": dict(crop=0.875),
        r"mean \(0.1, 0.2, 0.3\) instead of \(": dict(mean=(0.1, 0.2, 0.3)),
        r"std \(1, 1, 1\) instead of \(": dict(std=(1.0, 1.0, 1.0)),
        r"range \(0, 4095\) instead of \(\)": dict(range=(0.0, 4095.0)),
    }
    for message, change in others.items():
        other = dataclasses.replace(encoder, **change)
        with pytest.raises(SettingError, match=rf"of another encoder \(here: {message}"):
            assignment.assign(other, IMAGES, use=back)
    config = config_of(run.folder)
    config["evals"]["crop"] = 0.5
    with pytest.raises(SettingError, match=r"--use=.*c\.npz: .* crop 0\.5 instead of 0") as raised:
        label(run, config, {}, use=tmp_path / "c.npz")
    assert "\n" not in str(raised.value)


def test_only_arrays_of_the_feature_count(encoder):
    """Not the optimiser, or the network that this feature does not read."""
    here = fingerprint(encoder, "embedding")
    state = encoder.state
    trained = state.replace(
        opt_state=jax.tree.map(lambda x: x + 1, state.opt_state),
        params=jax.tree.map(lambda x: x + 1, state.params),  # of the query network
    )
    other = dataclasses.replace(encoder, state=trained)
    assert fingerprint(other, "embedding") == here
    assert differences(fingerprint(encoder, "backbone"), fingerprint(other, "backbone")) == (
        "other weights"
    )
    assert differences(here, fingerprint(encoder, "backbone")) == (
        "other weights, feature backbone instead of embedding"
    )


def test_an_exported_run_is_the_same_encoder(tmp_path):
    config = tiny("swav")
    config.model.update(name="resnet", depth=10, width=8)
    run = opened(made(tmp_path / "run", config))
    export(run, tmp_path / "e.safetensors", head=True)
    exported = ssl_jax.load_encoder(tmp_path / "e.safetensors")
    assert differences(
        fingerprint(of_run(run), "embedding"), fingerprint(exported, "embedding")
    ) in ("", "crop 0 instead of 0.875")


def changed(path, **arrays):
    with np.load(path) as file:
        parts = dict(file)
    np.savez(path, **parts | arrays)


def facts_of(path, **changes):
    with np.load(path) as file:
        facts = json.loads(file["facts"].tobytes())
    return dict(facts=np.frombuffer(json.dumps(facts | changes).encode(), np.uint8))


def array_file():
    file = io.BytesIO()
    np.save(file, np.eye(3))
    return file.getvalue()


DAMAGES = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-60]),
    "flipped": lambda path: path.write_bytes(
        path.read_bytes().replace(np.float32(1).tobytes(), np.float32(2).tobytes(), 1)
    ),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("cluster,name\n"),
    "array": lambda path: path.write_bytes(array_file()),
    "no centres": lambda path: np.savez(path, **facts_of(path)),
    "nan": lambda path: changed(path, centroids=np.full((3, 3), np.nan, np.float32)),
    "one": lambda path: changed(path, centroids=np.ones((1, 3), np.float32)),
    "doubles": lambda path: changed(path, centroids=np.eye(3)),
    "names": lambda path: changed(path, **facts_of(path, names=["a"])),
    "kind": lambda path: changed(path, **facts_of(path, kind="x")),
    "encoder": lambda path: changed(path, **facts_of(path, encoder={})),
    "facts": lambda path: changed(path, **facts_of(path, encoder=None)),
    "hdbscan": lambda path: changed(path, **facts_of(path, kind="hdbscan")),
    "pickle": lambda path: changed(path, centroids=np.array([{}, {}], object)),
    "json": lambda path: changed(
        path, facts=np.frombuffer(b'{"file": "ssl_jax clusters"', np.uint8)
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_one_line(tmp_path, damage):
    path = tmp_path / "c.npz"
    kmeans_of(np.eye(3)).write(path)
    assert saved.read(path, "--use").kind == "kmeans"
    DAMAGES[damage](path)
    with pytest.raises(SettingError, match=r"--use=c is damaged.*make the clusters again") as error:
        saved.read(path, "--use=c")
    assert "\n" not in str(error.value)


def test_files_that_hold_no_clusters(tmp_path):
    with pytest.raises(SettingError, match=r"does not exist; give the \.npz that assign writes"):
        saved.read(tmp_path / "c.npz", "--use=c.npz")
    with pytest.raises(SettingError, match="is a folder"):
        saved.read(tmp_path, "--use=c.npz")
    kmeans_of(np.eye(3)).write(tmp_path / "c.npz")
    changed(tmp_path / "c.npz", **facts_of(tmp_path / "c.npz", format=2, version="9.0"))
    with pytest.raises(SettingError, match=r"by a newer version \(9\.0\); update ssl_jax"):
        saved.read(tmp_path / "c.npz", "--use=c.npz")
    with zipfile.ZipFile(tmp_path / "z.npz", "w") as file:
        file.writestr("notes.txt", "a")
    with pytest.raises(SettingError, match="holds something else than clusters"):
        saved.read(tmp_path / "z.npz", "--use=z.npz")


def test_the_file_is_replaced_with_the_table_or_not_at_all(run, tmp_path, monkeypatch):
    report, _ = assigned(run, {}, count=3)
    out = tmp_path / "c.csv"
    written(report, out)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert set(before) == {"c.csv", "c.npz"}
    other, _ = assigned(run, {}, count=2)
    out.unlink()
    with pytest.raises(SettingError, match=r"c\.npz already exists; --overwrite replaces"):
        OutputFiles(out, overwrite=False).check()
    out.write_bytes(before["c.csv"])

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(SettingError, match="No space left"):
        OutputFiles(out, overwrite=True).write(other, 1)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    written(other, out, overwrite=True)
    assert len(assignment.load(tmp_path / "c.npz").centroids) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"c", "c.csv", "c.npz"}


def test_data_beside_the_table_are_never_replaced(run, tmp_path):
    np.savez(tmp_path / "c.npz", images=IMAGES)
    with pytest.raises(
        SettingError, match=r"c\.npz, which holds something else or is damaged; move it"
    ):
        OutputFiles(tmp_path / "c.csv", overwrite=True).check()
    (tmp_path / "d.npz").mkdir()
    with pytest.raises(SettingError, match=r"d\.npz is in the way"):
        OutputFiles(tmp_path / "d.csv", overwrite=True).check()


def blobs(sizes, dim=40, spread=0.1):
    centres = np.eye(dim)[: len(sizes)]
    points = np.repeat(centres, sizes, axis=0) + spread * RNG.normal(size=(sum(sizes), dim)) / 3
    return np.float32(points / np.linalg.norm(points, axis=1, keepdims=True))


def scattered(count, dim=40):
    points = RNG.normal(size=(count, dim))
    return np.float32(points / np.linalg.norm(points, axis=1, keepdims=True))


@pytest.mark.parametrize("most", [10_000, 120])
def test_dense_regions_and_outliers(monkeypatch, most):
    monkeypatch.setattr(density, "MOST_ROWS", most)
    points = np.concatenate([blobs([70, 60, 50]), scattered(30)])
    truth = np.repeat([0, 1, 2, -1], [70, 60, 50, 30])
    clusters = assignment.of_features(None, points, "hdbscan")
    assert len(clusters.sample.rows) == min(most, 210)
    assert len(clusters.centroids) == 3
    for i in range(3):
        (values, counts) = np.unique(clusters.labels[truth == i], return_counts=True)
        assert values[counts.argmax()] >= 0
        assert counts.max() >= 0.85 * (truth == i).sum()
    assert (clusters.labels[truth == -1] == -1).mean() > 0.7
    assert clusters.outliers == (clusters.labels == -1).sum()
    assert clusters.sizes.sum() + clusters.outliers == 210
    cosine = points @ clusters.centroids.T
    inside = clusters.labels >= 0
    np.testing.assert_allclose(
        clusters.similarity,
        cosine[np.arange(210), np.where(inside, clusters.labels, cosine.argmax(1))],
        atol=1e-5,
    )
    again = assignment.of_features(None, points, "hdbscan")
    np.testing.assert_array_equal(again.labels, clusters.labels)


def test_outliers_have_ranks_and_members():
    labels = np.array([1, -1, 0, -1, 1])
    similarity = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    clusters = ClusterAssignment(labels, similarity, similarity, np.eye(3))
    assert clusters.sizes.tolist() == [1, 2, 0]
    assert clusters.outliers == 2
    assert clusters.ranks.tolist() == [2, 2, 1, 1, 1]
    assert clusters.members(-1).tolist() == [3, 1]
    assert [clusters.members(k).tolist() for k in range(3)] == [[2], [4, 0], []]
    assert clusters.perplexity == pytest.approx(3 / 2 ** (2 / 3))
    for cluster in (-2, 3):
        with pytest.raises(IndexError):
            clusters.members(cluster)
    alone = ClusterAssignment(labels[1:2], similarity[1:2], similarity[1:2], np.eye(3))
    assert (alone.perplexity, alone.outliers, alone.sizes.tolist()) == (0.0, 1, [0, 0, 0])


def test_the_report_shows_outliers(tmp_path):
    from rich.console import Console

    labels = np.array([1, -1, 0, -1, 1, 1])
    clusters = ClusterAssignment(labels, np.ones(6), np.ones(6), np.eye(3))
    images = Images(np.zeros((6, 8, 8, 1), np.uint8), np.array([1, 0, 0, 0, 1, 1]))
    none = Images(images.images[:0], images.labels[:0])
    report = ClusterReport(clusters, Dataset(images, none, ("a", "b"), (0.5,), (0.5,)))
    text = io.StringIO()
    Console(file=text, width=100).print(report.table())
    *_, last, end = text.getvalue().splitlines()
    assert last.split("│")[1:5] == [" outliers ", "      2 ", " 33.3% ", " a (100%) "]
    lines = [*report.lines()]
    assert lines[0] == "2 outliers, 33.3% of the images, in no cluster (cluster -1 in the table)"
    assert lines[1].endswith("the largest holds 50.0%")
    assert "ARI 1.0000" not in lines[2]
    assert lines[2].endswith(", with the outliers as one more cluster")
    assert [row[2] for row in report.records()][1:] == [1, -1, 0, -1, 1, 1]
    assert [*dict(report.pages(9))] == [
        "overview.png",
        "cluster_1.png",
        "cluster_0.png",
        "outliers.png",
    ]
    OutputFiles(tmp_path / "c.csv", overwrite=False).write(report, 9)
    OutputFiles(tmp_path / "c.csv", overwrite=True).check()  # the sheet is one of ours
    assert [*report.pages(0)] == []


def test_dense_regions_are_saved_and_used(tmp_path):
    points = np.concatenate([blobs([40, 40]), scattered(15)])
    clusters = assignment.of_features(None, points, "hdbscan")
    facts = kmeans_of(np.eye(2)).encoder
    path = tmp_path / "c.npz"
    saved.SavedClusters(
        clusters.centroids, clusters.kind, clusters.settings, facts, sample=clusters.sample
    ).write(path)
    back = saved.read(path, "--use")
    assert back.settings["min_cluster_size"] == 5
    placed = assignment.to_saved(points[::-1], back)
    np.testing.assert_array_equal(placed.labels[::-1], clusters.labels)
    np.testing.assert_allclose(placed.similarity[::-1], clusters.similarity, atol=1e-6)
    assert assignment.to_saved(points[-1:], back).labels.tolist() == [-1]
    with pytest.raises(SettingError, match="are of 40 features, the encoder has 3"):
        assignment.to_saved(np.eye(3), back)
    for name, value in dict(
        labels=np.full(95, 9, np.int32),
        radius=np.zeros(3, np.float32),
        rows=np.zeros((95, 5), np.float32),
    ).items():
        original = path.read_bytes()
        changed(path, **{name: value})
        with pytest.raises(SettingError, match="is damaged"):
            saved.read(path, "--use")
        path.write_bytes(original)


def test_hdbscan_that_cannot_be(run, tmp_path):
    with pytest.raises(SettingError, match=r"--clusters=3: hdbscan makes as many clusters as"):
        assigned(run, {}, by="hdbscan", count=3)
    few = array(tmp_path, "few", IMAGES[:9])
    with pytest.raises(
        SettingError, match=r"--by='hdbscan': needs at least 10 images, there are 9"
    ):
        assigned(run, few, by="hdbscan")
    with pytest.raises(ValueError, match=r"by='hdbscan': no two groups of 5 or more images"):
        assignment.of_features(None, blobs([40]), "hdbscan")
