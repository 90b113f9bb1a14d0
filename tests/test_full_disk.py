"""Full disks: one line that names the last good checkpoint, and nothing of the run is lost."""

import errno
import os
import shutil
import subprocess
from collections import namedtuple

import pytest
from helpers.runs import assert_same_run, command, environment, quiet, two_epochs

from ssl_jax import train
from ssl_jax.runs import checkpoint, events
from ssl_jax.runs.metrics import MetricsWriter, read_records
from ssl_jax.runtime.storage import StorageError, storage_failure
from ssl_jax.settings.resolve import SettingError

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    train.run(two_epochs(), folder, console=quiet())
    return folder


def test_no_room_for_a_checkpoint_ends_the_run_which_goes_on_when_there_is(
    finished, tmp_path, monkeypatch
):
    calls = []

    def usage(path):
        calls.append(path)
        return Usage(0, 0, 10**12 if len(calls) == 1 else 1000)

    monkeypatch.setattr(checkpoint.shutil, "disk_usage", usage)
    with pytest.raises(StorageError) as caught:
        train.run(two_epochs(), tmp_path / "run", console=quiet())
    expected = (
        "No space left on device in .*/run; the last good checkpoint is step 8; "
        "free space and rerun the same command"
    )
    assert caught.match(expected)
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["8"]
    monkeypatch.undo()
    train.run(two_epochs(), tmp_path / "run", console=quiet())
    assert_same_run(tmp_path / "run", finished, last=16)


def test_records_that_cannot_be_written_end_the_run(tmp_path, monkeypatch):
    write = MetricsWriter.write

    def full(self, step, epoch, values):
        if step > 3:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        write(self, step, epoch, values)

    monkeypatch.setattr(MetricsWriter, "write", full)
    with pytest.raises(
        StorageError, match="Disk quota exceeded in .*; there is no checkpoint yet; free space"
    ):
        train.run(two_epochs(), tmp_path / "run", console=quiet())


def test_a_full_disk_elsewhere_keeps_its_own_line(tmp_path, monkeypatch):
    def full(config, **_):
        raise SettingError("data.cache=/c: No space left on device") from OSError(errno.ENOSPC, "x")

    monkeypatch.setattr(train, "build", full)
    with pytest.raises(SettingError, match="^data.cache=/c: No space left on device$"):
        train.run(two_epochs(), tmp_path / "run", console=quiet())


def test_events_are_expendable(finished, tmp_path, monkeypatch):
    class Full(events.RecordWriter):
        def write(self, data):
            self.written = getattr(self, "written", 0) + 1
            if self.written > 5:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            super().write(data)

    monkeypatch.setattr(events, "RecordWriter", Full)
    console = quiet()
    train.run(two_epochs(), tmp_path / "run", console=console)
    assert (
        console.file.getvalue().count("TensorBoard events stopped (No space left on device)") == 1
    )
    assert_same_run(tmp_path / "run", finished, last=16)


def test_events_can_be_read_by_tensorboard(finished):
    from tensorboardX.proto.event_pb2 import Event

    (path,) = finished.glob("events.out.tfevents.*")
    raw = path.read_bytes()
    found = []
    while raw:
        length = int.from_bytes(raw[:8], "little")
        found.append(Event.FromString(raw[12 : 12 + length]))
        raw = raw[16 + length :]
    assert found[0].file_version == "brain.Event:2"
    assert found[1].session_log.status == 1
    scalars = {(v.tag, e.step): v.simple_value for e in found for v in e.summary.value}
    losses = {r["step"]: r["train/loss"] for r in read_records(finished) if "train/loss" in r}
    assert {step: scalars["train/loss", step] for step in losses} == pytest.approx(losses)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "x"), "No space left on device"),
        (OSError(errno.EIO, "x"), "Input/output error"),
        (
            ValueError("RESOURCE_EXHAUSTED: ... [OS error 28: ENOSPC No space left on device]"),
            "No space left on device",
        ),
        (OSError(errno.ENOENT, "no such file"), ""),
        (ValueError("wrong"), ""),
    ],
)
def test_what_the_disk_said_is_found_in_causes(error, expected):
    assert storage_failure(error) == expected
    outer = RuntimeError("a step failed")
    outer.__cause__ = error
    assert storage_failure(outer) == expected


@pytest.mark.slow
@pytest.mark.parametrize("size", ["8k", "24k", "120k", "200k"])
def test_a_file_system_that_is_full(size, tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(tmp_path)]
    if (
        os.name != "posix"
        or os.geteuid()
        or not shutil.which("mount")
        or subprocess.run(mount).returncode
    ):
        pytest.skip("needs the right to mount a small file system")
    try:
        call = [part.replace("tiny.py", "tiny.py:instance") for part in command(tmp_path / "run")]
        done = subprocess.run(call, env=environment(), capture_output=True, text=True, timeout=200)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: No space left on device in ")
    assert line.endswith("; free space and rerun the same command")
