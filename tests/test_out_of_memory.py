"""No memory left, on a device or the host: one line that names the settings that need less."""

import jax.numpy as jnp
import pytest
from helpers.runs import quiet, two_epochs

from ssl_jax import train
from ssl_jax.runtime import command
from ssl_jax.runtime.memory import memory_failure
from ssl_jax.training.loop import Loop

SAID = (
    r"^out of memory \(Out of memory allocating 40000000000000 bytes\); "
    r"lower batch_size \(32\), set model.dtype=bfloat16 \(float32\) or model.remat=True \(False\), "
    r"each in a new folder; or lower resident_gb \(.*\), "
    r"or use more devices; the last good checkpoint is step 8 in .*run$"
)


def test_a_run_names_the_settings_that_need_less(tmp_path, monkeypatch):
    seen = Loop.log

    def filled(self, step, metrics):
        seen(self, step, metrics)
        if step == 13:
            jnp.zeros(10**13).block_until_ready()  # what XLA says is its own

    monkeypatch.setattr(Loop, "log", filled)
    with pytest.raises(train.OutOfMemory, match=SAID) as caught:
        train.run(two_epochs(), tmp_path / "run", console=quiet())
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 12884901888 bytes.",
            "12884901888 bytes",
        ),
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory "
            "space hbm. Used 20.1G of 15.5G hbm.\nTotal hbm usage >= 20.6G:\n    reserved 530.00M",
            "Used 20.1G of 15.5G hbm",
        ),
        ("INTERNAL: CUDA_ERROR_OUT_OF_MEMORY: out of memory", "CUDA_ERROR_OUT_OF_MEMORY"),
    ],
)
def test_what_backends_say_is_recognised(said, shown):
    found = memory_failure(RuntimeError(said))
    assert shown in found
    assert "\n" not in found
    line, code = command.explained(RuntimeError(said))
    assert code == 1
    assert "--config.resident_gb=0" in line


def test_the_host_may_have_none_either():
    assert memory_failure(MemoryError()) == "the host has none left"
    assert memory_failure(ValueError("RESOURCE_EXHAUSTED: too many requests")) == ""
    assert memory_failure(None) == ""
