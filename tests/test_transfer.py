"""Presets of published transfers, each run on a tiny copy of its data."""

import ast
import contextlib
import json
import runpy
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
from helpers import official
from helpers.foreign_names import as_in, random_weights
from helpers.runs import TESTS, environment, tiny
from safetensors.numpy import save_file
from sklearn.svm import LinearSVC

from ssl_jax import evaluate
from ssl_jax.build import build
from ssl_jax.data import datasets
from ssl_jax.data.voc07 import CLASSES
from ssl_jax.evaluation import augmented, precision
from ssl_jax.evaluation.augmented import Augmented
from ssl_jax.inference.transfer import evaluation_of
from ssl_jax.inference.weights_run import open_weights
from ssl_jax.interface import RunFacts, Split
from ssl_jax.models.resnet import ResNet
from ssl_jax.ops.mesh import make_mesh
from ssl_jax.runs.restore import config_of_weights
from ssl_jax.settings import command_line, presets
from ssl_jax.settings.resolve import SettingError

QUICK = {
    "augmented": {"epochs": 1, "batch_size": 8},
    "probe": {"steps": 5, "shares": (1.0,)},
    "svm": {"costs": (0.1, 1.0)},
}
PLAIN = ("voc07",)  # the others differ from tests of their evaluators in numbers alone


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    save_file(as_in("torchvision", random_weights(ResNet(depth=10, width=4, stem="cifar"))), path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The folder of a tiny copy by the name of its data set."""
    top = tmp_path_factory.mktemp("data")
    for name, make in official.MADE.items():
        (top / name).mkdir()
        make(top / name)
    return top


def flags_of(argv):
    """Evaluators and settings in a command line, as `ssl_jax.evaluate` reads them."""
    evals = []
    given = {}
    for arg in argv:
        name, _, value = arg.lstrip("-").partition("=")
        if name == "evals":
            evals = value.split(",")
        elif name.startswith("config."):
            with contextlib.suppress(ValueError, SyntaxError):
                value = ast.literal_eval(value)
            given[name.removeprefix("config.")] = value
    return evals, given


def evaluation(weights, evals, given):
    config = config_of_weights(evals)
    config.update_from_flattened_dict(given)
    run, settings = open_weights(weights, config, given, size=8)
    with jax.set_mesh(make_mesh()):
        return evaluation_of(run, settings)


def scores(evaluation):
    with jax.set_mesh(make_mesh()):
        results = dict(evaluation())
    for values in results.values():
        if isinstance(values, Exception):
            raise values
    return {name: x for values in results.values() for name, x in values.items()}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in PLAIN else pytest.mark.slow)
        for name in presets.PRESETS
    ],
)
def test_every_preset_scores_its_data(name, weights, data):
    evals, given = flags_of(presets.with_preset(["evaluate", f"--preset={name}"])[1:])
    source = given["data.name"]
    given |= {"data.dir": str(data / source), "data.cache": str(data / "cache")}
    for evaluator in set(QUICK) & set(evals):
        given |= {f"evals.{evaluator}.{key}": x for key, x in QUICK[evaluator].items()}
    if "knn" in evals:
        given["evals.knn.k"] = 5
    made = evaluation(weights, evals, given)
    assert made.data == source
    assert made.stage.crop == 0.875
    values = scores(made)
    assert {key.partition("/")[0] for key in values} == set(evals)
    assert all(0 <= x <= 1 for key, x in values.items() if "/top1" in key or "/map" in key)


def test_published_transfers_are_presets_on_rows_that_train():
    experiments = TESTS.parent / "experiments"
    transfers = runpy.run_path(str(experiments / "transfers.py"))
    rows = runpy.run_path(str(experiments / "published.py"))["ROWS"]
    page = (TESTS.parent / "docs" / "results.md").read_text("utf-8")
    for transfer in transfers["TRANSFERS"]:
        assert transfer.row in rows
        assert transfer.preset in presets.PRESETS
    assert transfers["table"]() in page


def test_presets_have_the_published_settings():
    def settings(name):
        return flags_of(presets.PRESETS[name])[1]

    def linear(name):
        prefix = "evals.augmented."
        given = settings(name)
        return Augmented(**{k[len(prefix) :]: x for k, x in given.items() if k.startswith(prefix)})

    places = linear("places205")
    assert [round(places.rate(e, 256), 9) for e in (0, 3, 4, 8, 12, 13)] == [
        0.01,
        0.01,
        0.001,
        1e-4,
        1e-5,
        1e-5,
    ]
    assert (places.epochs, places.weight_decay, places.nesterov) == (14, 5e-4, True)
    species = linear("inat18")
    assert (species.epochs, species.drops) == (84, (24, 48, 72))
    ours = linear("places205_la")
    assert [ours.rate(e, 128) for e in (0, 30, 60)] == pytest.approx([0.01, 1e-3, 1e-4])
    assert settings("voc07")["evals.svm.ignored"] == "negative"


def test_flags_change_a_preset():
    argv = presets.with_preset(["x", "--preset", "inat18", "--config.evals.augmented.epochs=3"])
    assert flags_of(argv)[1]["evals.augmented.epochs"] == 3
    argv = presets.with_preset(["x", "--preset=inat18", "--evals", "knn"])
    evals, given = flags_of(argv)
    assert evals == ["knn"]
    assert set(given) == {"data.name", "data.store", "evals.crop"}
    assert presets.with_preset(["x", "--evals=knn"]) == ["x", "--evals=knn"]
    for crop in (["--crop=0.5"], ["--crop", "0.5"]):
        argv = presets.with_preset(["x", "--preset=voc07", "--weights=F", *crop])
        assert argv[-1] == "--crop=0.5"
        assert not any(arg.startswith("--config.evals.crop") for arg in argv)


def test_mistaken_presets():
    with pytest.raises(SettingError, match="--preset=places: choose one of places205, places205"):
        presets.with_preset(["x", "--preset=places"])
    with pytest.raises(SettingError, match="--preset is given twice: voc07 and dogs"):
        presets.with_preset(["x", "--preset=voc07", "--preset=dogs"])
    with pytest.raises(SettingError, match="--workdir is missing"):
        evaluate.prepared(["x", "--preset=voc07"])
    argv = evaluate.prepared(["x", "--preset=voc07", "--weights=F"])
    assert argv[1] == f"--config={command_line.RUN_CONFIG}:::svm"


def test_average_precisions_of_voc_are_scikit_learns(weights, data):
    given = {"data.name": "voc07", "data.dir": str(data / "voc07"), "evals.svm.costs": (1.0,)}
    made = evaluation(weights, ["svm"], given | {"data.cache": str(data / "cache")})
    values = scores(made)
    with jax.set_mesh(make_mesh()):
        splits = made.scorer.splits(made.stage, made.run.state)
    images = datasets.load("voc07", dir=str(data / "voc07"), size=9, cache=str(data / "cache"))
    areas = []
    x, test_x = (
        rows / (np.linalg.norm(rows, axis=1)[:, None] + 1e-5)
        for rows in (
            np.float64(splits["train"].features["backbone"]),
            np.float64(splits["test"].features["backbone"]),
        )
    )
    for c in range(len(CLASSES)):
        train, test = images.train.targets[:, c], images.test.targets[:, c]
        machine = LinearSVC(class_weight={1: 2, -1: 1}, dual=False, max_iter=2000)
        machine.fit(x[train != 0], train[train != 0])
        shown = test[test != 0] == 1
        areas.append(precision.area(machine.decision_function(test_x[test != 0]), shown))
    assert values["svm/map"] == pytest.approx(np.mean(areas))
    assert values["svm/ap_person"] == pytest.approx(areas[CLASSES.index("person")])


def test_one_label_per_image_is_asked_for_in_one_line(weights, data):
    given = {"data.name": "voc07", "data.dir": str(data / "voc07")}
    with pytest.raises(SettingError, match=r"'voc07' cannot be scored by knn, linear, which need"):
        evaluation(weights, ["knn", "linear"], given | {"data.cache": str(data / "cache")})


def test_training_on_voc_is_scored_by_what_can():
    names = ("a", "b")
    images = np.random.default_rng(0).integers(0, 255, (64, 8, 8, 1), np.uint8)
    targets = np.where(np.arange(64)[:, None] % (2, 3) == 0, 1, -1).astype(np.int8)
    split = datasets.Images(images, np.full(64, -1, np.int32), targets)
    config = tiny("instance")
    config.evals = dict(knn=dict(k=5), svm={})
    plan = build(config, datasets.Dataset(split, split, names, (0.5,), (0.25,)))
    assert set(plan.evaluators) == {"svm"}
    assert plan.evaluators["svm"].facts.class_names == names
    assert plan.evaluators["svm"].facts.labelled == 64
    (note,) = [note for note in plan.notes if "no scores" in note]
    assert note.startswith("no scores by knn, which needs one label per image, while these may")


def split(seed, shift, scale):
    rng = np.random.default_rng(seed)
    labels = np.arange(60, dtype=np.int32) % 3
    x = np.float32((np.eye(3, 5)[labels] + 0.5 * rng.normal(size=(60, 5))) * scale + shift)

    def draw(key, rows, names, **crop):
        return {name: x[rows] for name in names}

    def ten_crops(names, crop):
        yield {name: np.repeat(x[:40, None], 10, axis=1) for name in names}
        yield {name: np.repeat(x[40:, None], 10, axis=1) for name in names}

    return Split({"backbone": x}, labels, draw, ten_crops=ten_crops)


def test_standardised_features_do_not_depend_on_scale():
    facts = RunFacts(classes=3)
    probe = Augmented(epochs=1, batch_size=30, standardise=True, ten_crop=0.875, facts=facts)
    values = []
    for shift, scale in ((0.0, 1.0), (5.0, 100.0)):
        splits = dict(train=split(0, shift, scale), test=split(1, shift, scale))
        values.append(dict(probe.run(splits, None)))
    assert values[0] == values[1]
    assert values[0].pop("top1_ten_crop") == values[0]["top1"]
    train = split(0, 0.0, 1.0)
    x = train.features["backbone"]
    mean, std = x.mean(0), x.std(0) + 1e-6

    def standard(part):
        scaled = (part.features["backbone"] - mean) / std
        return Split(
            {"backbone": scaled},
            part.labels,
            lambda key, rows, names, **crop: {"backbone": scaled[rows]},
        )

    plain = Augmented(epochs=1, batch_size=30, facts=facts)
    ours = dict(plain.run(dict(train=standard(train), test=standard(split(1, 0.0, 1.0))), None))
    assert ours == pytest.approx(values[0])


def test_nesterovs_momentum_is_optaxs():
    rng = np.random.default_rng(0)
    x = np.float32(rng.normal(size=(12, 4)))
    labels = np.arange(12) % 3
    ours = {"x": {"kernel": np.float32(rng.normal(size=(4, 3))), "bias": np.zeros(3, np.float32)}}
    theirs = ours
    trace = jax.tree.map(np.zeros_like, ours)
    sgd = optax.chain(optax.add_decayed_weights(0.01), optax.sgd(0.1, 0.9, nesterov=True))
    state = sgd.init(theirs)

    @jax.grad
    def gradient(weights):
        scores = x @ weights["x"]["kernel"] + weights["x"]["bias"][None]
        return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()

    for _ in range(3):
        ours, trace, _ = augmented._step(ours, trace, {"x": x}, labels, 0.1, 0.9, 0.01, True)
        updates, state = sgd.update(gradient(theirs), state, theirs)
        theirs = optax.apply_updates(theirs, updates)
    np.testing.assert_allclose(ours["x"]["kernel"], theirs["x"]["kernel"], atol=1e-6)


@pytest.mark.slow
def test_the_command_prints_the_average_precision_of_each_class(weights, data, tmp_path):
    out = tmp_path / "scores.jsonl"
    call = [sys.executable, "-m", "ssl_jax.evaluate", f"--weights={weights}", "--preset=voc07"]
    call += [f"--data.dir={data / 'voc07'}", f"--data.cache={tmp_path}", "--size=8"]
    call += [f"--append={out}", "--config.evals.svm.costs=(0.1, 1.0)"]
    done = subprocess.run(call, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "SVM mAP" in done.stdout
    assert "ap_aeroplane" in done.stdout
    record = json.loads(out.read_text())
    assert set(record["scores"]) == {"svm/map", "svm/map_11point"} | {
        f"svm/ap_{name}" for name in CLASSES
    }
    assert record["settings"]["evals"]["svm"]["ignored"] == "negative"
