"""The page to name clusters on: its files, its size, hostile names, and a browser that uses it."""

import dataclasses
import html.parser
import json
import re

import numpy as np
import pytest
from helpers import shapes
from helpers.browser import BROWSER, browser
from helpers.clusters import cells, report
from PIL import Image

from ssl_jax.clustering import naming_page, thumbnails
from ssl_jax.clustering.names import ClusterTable
from ssl_jax.clustering.output_files import OutputFiles

HOSTILE = [
    "<img src=x onerror=alert(1)>.png",
    "</script><script>alert(2)</script>.png",
    "<!--<script>.png",
    "q\"u'o,te.png",
    "line\nbreak.png",
    "carriage\rreturn.png",
    "caf\udce9.png",
    "a\u2028b\u2029c.png",
    "\u202egnp.evil.png",
    "=1+1.png",
    "${x}`\\.png",
    "日本.png",
]


class Tags(html.parser.HTMLParser):
    """The tags of a page, and the text of its scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.scripts = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[-1] += data


def written(folder, described, most=2):
    OutputFiles(folder / "c.csv", overwrite=False).write(described, most)
    return folder / "c"


def data_of(folder):
    return json.loads(Tags((folder / "index.html").read_text("utf-8")).scripts[0])


def rows_of(folder):
    text = (folder / "rows.js").read_text("utf-8")
    return json.loads(text.removeprefix("pageRows(").removesuffix(");\n"))


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Of 20,000 pictures with long names in 200 clusters, one of them empty."""
    names = [f"folder of a certain length/{'picture ' * 3}{i:06}.jpeg" for i in range(20_000)]
    described = report(20_000, 200, names=names, classes=[f"class {i}" for i in range(7)])
    return written(tmp_path_factory.mktemp("large"), described)


def test_200_clusters_of_20000_pictures_are_small_files(large):
    assert (large / "index.html").stat().st_size < 600_000
    assert (large / "rows.js").stat().st_size < 2_000_000
    data = data_of(large)
    assert len(data["clusters"]) == 199
    assert data["pictures"] == 20_000
    assert max(len(cluster["rows"]) for cluster in data["clusters"]) == 56
    assert len(rows_of(large)["clusters"]) == 20_000
    assert len(list(large.glob("thumbs_*.png"))) == 199
    assert max(path.stat().st_size for path in large.glob("thumbs_*")) < 100_000


def test_the_page_stands_alone(large):
    text = (large / "index.html").read_text("utf-8")
    page = Tags(text)
    assert not re.search(
        r"https?://|url\(h|@import|innerHTML|outerHTML|insertAdjacent|\beval\b", text
    )
    assert "document.write" not in text
    assert "fetch(" not in text
    assert "import(" not in text
    assert "module" not in [own.get("type") for tag, own in page.tags if tag == "script"]
    addresses = [v for _, own in page.tags for k, v in own.items() if k in ("src", "href")]
    assert addresses == ["data:,"]


def test_the_pictures_of_a_cluster(tmp_path):
    described = report(400, 3)
    folder = written(tmp_path, described)
    assignment = described.assignment
    for cluster in data_of(folder)["clusters"]:
        members = assignment.members(cluster["id"])
        assert cluster["size"] == len(members) == 200
        assert cluster["counts"] == [24, 16, 16]
        rows = np.array(cluster["rows"])  # of arrays, whose table has their order
        assert len(set(rows)) == 56
        np.testing.assert_array_equal(rows[:24], members[:24])
        rest = members[24:]
        closest = rest[np.argsort(assignment.margin[rest])][:16]
        np.testing.assert_array_equal(rows[24:40], closest)
        least = [row for row in members[::-1] if row not in closest][:16]
        np.testing.assert_array_equal(rows[40:], least)
        np.testing.assert_allclose(cluster["similarity"], assignment.similarity[rows], atol=6e-4)
        np.testing.assert_allclose(cluster["margin"], assignment.margin[rows], atol=6e-4)


def test_small_clusters_are_shown_whole(tmp_path):
    cluster = data_of(written(tmp_path, report(30, 4)))["clusters"][0]
    assert cluster["counts"] == [10, 0, 0]


def test_many_clusters_share_a_bound_on_thumbnails():
    assert thumbnails.most_per_cluster(1) == thumbnails.most_per_cluster(200) == 56
    assert thumbnails.most_per_cluster(500) == 24
    assert thumbnails.most_per_cluster(5000) == thumbnails.FEWEST


def test_near_clusters_are_those_of_the_nearest_centres(tmp_path):
    described = report(60, 8)
    centres = described.assignment.centroids[:7]  # the last is empty
    cosine = centres @ centres.T - 2 * np.eye(7)
    for cluster in data_of(written(tmp_path, described))["clusters"]:
        near = [number for number, _ in cluster["near"]]
        assert near == np.argsort(-cosine[cluster["id"]])[:4].tolist()
        expected = cosine[cluster["id"]][near]
        np.testing.assert_allclose([x for _, x in cluster["near"]], expected, atol=6e-4)


def test_rows_are_those_of_the_table(tmp_path):
    names = [f"{i % 5}/{i}.png" for i in range(40)]
    folder = written(tmp_path, report(40, 4, names=names))
    table = cells(tmp_path / "c.csv")
    rows = rows_of(folder)
    assert rows["columns"] == {"file": [row["file"] for row in table]}
    assert rows["clusters"] == [int(row["cluster"]) for row in table]
    for cluster in data_of(folder)["clusters"]:
        assert {rows["clusters"][row] for row in cluster["rows"]} == {cluster["id"]}


def test_pictures_in_no_cluster_have_a_place_of_their_own(tmp_path):
    described = report(12, 3)
    labels = described.assignment.labels.copy()
    labels[[2, 5]] = -1
    assignment = dataclasses.replace(described.assignment, labels=labels)
    columns = {"file": [f"{i}.png" for i in range(12)]}
    naming_page.write(
        tmp_path,
        assignment,
        title="c.csv",
        columns=columns,
        order=range(12),
        clusters=[],
        pictures=lambda rows: [described.picture(row) for row in rows],
        mostly=lambda cluster: "",
    )
    (cluster,) = data_of(tmp_path)["clusters"]
    assert (cluster["id"], cluster["size"], sorted(cluster["rows"])) == (-1, 2, [2, 5])


def test_thumbnails_have_true_proportions_and_hard_edges(tmp_path):
    wide = np.full((20, 60, 3), 200, np.uint8)
    path, sizes = thumbnails.write_sprite([wide, wide.transpose(1, 0, 2)], tmp_path / "a")
    assert (path.name, sizes) == ("a.jpg", [(96, 32), (32, 96)])
    sprite = np.asarray(Image.open(path)).astype(int)
    assert sprite.shape == (96, 192, 3)
    assert abs(sprite[2:30, 2:94] - 200).max() < 12
    assert abs(sprite[40:, :90] - 128).max() < 12
    checks = (np.indices((8, 8)).sum(0) % 2 * 255).astype(np.uint8)[..., None]
    path, sizes = thumbnails.write_sprite([checks], tmp_path / "b")
    assert (path.name, sizes) == ("b.png", [(96, 96)])
    expected = np.kron(checks[..., 0], np.ones((12, 12), np.uint8))
    np.testing.assert_array_equal(np.asarray(Image.open(path))[..., 0], expected)


def test_hostile_names_are_data(tmp_path):
    classes = [name.removesuffix(".png") for name in HOSTILE]
    folder = written(tmp_path, report(len(HOSTILE), 3, names=HOSTILE, classes=classes))
    text = (folder / "index.html").read_text("utf-8")
    page = Tags(text)
    assert len(page.scripts) == 2
    assert not [tag for tag, own in page.tags if tag in ("img", "b", "iframe")]
    assert len([own for _, own in page.tags if any(k.startswith("on") for k in own)]) == 0
    for name in ("rows.js", "index.html"):
        assert not re.search("[\u2028\u2029]", (folder / name).read_text("utf-8"))
    assert "<" not in (folder / "rows.js").read_text("utf-8")
    table = cells(tmp_path / "c.csv")
    assert rows_of(folder)["columns"]["file"] == [row["file"] for row in table]
    assert any("onerror" in cluster["mostly"] for cluster in data_of(folder)["clusters"])
    naming_page.write_names(folder, {0: "</script>\u2028"}, [])
    assert "<" not in (folder / "names.js").read_text("utf-8")


def test_thumbnails_of_whole_pictures(tmp_path):
    """`picture` gives true proportions, which the sprite keeps."""
    described = report(4, 3, side=64, channels=3)
    described.picture = lambda row: np.full((64, 16 + 16 * row, 3), 90, np.uint8)
    found = {}
    for cluster in data_of(written(tmp_path, described))["clusters"]:
        found |= dict(zip(cluster["rows"], map(tuple, cluster["sizes"])))
    assert found == {0: (24, 96), 1: (48, 96), 2: (72, 96), 3: (96, 96)}
    assert shapes.SIDE == 64


@pytest.fixture
def tab(tmp_path):
    with browser(tmp_path) as opened:
        yield opened


def value(tab, selector):
    return tab.run(f"document.querySelector({json.dumps(selector)}).textContent")


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no browser: install chromium")
def test_a_browser_names_clusters(tab, tmp_path):
    (tmp_path / "odd & #%20 folder").mkdir()
    classes = [name.removesuffix(".png") for name in HOSTILE]
    names = HOSTILE + [f"more/{i:03}.png" for i in range(300 - len(HOSTILE))]
    described = report(300, 7, names=names, classes=classes)
    folder = written(tmp_path / "odd & #%20 folder", described)
    page = (folder / "index.html").as_uri()
    tab.size(1440, 900)
    tab.open(page)
    tab.wait("places !== null")
    assert value(tab, "#heading") == "cluster 0"
    # Enter names, Enter again goes on; a name that looks like markup or a formula stays text.
    tab.key("Enter")
    tab.type('  <img src=x onerror=document.title=1>, "q" ')
    tab.key("Enter")
    assert value(tab, "#heading") == "cluster 1"
    tab.key("Enter")
    tab.type("=cats")
    tab.key("Escape")
    assert value(tab, "#heading") == "=cats"
    tab.key("ArrowDown")  # cluster 2 joins 1, by its number
    tab.key("m")
    tab.type("1")
    tab.key("Enter")
    assert value(tab, "#heading") == "=cats"
    assert value(tab, "#groups").startswith("Merged with cluster 1.")
    tab.key("Escape")
    tab.key("j")
    near = tab.run("document.querySelector('.join').dataset.id")
    tab.click(".join")  # cluster 3 and a near one
    merged = int(near)
    assert value(tab, f".join[data-id='{near}']") == "Merged"
    tab.key("n")
    outlier = int(tab.run("document.querySelectorAll('.picture')[1].dataset.row"))
    tab.click(".picture:nth-child(2)")
    again = int(tab.run("document.querySelectorAll('.picture')[2].dataset.row"))
    tab.click(".picture:nth-child(3)")
    tab.click(".picture:nth-child(3)")
    assert again != outlier
    before = value(tab, "#progress")
    assert "1 picture marked as an outlier" in before
    tab.open("about:blank")
    tab.open(page)  # a reload loses nothing
    tab.wait("places !== null")
    assert value(tab, "#progress") == before
    tab.key("/")
    tab.type("=CATS")
    assert tab.run("[...document.querySelectorAll('.row')].map(x => x.dataset.id)") == ["1", "2"]
    tab.key("Escape")
    tab.click("#download")
    path = tmp_path / "downloads" / "labels.csv"
    for _ in range(500):
        if path.is_file() and path.stat().st_size:
            break
        tab.run("new Promise(done => setTimeout(done, 20))")
    rows = cells(path)
    table = cells(folder.parent / "c.csv")
    assert [(row["file"], row["cluster"]) for row in rows] == [
        (row["file"], row["cluster"]) for row in table
    ]
    expected = {0: '<img src=x onerror=document.title=1>, "q"', 1: "'=cats", 2: "'=cats"}
    if merged in expected:
        expected[3] = expected[merged]
    else:
        group = rows[next(i for i, row in enumerate(rows) if row["cluster"] == "3")]["label"]
        assert group in ("cluster_3", f"cluster_{merged}")
        expected |= {3: group, merged: group}
    for i, row in enumerate(rows):
        marked = i == outlier
        label = "" if marked else expected.get(int(row["cluster"]), "")
        assert (row["label"], row["outlier"]) == (label, "1" if marked else "")
    # --names takes the file, and the page then knows the names without this browser's memory.
    named = ClusterTable(folder.parent / "c.csv")
    named.name_from(path)
    assert named.cluster_names[1] == "=cats"
    naming_page.write_names(folder, named.cluster_names, [outlier])
    tab.run("localStorage.clear()")
    tab.open("about:blank")
    tab.open(page)
    tab.wait("places !== null")
    assert tab.run("[titleOf(1), titleOf(2), marked.size]") == ["=cats", "=cats", 1]
    assert not tab.run("document.querySelector('#notices').textContent")
    # Nothing of the names became markup, and nothing went wrong.
    assert tab.run("document.title") == "c.csv: clusters"
    assert tab.run("document.querySelectorAll('img, iframe').length") == 0
    problems = ("Runtime.exceptionThrown", "Page.javascriptDialogOpening", "Log.entryAdded")
    assert [event for event in tab.events if event[0] in problems] == []
    requests = [own["request"]["url"] for name, own in tab.events if name.endswith("WillBeSent")]
    assert all(url.startswith(("file:", "data:", "blob:", "about:")) for url in requests)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no browser: install chromium")
def test_a_browser_shows_a_large_page_on_any_screen(large, tab):
    tab.open((large / "index.html").as_uri())
    for width, height in ((1440, 900), (400, 800)):
        for dark in (False, True):
            tab.size(width, height, dark)
            tab.wait("places !== null")
            assert tab.run("document.documentElement.scrollWidth <= innerWidth")
            assert tab.run("document.querySelectorAll('*').length") < 800
            ground = tab.run("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, re.findall(r"\d+", ground))) < 150) == dark
    tab.size(1440, 900)
    sprites = {own["request"]["url"] for name, own in tab.events if name.endswith("WillBeSent")}
    assert 1 <= len([url for url in sprites if "thumbs_" in url]) <= 5  # one, and near ones
    for _ in range(150):
        tab.key("j")
    assert tab.run("CLUSTERS.indexOf(current)") == 150
    assert tab.run("document.querySelectorAll('*').length") < 800
    row = tab.run(
        "(() => { const r = document.querySelector('.row[aria-current]').getBoundingClientRect();"
        "return [r.top, r.bottom]; })()"
    )
    assert 0 < row[0] < row[1] < 900
    assert not [event for event in tab.events if event[0] == "Runtime.exceptionThrown"]
