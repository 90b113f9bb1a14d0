"""Mistakes end in one line that names the setting and the way out, before any long work."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from helpers.runs import TESTS, TINY, tiny
from PIL import Image

from ssl_jax import train
from ssl_jax.build import build
from ssl_jax.data import datasets
from ssl_jax.inference.scorer import Scorer
from ssl_jax.ops.mesh import make_mesh
from ssl_jax.runtime.sharding import bytes_per_device
from ssl_jax.settings.resolve import SettingError


def cli(*flags):
    env = os.environ | {"PYTHONPATH": str(TESTS.parent)}
    done = subprocess.run(
        [sys.executable, "-m", "ssl_jax.main", *flags],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


CALLS = [
    ([], "--config is missing; choose one of: anchor_neighbourhood, byol, conr, instance"),
    (
        ["--config=nowhere.py"],
        "nowhere.py: there is no such file; the configs are anchor_neighbourhood, byol, conr, ",
    ),
    (["--config=nowhere.py", "--config.epochs=3"], "nowhere.py"),
    (
        [f"--config={TINY}", "--config.bach_size=3"],
        "--config.bach_size is not a setting; did you mean 'batch_size'?",
    ),
    (
        [f"--config={TINY}", "--config.method.epsilom=3"],
        "--config.method.epsilom is not a setting; did you mean 'epsilon'?",
    ),
    ([f"--config={TINY}", "--config.evals.knn.kk=3"], "--config.evals.knn.kk is not a setting"),
    (
        [f"--config={TINY}", "--config.optm.learning_rate=1"],
        "--config.optm.learning_rate is not a setting; did you mean 'optim'?",
    ),
    ([f"--config={TINY}", "--config.batch_size=many"], "batch_size"),
    ([f"--config={TINY}", "--wordkir=x"], "workdir"),
    ([f"--config={TINY}", "epochs=3"], "'epochs=3' is not a flag"),
    (["swav:cifar10"], "unexpected 'swav:cifar10'; did you mean --config=swav:cifar10?"),
    (
        [f"--config={TINY}", "--config.epochs=twenty"],
        "error: --config.epochs='twenty': give a whole number\n",
    ),
    (
        [f"--config={TINY}", "--config.baselines=maybe"],
        "error: --config.baselines='maybe': give true or false\n",
    ),
    (
        [f"--config={TINY}", "--config.optim.learning_rate=1e"],
        "error: --config.optim.learning_rate='1e': give a number\n",
    ),
    ([f"--config={TINY}", "--config.optim.lr=1"], "is not a setting; optim has b1, b2, "),
    (
        [f"--config={TINY}", "--config.evals.knn.K=1"],
        "is not a setting; evals.knn has k, temperature\n",
    ),
    (
        [f"--config={TINY}", "--epochs=20"],
        "Unknown command line flag 'epochs'; did you mean --config.epochs=20?\n",
    ),
    (
        [f"--config={TINY}", "--config.method.name=swaw", "--workdir=/nonexistent/x"],
        "choose one of: anchor_neighbourhood, byol, instance, local_aggregation, moco, simsiam, ",
    ),
    ([f"--config={TINY}", "--workdir=/proc/x"], "workdir /proc/x cannot be written"),
    (
        ["--config=swav:folder"],
        "data.dir is empty: give the folder that holds the images",
    ),
    (
        [f"--config={TINY}", "--config.data.name=array", "--config.data.dir=no.npz"],
        "no such file or folder",
    ),
    (
        [f"--config={TINY}", "--config.optim.learning_rate=-1"],
        "optim.learning_rate=-1.0: at least 0 and finite",
    ),
    (
        [f"--config={TINY}", "--config.optim.momentum=nan"],
        "optim.momentum=nan: give a finite number, at most 3.4e38",
    ),
    (
        [f"--config={TINY}", "--config.method.epsilon=inf"],
        "method.epsilon=inf: give a finite number",
    ),
    (
        [f"--config={TINY}", "--config.seed=9223372036854775808"],
        "whole numbers have at most 64 bits",
    ),
    (
        [f"--config={TINY}", "--config.augment.large.count=1000000000"],
        "count=1000000000: at least 1 and at most 1,000",
    ),
    (
        [f"--config={TINY}", "--config.stages.first.until_epoch=inf"],
        "stages.first.until_epoch=inf: give a finite",
    ),
    (
        [f"--config={TINY}", "--config.optim.schedule.warmup_epochs=nan"],
        "optim.schedule.warmup_epochs=nan: give a",
    ),
    ([f"--config={TINY}", "--config.resident_gb=-1"], "resident_gb=-1.0: at least 0 and finite"),
]

# The command, imported once: each line of flags is a process of its own that is forked from there.
FORKED = """
import json, os, sys
import sklearn.datasets, sklearn.model_selection
import ssl_jax.train
from ssl_jax.runtime import command
from ssl_jax import main
codes = []
for i, flags in enumerate(json.load(sys.stdin)):
    child = os.fork()
    if not child:
        for end, number in (("out", 1), ("err", 2)):
            os.dup2(os.open(f"{i}.{end}", os.O_WRONLY | os.O_CREAT), number)
        sys.argv, code = ["main", *flags], 0
        try:
            command.start(main.main)
        except SystemExit as left:
            code = left.code
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # at once: to tidy up after JAX takes longer than all the rest
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(codes))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Exit code, standard output and standard error of every call."""
    folder = tmp_path_factory.mktemp("calls")
    flags = json.dumps([flags for flags, _ in CALLS])
    env = os.environ | {"PYTHONPATH": str(TESTS.parent)}
    call = [sys.executable, "-c", FORKED]
    done = subprocess.run(
        call, input=flags, cwd=folder, env=env, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stderr) == (0, "")

    def said(i):
        return [(folder / f"{i}.{end}").read_text() for end in ("out", "err")]

    return [(code, *said(i)) for i, code in enumerate(json.loads(done.stdout))]


@pytest.mark.parametrize("i", range(len(CALLS)))
def test_command_line(i, answers):
    judge(*answers[i], CALLS[i][1])


@pytest.mark.parametrize("i", [0, 10])
def test_the_command_itself(i):
    """The first mistake and the last that are found, as a user makes them."""
    judge(*cli(*CALLS[i][0]), CALLS[i][1])


def judge(code, out, err, message):
    """One line of error, with this message in it."""
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert message in err


def put(path, value):
    def change(config):
        *sections, last = path.split(".")
        for section in sections:
            config = config[section]
        config.unlock()
        with config.ignore_type():
            config[last] = value

    return change


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("batchsize", 3, "batchsize is not a setting; did you mean 'batch_size'"),
        ("epochs", "ten", "epochs='ten' has the wrong type; it takes int"),
        ("epochs", 0, "epochs=0: at least 1"),
        ("keep_checkpoints", -1, r"keep_checkpoints=-1: at least 0 \(0: all\)"),
        (
            "accumulate",
            2,
            "accumulate=2: gradients are not accumulated, since losses over pairs or codes, and",
        ),
        ("model.bn_groups", 0, "model.bn_groups=0: at least 1"),
        (
            "data.name",
            "mnist",
            "data.name='mnist' is not known; choose one of: digits, cifar10, cifar100",
        ),
        ("data.name", "cifar10", "data.dir is empty"),
        ("data.limt", 3, "data.limt is not a setting; did you mean 'limit'"),
        ("data.limit", 9999, "digits has 1437 training images"),
        ("data.size", 0, "data.size=0: at least 1"),
        ("data.test_share", 0.0, "data.test_share=0.0: strictly between 0 and 1"),
        ("data.mean", (0.5, 0.5, 0.5), "the images have 1 channel; give 1 number"),
        ("data.std", (0.0,), r"data.std=\(0.0,\): above 0"),
        ("data.labels", "coarse", "data.labels='coarse': digits has no coarse labels"),
        ("data.download", True, "digits cannot be downloaded, only cifar10 and cifar100"),
        (
            "method.name",
            "swaw",
            "method.name='swaw' is not known; choose one of: "
            "anchor_neighbourhood, byol, instance, local_aggregation, moco, simsiam, supervised, "
            "swav",
        ),
        ("method.epsilom", 0.1, "method.epsilom is not a setting; did you mean 'epsilon'"),
        ("method.epsilon", "small", "method.epsilon='small' has the wrong type; it takes float"),
        (
            "method.queue_length",
            50,
            "method.queue_length=50 is not a multiple of batch_size=32; try 32",
        ),
        ("method.prototypes", 257, "method.prototypes=257: between 2 and the 256 training images"),
        ("method.assign", (0, 3), r"assign=\(0, 3\) does not fit the 3 views"),
        ("method.facts", {}, "method.facts is not a setting"),
        (
            "model.name",
            "vit",
            "='vit' is not known; choose one of: alexnet, preact_resnet, resnet, vgg; or give a ",
        ),
        ("model.depth", 19, "model.depth=19: choose one of"),
        (
            "positives.name",
            "friends",
            "positives.name='friends' is not known; choose one of: contextual, instance",
        ),
        ("augment.large.size", 0, "augment.large: size and count must be at least 1"),
        ("augment.large.blurr", 0.1, "augment.large.blurr is not a setting"),
        (
            "optim.name",
            "adamw",
            "optim.name='adamw' is not known; choose one of: larc, lars, sgd, adam",
        ),
        ("optim.schedule.name", "linear", "optim.schedule.name='linear' is not known"),
        (
            "optim.schedule.warmup_epochs",
            9.0,
            "optim.schedule.warmup_epochs=9.0: within the run's epochs",
        ),
        ("optim.groups.prototypes.pattern", "^heads", "pattern '\\^heads' matches no parameter"),
        (
            "optim.groups.prototypes.frozen",
            1,
            "optim.groups.prototypes.frozen is not a setting; did you mean 'frozen_epochs'",
        ),
        ("stages.first.until_epoch", 7, "until_epoch=7.0: must lie within the 4 epochs; 0 skips"),
        ("stages.first.data", {}, "stages.first.data is not a setting"),
        ("stages.first.head", {}, "stages.first.head is not a setting"),
        ("evals.knn.k", 257, "evals.knn.k=257: between 1 and the 256 training images"),
        ("evals.clustering.clusters", 257, "evals.clustering.clusters=257"),
        (
            "evals.knn.feature",
            "embeding",
            "evals.knn: swav has no feature 'embeding'; choose backbone, embedding, query",
        ),
        (
            "evals.knn.feature",
            "stage2",
            r"or a map \(stage1 to stage5\) that model.name='[\w.]+' has",
        ),
        ("evals.clustering.clusters", -1, "evals.clustering.clusters=-1"),
        ("evals.clustering.restarts", 0, "restarts=0"),
        ("evals.knn", 3, "evals.knn=3 is a section"),
        (
            "best",
            "eval/kmn/top1",
            "best='eval/kmn/top1': give a score by its logged name, such as eval/",
        ),
        ("seed", 2**32, "seed=4294967296: between 0 and 4294967295"),
        ("seed", 2**70, "seed=1180591620717411303424: whole numbers have at most 64 bits"),
        ("method.queue_length", -32, "at least 0"),
        (
            "method.queue_starts_epoch",
            3.75,
            "would first be used after 4 of 4 epochs; start it earlier or set queue_",
        ),
        ("method.sinkhorn_iterations", -1, "at least 0"),
        ("method.assign", ("a", "b"), r"method.assign\[0\]='a' has the wrong type; it takes int"),
        ("model.width", 0, "model.width=0: at least 1"),
        ("head.dim", 0, "head.dim=0"),
        ("head.hidden", ("a",), r"head.hidden\[0\]='a'"),
        ("augment.large", 3, "augment.large=3 is a section"),
        ("augment.large.brightness", -1.0, "at least 0"),
        ("augment", {}, "augment is empty"),
        ("optim.learning_rate", "x", "optim.learning_rate='x' has the wrong type; it takes float"),
        (
            "optim.groups.prototypes.pattern",
            "(",
            r"optim.groups.prototypes.pattern='\(' is not a regular expression",
        ),
        ("optim.groups.prototypes", {"factor": 0.1}, "optim.groups.prototypes: .*pattern"),
        ("optim.groups.prototypes.frozen_epochs", "x", "frozen_epochs='x' has the wrong type"),
        (
            "optim.schedule",
            {"name": "drops", "at_epochs": ("a",)},
            r"optim.schedule.at_epochs\[0\]='a'",
        ),
        ("stages.first", 3, "stages.first=3 is a section"),
        ("stages.first.until_epoch", "x", "stages.first.until_epoch='x' has the wrong type"),
        ("stages.first.optim.learning_rat", 0.5, "did you mean 'learning_rate'"),
        ("stages.first.optim.learning_rate", "x", "has the wrong type"),
        (
            "evals.puriti",
            {},
            "evals.puriti='puriti' is not known; choose one of: assignment, augmented, classifier, "
            "clustering, finetune, knn, knn_grid, linear, neighbourhood, probe, purity, svm",
        ),
    ],
)
def test_settings(path, value, message):
    config = tiny()
    if path.startswith("model."):
        config.model.name = "resnet"
    put(path, value)(config)
    with pytest.raises(SettingError, match=message) as caught:
        build(config)
    assert "\n" not in str(caught.value)


def test_a_batch_of_more_than_all_images():
    config = tiny("instance")
    config.batch_size = 300
    with pytest.raises(SettingError, match="batch_size=300, but there are only 256 training "):
        build(config)


def test_a_bank_that_cannot_fit():
    config = tiny("instance")
    config.head.dim = 10**9
    message = (
        r"takes [\d,.]+ GB on each of 2 devices, which have [\d.]+ GB "
        r"\(method/bank alone: 512.0 GB\); use more devices"
    )
    with pytest.raises(SettingError, match=message):
        build(config)


def test_images_that_cannot_lie_on_a_device(monkeypatch):
    needs = sum(bytes_per_device(make_mesh(), build(tiny("byol")).shapes).values())
    monkeypatch.setattr(
        "ssl_jax.build.device_memory", lambda: needs + 10_000
    )  # of 256 + 360 images of 64 bytes
    with pytest.raises(
        SettingError,
        match=r"the images take 0.0 GB .*; lower resident_gb \(8; 0 keeps the images",
    ):
        build(tiny("byol"))
    build(tiny("byol"), datasets.load("digits", limit=256))  # a run that is read again
    config = tiny("byol")
    config.resident_gb = 0.0
    build(config)


def test_a_bucket_is_no_run_folder():
    with pytest.raises(
        SettingError, match="workdir gs://bucket/run: must be a local path; mount the bucket"
    ):
        train.run(tiny(), "gs://bucket/run")


def test_raw_pixels_that_would_fill_a_device_are_not_scored(monkeypatch):
    scorer = Scorer(build(tiny("byol")), None, None)
    taken = 4 * (256 + 360) * 64
    monkeypatch.setattr("ssl_jax.inference.scorer.device_memory", lambda: 4 * taken)
    assert scorer.too_many_pixels() == ""
    monkeypatch.setattr("ssl_jax.inference.scorer.device_memory", lambda: 4 * taken - 1)
    assert scorer.too_many_pixels() == "no scores of raw pixels, which would take 0 GB on a device"


def test_settings_are_checked_before_images_are_decoded(tmp_path):
    config = tiny()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "a.png")
    cache = tmp_path / "cache"
    config.data = dict(name="folder", dir=str(tmp_path), size=8, cache=str(cache))
    config.optim.name = "adamw"
    with pytest.raises(SettingError, match="optim.name='adamw' is not known"):
        build(config)
    config.optim.name = "sgd"
    config.data.size = 7
    with pytest.raises(SettingError, match="data.size=7 is below the largest view, 8 pixels"):
        build(config)
    assert not cache.exists()


def test_a_stage_may_not_change_the_state():
    config = tiny()
    config.stages.first.method.unlock()
    config.stages.first.method.prototypes = 20
    with pytest.raises(SettingError, match="a stage changes the shape of the train state"):
        build(config)


def test_queue_that_is_just_used_is_accepted():
    config = tiny()
    config.method.queue_starts_epoch = 2.5  # full at step 22 of 32
    build(config)


def test_locked_and_partial_configs_are_completed():
    config = tiny()
    config.data = dict(name="digits", limit=256)
    config.optim = dict(name="larc", learning_rate=0.1)
    config.stages.first.optim = dict(name="larc", learning_rate=0.2)
    config.lock()
    plan = build(config)
    assert plan.record["optim"]["momentum"] == 0.9
    assert float(plan.stages[0].schedule(0)) == pytest.approx(0.2)


def test_more_classes_than_images():
    config = tiny("instance")
    config.data.limit = config.batch_size = 8
    with pytest.raises(SettingError, match="clusters=10: between 2 and the 8 training images"):
        build(config)


def test_instance_takes_one_view():
    config = tiny("instance")
    config.augment.one.count = 2
    with pytest.raises(SettingError, match="takes one view of an image, not 2"):
        build(config)
