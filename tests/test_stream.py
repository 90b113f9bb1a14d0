"""Images decoded on demand: the same as from the cache, in threads or processes, to a clean end."""

import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.images import assert_same_images, pixels_in
from helpers.runs import arrays, assert_same_run, environment, quiet, tiny
from PIL import Image

from ssl_jax import train
from ssl_jax.clustering.label import label
from ssl_jax.data import cache, datasets, prefetch, streaming
from ssl_jax.data.rng import Order, epoch_order
from ssl_jax.inference import transfer
from ssl_jax.ops.mesh import make_mesh
from ssl_jax.reporting.features import of_run
from ssl_jax.runs.console import ProgressBar
from ssl_jax.runs.metrics import read_records
from ssl_jax.runs.restore import open_run
from ssl_jax.settings.resolve import SettingError
from ssl_jax.training.batches import Batches

RNG = np.random.default_rng(0)
EACH = 16
SIZE = 10


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Three classes of small pictures of all shapes."""
    folder = tmp_path_factory.mktemp("images")
    for name in "abc":
        (folder / "train" / name).mkdir(parents=True)
        (folder / "val" / name).mkdir(parents=True)
        for i in range(EACH):
            shape = (*RNG.integers(8, 30, 2), 3)
            path = (
                folder / ("val" if i < 3 else "train") / name / f"{i}.{'png' if i % 2 else 'jpg'}"
            )
            Image.fromarray(RNG.integers(0, 256, shape, dtype=np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def decoded(tmp_path_factory):
    return str(tmp_path_factory.mktemp("decoded"))


@pytest.fixture(scope="module")
def load(images, decoded):
    settings = dict(dir=str(images), cache=decoded, size=SIZE)
    return lambda store, name="folder", **more: datasets.load(
        name, **settings | dict(store=store) | more
    )


def assert_same_data(streamed, cached):
    for ours, theirs in ((streamed.train, cached.train), (streamed.test, cached.test)):
        assert (ours.images.shape, ours.images.dtype) == (theirs.images.shape, theirs.images.dtype)
        assert_same_images(ours.images, theirs.images)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
    assert (streamed.classes, streamed.mean, streamed.std) == (
        cached.classes,
        cached.mean,
        cached.std,
    )
    assert streamed.names() == cached.names()
    assert streamed.fingerprint() == cached.fingerprint()
    assert streamed.facts() == cached.facts()


@pytest.mark.parametrize("more", [{}, dict(limit=20), dict(whole=True), dict(labels="none")])
def test_a_folder_is_the_same_from_its_files_and_from_the_cache(load, more):
    assert_same_data(load("stream", **more), load("cache", **more))


def test_so_is_a_data_set_of_tfds_which_reads_its_labels_once(load, tmp_path, monkeypatch):
    zipfile.ZipFile(Path(__file__).parent / "fixtures" / "tfds.zip").extractall(tmp_path)

    def both(name, **more):
        return [
            load(store, f"tfds:{name}", dir=str(tmp_path), **more) for store in ("stream", "cache")
        ]

    assert_same_data(*both("tiny_shapes"))
    assert_same_data(*both("tiny_grey", test_share=0.25, size=6))
    monkeypatch.setattr(cache, "progress", None)
    data = load("stream", "tfds:tiny_shapes", dir=str(tmp_path))
    again = pickle.loads(pickle.dumps(data.train.images))  # as a worker process gets it
    np.testing.assert_array_equal(again[[3, 1]].pixels, pixels_in(data.train.images)[[3, 1]])
    next((tmp_path / "tiny_grey" / "1.0.0").glob("*train*")).write_bytes(b"not a record" * 1000)
    with pytest.raises(SettingError, match="cannot be read .*; prepare it again"):
        load("stream", "tfds:tiny_grey", dir=str(tmp_path))


def test_rows_are_read_as_from_an_array(load):
    lazy = load("stream").train.images
    array = load("cache").train.images
    for rows in ([5], [5, 5, 0, -1], np.arange(8)[::-1], np.arange(len(array)) % 7 == 0, []):
        rows = np.asarray(rows, None if len(rows) else int)
        assert_same_images(lazy[rows], array[rows])
    for part in (slice(3, 9), slice(None, None, 4), slice(-2, None)):
        assert isinstance(lazy[part], streaming.StreamedImages)
        assert_same_images(lazy[part], array[part])
    np.testing.assert_array_equal(lazy[7].pixels, array[7].pixels)
    np.testing.assert_array_equal(lazy[7].sizes, array[7].sizes)
    with pytest.raises(IndexError):
        lazy[len(array)]
    assert len(pickle.dumps(lazy)) < 4000
    assert not load("stream").resident(1000.0)


def test_names_take_little_room_and_survive_odd_bytes():
    names = ["a/1.png", "ä/ö.jpg", os.fsdecode(b"b/\xff.png"), ""]
    packed = streaming.Names(names)
    assert list(packed) == names
    assert packed[-2] == names[-2]
    with pytest.raises(IndexError):
        packed[4]


@pytest.mark.parametrize("start", [0, 5])
def test_batches_follow_from_the_step_alone(load, key, start):
    sources = [load(store).train.images for store in ("stream", "cache")]
    feeds = [Batches(x, make_mesh(), key, batch_size=8, resident=False) for x in sources]
    for step in (*range(start, start + 7), 2):  # over the end of the epoch, and back
        (ours, index), (theirs, same) = (feed.batch(step) for feed in feeds)
        np.testing.assert_array_equal(index, same)
        np.testing.assert_array_equal(index, epoch_order(key, step // 4, 39, 8)[step % 4])
        np.testing.assert_array_equal(ours.pixels, theirs.pixels)
        np.testing.assert_array_equal(ours.sizes, theirs.sizes)
        assert len(ours.pixels.sharding.device_set) == 2
        assert len(ours.sizes.sharding.device_set) == 2
    for feed in feeds:
        feed.close()


def test_a_process_reads_only_what_its_devices_take(load, key):
    images = load("stream").train.images
    seen = []
    own = prefetch.Prefetcher(prefetch.Steps(images, Order(key, 39, 8), np.array([2, 3, 6])), 4, 0)
    read = images.read
    images.read = lambda rows, tell: (seen.append(rows), read(rows, tell))[1]
    rows, batch = own.next()
    own.close()
    np.testing.assert_array_equal(rows, epoch_order(key, 1, 39, 8)[0])
    assert_same_images(batch, load("cache").train.images[rows[[2, 3, 6]]])
    assert {len(r) for r in seen} == {3}


def config(images, decoded, store):
    config = tiny("instance")
    config.data.update(
        name="folder", dir=str(images), cache=decoded, size=SIZE, limit=0, store=store
    )
    config.batch_size = 8
    config.epochs = 3
    config.eval_epochs = 3
    config.evals = dict(knn=config.evals.knn, augmented=dict(epochs=1, batch_size=16))
    config.resident_gb = 0.0
    return config


@pytest.fixture(scope="module")
def cached(images, decoded, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cached") / "run"
    train.run(config(images, decoded, "cache"), folder, console=quiet())
    return folder


def test_a_file_that_goes_bad_ends_the_run_which_goes_on_when_it_is_back(
    images, load, cached, tmp_path, monkeypatch
):
    """And all in all it is the run from the cache, bit for bit, evaluation and baselines too."""
    data = load("stream").train.images
    bad = images / data.name(
        Order(jax.random.key(0), len(data), 8)(11)[3]
    )  # of the last step, if not before
    whole = bad.read_bytes()
    update = ProgressBar.update

    def updated(self, step, *args, **kwargs):
        if step == 5:
            bad.write_bytes(whole[:30])
        update(self, step, *args, **kwargs)

    monkeypatch.setattr(ProgressBar, "update", updated)
    with pytest.raises(
        SettingError, match=rf"{bad} cannot be read \(.*\); replace it and rerun the same command"
    ) as error:
        train.run(config(images, "", "stream"), tmp_path / "run", console=quiet())
    assert "\n" not in str(error.value)
    assert arrays(tmp_path / "run", 4)  # the last checkpoint is whole
    monkeypatch.undo()
    bad.write_bytes(whole)
    train.run(config(images, "", "stream"), tmp_path / "run", console=quiet())
    assert_same_run(tmp_path / "run", cached, last=12)
    waits = [r["speed/data_wait"] for r in read_records(tmp_path / "run") if "speed/data_wait" in r]
    assert len(waits) == 12
    assert all(0 <= share <= 1 for share in waits)


def test_what_reads_a_run_again_reads_them_too(images, decoded, cached):
    found = []
    for store in ("stream", "cache"):
        with jax.set_mesh(make_mesh()):
            run = open_run(cached, make_mesh())
            shown = of_run(cached, make_mesh(), {"data.store": store}, most=10)
            scores = dict(transfer.evaluation_of(run, config(images, decoded, store))())
        report = label(
            run, config(images, decoded, store), {"store": store}, count=3, report=lambda line: None
        )
        found.append(
            [
                report.assignment.labels,
                report.assignment.similarity,
                report.picture(41),
                report.names,
            ]
        )
        found[-1] += [shown.images, shown.points, shown.test_points, scores]
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_worker_processes_of_a_test(load, key):
    images = load("stream").train.images
    mesh = make_mesh()
    feed = Batches(images, mesh, key, batch_size=6, resident=False, workers=1)
    try:
        for step in range(3):
            found, rows = feed.batch(step)
            assert_same_images(found[:6], images[np.asarray(rows)])
    finally:
        feed.close()


WORKERS = """
import multiprocessing, os, signal, sys, time
import jax, numpy as np
from ssl_jax.data import datasets
from ssl_jax.training.batches import Batches
from ssl_jax.ops.mesh import make_mesh
from ssl_jax.settings.resolve import SettingError

folder, cache, bad = sys.argv[1:]
settings = dict(dir=folder, cache=cache, size=10)
load = lambda store: datasets.load("folder", store=store, **settings).train.images
lazy, array = load("stream"), load("cache")
options = dict(batch_size=8, resident=False)
feed = lambda workers: Batches(lazy, make_mesh(), jax.random.key(0), workers=workers, **options)
equal = np.testing.assert_array_equal
same = lambda batch: jax.tree.map(equal, batch[0], array[np.asarray(batch[1])])
shared = set(os.listdir("/dev/shm"))

first = feed(2)
for step in range(5, 9):
    same(first.batch(step))
got = []
for signum in (signal.SIGINT, signal.SIGTERM):
    signal.signal(signum, lambda *_: got.append(_))
    os.killpg(0, signum)  # as a terminal or a cluster does: to all processes
for step in range(9, 20):
    same(first.batch(step))
assert len(got) == 2
os.rename(bad, bad + "-")
open(bad, "w").close()
try:
    for step in range(20, 99):
        first.batch(step)
except SettingError as error:
    print(error)
os.rename(bad + "-", bad)
first.close()
for _ in range(100):  # grain deletes in a thread of its own
    left = set(os.listdir("/dev/shm")) - shared
    left = [name for name in left if os.stat("/dev/shm/" + name).st_uid == os.getuid()]
    if not left:
        break
    time.sleep(0.1)
print(multiprocessing.active_children(), left)

second = feed(1)
same(second.batch(2))
os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
try:
    for step in range(3, 99):
        same(second.batch(step))
except SettingError as error:
    print(error)
second.close()
print(multiprocessing.active_children())
"""


@pytest.mark.slow
def test_worker_processes(images, load, decoded):
    """Batches, signals to all processes, a killed worker, a bad file: one line each, all freed."""
    load("cache")
    bad = images / "train" / "b" / "9.png"
    command = [sys.executable, "-c", WORKERS, str(images), decoded, str(bad)]
    found = subprocess.run(
        command,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
        start_new_session=True,
    )
    assert (found.returncode, found.stderr) == (0, "")
    broken, left, killed, none = found.stdout.splitlines()
    assert killed.startswith(
        "a worker process of data.workers was killed by SIGKILL while reading train/"
    )
    assert killed.endswith(
        "if memory ran out, lower data.workers; rerun the same command to resume"
    )
    assert broken.startswith(f"{bad} cannot be read (the file is empty); replace it")
    assert (left, none) == ("[] []", "[]")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("folder", dict(store="disk"), "data.store='disk': choose cache or stream"),
        (
            "digits",
            dict(store="stream", dir=""),
            "data.store='stream': digits is loaded whole; only folder, table",
        ),
        (
            "folder",
            dict(store="stream", skip_corrupt=True),
            "data.skip_corrupt=True: data.store=stream finds bad files only",
        ),
        ("folder", dict(store="stream", workers=-1), "data.workers=-1: at least 0"),
        ("tfds:cifar10", dict(store="stream"), "is not prepared in"),
    ],
)
def test_mistakes_end_in_one_line(load, name, settings, message):
    with pytest.raises(SettingError, match=message) as caught:
        load(settings.pop("store"), name, **settings)
    assert "\n" not in str(caught.value)


def test_too_little_shared_memory_is_said_before_any_work(load, key, monkeypatch):
    monkeypatch.setattr(prefetch.shutil, "disk_usage", lambda _: type("usage", (), dict(free=64e6)))
    images = load("stream").train.images
    prefetch.check(images, 8, workers=2)
    with pytest.raises(
        SettingError, match=r"data.workers=9 need 89 MB in .*, but it has 64; .*--shm-size"
    ):
        Batches(images, make_mesh(), key, batch_size=8000, resident=False, workers=9)
