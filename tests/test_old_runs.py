"""Run folders of earlier versions resume, evaluate and export, and give the numbers that they gave.

`fixtures/run_folders.zip` holds runs of commit 28d6889 as they were after two of their four epochs,
with what that commit made of them on the same machine: `uninterrupted.jsonl`, the records of all
four epochs, `evaluations.jsonl` and `features.json`, of the first four test images. They were made
by

    python -m ssl_jax.main --config=configs/swav.py <COMMON> <OWN["swav"]> --workdir=swav
"""

import json
import shutil
import zipfile

import jax
import numpy as np
import pytest
from helpers.plans import config_of
from helpers.runs import TESTS, assert_same_run, quiet, records, tiny
from helpers.trained import opened, scores
from PIL import Image

import ssl_jax
from ssl_jax import train
from ssl_jax.clustering.label import label
from ssl_jax.data import datasets
from ssl_jax.inference.pretrained import export
from ssl_jax.ops.mesh import make_mesh
from ssl_jax.runs import restore
from ssl_jax.settings import old_records
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.whole_config import completed

COMMON = {
    "data.limit": 256,
    "model.depth": 10,
    "model.width": 4,
    "batch_size": 32,
    "epochs": 4,
    "eval_epochs": 2,
    "checkpoint_epochs": 2,
    "keep_checkpoints": 0,
    "head.dim": 8,
    "head.hidden": (16,),
    "evals.linear.steps": 50,
    "log_steps": 1,
}
CONFIGS = {
    "swav": ("swav", "digits"),
    "local_aggregation": ("local_aggregation", "digits"),
    "conr": ("conr", "digits+byol"),
}
OWN = {
    "swav": {
        "method.prototypes": 16,
        "method.queue_length": 64,
        "method.queue_starts_epoch": 1.0,
    },
    "local_aggregation": {
        "method.background": 64,
        "method.clusters": 8,
        "method.clusterings": 3,
        "stages.warmup.until_epoch": 1.0,
    },
    "conr": {
        "method.predictor": (16,),
        "positives.boundary.restarts": 2,
        "optim.schedule.warmup_epochs": 1.0,
    },
}
SAVED = 16
LAST = 32


@pytest.fixture(
    scope="module",
    params=[
        "swav",
        pytest.param("conr", marks=pytest.mark.slow),
        pytest.param("local_aggregation", marks=pytest.mark.slow),
    ],
)
def old_run(request, tmp_path_factory):
    """The folder of a run as the earlier version left it."""
    folder = tmp_path_factory.mktemp("old")
    with zipfile.ZipFile(TESTS / "fixtures" / "run_folders.zip") as archive:
        archive.extractall(
            folder, [n for n in archive.namelist() if n.startswith(request.param + "/")]
        )
    return folder / request.param


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_features_are_those_that_it_gave(old_run):
    encoder = ssl_jax.load_encoder(old_run)
    expected = json.loads((old_run / "features.json").read_text())
    assert set(encoder.names) >= set(expected)
    images = datasets.load("digits").test.images[:4]
    for name, rows in expected.items():
        np.testing.assert_allclose(encoder(images, name), rows, rtol=1e-4, atol=1e-5, err_msg=name)


def test_scores_are_those_that_it_gave(old_run):
    (expected,) = lines(old_run / "evaluations.jsonl")
    found = {name: value for values in scores(old_run).values() for name, value in values.items()}
    later = {"knn/balanced", "linear/balanced"}
    assert found.keys() == expected["scores"].keys() | later
    for name, value in expected["scores"].items():
        assert found[name] == pytest.approx(value, abs=0.02), name


def test_its_encoder_is_exported(old_run, tmp_path):
    export(opened(old_run), tmp_path / "encoder.safetensors")
    again = ssl_jax.load_encoder(tmp_path / "encoder.safetensors")
    images = datasets.load("digits").test.images[:4]
    expected = json.loads((old_run / "features.json").read_text())["backbone"]
    np.testing.assert_allclose(again(images), expected, rtol=1e-4, atol=1e-5)


def test_it_resumes_under_todays_config(old_run):
    config = config_of(*CONFIGS[old_run.name])
    config.update_from_flattened_dict(COMMON | OWN[old_run.name])
    found = train.run(config, old_run, console=quiet())
    assert sorted(p.name for p in (old_run / "checkpoints").iterdir()) == [str(SAVED), str(LAST)]
    expected = lines(old_run / "uninterrupted.jsonl")
    ours = [r for r in records(old_run) if "largest_class/knn/top1" not in r]
    assert len(ours) == len(records(old_run)) - 1  # which the earlier version did not record
    assert [r["step"] for r in ours] == [r["step"] for r in expected]
    losses = [[r["train/loss"] for r in rows if "train/loss" in r] for rows in (ours, expected)]
    np.testing.assert_allclose(*losses, rtol=1e-3)
    for name, value in found.items():
        assert value == pytest.approx(expected[-1][name], abs=0.05), name
    console = quiet()
    assert train.run(config, old_run, console=console) == found  # once more: it is finished
    kept = json.loads((old_run / "config.json").read_text())["kept_settings"]
    assert {"model.init", "model.bn_momentum"} <= set(kept)
    if old_run.name == "conr":
        assert (
            "keeps its original behaviour: positives.boundary.cluster_unlabelled=True"
            in " ".join(console.file.getvalue().split())
        )
        with pytest.raises(
            SettingError,
            match="was trained with positives.boundary.cluster_unlabelled=True, not False",
        ):
            train.run(
                config, old_run, console=quiet(), given=("positives.boundary.cluster_unlabelled",)
            )
        config.positives.boundary.keep = 0.5
        with pytest.raises(
            SettingError, match="was trained with positives.boundary.keep=0.8, not 0.5"
        ):
            train.run(config, old_run, console=quiet())


def test_a_setting_that_comes_later_leaves_older_records_as_they_were(monkeypatch):
    record = json.loads(config_of("swav", "digits").to_json_best_effort())
    for section, name in (("model", "remat"), ("method", "hard"), ("optim", "clip")):
        del record[section][name]
    del record["evals"]["knn"]["k"]
    del record["evals"]["linear"]
    earlier = {
        "model.remat": True,
        "method[swav].hard": True,
        "method[byol].shuffle": True,  # of another method
        "optim.clip": True,
        "optim.momentum": 0.1,  # which the record has
        "evals.knn.k": 7,
    }
    monkeypatch.setattr(old_records, "EARLIER_VALUES", earlier)
    found = old_records.with_later_settings(record)
    assert found["model"]["remat"] is found["method"]["hard"] is found["optim"]["clip"] is True
    assert "shuffle" not in found["method"]
    assert found["optim"]["momentum"] == record["optim"]["momentum"] != 0.1
    assert found["evals"]["knn"]["k"] == 7
    assert set(found["evals"]) == {"crop", "knn", "clustering"}
    assert "k" not in record["evals"]["knn"]


def test_an_evaluator_whose_default_has_changed_keeps_the_older_one():
    record = json.loads(json.dumps(completed(config_of("swav", "digits"))))
    record["evals"] = {"near": {"name": "knn"}, "knn": {"k": 7}, "knn_grid": {}}
    found = old_records.with_later_settings(record)["evals"]
    assert (found["near"]["k"], found["knn"]["k"], found["knn_grid"]["k"]) == (
        200,
        7,
        [1, 10, 50, 200],
    )
    assert found["near"]["temperature"] == 0.1


def test_settings_of_a_part_that_is_gone_stay_as_they_are():
    record = json.loads(json.dumps(completed(config_of("swav", "digits"))))
    record["method"] = {"name": "no_such_package.method", "strength": 3}
    assert old_records.with_later_settings(record)["method"] == record["method"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Pictures of several shapes, and the settings that read them."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(24):
        shape = ((12, 18), (18, 12), (10, 10))[i // 2 % 3]
        path = folder / "images" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8)).save(path)
    return dict(
        name="folder", dir=str(folder / "images"), cache=str(folder / "cache"), size=8, limit=0
    )


def of_pictures(pictures, **data):
    config = tiny("instance")
    config.update(epochs=4, batch_size=8, baselines=False, resident_gb=0.0)
    config.evals = dict(knn=dict(k=3))
    config.keep_checkpoints = 0
    config.data.update(pictures | data)
    return config


@pytest.fixture(scope="module")
def centres(pictures, tmp_path_factory):
    """A run on central squares."""
    folder = tmp_path_factory.mktemp("centres") / "run"
    train.run(of_pictures(pictures, keep="centre"), folder, console=quiet())
    return folder


@pytest.fixture
def of_centres(centres, tmp_path):
    """The same run half done, as it was before whole pictures could be kept."""
    shutil.copytree(centres, tmp_path / "run")
    last = max(int(path.name) for path in (centres / "checkpoints").iterdir())
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        if int(path.name) > last // 2:
            shutil.rmtree(path)
    path = tmp_path / "run" / "config.json"
    record = json.loads(path.read_text())
    assert record["data"].pop("keep") == "centre"
    path.write_text(json.dumps(record))
    return tmp_path / "run"


@pytest.mark.parametrize("store", ["cache", "stream"])
def test_a_run_of_central_squares_resumes_with_them(pictures, centres, of_centres, store):
    config = of_pictures(pictures, store=store)
    assert completed(config)["data"]["keep"] == "whole"
    console = quiet()
    train.run(config, of_centres, console=console)
    assert "keeps its original behaviour: data.keep=centre" in " ".join(
        console.file.getvalue().split()
    )
    steps = [int(path.name) for path in (of_centres / "checkpoints").iterdir()]
    assert_same_run(of_centres, centres, last=max(steps))
    assert json.loads((of_centres / "config.json").read_text())["data"]["keep"] == "centre"
    train.run(config, of_centres, console=quiet())  # once more: it is finished
    config.data.keep = "whole"
    with pytest.raises(SettingError, match="was trained with data.keep='centre', not 'whole'"):
        train.run(config, of_centres, console=quiet(), given=("data.keep",))


@pytest.mark.parametrize("store", ["cache", "stream"])
def test_a_run_of_central_squares_is_scored_and_assigned_on_them(
    pictures, centres, of_centres, store, capsys
):
    expected = scores(centres, 4)
    capsys.readouterr()
    assert scores(of_centres, 4, store=store) == expected
    reports = []
    for folder in (of_centres, centres):
        with jax.set_mesh(make_mesh()):
            run = restore.open_run(folder, make_mesh(), 4)
        data = run.plan.source
        assert data.keep == "centre"
        reports.append(label(run, restore.config_of(folder), {}, count=2, report=lambda line: None))
        other = dict(dir=f"{data.dir}/a")
        settings = restore.other_data(restore.config_of(folder), other, data)["data"]
        assert (settings["keep"], settings["size"], settings["dir"]) == ("centre", 8, other["dir"])
    np.testing.assert_array_equal(*(report.assignment.labels for report in reports))
    assert "decoding" not in capsys.readouterr().err  # the cache of earlier versions is read


def test_older_records_kept_central_squares_whatever_their_data():
    for name in ("folder", "hf:photos", "tfds:pets", "my.module"):
        record = json.loads(json.dumps(completed(config_of("swav", "digits"))))
        record["data"]["name"] = name
        assert old_records.with_later_settings(record)["data"]["keep"] == "whole"
        del record["data"]["keep"]
        assert old_records.with_later_settings(record)["data"]["keep"] == "centre"
