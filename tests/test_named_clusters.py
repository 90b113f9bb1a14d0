"""Names of clusters that last: from the page into the saved clusters, and to other pictures."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.clusters import cells, report
from helpers.runs import environment, tiny
from helpers.trained import made, opened
from PIL import Image
from rich.console import Console

from ssl_jax.clustering import named_files, saved
from ssl_jax.clustering.cells import TEXT_GUARD, cell, unguarded
from ssl_jax.clustering.label import label
from ssl_jax.clustering.names import ClusterTable
from ssl_jax.clustering.output import ClusterReport, Extras
from ssl_jax.clustering.output_files import OutputFiles
from ssl_jax.clustering.placement import ClusterAssignment
from ssl_jax.data.source import Dataset, Images
from ssl_jax.runs.restore import config_of
from ssl_jax.settings.resolve import SettingError

RNG = np.random.default_rng(6)
IMAGES = RNG.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
NAMES = {0: "=cats", 2: "dogs, wet"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("byol")
    config = tiny("byol")
    np.savez(folder / "a.npz", images=IMAGES)
    config.data.update(name="array", dir=str(folder / "a.npz"), limit=0)
    return opened(made(folder / "run", config))


def written(run, out, images=None, **settings):
    """The report on images, those of the run without any, after its files are written."""
    given = {}
    if images is not None:
        np.savez(out.with_name("images_of_others.npz"), images=images)
        given = dict(name="array", dir=str(out.with_name("images_of_others.npz")))
    config = config_of(run.folder)
    config["data"].update(given)
    found = label(run, config, given, report=lambda line: None, **settings)
    OutputFiles(out, overwrite=False).write(found, 9)
    return found


def named(out, names):
    """Names the clusters of a table as the command does, from a file like the page's."""
    rows = cells(out)
    where = ["file"] if "file" in rows[0] else ["split", "row"]
    lines = [",".join([*where, "cluster", "label"])]
    for row in rows:
        name = cell(names.get(int(row["cluster"]), ""), TEXT_GUARD)
        lines.append(",".join([*(row[x] for x in where), row["cluster"], f'"{name}"']))
    path = out.with_name("labels.csv")
    path.write_text("\n".join(lines) + "\n", "utf-8")
    table = ClusterTable(out)
    table.name_from(path)
    return named_files.write(table, OutputFiles(out, overwrite=True))


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_names_travel_with_the_clusters(run, tmp_path):
    out = tmp_path / "c.csv"
    clusters = written(run, out, count=3).assignment
    before = files(tmp_path)
    sentence = named(out, NAMES)
    npz = tmp_path / "c.npz"
    assert sentence == (
        f"wrote the names into {out} and {npz}, and onto the sheets in {tmp_path / 'c'}/"
    )
    assert saved.read(npz, "--use").names == ("=cats", "", "dogs, wet")
    others = tmp_path / "others"
    others.mkdir()
    used = written(run, others / "d.csv", use=npz)
    assert used.assignment.names == ("=cats", "", "dogs, wet")
    columns = ("cluster", "name", "similarity", "rank")
    rows = [[row[x] for x in columns] for row in cells(out)]
    assert rows == [[row[x] for x in columns] for row in cells(others / "d.csv")]
    assert {row[1] for row in rows} == {"'=cats", "", "dogs, wet"}
    # Sheets and page look as if their clusters had always had these names.
    for name in ("overview.png", "cluster_0.png", "cluster_1.png", "cluster_2.png"):
        with Image.open(tmp_path / "c" / name) as one, Image.open(others / "d" / name) as other:
            np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    names = [(folder / "names.js").read_bytes() for folder in (tmp_path / "c", others / "d")]
    assert names[0] == names[1]
    assert b'"2":"dogs, wet"' in names[0]
    # One picture.
    row = int(np.flatnonzero(clusters.labels == 2)[0])
    alone = others / "one"
    alone.mkdir()
    written(run, alone / "one.csv", IMAGES[row : row + 1], use=npz)
    (shown,) = cells(alone / "one.csv")
    assert (shown["cluster"], shown["name"]) == ("2", "dogs, wet")
    # Other names for its cluster leave those of clusters without a picture in the table.
    named(alone / "one.csv", {2: "wolves"})
    assert saved.read(alone / "one.npz", "--use").names == ("=cats", "", "wolves")
    # Without names all is as it was.
    named(out, {})
    after = files(tmp_path)
    table = Path("c.csv")
    assert {path: after[path] for path in before if path != table} == {
        path: data for path, data in before.items() if path != table
    }


def test_names_and_clusters_are_replaced_together(run, tmp_path, monkeypatch):
    out = tmp_path / "c.csv"
    written(run, out, count=3)
    named(out, {})
    before = files(tmp_path)

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(SettingError, match="No space left"):
        named(out, NAMES)
    monkeypatch.undo()
    after = files(tmp_path)
    after[Path("labels.csv")] = before[Path("labels.csv")]
    assert after == before


def test_clusters_of_another_table_get_no_names(tmp_path):
    out = tmp_path / "c.csv"
    OutputFiles(out, overwrite=False).write(report(12, 4), most=2)
    facts = dict(feature="x", weights="a", size=8, channels=1, mean=[0.5], std=[0.5])
    facts |= dict(range=[], crop=0.0)
    saved.SavedClusters(np.eye(2, dtype=np.float32), "kmeans", {}, facts).write(tmp_path / "c.npz")
    with pytest.raises(SettingError, match=r"c\.npz has 2 clusters, the table has cluster 2; mov"):
        named(out, NAMES)
    (tmp_path / "c.npz").write_bytes((tmp_path / "c.npz").read_bytes()[:-60])
    with pytest.raises(SettingError, match=r"c\.npz is damaged"):
        named(out, NAMES)
    assert "name" not in cells(out)[0]


def with_outliers(labels, **settings):
    """A report on grey images in these of four clusters, -1: none."""
    labels = np.asarray(labels)
    rising = np.linspace(0, 1, len(labels))
    clusters = ClusterAssignment(labels, rising, rising, np.eye(4))
    pixels = RNG.integers(0, 256, (len(labels), 8, 8, 1), dtype=np.uint8)
    images = Images(pixels, np.full(len(labels), -1))
    none = Images(pixels[:0], images.labels[:0])
    return ClusterReport(clusters, Dataset(images, none, (), (0.5,), (0.5,)), **settings)


def test_the_row_of_outliers_keeps_its_title(tmp_path):
    """Also in an overview that does not show all clusters."""
    out = tmp_path / "c.csv"
    OutputFiles(out, overwrite=False).write(with_outliers([0, 0, 0, 1, 1, 2, -1]), most=2)
    overview = np.asarray(Image.open(tmp_path / "c" / "overview.png"))
    sheet = (tmp_path / "c" / "outliers.png").read_bytes()
    named(out, {0: "a", 1: "b", 2: "c"})
    changed = (np.asarray(Image.open(tmp_path / "c" / "overview.png")) != overview).any(axis=(1, 2))
    height = 138  # of a row
    assert [bool(changed[36 + height * i :][:height].any()) for i in range(3)] == [
        True,
        True,
        False,
    ]
    assert (tmp_path / "c" / "outliers.png").read_bytes() == sheet


def test_outliers_alone_have_sheets_that_are_replaced(tmp_path):
    out = tmp_path / "c.csv"
    sentence = OutputFiles(out, overwrite=False).write(with_outliers([-1, -1]), most=9)
    assert "/ with overview.png and 1 sheet; to name" in sentence
    assert {"overview.png", "outliers.png", "index.html"} <= {
        path.name for path in (tmp_path / "c").iterdir()
    }
    OutputFiles(out, overwrite=True).check()
    named(out, {})
    assert [row["outlier"] for row in cells(out)] == ["1", "1"]


def test_how_many_png_alone_is_replaced(tmp_path):
    """--clusters=auto without sheets."""

    class Curves:
        def picture(self):
            return Image.new("RGB", (9, 9))

    out = tmp_path / "c.csv"
    chosen = with_outliers([0, 1], extras=Extras(how_many=Curves()))
    sentence = OutputFiles(out, overwrite=False).write(chosen, most=0)
    assert sentence.endswith("c/ with how_many.png")
    OutputFiles(out, overwrite=True).write(with_outliers([0, 1]), most=0)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("added", [(), ("name",), ("outlier",), ("outlier", "name")])
@pytest.mark.parametrize("columns", [(), ("label",), ("class", "label", "confidence")])
def test_tables_with_any_columns_take_names(tmp_path, columns, added):
    header = ("file", "cluster", *added[:1], "similarity", *columns, *added[1:])
    content = dict(similarity="0.5", label="x", confidence="0.9", name="old", outlier="")
    content["class"] = "y"
    lines = [",".join(header)]
    for i, cluster in enumerate((0, 1, -1)):
        row = content | dict(file=f"{i}.png", cluster=str(cluster))
        lines.append(",".join(row[x] for x in header))
    out = tmp_path / "c.csv"
    out.write_text("\n".join(lines) + "\n")
    before = cells(out)
    named(out, {1: "new"})
    rows = cells(out)
    assert list(rows[0]) == [*(x for x in header if x not in added), "name", "outlier"]
    assert [row["name"] for row in rows] == ["", "new", ""]
    assert [row["outlier"] for row in rows] == ["", "", "1"]
    for row, old in zip(rows, before):
        assert {x: row[x] for x in columns} == {x: old[x] for x in columns}


def test_labels_are_spread_beside_names(run, tmp_path):
    out = tmp_path / "c.csv"
    written(run, out, count=3)
    named(out, NAMES)
    few = tmp_path / "few.csv"
    few.write_text("split,row,label\nimages,0,x\nimages,1,y\nimages,2,x\n")
    used = written(run, tmp_path / "d.csv", use=tmp_path / "c.npz", labelled=few)
    assert list(cells(tmp_path / "d.csv")[0])[2:] == [
        *("cluster", "name", "similarity", "margin", "rank", "label", "confidence")
    ]
    lines = list(used.lines())
    assert lines[-4].startswith("silhouette by cosine")
    assert lines[-2].startswith("3 labels spread to")
    named(tmp_path / "d.csv", {1: "new"})
    assert list(cells(tmp_path / "d.csv")[0])[-4:] == ["label", "confidence", "name", "outlier"]


@pytest.mark.parametrize("text", ["=1", "'=1", "''=1", "'", "'a", "a", "-", "＝x", "'\t"])
def test_cells_give_text_back(text):
    written = cell(text, TEXT_GUARD)
    assert not written.startswith(("=", "-", "＝"))
    assert unguarded(written) == text


def test_the_terminal_shows_names(capsys):
    clusters = with_outliers([0, 1, -1]).assignment
    clusters = dataclasses.replace(clusters, names=("cats", "", "x", "y"))
    assert repr(clusters) == "ClusterAssignment(3 images in 4 clusters, 1 outlier)"
    images = Images(np.zeros((3, 8, 8, 1), np.uint8), np.full(3, -1))
    none = Images(images.images[:0], images.labels[:0])
    shown = ClusterReport(clusters, Dataset(images, none, (), (0.5,), (0.5,)))
    Console(width=90).print(shown.table())
    first = [line.split("│")[1].strip() for line in capsys.readouterr().out.splitlines()[4:7]]
    assert first == ["0 cats", "1", "outliers"]
    assert [row[3] for row in shown.records()] == ["name", "cats", "", ""]


@pytest.mark.slow
def test_the_commands(tmp_path):
    """Clusters, names for them, and another picture whose row has the name."""
    made(tmp_path / "run", tiny("swav"))
    for folder, count in (("pictures", 24), ("others", 1)):
        (tmp_path / folder).mkdir()
        for i in range(count):
            pixels = np.full((8, 8, 3), (0, 120, 250)[i % 3], np.uint8) + RNG.integers(0, 5, 3)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / folder / f"{i:02}.png")

    def call(folder, *flags):
        command = [sys.executable, "-m", "ssl_jax.assign", "--workdir=run", "--data.name=folder"]
        done = subprocess.run(
            [*command, f"--data.dir={folder}", "--data.cache=cache", *flags],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=300,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    out = call("pictures", "--clusters=3", "--out=c.csv")
    assert "to name clusters, open index.html there in a browser; --use=c.npz puts other" in out
    rows = cells(tmp_path / "c.csv")
    cluster = rows[0]["cluster"]
    lines = ["file,cluster,label,outlier"]
    for row in rows:
        name = "night" if row["cluster"] == cluster else ""
        lines.append(f"{row['file']},{row['cluster']},{name},")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    out = call("pictures", "--clusters=3", "--out=c.csv", "--names=labels.csv", "--overwrite")
    assert "wrote the names into c.csv and c.npz, and onto the sheets in c/" in out
    out = call("others", "--use=c.npz", "--out=d.csv")
    assert "the 3 clusters of" in out
    (row,) = cells(tmp_path / "d.csv")
    assert (row["cluster"], row["name"]) == (cluster, "night")
