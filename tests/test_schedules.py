import jax
import numpy as np
import pytest

from ssl_jax.optim.schedules import drops, warmup_cosine


@pytest.mark.parametrize("case", ["tiny_warmup", "tiny_nowarmup", "tiny_defaults_final0"])
def test_published_schedule(golden, case):
    data = {
        k.split("__")[1]: v for k, v in golden("swav_lr_schedule").items() if k.startswith(case)
    }
    schedule = warmup_cosine(
        float(data["base_lr"]),
        int(data["total"]),
        warmup_steps=int(data["warmup_epochs"] * data["iters_per_epoch"]),
        start=float(data["start_warmup"]),
        final=float(data["final_lr"]),
    )
    rates = jax.jit(jax.vmap(schedule))(np.arange(len(data["lr"])))
    np.testing.assert_allclose(rates, data["lr"], rtol=1e-6)


def test_long_schedule_keeps_its_precision_to_the_last_step():
    steps = 31_200
    rates = jax.jit(jax.vmap(warmup_cosine(4.8, steps, warmup_steps=3120, start=0.3)))(
        np.arange(steps)
    )
    after = np.arange(steps - 3120) / (steps - 3120)
    expected = np.concatenate([np.linspace(0.3, 4.8, 3120), 2.4 * (1 + np.cos(np.pi * after))])
    np.testing.assert_allclose(rates, expected, rtol=2e-6)
    np.testing.assert_allclose(rates[3119:3121], 4.8, rtol=2e-7)


def test_drops():
    schedule = drops(0.03, 200, at_steps=(120, 160))
    np.testing.assert_allclose(
        [schedule(s) for s in (0, 119, 120, 160, 199)],
        [0.03, 0.03, 0.003, 0.0003, 0.0003],
        rtol=1e-6,
    )
