"""More epochs than a finished run had: what messages name is what works."""

import json
import re

import numpy as np
import pytest
from helpers.runs import arrays, quiet, records, two_epochs

from ssl_jax import train
from ssl_jax.build import build
from ssl_jax.runs import longer
from ssl_jax.settings.resolve import SettingError


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    train.run(two_epochs(), folder, console=quiet())
    return folder


def with_epochs(epochs, **changes):
    config = two_epochs()
    config.epochs = epochs
    config.update(changes)
    return config


def named_source(message):
    """The run that --config.init_from names in a message."""
    return re.search(r"--config\.init_from=(\S+)", message)[1]


def continued(source, folder):
    """Trains three epochs as a message says; returns what was printed."""
    out = quiet()
    train.run(with_epochs(3, init_from=source), folder, console=out)
    return out.file.getvalue()


def test_the_error_names_the_way_to_more_epochs(finished, tmp_path):
    with pytest.raises(SettingError, match="was trained with epochs=2, not 3; to ") as error:
        train.run(with_epochs(3), finished, console=quiet())
    message = str(error.value)
    assert "another folder with --workdir" in message
    folder = tmp_path / "run"
    text = continued(named_source(message), folder)
    assert f"starting from {finished} at step 16 of 24" in text
    steps = [r["step"] for r in records(folder) if "train/loss" in r]
    assert steps == list(range(17, 25))
    start = json.loads((folder / "environment.json").read_text())[0]
    assert (start["first_step"], start["last_step"]) == (16, 24)
    before = arrays(finished, 16)
    after = arrays(folder, 24)
    weights = next(name for name in before if "kernel" in name and "params" in name)
    change = np.abs(after[weights] - before[weights]).max()
    assert 0 < change < 0.5 * np.abs(before[weights]).max()  # trained on, not from scratch


def test_fewer_epochs_are_refused_without_that_way(finished):
    with pytest.raises(SettingError, match="epochs=2, not 1; choose another folder") as error:
        train.run(with_epochs(1), finished, console=quiet())
    assert "init_from" not in str(error.value)


def test_a_default_folder_names_the_finished_run_beside_it(finished):
    folder = finished.with_name("tiny-1a2b3c4d")
    out = quiet()
    train.run(with_epochs(3), folder, console=out, hashed=True)
    text = " ".join(out.file.getvalue().split())
    assert (
        f"{finished} is a finished run of 2 epochs with the same settings otherwise; this run "
        "starts from scratch; to continue that one instead, add "
        f"--config.init_from={finished}" in text
    )
    assert [r["step"] for r in records(folder) if "train/loss" in r][0] == 1
    source = named_source(text)
    text = continued(source, finished.with_name("tiny-5e6f7a8b"))
    assert f"starting from {finished} at step 16 of 24" in text


def test_only_a_run_that_differs_in_its_length_is_named(finished):
    folder = finished.with_name("tiny-00000000")

    def note(config, changed_images=""):
        plan = build(config)
        return longer.note(folder, plan.record, plan.dataset.fingerprint() + changed_images)

    assert note(with_epochs(30))
    assert note(with_epochs(30, eval_epochs=7))  # which only observes
    assert note(with_epochs(30, seed=1)) == ""
    assert note(with_epochs(30, init_from=str(finished))) == ""
    assert note(with_epochs(1)) == ""
    assert note(with_epochs(30), changed_images="x") == ""


def test_a_run_of_one_epoch(finished, monkeypatch):
    monkeypatch.setattr(longer, "_epochs_of_finished", lambda *arguments: 1)
    plan = build(with_epochs(3))
    text = longer.note(finished.with_name("tiny-00000000"), plan.record, "")
    assert " is a finished run of 1 epoch with the same settings otherwise; " in text


def test_settings_in_epochs_may_follow_the_length():
    assert longer._follows(20.0, 10.0, 2.0)
    assert not longer._follows(10.0, 10.0, 2.0)
    assert not longer._follows("b", "a", 2.0)
