"""The report: what it says, that it stands alone, and that a browser shows it."""

import base64
import dataclasses
import html.parser
import io
import json
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace
from xml.etree import ElementTree

import jax
import numpy as np
import pytest
from helpers import shapes
from helpers.browser import BROWSER
from helpers.runs import environment, tiny
from helpers.trained import made as made_run
from PIL import Image

from ssl_jax import figures
from ssl_jax.build import build, init_state
from ssl_jax.ops.mesh import make_mesh
from ssl_jax.reporting import context, features, make, page, pictures, record, tables
from ssl_jax.reporting.progress import occasionally
from ssl_jax.runs import checkpoint
from ssl_jax.runs import provenance as surroundings
from ssl_jax.runs.metrics import MetricsWriter
from ssl_jax.runs.run_folder import claim
from ssl_jax.settings.resolve import SettingError


class Page(html.parser.HTMLParser):
    """A parsed page: `tags` (name, attributes), and its visible `text`."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.words = []
        self._open = []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._open.append(tag)

    def handle_endtag(self, tag):
        self._open.remove(tag)

    def handle_data(self, data):
        if self._open and self._open[-1] not in ("style", "script"):
            self.words.append(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder of CoNR as after two epochs of training, with an untrained network."""
    folder = tmp_path_factory.mktemp("reported") / "conr"
    config = tiny("conr")
    config.epochs = 2
    config.evals = dict(knn=dict(k=5), clustering=dict(restarts=2, iterations=5))
    plan = build(config)
    with claim(folder, plan.record, plan.dataset.fingerprint(), plan.dataset.facts()):
        start = surroundings.Start(folder, 0)
        saved = checkpoint.Checkpoints(folder, {})
        saved.save(
            16, jax.jit(lambda key: init_state(plan, plan.stages[0], key))(jax.random.key(0))
        )
        saved.close()
        start.reached(16)
    log = MetricsWriter(folder, 0)

    def scores(kind, x):
        return {f"{kind}/knn/top1": x, f"{kind}/clustering/nmi": x / 2}

    log.write(0, 0.0, scores("pixels", 0.9321))
    log.write(0, 0.0, scores("untrained", 0.1))
    for step, x in ((8, 0.6), (16, 0.5432)):
        log.write(step, step / 8, {"train/loss": -x})
        log.write(step, step / 8, scores("eval", x))
    log.close()
    line = dict(
        step=16,
        data="digits",
        scores={"knn/top1": 0.1234},
        failed={"linear": "why"},
        date="2020-02-03",
    )
    (folder / "evaluations.jsonl").write_text(json.dumps(line) + "\ncut sho")
    return folder


@pytest.fixture(scope="module")
def bare(run):
    """Another run: records alone, a different learning rate, and a name with a script tag."""
    folder = run.with_name("<script>bare")
    folder.mkdir()
    config = json.loads((run / "config.json").read_text())
    config["optim"]["learning_rate"] = 0.125
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(run / "metrics.jsonl", folder)
    return folder


@pytest.fixture(scope="module")
def made(run, bare, tmp_path_factory):
    """A report on both, and what it lacks."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    notes = make.write(record.read([run, bare]), path, most=120, say=lambda line: None)
    return path, notes


def test_a_report_says_what_the_runs_say(made, run):
    path, notes = made
    found = Page(path.read_text())
    assert [n.partition(":")[0] for n in notes] == ["figures from the features of <script>bare"]
    assert "holds no checkpoint" in notes[0]
    assert all(" ".join(n.split()) in found.text for n in notes)
    titles = [
        "Scores",
        "Training",
        "Nearest neighbours",
        "Map of the embedding",
        "Chosen classes",
        "Density",
        "Neighbours in context",
        "Purity",
    ]
    assert all(t in found.text for t in [*titles, "Settings", "Where and when"])
    assert "Prototypes" not in found.text
    assert all(
        score in found.text
        for score in ("0.5432", "0.2716", "0.9321", "0.1000", "0.6000", "0.1234")
    )
    assert "optim.learning_rate 0.03 0.125" in found.text
    assert f"jax {jax.__version__}" in found.text
    assert "Not on record for <script>bare" in found.text


def test_a_report_stands_alone(made):
    text = made[0].read_text()
    found = Page(text)
    assert len(text) < 2e6
    addresses = [
        v
        for _, own in found.tags
        for k, v in own.items()
        if k in ("src", "href", "srcset", "data", "action")
    ]
    assert addresses
    assert all(a.startswith(("data:", "#")) for a in addresses)
    assert not re.search(r"url\(|@import|http-equiv", re.sub(r'src="[^"]*"', "", text))
    assert not [tag for tag, _ in found.tags if tag in ("script", "iframe", "object", "embed")]
    assert text.count("<script") == 0
    assert {own["href"][1:] for tag, own in found.tags if tag == "a"} == {
        own["id"] for tag, own in found.tags if tag == "section"
    }


def test_all_images_are_whole_and_said_in_words(made):
    images = [own for tag, own in Page(made[0].read_text()).tags if tag == "img"]
    assert len(images) == 7  # curves, and six of the run that can be opened
    for own in images:
        assert len(own["alt"]) > 20
        head, _, data = own["src"].partition(";base64,")
        data = base64.b64decode(data)
        if head == "data:image/png":
            Image.open(io.BytesIO(data)).load()
        else:
            assert head == "data:image/svg+xml"
            assert ElementTree.fromstring(data).tag.endswith("svg")
            assert not re.search(rb'href="(?!#|data:)', data)


@pytest.mark.skipif(BROWSER is None, reason="no browser: install chromium")
def test_a_browser_shows_it_without_a_network(made, tmp_path):
    # A copy with a script that writes down what the browser made of the page.
    script = """<script>addEventListener("load", () => {
    document.body.dataset.found = JSON.stringify({
      title: document.title,
      images: [...document.images].map(
        x => [x.complete, x.naturalWidth, x.getBoundingClientRect().width]),
      loaded: performance.getEntriesByType("resource")
        .map(x => x.name).filter(x => !x.startsWith("data:")),
      wide: document.documentElement.scrollWidth, inner: innerWidth,
      ground: getComputedStyle(document.body).backgroundColor
    })})</script></body>"""
    copy = tmp_path / "copy.html"
    copy.write_text(made[0].read_text().replace("</body>", script))
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        f"--user-data-dir={tmp_path}/own",
    ]
    flags += [
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--window-size=500,800",
        "--virtual-time-budget=5000",
    ]
    call = [BROWSER, *flags, "--dump-dom", copy.as_uri()]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    body = next(own for tag, own in Page(done.stdout).tags if tag == "body")
    found = json.loads(body["data-found"])
    assert found["title"] == "conr, <script>bare \u2013 ssl_jax report"
    assert len(found["images"]) == 7
    assert all(
        complete and natural > 0 and width > 0 for complete, natural, width in found["images"]
    )
    assert found["loaded"] == []
    assert found["wide"] <= found["inner"]  # nothing but tables and figures scrolls sideways
    assert found["ground"] not in ("", "rgba(0, 0, 0, 0)")
    assert "CONSOLE" not in done.stderr


def test_baselines_stand_once_where_runs_agree(run, bare, tmp_path):
    table = tables.scores(record.read([run, bare]))
    names = [cells[0] for _, cells in table.rows]
    assert names[:4] == ["conr", "<script>bare", "raw pixels", "untrained encoder"]
    assert table.head == ["", "epoch", "kNN", "NMI"]
    assert table.best == {(2, 2), (2, 3)}
    (tmp_path / "config.json").write_text((bare / "config.json").read_text())
    other = (bare / "metrics.jsonl").read_text().replace("0.9321", "0.8")
    (tmp_path / "metrics.jsonl").write_text(other)
    names = [cells[0] for _, cells in tables.scores(record.read([run, tmp_path])).rows]
    assert names[2:5] == [
        "raw pixels of conr",
        f"raw pixels of {tmp_path.name}",
        "untrained encoder",
    ]


def test_the_best_epoch_stands_beside_the_last(run, tmp_path):
    (tmp_path / "config.json").write_text((run / "config.json").read_text())
    lines = [{"step": s, "epoch": s / 8, "eval/knn/top1": v} for s, v in ((8, 0.75), (16, 0.5))]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    rows = tables.scores(record.read([tmp_path])).rows
    assert rows == [
        ("own", [tmp_path.name, "2", "0.5000"]),
        ("quiet", [f"{tmp_path.name}, best epoch by test images", "1", "0.7500"]),
    ]


def test_only_scores_on_the_same_data_compete(run, tmp_path):
    config = json.loads((run / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"data_fingerprint": "another"}))
    shutil.copy(run / "metrics.jsonl", tmp_path)
    table = tables.scores(record.read([run, tmp_path]))
    names = [cells[0] for _, cells in table.rows]
    pixels = [names.index(f"raw pixels of {name}") for name in ("conr", tmp_path.name)]
    assert table.best == {(row, column) for row in pixels for column in (2, 3)}


def test_a_run_without_labels_has_no_scores_to_wait_for(run, tmp_path):
    config = json.loads((run / "config.json").read_text())
    config["data_facts"]["classes"] = []
    (tmp_path / "config.json").write_text(json.dumps(config))
    line = {"step": 8, "epoch": 1.0, "train/loss": 0.5}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    runs = record.read([tmp_path])
    notes = make.Attempts(lambda line: None)
    found = {section.title: section for section in page.sections(runs, {}, notes)}
    assert found["Scores"].text == "The images have no labels, so there are no scores."
    assert found["Training"].pictures[0][1].caption == ""


def test_too_few_images_for_densities(run):
    with jax.set_mesh(make_mesh()):
        own = features.of_run(run, make_mesh(), {}, most_for_density=30)
    with pytest.raises(SettingError, match="needs more than 30 training images; conr has 30"):
        pictures.densities({"conr": own})


def test_densities_are_of_all_training_images(run, monkeypatch):
    """Whatever `--images` says; `--density_images` says how many else."""
    drawn = {}
    original = figures.densities
    monkeypatch.setattr(
        figures,
        "densities",
        lambda points, **given: drawn.update(points) or original(points, **given),
    )
    with jax.set_mesh(make_mesh()):
        own = features.of_run(run, make_mesh(), {}, most=40)
        caption = pictures.densities({"conr": own}).caption
        fewer = features.of_run(run, make_mesh(), {}, most=40, most_for_density=100)
        whole = features.of_run(run, make_mesh(), {})
    assert own.points.shape == (40, 8)
    assert drawn["conr"].shape == (256, 8)
    assert "Over all 256 training images." in caption
    np.testing.assert_allclose(drawn["conr"], whole.points, atol=1e-5)
    caption = pictures.densities({"conr": fewer, "other": own}).caption
    assert "Over training images: 100 of 256 of conr; all 256 of other." in caption
    of_all = {tuple(row) for row in np.round(whole.points, 4).tolist()}
    assert {tuple(row) for row in np.round(drawn["conr"], 4).tolist()} <= of_all
    assert whole.embed_all() is whole.points  # embedded once


def test_neighbours_in_context_by_loops():
    """Against CoNR's equations 3 to 6 written as loops, and distances one by one."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 6))[np.arange(30) % 3] + 0.7 * rng.normal(size=(30, 6))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    graph = dict(k1=6, k2=3, alpha=2.0, layers=2)
    settings = {"positives": {"name": "contextual", "k": 4, **graph}, "evals": {}}
    found = context.compared(x, settings)
    assert found.settings == graph
    assert found.batch == 30
    assert sorted(found.rows) == list(range(30))
    ranked = [sorted(range(30), key=lambda j, i=i: -float(x[i] @ x[j])) for i in range(30)]
    near = np.zeros((30, 30))
    edges = np.zeros((30, 30))
    for i in range(30):
        for j in ranked[i][:6]:
            near[i, j] = 1
        for j in ranked[i][:3]:
            edges[i, j] = float(x[i] @ x[j]) ** 2
    for _ in range(2):
        near = edges @ (near + near.T)
        near /= np.linalg.norm(near, axis=1, keepdims=True)
    for place, i in enumerate(found.rows):
        for kind, points in (("Euclidean", x), ("in context", near)):
            apart = [float(np.linalg.norm(points[i] - points[j])) for j in range(30)]
            nearest = sorted((j for j in range(30) if j != i), key=apart.__getitem__)[:10]
            expected = [apart[j] for j in nearest]
            np.testing.assert_allclose(found.distances[kind][place], expected, atol=2e-3)
            assert i not in found.neighbours[kind][place]
            assert len({*nearest[:5]} & {*found.neighbours[kind][place][:6].tolist()}) >= 4


def test_purity_of_few_labelled_images_is_of_these_alone():
    rng = np.random.default_rng(0)
    labels = np.where(np.arange(90) < 40, np.arange(90) % 2, -1)
    points = rng.normal(size=(90, 4)).astype(np.float32) + 3 * (np.arange(90) % 2)[:, None]
    x = SimpleNamespace(points=points, labels=labels, names=("a", "b"), settings={"evals": {}})
    assert "in batches of 40 (CoNR, figure 2)" in pictures.purity(x).caption


def test_a_run_of_another_method_has_the_settings_of_purity():
    plain = {"positives": {"name": "instance"}, "evals": {"crop": 0.0}}
    assert context.context_settings(plain) == dict(k1=10, k2=2, alpha=2.0, layers=2)
    scored = {"positives": {"name": "instance"}, "evals": {"purity": {"k1": 30, "k2": 10}}}
    assert context.context_settings(scored) == dict(k1=30, k2=10, alpha=2.0, layers=2)
    with pytest.raises(SettingError, match="need at least k1=10 training images; there are 7"):
        context.compared(np.eye(7, dtype=np.float32), plain)


def test_images_where_context_differs_are_chosen():
    def neighbourhoods(first, second):
        index = dict(zip(context.KINDS, (np.array(first), np.array(second))))
        return context.Compared(np.arange(len(first)), index, {}, 4, {})

    euclidean = np.array([[1, 0], [0, 0], [1, 1], [1, 1], [1, np.nan]], float)
    contextual = np.array([[1, 1], [1, 1], [0, 0], [1, 0], [np.nan, np.nan]], float)
    nothing = neighbourhoods(np.zeros((5, 2)), np.zeros((5, 2)))
    labels = np.array([0, 1, 0, 2, 1])
    chosen, how = context.choose_differences(euclidean, contextual, nothing, labels)
    assert chosen.tolist() == [1, 0, 2, 3]
    assert how.startswith("the 2 that context improves most; the 2 that context harms most")
    chosen, how = context.choose_differences(euclidean[:2], contextual[:2], nothing, labels[:2])
    assert chosen.tolist() == [1, 0]
    assert "none that context harms" in how
    unknown = np.full((3, 2), np.nan)
    sets = neighbourhoods([[1, 2], [0, 2], [0, 1]], [[2, 1], [0, 1], [0, 1]])
    chosen, how = context.choose_differences(unknown, unknown, sets, np.full(3, -1))
    assert chosen[0] == 1
    assert how == "those whose two neighbourhoods have the least in common"


def test_lines_of_progress_are_thinned():
    times = iter([0.0, 5.0, 21.0, 30.0, 42.0])
    lines = []
    report = occasionally(lines.append, 20.0, lambda: next(times))
    for text in "abcd":
        report(text)
    assert lines == ["  b", "  d"]


def test_names_tell_runs_apart():
    assert record.names_of(["a/x", "a/y/"]) == ["x", "y"]
    assert record.names_of(["/a/x", "/b/x"]) == ["a/x", "b/x"]
    assert len(set(record.names_of(["/a", "/a"]))) == 2


@pytest.mark.parametrize(
    ("seconds", "text"), [(38.2, "38 s"), (125, "2 min 5 s"), (11400, "3 h 10 min"), (0, "0 s")]
)
def test_durations(seconds, text):
    assert tables.duration(seconds) == text


def test_queries_are_confident_ones():
    right = np.array([[1, 1], [1, 1], [1, 1], [0, 0], [1, 0], [0, 0]], float)
    similarity = np.array([0.5, 0.9, 0.8, 0.6, 0.99, 0.7])[:, None].repeat(2, 1)
    chosen, how = pictures.choose_queries(right, similarity, np.array([0, 1, 1, 2, 2, 2]), count=2)
    assert chosen.tolist() == [1, 0, 5, 3]  # of each class one, as long as there are
    assert how.startswith("the 2 most confident queries with all neighbours right; the 2")
    _, how = pictures.choose_queries(right[4:], similarity[4:], np.array([2, 2]), count=2)
    assert how == "no query has all neighbours right; the only query with most neighbours wrong"
    unknown, how = pictures.choose_queries(
        np.full((9, 2), np.nan), np.ones((9, 2)), np.full(9, -1), count=2
    )
    assert len(unknown) == 4
    assert how == "evenly spaced over the set"


def test_starts_are_on_record(tmp_path):
    (tmp_path / surroundings.FILE).write_text("{damaged")
    assert surroundings.read(tmp_path) == []
    surroundings.Start(tmp_path, 3).reached(5)
    surroundings.Start(tmp_path, 5)
    found = surroundings.read(tmp_path)
    assert [(s["first_step"], s["last_step"]) for s in found] == [(3, 5), (5, 5)]
    assert found[0]["versions"]["jax"] == jax.__version__
    assert found[0]["devices"] == {"cpu: cpu": jax.device_count()}


def test_a_report_does_without_labels(run, monkeypatch):
    mesh = make_mesh()
    with jax.set_mesh(mesh):
        own = features.of_run(run, mesh, {}, most=60)
    assert own.points.shape == (60, 8)
    assert own.of == 256
    np.testing.assert_allclose(np.linalg.norm(own.points, axis=1), 1.0, atol=1e-5)
    own.labels[:] = own.test_labels[:] = -1
    for name in ("training", "tsne", "densities"):  # they cost, and know nothing of labels
        monkeypatch.setattr(pictures, name, lambda *_: pictures.Picture("data:,", "", "", 5.0))
    asked = make.Attempts(lambda line: None)
    found = {s.title: s for s in page.sections(record.read([run]), {"conr": own}, asked)}
    assert asked.notes == []
    assert not {"Purity", "Chosen classes"} & set(found)
    assert (
        found["Nearest neighbours"].pictures[0][1].caption.endswith("evenly spaced over the set.")
    )


def test_an_image_is_no_neighbour_of_its_own():
    points = np.eye(4, dtype=np.float32)[[0, 0, 0, 1, 2]]  # three times the same
    index = pictures._nearest(points, points, 2, exclude_self=True)[1]
    assert [set(row) for row in index[:3]] == [{1, 2}, {0, 2}, {0, 1}]
    assert not (index == np.arange(5)[:, None]).any()
    assert (pictures._nearest(points[3:], points, 2, exclude_self=False)[1][:, 0] == [3, 4]).all()


def test_images_trained_on_are_not_shown_as_unseen(run, monkeypatch):
    load = features.load_data
    monkeypatch.setattr(
        features, "load_data", lambda config: dataclasses.replace(load(config), joined=56)
    )
    monkeypatch.setattr(features, "read_config", lambda folder: {})
    with jax.set_mesh(make_mesh()):
        own = features.of_run(run, make_mesh(), {}, most=60)
    assert len(own.test_points) == len(own.test_images) == 0
    assert pictures.neighbours(own).caption.startswith(
        "Training images and their nearest training images"
    )


@pytest.mark.parametrize("store", ["cache", "stream"])
def test_pictures_are_shown_in_their_true_proportions(tmp_path, monkeypatch, store):
    for i in range(4):
        shapes.write(tmp_path / "x" / "train" / f"{i}")
    shapes.write(tmp_path / "x" / "test" / "3")
    config = tiny("byol")
    config.data = dict(name="folder", dir=str(tmp_path / "x"), size=shapes.SIDE, store=store)
    config.data.cache = str(tmp_path / "cache")
    config.augment.pair.size = 32
    config.update(batch_size=8, evals={}, baselines=False)
    folder = made_run(tmp_path / "run", config)
    with jax.set_mesh(make_mesh()):
        own = features.of_run(folder, make_mesh(), {})
    assert (len(own.images), len(own.test_images)) == (24, 6)
    expected = [*shapes.SHOWN.values()]
    found = {own.picture(row).shape[:2] for row in range(24)}
    assert found == set(expected)
    assert [own.picture(24 + row).shape[:2] for row in range(6)] == expected
    drawn = []
    monkeypatch.setattr(
        pictures,
        "picture",
        lambda figure, *_: drawn.append(figure) or pictures.Picture("data:,", "", "", 5.0),
    )
    pictures.neighbours(own)
    (figure,) = drawn
    images = figure.axes[0].images
    assert len(images) > 8
    colours = {}  # a file's colour tells its shape
    for row in range(30):
        picture = own.picture(row)
        colours[int(picture[0, 0, 0])] = picture.shape[0] / picture.shape[1]
    assert len(colours) == len(expected)
    for image in images:
        left, right, bottom, top = image.get_extent()
        shape = colours[int(image.get_array()[0, 0, 0])]
        assert (bottom - top) / (right - left) == pytest.approx(shape)


def test_names_that_utf_8_cannot_hold(run, monkeypatch):
    load = features.load_data
    classes = tuple(f"caf\udce9 {i}\n" for i in range(10))
    monkeypatch.setattr(
        features, "load_data", lambda config: dataclasses.replace(load(config), classes=classes)
    )
    monkeypatch.setattr(features, "read_config", lambda folder: {})
    with jax.set_mesh(make_mesh()):
        own = features.of_run(run, make_mesh(), {}, most=60)
    assert own.names[3] == r"caf\xe9 3?"
    pictures.neighbours(own)  # which draws them
    assert record.names_of(["/x/caf\udce9"]) == [r"caf\xe9"]
    asked = make.Attempts(lambda line: line.encode("utf-8"))
    asked("maps", lambda: (_ for _ in ()).throw(SettingError("no caf\udce9")))
    assert asked.notes == [r"maps: no caf\xe9"]
    assert r"caf\xe9" in page.render([], [page.Section("caf\udce9")], asked.notes).encode(
        "utf-8"
    ).decode("utf-8")


def test_other_images_are_refused(run):
    with pytest.raises(
        SettingError, match=r"with data\.limit=100 has other images than .*; .* leave "
    ):
        features.of_run(run, make_mesh(), {"data.limit": 100})


def test_bad_input_is_one_line(run, tmp_path):
    calls = {  # of one process, one after the other
        "--config.epochs: only data can be set here; a trained encoder": [
            str(run),
            "--config.epochs=3",
            "--out",
            f"{tmp_path}/r.html",
        ],
        "give a file that ends in .html": ["--out=report.pdf", str(run)],
        "there is no folder": [str(run), f"--out={tmp_path}/no/report.html"],
        "is not a run folder: it has no config.json": [str(tmp_path)],
        "leave out --config": [str(run), "--config=configs/swav.py"],
        "name one or more run folders": [],
    }
    script = (
        "import sys\nfrom ssl_jax import report, settings\n"
        "from ssl_jax.settings import command_line\n"
        f"for call in {list(calls.values())!r}:\n"
        "    sys.argv = ['report', *call]\n"
        "    try: report.main(command_line.parse(sys.argv, report.with_runs, True)[1:])\n"
        "    except SystemExit as end: assert end.code == 2\n"
        "    except settings.SettingError as error: print(error, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == len(calls), done.stderr
    for line, message in zip(lines, calls):
        assert message in line
    assert not list(tmp_path.iterdir())
