"""A weight file in place of a run: the same tables and scores, whatever its names."""

import dataclasses
import json
import re
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from helpers.foreign_names import LIBRARIES, as_in, random_weights
from helpers.runs import environment, tiny
from helpers.trained import made, opened
from PIL import Image
from safetensors.numpy import save_file

from ssl_jax import evaluate, load_encoder
from ssl_jax.clustering import assignment
from ssl_jax.clustering.fingerprint import fingerprint
from ssl_jax.clustering.label import label
from ssl_jax.clustering.output_files import OutputFiles
from ssl_jax.inference.pretrained import export, of_run
from ssl_jax.inference.transfer import evaluation_of
from ssl_jax.inference.weights_run import open_encoder, open_weights
from ssl_jax.models.resnet import ResNet
from ssl_jax.ops.mesh import make_mesh
from ssl_jax.reporting import weights as report
from ssl_jax.runs.restore import config_for, config_of_weights, with_range
from ssl_jax.settings import command_line, weight_flags
from ssl_jax.settings.resolve import SettingError

RNG = np.random.default_rng(0)
EVALS = ("knn", "linear", "clustering")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files of all libraries with the same network, by library."""
    folder = tmp_path_factory.mktemp("weights")
    network = random_weights(ResNet(depth=10, width=4, stem="cifar"))
    paths = {}
    for library in LIBRARIES:
        paths[library] = folder / f"{library}.safetensors"
        save_file(as_in(library, network), paths[library])
    paths["plain"] = folder / "plain.safetensors"
    save_file(network, paths["plain"])
    return paths


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two class folders with a bright and a dark class."""
    folder = tmp_path_factory.mktemp("data")
    for i in range(40):
        place = folder / "pictures" / "ab"[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.clip(RNG.normal(60 + 120 * (i % 2), 40, (9, 12, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(place / f"{i:02}.png")
    return {"data.dir": str(folder / "pictures"), "data.cache": str(folder / "cache")}


def weights_run(path, given, evals=(), **image):
    """Run and settings of a file, with settings as flags give them."""
    config = config_of_weights(evals)
    config.update_from_flattened_dict(given)
    return open_weights(path, config, given, **image)


def table(run, settings, **how):
    found = label(run, settings, {}, report=lambda line: None, **how)
    return list(found.records())


def scores(run, config):
    with jax.set_mesh(make_mesh()):
        results = dict(evaluation_of(run, config)())
    assert not [x for x in results.values() if isinstance(x, Exception)]
    return {name: x for values in results.values() for name, x in values.items()}


SMALL = {"evals.knn.k": 3, "evals.linear.steps": 10, "evals.clustering.restarts": 2}


@pytest.mark.slow
def test_files_of_any_library_give_the_same_clusters_and_scores(files, pictures):
    plain = table(*weights_run(files["plain"], pictures, size=8), count=3)
    assert len(plain) == 41
    for library in LIBRARIES:
        run, settings = weights_run(files[library], pictures, size=8)
        assert table(run, settings, count=3) == plain, library
    own = scores(*weights_run(files["plain"], pictures | SMALL, EVALS, size=8))
    assert {"knn/top1", "linear/top1", "clustering/nmi"} <= own.keys()
    for library in ("moco", "hugging face", "lightly"):
        other = scores(*weights_run(files[library], pictures | SMALL, EVALS, size=8))
        assert other == pytest.approx(own, abs=1e-6)


def test_clusters_of_a_file_are_used_with_it_under_any_names(files, pictures, tmp_path):
    run, settings = weights_run(files["plain"], pictures, size=8)
    lines = []
    first = label(run, settings, {}, count=3, report=lines.append)
    assert f"{files['plain']}, on folder: 3 clusters by k-means" in lines
    OutputFiles(tmp_path / "c.csv", overwrite=False).write(first, 0)
    other = weights_run(files["moco"], pictures, size=8)
    assert table(*other, use=tmp_path / "c.npz") == list(first.records())
    clusters = assignment.load(tmp_path / "c.npz")
    clusters.check_encoder(fingerprint(load_encoder(files["plain"], size=8), "backbone"), "use")
    with pytest.raises(SettingError, match="size 16 instead of 8"):
        table(*weights_run(files["plain"], pictures, size=16), use=tmp_path / "c.npz")


def test_what_is_taken_and_left_out_is_said(files, pictures):
    run, _ = weights_run(files["moco"], pictures, size=8, mean=(0.5,) * 3)
    assert run.notes[0] == "weights: those named module.encoder_q.*"
    assert run.notes[1].startswith("weights: left out 3 tensors")
    assert "images of 8x8 pixels" in run.notes[2]
    assert "mean (0.5, 0.5, 0.5) and std (0.229, 0.224, 0.225)" in run.notes[2]
    assert run.title == str(files["moco"])


@pytest.mark.parametrize(
    ("image", "given", "size", "crop"),
    [
        ({}, {}, 37, 0.0),  # 32 / 0.875
        ({"size": 224}, {}, 256, 0.0),
        ({"size": 224, "crop": 0.875}, {}, 256, 0.875),
        ({"size": 100, "crop": 0.5}, {}, 200, 0.5),
        ({"size": 100, "crop": 0.1}, {}, 200, 0.1),
        ({"size": 100}, {"data.size": 100}, 100, 0.0),
        ({"size": 8}, {"evals.crop": 0.5}, 16, 0.5),
    ],
)
def test_pictures_are_stored_a_little_larger_than_seen(image, given, size, crop, files):
    run, settings = weights_run(files["plain"], given, **image)
    assert settings["data"]["name"] == "folder"
    assert settings["data"]["size"] == run.plan.source.size == size
    assert settings["evals"]["crop"] == run.plan.stages[-1].crop == of_run(run).crop == crop


def test_evaluators_take_the_backbone_where_there_is_no_head(files):
    run, settings = weights_run(files["plain"], {}, ("knn", "purity", "linear"))
    assert of_run(run).names == ("backbone",)
    for name in ("knn", "purity", "linear"):
        assert settings["evals"][name]["feature"] == "backbone"
    given = {"evals.knn.feature": "embedding"}
    assert weights_run(files["plain"], given)[1]["evals"]["knn"]["feature"] == "embedding"


@pytest.fixture(scope="module")
def swav(tmp_path_factory):
    """A run of digits with 16 prototypes, which sees the central three quarters."""
    config = tiny("swav")
    config.model.update(name="resnet", depth=10, width=4)
    config.evals.crop = 0.75
    return opened(made(tmp_path_factory.mktemp("swav") / "run", config))


@pytest.mark.slow
@pytest.mark.parametrize("how", [{"by": "own"}, {"by": "kmeans", "count": 5}])
def test_exported_weights_give_the_clusters_and_scores_of_their_run(swav, how, tmp_path):
    path = tmp_path / "encoder.safetensors"
    export(swav, path, head=True)
    given = {"data.name": "digits", "data.limit": swav.plan.source.limit} | SMALL
    run, settings = weights_run(path, given, EVALS)
    assert settings["evals"]["crop"] == 0.75
    assert of_run(run).names == ("backbone", "embedding", "scores")
    config = config_for(swav.folder, EVALS).to_dict()
    config["evals"] = settings["evals"]
    ours = table(swav, config, **how)
    theirs = table(run, settings, **how)
    assert ours[0] == theirs[0]
    column = ours[0].index("cluster")
    assert [row[column] for row in ours] == [row[column] for row in theirs]
    if how["by"] == "own":
        own = scores(swav, config)
        assert scores(run, settings) == pytest.approx(own, abs=1e-4)
        assert own["knn/top1"] > 0.1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--data.dir=D"], "--workdir is missing; name a run folder, or a weight file with --wei"),
        (["--workdir=R", "--weights=F"], r"a run \(R\) and --weights=F are two encoders; leave"),
        (["--workdir=R", "--size=8"], "--size: a run has it on record; leave it out"),
        (["--workdir", "R", "-crop", "0.5"], "--crop: a run has it on record; leave it out"),
        (["--weights", "F", "--checkpoint=best"], "--checkpoint: a weight file has no checkpoin"),
        (["--weights=F", "--config=swav"], "--config: this command takes the settings of the run"),
    ],
)
def test_flags_that_do_not_go_together(argv, message):
    with pytest.raises(SettingError, match=message):
        command_line.with_run(["x", *argv])


def test_the_flags_become_a_config():
    argv = command_line.with_run(["x", "--weights", "F", "--data.dir=D", "--evals=knn"])
    assert argv[1] == f"--config={command_line.RUN_CONFIG}:::knn"
    assert argv[2:] == ["--weights=F", "--config.data.dir=D", "--evals=knn"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(mean=["a", "b"]), "--mean=a,b: give a number from 0 to 1 for each channel"),
        (dict(mean=["128"]), "--mean=128: give a number from 0 to 1"),
        (dict(std=["0"]), "--std=0: give a number from above 0 to 1"),
        (dict(std=["nan"]), "--std=nan: give a number"),
        (dict(range=["4095"]), "--range=4095: give the values that are black and white"),
        (dict(range=["5", "5"]), "--range=5,5: give the values .* the first smaller, such as"),
        (dict(range=["0", "x"]), "--range=0,x: give"),
        (dict(range=["0", "inf"]), "--range=0,inf: give"),
    ],
)
def test_statistics_that_are_none(given, message, monkeypatch):
    monkeypatch.setattr(weight_flags, "flags", fake_flags(**given))
    with pytest.raises(SettingError, match=message):
        weight_flags.image_settings()


def fake_flags(**values):
    """absl's flags with these values, and None for all others."""
    names = dict.fromkeys(command_line.OF_WEIGHTS) | values

    class Flags:
        FLAGS = {name: type("Flag", (), {"value": value}) for name, value in names.items()}

    return Flags


def test_statistics_as_people_write_them(monkeypatch):
    monkeypatch.setattr(weight_flags, "flags", fake_flags(mean=["(0.5", " 0.4", "0.25)"], size=9))
    assert weight_flags.image_settings() == {"mean": (0.5, 0.4, 0.25), "size": 9}
    monkeypatch.setattr(weight_flags, "flags", fake_flags(range=["(-1", " 4095)"]))
    assert weight_flags.image_settings() == {"range": (-1.0, 4095.0)}


@pytest.mark.parametrize(
    ("image", "given", "message"),
    [
        ({"mean": (0.5,)}, {}, "--weights: .* is for images of 3 channels; give mean and std of 3"),
        ({"prefix": "student."}, {}, "has no network at --prefix=student.; choose one of: ''"),
        ({"size": 32}, {"data.size": 16}, "data.size=16 is below the 32 pixels that the encoder"),
        ({"crop": 0.5}, {"evals.crop": 0.6}, "--crop=0.5 and --config.evals.crop=0.6 differ"),
        (
            {"range": (0.0, 9.0)},
            {"data.range": (0.0, 99.0)},
            "--range=0,9 and --config.data.range=0,99 differ",
        ),
    ],
)
def test_weights_that_do_not_fit(image, given, message, files):
    with pytest.raises(SettingError, match=message):
        weights_run(files["plain"], given, **image)


def test_data_and_evaluators_that_do_not_fit(files, tmp_path, pictures):
    with pytest.raises(SettingError, match="--weights: .*none.pth: no such file"):
        open_encoder(None, "latest", tmp_path / "none.pth", config_of_weights(()), {}, {})
    message = "evals.assignment: plain.safetensors has no feature 'scores'; omit this evaluator"
    with pytest.raises(SettingError, match=message):
        scores(*weights_run(files["plain"], pictures, ("assignment",), size=8))
    given = pictures | {"evals.knn.feature": "embedding"}
    message = "evals.knn: plain.safetensors has no feature 'embedding'; choose backbone, .*'resnet'"
    with pytest.raises(SettingError, match=message):
        scores(*weights_run(files["plain"], given, ("knn",), size=8))


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """Settings of pictures of 16 bits with values up to 4095, and of the same in 8 bits."""
    folder = tmp_path_factory.mktemp("deep")
    for i in range(24):
        values = RNG.integers(0, 4096, (9, 12), dtype=np.uint16)
        values[0, 0] = 3000  # no picture has the whole range
        plain = np.uint8(np.floor(values / 4095 * 255 + 0.5))
        for kind, pixels in (("deep", values), ("plain", plain)):
            (folder / kind).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(folder / kind / f"{i:02}.png")
    cache = {"data.cache": str(folder / "cache")}
    return [cache | {"data.dir": str(folder / kind)} for kind in ("deep", "plain")]


def test_a_file_that_says_no_range_takes_no_pictures_of_16_bits(files, deep):
    message = (
        r"^24 images have more than 8 bits in .*deep, and plain.safetensors does not say which "
        r"values are black and white; give them as --data.range=LOW,HIGH"
    )
    with pytest.raises(SettingError, match=message):
        table(*weights_run(files["plain"], deep[0], size=8), count=2)
    with pytest.raises(SettingError, match=message):
        evaluation_of(*weights_run(files["plain"], deep[0], size=8))
    run, _ = weights_run(files["plain"], deep[1], size=8)
    run = dataclasses.replace(run, from_file=False)  # as a run on images of 8 bits
    settings = {"data": {"name": "folder", "range": ()}}
    assert with_range(settings, run) == (settings, {})
    assert with_range(settings, run, lasting=True)[1] == {"needs_range": "plain.safetensors"}


@pytest.mark.parametrize("way", ["--range", "--data.range"])
def test_pictures_of_16_bits_are_scaled_by_the_range_that_is_given(way, files, deep):
    given, image = deep[0], {"size": 8}
    if way == "--range":
        image["range"] = (0.0, 4095.0)
    else:
        given = given | {"data.range": (0.0, 4095.0)}
    run, settings = weights_run(files["plain"], given, **image)
    assert of_run(run).range == (0.0, 4095.0)
    expected = weights_run(files["plain"], deep[1], size=8)
    assert table(run, settings, count=2) == table(*expected, count=2)


@pytest.mark.slow
def test_the_page_on_a_file(files, pictures, tmp_path):
    run, settings = weights_run(files["moco"], pictures | SMALL, EVALS, size=8)
    path = tmp_path / "page.html"
    with jax.set_mesh(make_mesh()):
        notes = report.write(run, settings, path, say=lambda line: None)
    own = scores(run, settings)
    text = re.sub(r"<style>.*?</style>|<[^>]+>", " ", path.read_text("utf-8"), flags=re.DOTALL)
    text = " ".join(text.split())
    assert "moco.safetensors a weight file on folder, 40 images" in text
    for value in (own["knn/top1"], own["linear/top1"], own["clustering/nmi"]):
        assert f"{value:.4f}" in text
    for title in ("raw pixels", "largest class", "Nearest neighbours", "Map of the embedding"):
        assert title in text
    assert "Left out 3 tensors" in text
    assert "Training" not in text.partition("Scores are fractions")[0]
    assert all("density" in note for note in notes)  # too few images for that figure alone


def test_a_page_without_labels(files, pictures, tmp_path):
    given = pictures | {"data.labels": "none"}
    run, settings = weights_run(files["plain"], given, size=8)
    with jax.set_mesh(make_mesh()):
        report.write(run, settings, tmp_path / "page.html", say=lambda line: None)
    text = (tmp_path / "page.html").read_text("utf-8")
    assert "The images have no test labels, so there are no scores." in text
    assert "Nearest neighbours" in text


@pytest.mark.slow
def test_the_command_prints_scores_and_appends_them(files, pictures, tmp_path):
    out = tmp_path / "scores.jsonl"
    call = [sys.executable, "-m", "ssl_jax.evaluate", f"--weights={files['moco']}", "--size=8"]
    call += ["--evals=knn", f"--data.dir={pictures['data.dir']}", f"--append={out}"]
    call += ["--std=0.5,0.5,0.5", f"--data.cache={pictures['data.cache']}"]
    call += ["--config.evals.knn.k=3"]
    done = subprocess.run(call, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    given = pictures | {"evals.knn.k": 3}
    own = scores(*weights_run(files["plain"], given, ("knn",), size=8, std=(0.5,) * 3))
    assert record["scores"] == pytest.approx(own, abs=1e-6)
    assert record["weights"] == str(files["moco"])
    assert (record["size"], record["std"]) == (8, [0.5] * 3)
    assert "step" not in record
    assert f"{own['knn/top1']:.4f}" in done.stdout
    assert "weights: those named module.encoder_q.*" in done.stdout


@pytest.mark.parametrize("out", ["scores.csv", "none/scores.jsonl"])
def test_scores_go_to_a_file_that_can_be_written(out, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "APPEND", SimpleNamespace(value=str(tmp_path / out)))
    with pytest.raises(SettingError, match="give a file that ends in .jsonl|cannot be written"):
        evaluate.main()
