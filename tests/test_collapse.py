"""Signs of collapse, and the watch that reads them."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import methods
from helpers.runs import tiny
from rich.console import Console

from ssl_jax import train
from ssl_jax.ops.collapse import code_entropy, evenness, spread, usage
from ssl_jax.ops.vectors import unit
from ssl_jax.runs.metrics import read_records
from ssl_jax.training.collapse_monitor import CollapseMonitor


def test_spread_of_even_collapsed_and_flat_features(key):
    even = unit(jax.random.normal(key, (5000, 32)))
    assert float(spread(even)) == pytest.approx(1.0, abs=0.02)
    assert float(spread(jnp.broadcast_to(even[:1], even.shape))) < 1e-3
    flat = unit(even.at[:, 4:].set(0.0))  # four directions of thirty-two
    assert float(spread(flat)) == pytest.approx(4 / 32 * (32 / 4) ** 0.5, abs=0.02)
    assert float(spread(even.reshape(2, 2500, 32))) == pytest.approx(float(spread(even)), abs=1e-5)
    near = unit(even[:1] + 0.004 * jax.random.normal(key, (5000, 32)))
    assert float(spread(near)) < 0.1


def test_code_entropy_and_usage():
    codes = jax.nn.one_hot(jnp.asarray([0, 1, 1, 3]), 8)
    assert float(code_entropy(codes)) == 0.0
    assert float(usage(codes)) == 3 / 4  # three of the four that four rows can prefer
    assert float(usage(jnp.concatenate([codes] * 4))) == 3 / 8
    assert float(code_entropy(jnp.full((4, 8), 1 / 8))) == pytest.approx(1.0)
    half = jnp.zeros((2, 8)).at[:, :2].set(0.5)
    assert float(code_entropy(half)) == pytest.approx(np.log(2) / np.log(8))


class Method:
    def diagnose(self, metrics):
        return "bad" if metrics["x"] > 1 else None


def said(values, steps_per_epoch, every=10):
    watch = CollapseMonitor(steps_per_epoch)
    return {
        every * (i + 1): s
        for i, v in enumerate(values)
        if (s := watch.add(every * (i + 1), {"x": v}, Method()))
    }


def test_watch_speaks_after_two_windows_and_once():
    assert said([2.0] * 60, 50) == {200: "warning: bad"}  # short epochs: windows of 100 steps
    assert said([2.0] * 60, 250) == {500: "warning: bad"}
    assert said([2.0] * 10 + [0.0] * 10 + [2.0] * 10, 50) == {}
    assert said([0.0] * 60, 50) == {}
    found = said([2.0] * 25 + [0.0] * 20, 50)
    assert found[200] == "warning: bad"
    assert "recovered" in found[300]


def test_watch_takes_odd_logging():
    assert said([2.0] * 60, 50, every=7) == {105 + 98: "warning: bad"}


def healthy(name):
    stage = methods.stage(name)
    state = methods.fresh_state(stage, jax.random.key(0))
    step = jax.jit(train.train_step, static_argnums=0)
    _, metrics = step(stage, state, jnp.asarray(methods.IMAGES), jnp.arange(8), jax.random.key(1))
    return stage.method, {k: float(v) for k, v in metrics.items()}


def test_swav_tells_its_two_collapses_apart():
    method, metrics = healthy("swav")
    assert 0 < metrics["code_entropy"] < 1
    assert 0 < metrics["prototypes_used"] <= 1
    assert metrics["loss_over_ln_k"] == pytest.approx(metrics["loss"] / np.log(12), rel=1e-5)
    well = metrics | {"loss_over_ln_k": 0.8, "spread": 0.7}
    assert method.diagnose(well) is None
    text = method.diagnose(well | {"loss_over_ln_k": 0.999})
    assert text.startswith("the loss sits at ln K = 2.485")
    for remedy in (
        "epsilon=0.03",
        "frozen_epochs",
        "learning_rate",
        "augment",
        "hard=True",
        "batch_norm",
        "queue",
    ):
        assert remedy in text
    assert "\n" not in text
    assert method.diagnose(well | {"spread": 0.01}).startswith(
        "the embeddings have collapsed (spread 0.010"
    )


def test_instance_discrimination_tells_of_collapse():
    method, metrics = healthy("instance")
    assert method.diagnose(metrics | {"spread": 0.5}) is None
    assert "collapsed" in method.diagnose(metrics | {"spread": 0.05})


@pytest.mark.parametrize("name", ["byol with context", "simsiam with context", "moco with context"])
def test_methods_with_targets_tell_of_one_point_and_of_few_clusters(name):
    method, metrics = healthy(name)
    assert 0 < metrics["spread"] <= 1.1
    assert metrics["clusters_used"] == 1.0  # before the first clustering
    well = metrics | {"spread": 0.7}
    assert method.diagnose(well) is None
    assert method.diagnose(well | {"spread": 0.02}).startswith(
        "the embeddings have collapsed (spread 0.020"
    )
    few = method.diagnose(well | {"clusters_used": 0.3})
    assert few.startswith("the embeddings fall into 30% of the clusters")
    assert "\n" not in few


def test_evenness_counts_clusters_in_use():
    np.testing.assert_allclose(evenness(jnp.array([5, 5, 5, 5])), 1.0, rtol=1e-6)
    np.testing.assert_allclose(evenness(jnp.array([7, 7, 0, 0])), 0.5, rtol=1e-6)
    assert evenness(jnp.array([997, 1, 1, 1])) < 0.3  # refilled by k-means with a row each
    assert evenness(jnp.array([0, 0])) == 0.5  # no rows: no NaN


def test_a_collapsed_run_says_so_and_what_to_try(tmp_path):
    config = tiny()
    config.epochs = 26
    config.checkpoint_epochs = 26
    config.evals = {}
    config.stages = {}
    config.method.epsilon = 50.0  # makes the codes uniform
    text = io.StringIO()
    train.run(config, tmp_path, console=Console(file=text, width=200))
    notes = [r for r in read_records(tmp_path) if "note" in r]
    assert [r["step"] for r in notes] == [200]
    assert notes[0]["note"].startswith("warning: the loss sits at ln K = 2.773")
    assert text.getvalue().count(notes[0]["note"]) == 2  # when detected, and at the end
    again = io.StringIO()
    train.run(config, tmp_path, console=Console(file=again, width=200))
    assert notes[0]["note"] in again.getvalue()
    assert "is finished" in again.getvalue()
