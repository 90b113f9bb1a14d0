"""Run folders with something wrong in them: one line, and nothing else is lost."""

import json
import shutil
import time

import pytest
from helpers.runs import assert_same_run, quiet, records, two_epochs

from ssl_jax import train
from ssl_jax.reporting import record
from ssl_jax.runs.checkpoint import Checkpoints
from ssl_jax.runs.checkpoint_reader import CheckpointReader
from ssl_jax.runs.checksums import FILE as CHECKSUMS
from ssl_jax.runs.console import ProgressBar
from ssl_jax.runs.metrics import MetricsWriter, damaged_lines, read_records
from ssl_jax.runs.restore import config_of
from ssl_jax.runtime.storage import StorageError
from ssl_jax.settings.resolve import SettingError


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    train.run(two_epochs(), folder, console=quiet())
    return folder


@pytest.fixture
def stopped(finished, tmp_path):
    """The run as a kill after its first epoch would have left it."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    last = max(int(p.name) for p in (folder / "checkpoints").iterdir())
    shutil.rmtree(folder / "checkpoints" / str(last))
    return folder


BAD_LINES = [
    b"\n",
    b'{"step": 3, "epoch": 0.2, "train/lo\n',
    b"3\n",
    b"null\n",
    b"{}\n",
    b"[1, 2]\n",
    b'{"step": "3", "epoch": 0.2}\n',
    b'{"step": 3, "epoch": "x"}\n',
    b'{"step": true, "epoch": 0.2}\n',
    b'{"step": 3, "epoch": 0.2, "train/loss": "x"}\n',
    b'{"step": 3, "epoch": 0.2, "eval/knn/top1": null}\n',
    b"\xff\xfe\x00 no text\n",
    b"[" * 100_000 + b"\n",
]


@pytest.mark.parametrize("bad", BAD_LINES, ids=range(len(BAD_LINES)))
def test_a_bad_line_of_the_metrics_is_left_out_and_the_others_stay(bad, finished, tmp_path):
    lines = (finished / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_bytes(b"".join([*lines[:3], bad, *lines[3:]]))
    assert read_records(tmp_path) == read_records(finished)
    assert damaged_lines(tmp_path) == 1


def test_a_last_line_that_a_kill_cut_short_is_not_damage(finished, tmp_path):
    text = (finished / "metrics.jsonl").read_bytes()
    (tmp_path / "metrics.jsonl").write_bytes(text + b'{"step": 99, "ep')
    assert damaged_lines(tmp_path) == 0
    assert read_records(tmp_path) == read_records(finished)
    MetricsWriter(tmp_path, 8).close()
    assert not (tmp_path / "metrics.jsonl.damaged").exists()


def test_a_run_with_bad_lines_ends_as_without_them(finished, stopped):
    path = stopped / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    before = b"".join([*lines[:2], b"\n", lines[2][:20] + b"\n", *lines[2:]])
    path.write_bytes(before)
    console = quiet()
    train.run(two_epochs(), stopped, console=console)
    said = "metrics.jsonl: dropped 2 damaged lines; the original is kept as metrics.jsonl.damaged"
    assert said in console.file.getvalue()
    assert (stopped / "metrics.jsonl.damaged").read_bytes() == before
    assert_same_run(stopped, finished, last=16)
    assert records(stopped) == records(finished)


def test_checkpoints_without_a_config_are_not_taken_over(stopped):
    (stopped / "config.json").unlink()
    config = two_epochs()
    config.optim.learning_rate = 0.5
    with pytest.raises(
        SettingError, match="has checkpoints but no config.json, so it is unknown what was trained"
    ):
        train.run(config, stopped, console=quiet())
    assert not (stopped / "config.json").exists()


BAD_CONFIGS = {
    "binary": b"\x80\x81\xff",
    "list": b"[]",
    "null": b"null",
    "empty": b"{}",
    "deep": b"[" * 100_000,
    "section": b'{"method": {"name": "instance"}, "data": 3, "augment": {}}',
    "view": b'{"method": {"name": "instance"}, "augment": {"one": 3}}',
    "group": b'{"method": {"name": "instance"}, "augment": {}, "optim": {"groups": {"a": {}}}}',
    "torn": b'{"method": {"na',
}


@pytest.mark.parametrize("kind", [*BAD_CONFIGS, "folder"])
def test_a_damaged_config_is_one_line(kind, stopped):
    path = stopped / "config.json"
    path.unlink()
    if kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(BAD_CONFIGS[kind])
    for use in (
        lambda: train.run(two_epochs(), stopped, console=quiet()),
        lambda: config_of(stopped),
        lambda: record.read([stopped]),
    ):
        with pytest.raises(SettingError, match="config.json is damaged") as caught:
            use()
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["metrics.jsonl", "environment.json"])
def test_a_folder_in_place_of_a_file_is_named(name, stopped):
    (stopped / name).unlink()
    (stopped / name).mkdir()
    with pytest.raises(SettingError, match=f"{name} is not a file; move it away"):
        train.run(two_epochs(), stopped, console=quiet())


@pytest.mark.parametrize("name", ["run[lr=0.1]", "a*", "what?", "[x]/run", "C:\\run", "\udcff"])
def test_names_that_orbax_takes_for_patterns_are_refused_before_training(name, tmp_path):
    with pytest.raises(
        SettingError, match="the path of a run folder may not contain .*, or its checkpoints"
    ):
        train.run(two_epochs(), tmp_path / name, console=quiet())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SettingError, match="^workdir=.*the path of a run folder may not contain"):
        CheckpointReader(tmp_path / name, setting="workdir")


def test_odd_names_train_and_are_read(finished, tmp_path):
    folder = tmp_path / "a::b -c (d), é"
    shutil.copytree(finished, folder)
    console = quiet()
    train.run(two_epochs(), folder, console=console)
    assert "is finished" in console.file.getvalue()
    assert config_of(folder) == config_of(finished)
    assert json.loads((folder / "config.json").read_text())["method"]["name"] == "instance"


def test_bad_lines_of_later_scores_are_left_out_of_a_report(stopped):
    whole = {
        "step": 8,
        "data": "digits",
        "scores": {"knn/top1": 0.5},
        "failed": {},
        "settings": {},
        "date": "x",
    }
    bad = [b"\xff\xfe", b"3", b"{}", b"null", b'{"scores": 1}', b"[" * 100_000]
    (stopped / "evaluations.jsonl").write_bytes(b"\n".join([*bad, json.dumps(whole).encode(), b""]))
    assert record.read([stopped])[0].evaluations == [whole]


@pytest.mark.parametrize(("what", "named"), [("", "config.json"), ("checkpoints", "checkpoints")])
@pytest.mark.parametrize("step", [3, 8, 12])
def test_a_folder_that_is_removed_while_training_is_noticed(
    what, named, step, tmp_path, monkeypatch
):
    update = ProgressBar.update

    def removed(self, at, *args, **kwargs):
        if at == step:
            until = time.monotonic() + 30
            while (
                step > 8
                and not (tmp_path / "run" / "checkpoints" / "8" / CHECKSUMS).exists()
                and time.monotonic() < until
            ):
                time.sleep(0.01)  # a save under way would make the folder again
            shutil.rmtree(tmp_path / "run" / what)
        update(self, at, *args, **kwargs)

    monkeypatch.setattr(ProgressBar, "update", removed)
    with pytest.raises(
        StorageError, match=f"run/{named} was removed while training; choose another folder with"
    ):
        train.run(two_epochs(), tmp_path / "run", console=quiet())


def test_a_last_checkpoint_that_is_removed_is_noticed(tmp_path, monkeypatch):
    close = Checkpoints.close

    def removed(self):
        close(self)
        shutil.rmtree(tmp_path / "run" / "checkpoints" / "16")

    monkeypatch.setattr(Checkpoints, "close", removed)
    with pytest.raises(
        StorageError, match="checkpoint 16 of .*run was removed while training; rerun the same"
    ):
        train.run(two_epochs(), tmp_path / "run", console=quiet())
