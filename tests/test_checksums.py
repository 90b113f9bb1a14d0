"""A checkpoint that is not as it was written is named and never trained on."""

import json
import shutil

import numpy as np
import pytest
from helpers.runs import assert_same_run, quiet, two_epochs

from ssl_jax import train
from ssl_jax.runs import checkpoint_files, checksums, sealing
from ssl_jax.runs.checkpoint_reader import CheckpointReader
from ssl_jax.runtime.storage import StorageError
from ssl_jax.settings.resolve import SettingError


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two epochs with the checkpoints of both, 8 and 16."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train.run(two_epochs(), folder, console=quiet())
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def flip(path, bit):
    """Turns one bit of a file."""
    content = bytearray(path.read_bytes())
    content[bit // 8 % len(content)] ^= 1 << bit % 8
    path.write_bytes(content)


def test_every_file_of_a_checkpoint_has_a_checksum(finished):
    place = finished / "checkpoints" / "16"
    found = json.loads((place / checksums.FILE).read_text())["sha256"]
    files = {str(p.relative_to(place)) for p in place.rglob("*") if p.is_file()} - {checksums.FILE}
    assert set(found) == files
    assert any("ocdbt.process_0/d/" in name for name in files)
    assert checksums.damage(place) == ""


def test_any_flipped_bit_is_noticed(folder):
    place = folder / "checkpoints" / "16"
    rng = np.random.default_rng(0)
    files = sorted(p for p in place.rglob("*") if p.is_file() and p.stat().st_size)
    for path in files:
        bit = int(rng.integers(8 * path.stat().st_size))
        flip(path, bit)
        assert checksums.damage(place), path
        flip(path, bit)
    assert checksums.damage(place) == ""


@pytest.mark.parametrize("what", ["flipped", "missing", "checksums"])
def test_a_damaged_checkpoint_is_named(what, folder):
    place = folder / "checkpoints" / "16"
    path = max((p for p in place.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    said = f"{path.relative_to(place)} has changed"
    if what == "flipped":
        flip(path, 1000)
    elif what == "missing":
        path.unlink()
        said = said.replace("has changed", "is missing")
    else:
        (place / checksums.FILE).write_text("{")
        said = "checksums.json cannot be read"
    line = (
        rf"^checkpoint 16 of .*run is damaged \({said}\); "
        "--checkpoint=previous sets it aside and resumes from step 8$"
    )
    with pytest.raises(SettingError, match=line):
        train.run(two_epochs(), folder, console=quiet())
    with pytest.raises(
        SettingError,
        match=rf"^workdir=.*: checkpoint 16 is damaged \({said}\); other checkpoints: \[8\]",
    ):
        CheckpointReader(folder, setting="workdir")
    assert CheckpointReader(folder, 8).step == 8


def test_previous_goes_on_from_the_checkpoint_before(finished, folder):
    place = folder / "checkpoints" / "16"
    flip(max((p for p in place.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size), 12345)
    console = quiet()
    train.run(two_epochs(), folder, console=console, checkpoint="previous")
    said = f"checkpoint 16 was set aside in {folder}/damaged/16; resuming from step 8"
    assert said in " ".join(console.file.getvalue().split())
    assert checksums.damage(folder / "damaged" / "16")
    assert_same_run(folder, finished, last=16)
    assert "is intact; nothing was set aside" in checkpoint_files.set_aside(folder)


def test_previous_needs_an_earlier_checkpoint(folder):
    shutil.rmtree(folder / "checkpoints" / "8")
    (folder / "checkpoints" / "16" / checksums.FILE).write_text("[]")
    with pytest.raises(
        SettingError, match="has no checkpoint before 16; choose another folder with --workdir"
    ):
        checkpoint_files.set_aside(folder)
    shutil.rmtree(folder / "checkpoints" / "16")
    with pytest.raises(SettingError, match="has no checkpoint yet; omit this flag"):
        checkpoint_files.set_aside(folder)


def test_checkpoints_of_earlier_versions_are_read_with_a_note(folder, capsys):
    (folder / "checkpoints" / "16" / checksums.FILE).unlink()
    CheckpointReader(folder)
    assert "checkpoints/16 has no checksums" in capsys.readouterr().err
    CheckpointReader(folder, 8)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({}, "its arrays differ"),
        (ValueError('Error opening "zarr" driver\nand more'), "Error opening"),
    ],
)
def test_a_first_checkpoint_that_is_not_found_again_ends_the_run(
    found, said, tmp_path, monkeypatch
):
    def read_back(folder):
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(sealing, "read_back", read_back)
    line = (
        rf"^checkpoint 8 was written but cannot be read back \({said}.*\); "
        "choose another folder than .*run with "
    )
    with pytest.raises(StorageError, match=line):
        train.run(two_epochs(), tmp_path / "run", console=quiet())
