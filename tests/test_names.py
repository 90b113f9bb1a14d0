"""Names back into the table, onto the sheets and the page; pictures sorted into folders."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from helpers.clusters import cells, report
from helpers.runs import environment, tiny
from helpers.trained import made
from PIL import Image

from ssl_jax.clustering import contact_sheet, folders, named_files
from ssl_jax.clustering.folders import LIST, SortedFolders, placed, safe
from ssl_jax.clustering.names import ClusterTable
from ssl_jax.clustering.output_files import OutputFiles
from ssl_jax.settings.resolve import SettingError

FILES = [f"{'ab'[i % 2]}/{i // 2}.png" for i in range(12)]  # the same names in two folders


@pytest.fixture
def table(tmp_path):
    """c.csv of twelve pictures in three clusters, and the pictures."""
    pictures = tmp_path / "pictures"
    for name in FILES:
        (pictures / name).parent.mkdir(parents=True, exist_ok=True)
        (pictures / name).write_bytes(name.encode())
    OutputFiles(tmp_path / "c.csv", overwrite=False).write(report(12, 4, names=FILES), most=9)
    return tmp_path / "c.csv"


def labels(path, given, outliers=(), columns=("file", "cluster", "label", "outlier")):
    """A labels.csv as the page downloads it: names by cluster, outliers by file."""
    rows = cells(path)
    lines = [",".join(columns)]
    for row in rows:
        label = given.get(int(row["cluster"]), "")
        outlier = "1" if row["file"] in outliers else ""
        own = dict(file=row["file"], cluster=row["cluster"], label=label, outlier=outlier)
        lines.append(",".join(own[name] for name in columns))
    out = path.with_name("labels.csv")
    out.write_text("\n".join(lines) + "\n", "utf-8")
    return out


def named(path, *given, **more):
    table = ClusterTable(path)
    table.name_from(labels(path, *given, **more))
    return table


def everything(folder):
    return {
        str(p.relative_to(folder)): os.readlink(p) if p.is_symlink() else p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() or p.is_symlink()
    }


def test_names_go_into_the_table_and_come_back(table):
    before = cells(table)
    sheet = np.asarray(Image.open(table.parent / "c" / "cluster_1.png"))
    overview = np.asarray(Image.open(table.parent / "c" / "overview.png"))
    own = named(table, {0: "cats", 1: "'=dogs"}, outliers=["a/0.png"])
    written = named_files.write(own, OutputFiles(table, overwrite=True))
    assert written.startswith(f"wrote the names into {table} and onto the sheets")
    rows = cells(table)
    assert [
        {k: v for k, v in row.items() if k not in ("name", "outlier")} for row in rows
    ] == before
    expected = {"0": "cats", "1": "'=dogs", "2": ""}
    for row in rows:
        marked = row["file"] == "a/0.png"
        assert row["name"] == ("" if marked else expected[row["cluster"]])
        assert row["outlier"] == ("1" if marked else "")
    again = ClusterTable(table)
    assert again.cluster_names == {0: "cats", 1: "=dogs"}
    assert list(again.records()) == list(own.records())
    assert again.names == own.names
    place = [row["file"] for row in rows].index("a/0.png")
    text = (table.parent / "c" / "names.js").read_text("utf-8")
    data = f'{{"names":{{"0":"cats","1":"=dogs"}},"outliers":[{place}]}}'
    assert text.startswith(f"pageNames({data}, ")
    new = np.asarray(Image.open(table.parent / "c" / "cluster_1.png"))
    blank = [np.zeros((8, 8, 1), np.uint8)] * 4
    drawn = contact_sheet.sheet(blank, [""] * 4, "=dogs (cluster 1)")
    np.testing.assert_array_equal(new[:34], np.asarray(drawn)[:34, : new.shape[1]])
    np.testing.assert_array_equal(new[34:], sheet[34:])
    changed = (np.asarray(Image.open(table.parent / "c" / "overview.png")) != overview).any(axis=2)
    assert changed[:, :190].any()
    assert not changed[:, 200:].any()
    row = contact_sheet.SIDE + 26
    assert not changed[36 + 2 * row : 36 + 3 * row].any()  # cluster 2 has no name


def test_unnamed_again(table):
    before = everything(table.parent / "c")
    named_files.write(named(table, {0: "cats"}), OutputFiles(table, overwrite=True))
    named_files.write(named(table, {}), OutputFiles(table, overwrite=True))
    assert everything(table.parent / "c") == before


def test_names_need_not_name_cluster_or_outlier(table):
    own = named(table, {2: "x"}, columns=("label", "file"))
    assert own.cluster_names == {2: "x"}


def test_rows_of_arrays_take_names_but_no_folders(tmp_path):
    path = tmp_path / "c.csv"
    OutputFiles(path, overwrite=False).write(report(12, 4), most=0)  # without sheets
    lines = ["split,row,label", *(f"train,{i},{'even' if i % 2 == 0 else ''}" for i in range(12))]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    own = ClusterTable(path)
    assert own.files is None
    own.name_from(tmp_path / "labels.csv")
    assert named_files.write(own, OutputFiles(path, overwrite=True)).endswith(
        "the names into " + str(path)
    )
    rows = cells(path)
    assert [row["name"] for row in rows] == ["even", ""] * 6
    assert [row["row"] for row in rows] == [str(i) for i in range(12)]
    assert not (tmp_path / "c").exists()


def test_names_are_tidied(table):
    path = labels(table, {0: "e\u0301t\u00e9"})
    path.write_text("\ufeff" + path.read_text("utf-8").replace("e\u0301", " e\u0301"), "utf-8")
    own = ClusterTable(table)
    own.name_from(path)
    assert own.cluster_names == {0: "\u00e9t\u00e9"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "", "labels.csv is empty; give the file that the page downloads"),
        (lambda text: text.replace("label", "l"), "has no column label, only file, cluster, l"),
        (
            lambda text: text.replace(",", ";"),
            "has no column file, only file;cluster;label;outlier",
        ),
        (lambda text: text.replace("a/1.png", "a/x.png"), "no row for a/1.png; it needs one for"),
        (lambda text: text + "x.png,0,,\n", "row 13: x.png is not in .*c.csv; download it again"),
        (lambda text: text + "a/1.png,2,,\n", "row 13: a/1.png is not in"),
        (lambda text: text.replace("a/1.png,2", "a/1.png,1"), "row 2: a/1.png is in cluster 1 "),
        (lambda text: text + "a,b\n", "row 13: 2 cells, the first line has 4"),
        (lambda text: text.replace("cats,", "cats,yes"), "outlier=yes; write 1 or nothing"),
        (lambda text: text + '"', "is not a CSV file"),
    ],
)
def test_labels_that_do_not_fit(table, change, message):
    before = everything(table.parent)
    path = labels(table, {0: "cats"})
    path.write_text(change(path.read_text()))
    own = ClusterTable(table)
    with pytest.raises(SettingError, match=message):
        own.name_from(path)
    assert own.names == [""] * 12
    path.unlink()
    assert everything(table.parent) == before


def test_files_that_are_no_tables(table):
    with pytest.raises(SettingError, match="no.csv: there is no such file; run this command"):
        ClusterTable(table.with_name("no.csv"))
    with pytest.raises(SettingError, match="--names=.*no.csv: there is no such file; give the"):
        ClusterTable(table).name_from(table.with_name("no.csv"))
    table.write_bytes(b"file,cluster\ncaf\xe9.png,1\n")
    with pytest.raises(SettingError, match="is not UTF-8; save it as CSV UTF-8"):
        ClusterTable(table)
    table.write_text("file,cluster\na.png,x\n")
    with pytest.raises(SettingError, match="row 1: 'x' is not the number of a cluster"):
        ClusterTable(table)
    table.write_text("name,cluster\na.png,1\n")
    with pytest.raises(SettingError, match="no column file, or split and row"):
        ClusterTable(table)


def test_a_full_disk_leaves_table_and_sheets(table, monkeypatch):
    own = named(table, {0: "cats"})
    before = everything(table.parent)

    def full(*given, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(SettingError, match=r"cannot be written \(No space left"):
        named_files.write(own, OutputFiles(table, overwrite=True))
    monkeypatch.undo()
    assert everything(table.parent) == before


def sorter(table, name="sorted", **options):
    options = dict(overwrite=False, linked=False) | options
    parent = table.parent
    return SortedFolders(parent / name, parent / "pictures", parent / "c", **options)


def sort(own, sorting):
    sorting.check()
    return sorting.write(sorting.plan(own))


def test_pictures_are_sorted_into_folders(table):
    own = named(table, {0: "cats", 1: "cats"}, outliers=["b/5.png"])
    assert sort(own, sorter(table)).endswith("sorted/: copies of 12 pictures in 3 folders")
    found = everything(table.parent / "sorted")
    listed = {row["file"]: row["from"] for row in cells(table.parent / "sorted" / LIST)}
    assert set(found) == {LIST, *listed}
    assert sorted(listed.values()) == sorted(FILES)
    rows = {row["file"]: row["cluster"] for row in cells(table)}
    for target, source in listed.items():
        assert found[target] == source.encode()
        expected = (
            "outliers" if source == "b/5.png" else {"2": "cluster_2"}.get(rows[source], "cats")
        )
        folder, name = target.split("/")
        assert folder == expected
        assert name in (os.path.basename(source), f"{os.path.basename(source)[0]}_2.png")
    assert not [p for p in table.parent.iterdir() if p.name.startswith(".")]


def test_links_lead_to_the_pictures(table):
    sort(ClusterTable(table), sorter(table, linked=True))
    found = everything(table.parent / "sorted")
    for row in cells(table.parent / "sorted" / LIST):
        assert found[row["file"]] == str(table.parent / "pictures" / row["from"])


def test_only_what_was_sorted_is_replaced(table):
    own = named(table, {0: "cats"})
    sort(own, sorter(table))
    root = table.parent / "sorted"
    with pytest.raises(SettingError, match="is not empty; --overwrite replaces the pictures"):
        sorter(table).check()
    again = named(table, {0: "dogs"})
    sort(again, sorter(table, overwrite=True))
    assert {p.name for p in root.iterdir()} == {LIST, "dogs", "cluster_1", "cluster_2"}
    before = everything(root)
    for foreign in ("mine.txt", "dogs/mine.png", "empty/"):
        path = root / foreign
        path.mkdir() if foreign.endswith("/") else path.write_text("mine")
        with pytest.raises(SettingError, match=f"holds other files .{foreign.strip('/')}.; give"):
            sorter(table, overwrite=True).check()
        path.rmdir() if foreign.endswith("/") else path.unlink()
    assert everything(root) == before
    (table.parent / "other").mkdir()
    sort(own, sorter(table, "other"))  # an empty folder
    for name, reason in (
        ("pictures/x", "the pictures"),
        ("c/x", "the sheets"),
        ("pictures", "the pictures"),
    ):
        with pytest.raises(SettingError, match=f"lies in the folder of {reason}"):
            sorter(table, name).check()
    with pytest.raises(SettingError, match="there is no folder .*nowhere; create it"):
        sorter(table, "nowhere/x").check()
    with pytest.raises(SettingError, match=r"c.csv is not a folder"):
        sorter(table, "c.csv").check()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_no_part(table, monkeypatch, error, overwrite):
    own = named(table, {0: "cats"})
    if overwrite:
        sort(own, sorter(table))
    before = everything(table.parent)
    copy = shutil.copyfile

    def fail(source, target):
        if str(source).endswith("3.png"):
            raise error
        return copy(source, target)

    monkeypatch.setattr(folders.shutil, "copyfile", fail)
    with pytest.raises((SettingError, KeyboardInterrupt)) as raised:
        sort(own, sorter(table, overwrite=overwrite))
    if isinstance(error, OSError):
        assert "cannot be written (No space left on device); it is as it was" in str(raised.value)
    monkeypatch.undo()
    assert everything(table.parent) == before
    assert (table.parent / "sorted").exists() == overwrite


def test_missing_pictures_and_paths_out_of_the_folder(table):
    (table.parent / "pictures" / "a" / "1.png").unlink()
    with pytest.raises(SettingError, match="has no file a/1.png, which .*c.csv names"):
        sorter(table).plan(ClusterTable(table))
    for bad in ("../secret.png", "/etc/passwd"):
        table.write_text(f"file,cluster\n{bad},0\n")
        with pytest.raises(SettingError, match=r"is not a path below data\.dir"):
            sorter(table).plan(ClusterTable(table))


def test_odd_names_of_files_are_sorted(tmp_path):
    odd = ["=1.png", "caf\udce9.png", "a\\xe9.png", "line\nbreak.png", 'q"u,o.png', "'a.png"]
    (tmp_path / "pictures").mkdir()
    for name in odd:
        (tmp_path / "pictures" / name).write_bytes(name.encode(errors="surrogateescape"))
    OutputFiles(tmp_path / "c.csv", overwrite=False).write(report(6, 3, names=odd), most=1)
    sort(ClusterTable(tmp_path / "c.csv"), sorter(tmp_path / "c.csv"))
    found = everything(tmp_path / "sorted")
    found.pop(LIST)
    assert {os.path.basename(name) for name in found} == set(odd)
    for name, data in found.items():
        assert data == os.path.basename(name).encode(errors="surrogateescape")
    sort(ClusterTable(tmp_path / "c.csv"), sorter(tmp_path / "c.csv", overwrite=True))
    (tmp_path / "pictures" / "caf\\xe9.png").write_bytes(b"")
    with pytest.raises(SettingError, match=r"has two files that .* writes as caf"):
        sorter(tmp_path / "c.csv").plan(ClusterTable(tmp_path / "c.csv"))


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("cats", "cats"),
        ("../../etc", "__.._etc"),
        ("..", ""),
        ("/", ""),
        ("a/b\\c:d*?", "a_b_c_d__"),
        ("nul", "nul_"),
        ("NUL.txt", "NUL.txt_"),
        (" .hidden. ", "_hidden_"),
        ("été 日本", "été 日本"),
        ("\u202eabc", "_abc"),
        ("日" * 90, "日" * 33),
    ],
)
def test_names_are_safe_as_folders(name, folder):
    assert safe(name) == folder


def test_alike_folders_are_numbered(table):
    own = ClusterTable(table)
    own.names = ["Cats", "cats", "a/b", "a:b", "cluster_2", "v1.2", "V1.2", *[""] * 5]
    own.outliers[:] = False
    own.clusters[:] = 2
    found = [target.partition("/")[0] for target in placed(own, FILES).values()]
    assert found[:5] == ["Cats", "cats_2", "a_b", "a_b_2", "cluster_2"]
    assert found[5:8] == ["v1.2", "V1.2_2", "cluster_2_2"]


@pytest.mark.slow
def test_the_command_names_and_sorts(table):
    run = made(table.parent / "run", tiny("swav"))
    labels(table, {0: "cats"})
    data = ["--data.name=folder", f"--data.dir={table.parent / 'pictures'}"]

    def call(*flags):
        command = [sys.executable, "-m", "ssl_jax.assign", f"--workdir={run}", *flags]
        done = subprocess.run(
            command,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=300,
            cwd=table.parent,
        )
        return done.returncode, done.stdout, done.stderr

    code, _, err = call("--out=c.csv", "--names=labels.csv", *data)
    assert (code, err.count("\n")) == (2, 1)
    assert "c.csv already exists; --overwrite replaces" in err
    code, out, err = call(
        "--out=c.csv", "--names=labels.csv", "--overwrite", "--folders=sorted", *data
    )
    assert (code, err) == (0, "")
    assert "cats" in out
    assert "1 of 3 clusters have a name, 1 different; 4 of 12 images are named" in out
    assert "wrote sorted/: copies of 12 pictures in 3 folders" in out
    assert len(list((table.parent / "sorted" / "cats").iterdir())) == 4
    code, _, err = call("--out=c.csv", "--folders=other")  # the digits of the run
    assert code == 2
    assert "only the pictures of data.name=folder can be sorted" in err
