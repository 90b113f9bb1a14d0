"""Images into clusters: prototypes, k-means, names, table and contact sheets, refused input."""

import csv
import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import shapes
from helpers.runs import environment, tiny
from helpers.trained import made, opened, scores
from PIL import Image
from rich.console import Console
from sklearn import metrics as sklearn_metrics
from sklearn.datasets import load_digits

from ssl_jax.build import build
from ssl_jax.clustering import assignment, contact_sheet
from ssl_jax.clustering.label import label
from ssl_jax.clustering.output import ClusterReport
from ssl_jax.clustering.output_files import OutputFiles
from ssl_jax.data import datasets
from ssl_jax.data.source import Dataset, Images
from ssl_jax.data.whole import WholePictures, pixels_of
from ssl_jax.evaluation.assignment import OwnClusters
from ssl_jax.evaluation.clustering import Clustering
from ssl_jax.inference.pretrained import of_run
from ssl_jax.interface import Split
from ssl_jax.runs.restore import config_of
from ssl_jax.settings import command_line
from ssl_jax.settings.resolve import SettingError

RNG = np.random.default_rng(0)
PAGE = ("index.html", "names.js", "rows.js")  # see tests/test_naming_page.py
NAMING = "; to name clusters, open index.html there in a browser"


@pytest.fixture(scope="module")
def swav(tmp_path_factory):
    """Of 256 digits in grey, with 16 prototypes."""
    return opened(made(tmp_path_factory.mktemp("swav") / "run", tiny("swav")))


@pytest.fixture(scope="module")
def byol(tmp_path_factory):
    """Of colour images without labels."""
    folder = tmp_path_factory.mktemp("byol")
    config = tiny("byol")
    np.savez(folder / "a.npz", images=RNG.integers(0, 256, (64, 8, 8, 3), dtype=np.uint8))
    config.data.update(name="array", dir=str(folder / "a.npz"), limit=40)
    return opened(made(folder / "run", config))


@pytest.fixture
def pictures(tmp_path):
    """A flat folder of 12 pictures, dark and bright ones."""
    (tmp_path / "pictures").mkdir()
    for i in range(12):
        pixels = np.clip(RNG.normal(40 + 170 * (i % 2), 15, (10, 14, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{i:02}, [a].png")
    return dict(
        name="folder", dir=str(tmp_path / "pictures"), cache=str(tmp_path / "cache"), size=8
    )


def labelled(run, given, **settings):
    config = config_of(run.folder)
    config["data"].update(given)
    return label(run, config, given, report=lambda line: None, **settings)


def test_nearest_centroid_rank_and_margin():
    points = RNG.standard_normal((50, 6)).astype(np.float32)
    centroids = RNG.standard_normal((9, 6)).astype(np.float32)
    found = assignment.to_centroids(assignment.unit(points), centroids)

    def rows(x):
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    cosine = rows(points) @ rows(centroids).T
    best = np.sort(cosine, axis=1)
    np.testing.assert_array_equal(found.labels, cosine.argmax(1))
    np.testing.assert_allclose(found.similarity, best[:, -1], atol=1e-6)
    np.testing.assert_allclose(found.margin, best[:, -1] - best[:, -2], atol=1e-6)
    np.testing.assert_array_equal(found.sizes, np.bincount(cosine.argmax(1), minlength=9))
    for i in range(50):
        better = (found.labels == found.labels[i]) & (found.similarity > found.similarity[i])
        assert found.ranks[i] == better.sum() + 1
    for k in range(9):
        np.testing.assert_array_equal(found.ranks[found.members(k)], np.arange(found.sizes[k]) + 1)


def test_perplexity_counts_even_clusters():
    def of(labels):
        return assignment.ClusterAssignment(
            np.array(labels), np.zeros(4), np.zeros(4), np.zeros((5, 2))
        ).perplexity

    assert of([0, 0, 0, 0]) == pytest.approx(1.0)
    assert of([0, 1, 2, 4]) == pytest.approx(4.0)
    assert of([0, 0, 0, 4]) == pytest.approx(4 / 3**0.75)


def test_own_prototypes_are_the_arg_max_of_the_scores(swav):
    encoder = of_run(swav)
    images = RNG.integers(0, 256, (20, 8, 8, 1), dtype=np.uint8)
    found = assignment.assign(encoder, images)
    own = np.asarray(encoder(images, "scores"))
    np.testing.assert_array_equal(found.labels, own.argmax(1))
    np.testing.assert_allclose(found.similarity, own.max(1), atol=1e-6)
    assert found.centroids.shape == (16, 8)
    assert [assignment.choice(encoder, *given) for given in ((0, ""), (3, ""), (0, "kmeans"))] == [
        "own",
        *["kmeans"] * 2,
    ]


@pytest.mark.parametrize(
    ("prototypes", "settings", "message"),
    [
        (None, dict(by="own"), "by='own': this encoder has no prototypes"),
        (None, dict(by="mean"), "by='mean': choose own, kmeans or hdbscan"),
        (None, dict(), "clusters=0: k-means needs a number"),
        (None, dict(clusters=11), "clusters=11: between 2 and the 10 images"),
        (
            np.eye(4),
            dict(by="own", clusters=3),
            "clusters=3: the encoder has 4 clusters of its own",
        ),
    ],
)
def test_clusters_that_do_not_fit(prototypes, settings, message):
    with pytest.raises(ValueError, match=message):
        assignment.assign(
            SimpleNamespace(prototypes=prototypes), np.zeros((10, 2, 2, 1), np.uint8), **settings
        )


@pytest.mark.parametrize("count", [2, 12])
def test_scores_with_fewer_and_more_clusters_than_classes(count):
    labels = np.where(RNG.random(90) < 0.3, -1, np.arange(90) % 3)
    logits = RNG.standard_normal((90, count)) + 3 * (
        np.arange(count) == (np.arange(90) % 3)[:, None] % count
    )
    logits = np.concatenate([logits, np.full((90, 1), -9.0)], axis=1).astype(
        np.float32
    )  # an empty cluster
    splits = {"trained": Split({"scores": logits}, labels)}
    known = labels >= 0
    own = logits.argmax(1)
    found = dict(OwnClusters().run(splits, None))
    table = sklearn_metrics.cluster.contingency_matrix(labels[known], own[known])
    assert found["nmi"] == pytest.approx(
        sklearn_metrics.normalized_mutual_info_score(labels[known], own[known])
    )
    assert found["ari"] == pytest.approx(
        sklearn_metrics.adjusted_rand_score(labels[known], own[known])
    )
    assert table.max() / known.sum() < found["acc"] <= table.max(0).sum() / known.sum()
    assert found["used"] == len(set(own)) / (count + 1)
    assert found["largest"] == np.bincount(own).max() / 90


def test_k_means_of_fewer_clusters_than_classes_and_unlabelled_rows():
    classes = np.repeat(np.arange(3), 30)
    points = np.eye(3, 4, dtype=np.float32)[np.minimum(classes, 1)] * RNG.uniform(1, 9, (90, 1))
    splits = {"trained": Split({"embedding": points}, np.where(np.arange(90) % 2, classes, -1))}
    found = dict(Clustering(clusters=2, restarts=2, iterations=5).run(splits, None))
    assert found["acc"] == pytest.approx(
        2 / 3
    )  # two classes fall together, and one of them matches nothing
    assert found["nmi"] == pytest.approx(
        sklearn_metrics.normalized_mutual_info_score(classes, np.minimum(classes, 1))
    )


def test_the_evaluator_needs_prototypes(swav, byol, tmp_path):
    found = scores(swav.folder, evals=("assignment",))["assignment"]
    assert set(found) == {f"assignment/{name}" for name in ("acc", "nmi", "ari", "used", "largest")}
    np.savez(
        tmp_path / "a.npz",
        images=RNG.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8),
        labels=np.arange(20) % 2,
    )
    config = tiny("byol")
    config.evals = dict(assignment={})
    config.best = "eval/assignment/acc"
    message = "evals.assignment: byol has no feature 'scores'; omit this evaluator"
    with pytest.raises(SettingError, match=message):
        build(config)
    with pytest.raises(SettingError, match=message):
        scores(byol.folder, evals=("assignment",), dir=str(tmp_path / "a.npz"), limit=0)


def test_images_have_names(tmp_path, pictures):
    digits = load_digits().images
    data = datasets.load("digits", limit=30)
    rows = [int(name.removeprefix("digits[").removesuffix("]")) for name in data.names()]
    assert len(rows) == 30 + 360
    own = np.concatenate([data.train.images, data.test.images])
    np.testing.assert_array_equal(own[..., 0], np.round(digits[rows] * 255 / 16))
    assert datasets.load("digits", limit=30, whole=True).names() == data.names()
    images = RNG.integers(0, 256, (20, 4, 4, 1), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(20) % 2)
    data = datasets.load("array", dir=str(tmp_path / "a.npz"))
    rows = [int(name.removeprefix("images[").removesuffix("]")) for name in data.names()]
    np.testing.assert_array_equal(
        np.concatenate([data.train.images, data.test.images]), images[rows]
    )
    data = datasets.load(**pictures)
    bright = pixels_of(data.train.images).mean((1, 2, 3)) > 128
    assert [int(name[:2]) % 2 for name in data.names()] == bright.tolist()
    assert Dataset(data.train, data.test, (), (), ()).names()[:2] == ["train[0]", "train[1]"]


def test_a_table_of_the_runs_own_data(swav):
    report = labelled(swav, {})
    head, *rows = report.records()
    assert head == ("split", "row", "cluster", "similarity", "margin", "rank", "label")
    assert [row[1] for row in rows] == sorted(row[1] for row in rows)
    images = np.round(load_digits().images[[row[1] for row in rows]] * 255 / 16).astype(np.uint8)[
        ..., None
    ]
    found = assignment.assign(of_run(swav), images)
    np.testing.assert_array_equal([row[2] for row in rows], found.labels)
    np.testing.assert_allclose([float(row[3]) for row in rows], found.similarity, atol=1e-4)
    np.testing.assert_array_equal(
        [int(row[6]) for row in rows], load_digits().target[[row[1] for row in rows]]
    )
    assert any(line.startswith("against the labels: ACC") for line in report.lines())


def test_a_flat_folder_by_k_means(byol, pictures, tmp_path):
    report = labelled(byol, pictures, count=2)  # the run's limit of 40 says nothing of these
    target = OutputFiles(tmp_path / "c.csv", overwrite=False)
    written = target.write(report, most=5)
    assert written == (
        f"wrote {target.out}: 12 images, and {target.folder}/ with overview.png and 2 sheets"
        f"{NAMING}; --use={target.clusters} puts other images into the same clusters"
    )
    with open(tmp_path / "c.csv", newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["file", "cluster", "similarity", "margin", "rank"]
    assert [row[0] for row in rows] == [f"{i:02}, [a].png" for i in range(12)]
    assert len({row[1] for row in rows[::2]}) == len({row[1] for row in rows[1::2]}) == 1
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == [
        "cluster_0.png",
        "cluster_1.png",
        *PAGE[:2],
        "overview.png",
        PAGE[2],
        "thumbs_0.png",
        "thumbs_1.png",
    ]
    assert "2 clusters, 0 of them empty; perplexity 2.0 (2 if all were equally large)" in next(
        report.lines()
    )


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        (dict(count=13), {}, "--clusters=13: between 2 and the 12 images"),
        (dict(by="own"), {}, "--by='own': this encoder has no prototypes"),
        (
            dict(count=2),
            dict(bands=4),
            "data.name='folder' has 4 channels, the encoder was trained on 3; data.bands=3 reads",
        ),
        (dict(count=2), dict(dir="cache"), "no images to train on in data.dir="),
    ],
)
def test_pictures_that_do_not_fit(settings, change, message, byol, pictures, tmp_path):
    (tmp_path / "cache").mkdir()
    if change.get("dir"):
        change = dict(dir=str(tmp_path / change["dir"]))
    with pytest.raises(SettingError, match=message):
        labelled(byol, pictures | change, **settings)


def reports():
    """Of 30 grey images in 3 of 4 clusters."""
    labels = np.arange(30) % 3
    similarity = np.linspace(0, 1, 30)
    found = assignment.ClusterAssignment(labels, similarity, similarity, np.eye(4))
    images = Images(RNG.integers(0, 256, (30, 8, 8, 1), dtype=np.uint8), np.full(30, -1))
    return ClusterReport(
        found, Dataset(images, Images(images.images[:0], images.labels[:0]), (), (0.5,), (0.5,))
    )


ODD = [
    "=1+1.png",
    "+a.png",
    "-a/b.png",
    "@x.png",
    "\tx.png",
    "\rx.png",
    "＝x.png",
    "＋x.png",
    "－x.png",
    "＠x.png",
]
ODD += ["a\nb.png", 'q"u,o.png', "caf\udce9.png", "a\u2028b.png", " x.png", "x=1.png", "[red]x.png"]


def odd_report(names, classes):
    """Of grey images with these names, one after another of each class."""
    count = len(names)
    found = assignment.ClusterAssignment(
        np.arange(count) % 2, np.linspace(-1, 1, count), np.zeros(count), np.eye(2)
    )
    images = Images(np.zeros((count, 8, 8, 1), np.uint8), np.arange(count) % len(classes))
    none = Images(images.images[:0], images.labels[:0])
    return ClusterReport(
        found, Dataset(images, none, tuple(classes), (0.5,), (0.5,), listed=lambda: names)
    )


def test_no_cell_of_the_table_is_a_formula(tmp_path):
    classes = ["=cmd|' /C calc'!A0", "@a", "-1", "caf\udce9", "a,b", "plain"]
    OutputFiles(tmp_path / "c.csv", overwrite=False).write(odd_report(ODD, classes), most=0)
    text = (tmp_path / "c.csv").read_bytes().decode("utf-8")
    head, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    assert {len(row) for row in rows} == {len(head)} == {6}
    expected = [f"./{name}" for name in ODD[:10]] + [
        name.replace("\udce9", r"\xe9") for name in ODD[10:]
    ]
    labels = ["'=cmd|' /C calc'!A0", "'@a", "'-1", r"caf\xe9", "a,b", "plain"]
    assert {row[0]: row[5] for row in rows} == {
        name: labels[i % 6] for i, name in enumerate(expected)
    }
    assert [row[0] for row in rows] == [name for _, name in sorted(zip(ODD, expected))]
    assert {row[2] for row in rows} >= {"-1.0000", "1.0000"}  # numbers stay numbers
    assert "\nx=1.png,1," in text  # ordinary names are not quoted


def test_odd_names_in_the_table_on_the_terminal_and_on_the_sheets(tmp_path):
    report = odd_report(ODD, ODD)
    with open(tmp_path / "shown.txt", "w", encoding="utf-8") as file:
        console = Console(file=file, width=100)
        console.print(report.table())
        for line in (
            *report.lines(),
            OutputFiles(tmp_path / "caf\udce9.csv", overwrite=False).write(report, most=9),
        ):
            console.print(line, markup=False)
    assert "caf?.csv: 17 images" in (tmp_path / "shown.txt").read_text("utf-8")


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_nothing_is_replaced_without_being_told(tmp_path, monkeypatch):
    out = tmp_path / "c.csv"
    report = reports()
    OutputFiles(out, overwrite=False).write(report, most=2)
    before = files(tmp_path)
    assert set(before) == {
        "c.csv",
        *(f"c/{name}" for name in ("overview.png", "cluster_0.png", "cluster_1.png", *PAGE)),
        *(f"c/thumbs_{i}.png" for i in range(3)),
    }
    with pytest.raises(
        SettingError, match=r"c.csv already exists; --overwrite replaces table and sheets"
    ):
        OutputFiles(out, overwrite=False).check()

    def full(self, path, **options):
        raise OSError(28, "No space left on device")

    for owner, name in ((Image.Image, "save"), (Path, "replace")):
        monkeypatch.setattr(owner, name, full)
        with pytest.raises(SettingError, match=r"cannot be written \(No space left"):
            OutputFiles(out, overwrite=True).write(report, most=3)
        monkeypatch.undo()
        assert files(tmp_path) == before
    OutputFiles(out, overwrite=True).write(report, most=3)
    assert set(files(tmp_path)) == {*before, "c/cluster_2.png"}
    OutputFiles(out, overwrite=True).write(report, most=0)
    assert set(files(tmp_path)) == {"c.csv"}
    OutputFiles(out, overwrite=True).write(report, most=1)
    (tmp_path / "c" / "mine.png").write_bytes(b"")
    with pytest.raises(
        SettingError, match=r"which holds other files \(mine.png\); move them away, or give"
    ):
        OutputFiles(out, overwrite=True).check()
    (tmp_path / "site").mkdir()  # a page of the user's own
    (tmp_path / "site" / "index.html").write_text("mine")
    OutputFiles(tmp_path / "site.csv", overwrite=True).write(report, most=1)
    assert (tmp_path / "site" / "index.html").read_text() == "mine"
    assert (tmp_path / "site_sheets" / "index.html").is_file()
    for bad in (tmp_path / "c.txt", tmp_path / "nowhere" / "c.csv"):
        with pytest.raises(
            SettingError, match="give a file that ends in .csv, in a folder that exists"
        ):
            OutputFiles(bad, overwrite=False).check()


def test_pages_show_the_most_typical():
    report = reports()
    pages = dict(reports().pages(2))
    assert list(pages) == ["overview.png", "cluster_0.png", "cluster_1.png"]
    shades = np.arange(8, dtype=np.uint8) * 30
    pictures = [np.full((8, 8, 1), shade) for shade in shades]
    page = np.asarray(contact_sheet.sheet(pictures, ["x"] * 8, "title"))
    step = contact_sheet.SIDE + 8
    top = 60 + contact_sheet.SIDE // 2
    first = page[top, 16 + contact_sheet.SIDE // 2 :: step, 0][:6]
    np.testing.assert_array_equal(first, shades[:6])
    np.testing.assert_array_equal(
        page[top + step + 18, 16 + contact_sheet.SIDE // 2 :: step, 0][:3], [*shades[6:], 255]
    )
    tall = np.asarray(
        contact_sheet.overview([("a", ("b" * 90,), [np.zeros((90, 30, 3), np.uint8)], [""])])
    )
    assert (
        tall[16 : 16 + contact_sheet.SIDE, 16 + 190 + contact_sheet.SIDE // 2] == 0
    ).all()  # upright, in the middle of its square
    assert (tall[30, 16 + 190 + 10] == 240).all()
    assert report.assignment.members(0)[0] == 27


@pytest.mark.parametrize("store", ["cache", "stream"])
def test_pages_show_true_proportions(byol, tmp_path, store):
    shapes.write(tmp_path / "x")
    folder = dict(name="folder", dir=str(tmp_path / "x"), cache=str(tmp_path / "cache"))
    report = labelled(byol, folder | dict(size=shapes.SIDE, store=store), count=2)
    assert len(report.names) == len(shapes.SHOWN)
    side = contact_sheet.SIDE
    for name, (height, width) in zip(sorted(report.names), shapes.SHOWN.values()):
        picture = report.picture(report.names.index(name))
        assert picture.shape == (height, width, 3)
        page = np.asarray(contact_sheet.sheet([picture], [""], ""))
        expected = (height * side // 64, width * side // 64)
        top, left, *size = shapes.box(page[60 : 60 + side, 16 : 16 + side])
        assert tuple(size) == expected
        assert (top, left) == ((side - size[0]) // 2, (side - size[1]) // 2)
    pages = dict(report.pages(2))
    assert list(pages) == ["overview.png", "cluster_0.png", "cluster_1.png"]
    members = report.assignment.members(report.order[0])
    height, width = report.picture(members[0]).shape[:2]
    first = np.asarray(pages["overview.png"])[36 : 36 + side, 16 + 190 : 16 + 190 + side]
    assert shapes.box(first)[2:] == (height * side // 64, width * side // 64)


def test_sheets_take_whole_pictures():
    pixels = np.full((2, 64, 64, 3), 50, np.uint8)
    squares = WholePictures(pixels, np.float32([[30, 60], [64, 64]]))
    side = contact_sheet.SIDE
    page = np.asarray(contact_sheet.sheet(squares, ["", ""], ""))
    assert shapes.box(page[60 : 60 + side, 16 : 16 + side])[2:] == (side // 2, side)
    plain = np.asarray(contact_sheet.sheet([pixels[0][:32], pixels[1]], ["", ""], ""))
    np.testing.assert_array_equal(page, plain)


def test_flags_of_data_and_run():
    flags = ["x", "--workdir", "runs/a", "--data.dir", "D", "-data.size=8", "--config.data.limit=3"]
    _, config, *rest = command_line.with_run([*flags, "--evals", "knn"])
    assert config.endswith("config_file.py:runs/a::knn")
    data = ["--config.data.dir", "D", "--config.data.size=8", "--config.data.limit=3"]
    assert rest == ["--workdir=runs/a", *data, "--evals=knn"]
    assert command_line.with_run(["x", "--workdir=a", "--workdir=b"])[1].endswith(
        "config_file.py:b::"
    )  # the last, as in absl
    with pytest.raises(SettingError, match="--workdir is missing; name a run folder"):
        command_line.with_run(["x", "--data.dir=D"])


@pytest.mark.slow
def test_the_command(swav, tmp_path):
    call = [
        sys.executable,
        "-m",
        "ssl_jax.assign",
        f"--workdir={swav.folder}",
        "--out=c.csv",
        "--sheets=1",
        "--data.whole",
    ]
    done = subprocess.run(
        call, env=environment(), capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "on digits: 16 prototypes of its own" in done.stdout
    assert "wrote c.csv: 616 images, and c/ with overview.png and 1 sheet" in done.stdout
