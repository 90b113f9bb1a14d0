"""Runs read back: scores of any checkpoint on any data, and encoders, without training."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from helpers.runs import environment, quiet, records, tiny
from helpers.trained import scores

import ssl_jax
from ssl_jax import evaluate, train
from ssl_jax.data.source import Source
from ssl_jax.evaluation.knn import KNN
from ssl_jax.inference.transfer import evaluation_of
from ssl_jax.ops.mesh import make_mesh
from ssl_jax.runs.restore import config_for, config_of, open_run, other_data
from ssl_jax.settings.resolve import SettingError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of two epochs with both scored; the first is the better one."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    config = tiny("conr")
    config.epochs = 2
    config.baselines = False
    config.evals = dict(knn=dict(k=5), linear=dict(steps=20, batch_size=64))
    train.run(config, folder, console=quiet())
    return folder


def flat(found):
    return {f"eval/{name}": value for values in found.values() for name, value in values.items()}


def test_scores_are_those_of_the_run(run):
    evaluated = [r for r in records(run) if "eval/knn/top1" in r]
    for which, record in (("latest", evaluated[-1]), (8, evaluated[0])):
        evaluated_again = flat(scores(run, which))
        assert {f"eval/{name}/balanced" for name in ("knn", "linear")} <= evaluated_again.keys()
        for name, value in evaluated_again.items():
            if not name.endswith("/balanced"):  # in evaluations alone
                assert value == pytest.approx(record[name], abs=1e-6), name
    best = max(evaluated, key=lambda r: r["eval/knn/top1"])
    assert flat(scores(run, "best"))["eval/knn/top1"] == pytest.approx(
        best["eval/knn/top1"], abs=1e-6
    )


def test_other_data_and_other_evaluators(run, tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = rng.integers(0, 256, (60, 9, 9, 1), dtype=np.uint8)
    np.savez(
        tmp_path / "a.npz",
        images=images,
        labels=labels,
        test_images=images[:20],
        test_labels=labels[:20],
    )
    found = scores(
        run, evals=("knn", "clustering"), name="array", dir=str(tmp_path / "a.npz"), limit=0
    )
    assert set(found) == {"knn", "clustering"}
    assert set(found["clustering"]) == {"clustering/acc", "clustering/nmi", "clustering/ari"}


def test_other_data_do_not_take_the_settings_of_the_runs_own(run):
    settings = config_of(run)
    own = Source(name="digits", limit=256)
    assert (settings["data"]["limit"], settings["data"]["test_share"]) == (256, 0.1)
    settings["data"]["size"] = 40
    assert other_data(settings, dict(dir="moved"), own) == settings  # the same images, elsewhere
    data = other_data(settings, dict(name="folder", dir="there", test_share=0.5), own)["data"]
    kept = {k: data[k] for k in ("name", "dir", "test_share", "limit", "size")}
    assert kept == dict(name="folder", dir="there", test_share=0.5, limit=0, size=40)


@pytest.mark.parametrize(
    "name", ["folder", "array", "table", "hf:photos", "webdataset", "my_package.my_data"]
)
def test_another_place_is_other_data(name, run, tmp_path):
    own = Source(name=name, dir=str(tmp_path / "a"), limit=30, bands=4)
    settings = config_of(run)
    settings["data"].update(name=name, limit=30, bands=4)
    data = other_data(settings, dict(dir=str(tmp_path / "b")), own)["data"]
    assert (data["dir"], data["limit"], data["bands"]) == (str(tmp_path / "b"), 0, 4)
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    for same in (dict(dir=str(tmp_path / "link")), dict(dir=f"{tmp_path}/a/"), dict(whole=True)):
        assert other_data(settings, same, own) == settings


@pytest.mark.parametrize("name", ["digits", "cifar10", "cifar100", "tfds:mnist"])
def test_a_published_data_set_may_move(name, run):
    settings = config_of(run)
    own = Source(name=name, dir="here", limit=30)
    assert other_data(settings, dict(dir="there"), own) == settings


def test_lines_of_scores(tmp_path):
    path = tmp_path / "evaluations.jsonl"
    evaluate.append(path, "")
    assert not path.exists()
    evaluate.append(path, "{}\n")
    path.write_text("{}\n{torn")
    for text in ("", "{}\n"):
        evaluate.append(path, text)
    assert path.read_text() == "{}\n{torn\n{}\n"
    with pytest.raises(SettingError, match="no/a, where the scores go, cannot be written"):
        evaluate.append(tmp_path / "no" / "a", "{}\n")


def test_features_of_views_and_of_maps(run):
    """Views drawn through the encoder: whole and unflipped they are the clean images."""
    config = config_for(run, ("probe", "augmented", "knn"))
    config.evals.probe.update(
        features=("stage1", "backbone"), shares=(1.0,), steps=5, rates=(0.1,), decays=(0.0, 1.0)
    )
    config.evals.augmented.update(epochs=1, batch_size=256)
    lines = []
    with jax.set_mesh(make_mesh()):
        score = evaluation_of(open_run(run, make_mesh()), config)
        splits = score.scorer.splits(score.run.plan.stages[-1], score.run.state)
        rows = np.array([7, 0, 200])
        whole = dict(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0)
        names = ("backbone", "stage1")
        for split in (splits["train"], splits["test"]):
            drawn = split.draw(jax.random.key(1), rows, names, **whole)
            for name in names:
                np.testing.assert_allclose(drawn[name], split.features[name][rows], atol=1e-4)
        other = splits["train"].draw(
            jax.random.key(1), rows, ("backbone",), **whole | dict(scale=(0.2, 0.3))
        )
        assert np.abs(other["backbone"] - splits["train"].features["backbone"][rows]).max() > 1e-3
        found = dict(score(lines.append))
    assert set(found["probe"]) == {
        f"probe/{n}_{f}" for n in ("top1", "held_out", "rate", "decay") for f in names
    }
    assert 0 < found["augmented"]["augmented/top1"] <= 1
    assert "probe: stage1, 1 of the labels, step 5 of 5" in lines
    assert lines[0] == "features of 0 of 256 images"
    assert any(
        line.startswith("augmented: epoch 1 of 1, 256 of 256 images, loss ") for line in lines
    )


def test_a_failed_evaluator_does_not_lose_the_others(run, monkeypatch):
    def fail(self, splits, state, report):
        raise RuntimeError("no neighbours")

    monkeypatch.setattr(KNN, "run", fail)
    found = scores(run)
    assert str(found["knn"]) == "no neighbours"
    assert found["linear"]["linear/top1"] > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            dict(labels="none"),
            "data.name='digits' has no labelled test images, which knn, linear need",
        ),
        (
            dict(name="folder", dir="PICTURES", bands=4),
            "has 4 channels, the encoder was trained on 1; data.bands=1 reads grey, if the data",
        ),
        (dict(limit=4), r"evals.knn.k=5: between 1 and the 4 training images"),
    ],
)
def test_data_that_do_not_go_together(change, message, run, tmp_path):
    change = {k: str(tmp_path) if v == "PICTURES" else v for k, v in change.items()}
    with pytest.raises(SettingError, match=message):
        scores(run, **change)


def test_runs_that_cannot_be_read(run, tmp_path):
    with pytest.raises(SettingError, match="is not a run folder: it has no config.json"):
        config_of(tmp_path)
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "config.json").write_text((run / "config.json").read_text())
    with pytest.raises(SettingError, match="none does not exist; .* has copy"):
        config_of(tmp_path / "none")
    with pytest.raises(SettingError, match="--evals='knnn' is not known; .*; did you mean 'knn'"):
        config_for(run, ["knnn"])
    for which, message in (
        ("latest", "holds no checkpoint"),
        ("best", "has no checkpoint with a score 'eval/knn/top1'; give latest or a step"),
        ("last", "checkpoint='last': give latest, best or a step"),
    ):
        with pytest.raises(SettingError, match=message), jax.set_mesh(make_mesh()):
            open_run(copy, make_mesh(), which)
    with pytest.raises(SettingError, match=r"holds no checkpoint of step 5, only of \[8, 16\]"):
        open_run(run, make_mesh(), 5)


def test_a_run_is_read_without_its_data(run):
    record = json.loads((run / "config.json").read_text())
    assert record["data_facts"]["shape"] == [256, 8, 8, 1]
    plan = open_run(run, make_mesh()).plan
    assert (len(plan.dataset.train), len(plan.dataset.classes)) == (256, 10)
    assert plan.dataset.train.images.strides == (0, 0, 0, 0)  # no memory


def test_an_encoder_in_three_lines(run):
    encoder = ssl_jax.load_encoder(run)
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), dtype=np.uint8)
    features = encoder(images)
    assert features.shape[0] == 6
    assert encoder.names == ("backbone", "embedding", "query")
    np.testing.assert_allclose(np.linalg.norm(encoder(images, "embedding"), axis=1), 1.0, atol=1e-5)


def test_the_command_appends_to_the_run(run):
    call = [
        sys.executable,
        "-m",
        "ssl_jax.evaluate",
        f"--workdir={run}",
        "--evals=knn,knn_grid",
        "--config.evals.knn.k=3",
    ]
    call += ["--config.evals.knn.feature=backbone", "--config.evals.knn_grid.k=(3, 5)"]
    (run / "evaluations.jsonl").write_text('{"step": 1')  # as a kill leaves it
    done = subprocess.run(call, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    record = json.loads((run / "evaluations.jsonl").read_text().splitlines()[-1])
    assert record["settings"]["evals"]["knn"]["k"] == 3
    grid = [f"knn_grid/top1_k{k}_t{t}" for t in (0.07, 0.1) for k in (3, 5)]
    assert list(record["scores"]) == ["knn/top1", "knn/balanced", *grid]
    assert f"{record['scores']['knn/top1']:.4f}" in done.stdout
    assert record["largest_class"] == dict.fromkeys(["knn/top1", *grid], 37 / 360)
    by_class = record["by_class"]
    assert by_class["classes"] == list("0123456789")
    assert sum(by_class["images"]) == 360
    assert np.mean(by_class["recall"]["knn"]) == pytest.approx(record["scores"]["knn/balanced"])
    right = np.dot(by_class["images"], by_class["recall"]["knn"]) / 360
    assert right == pytest.approx(record["scores"]["knn/top1"])
    lines = [line.split() for line in done.stdout.replace("\u2502", " ").splitlines()]
    for k in (3, 5):  # a row for each k, a column for each temperature
        row = [f"{record['scores'][f'knn_grid/top1_k{k}_t{t}']:.4f}" for t in (0.07, 0.1)]
        assert [str(k), *row] in lines
    assert ["largest", "class", "0.1028", "-"] in lines
    assert max(map(len, done.stdout.splitlines())) <= 80
    bad = subprocess.run(
        [*call[:3], "--evals=knn"], env=environment(), capture_output=True, text=True, timeout=300
    )
    assert bad.returncode == 2
    assert bad.stderr.count("\n") == 1
