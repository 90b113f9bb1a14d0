"""SwAV's own rules, and seven training steps of the released code."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import methods

from ssl_jax import optim, train
from ssl_jax.build import Stage
from ssl_jax.data.augment import View
from ssl_jax.interface import Batch, RunFacts, TrainState
from ssl_jax.methods.swav import SwAV, SwAVState
from ssl_jax.models.layers import Head
from ssl_jax.models.network import Network
from ssl_jax.ops.vectors import unit


class Given(nn.Module):
    """A backbone whose features are its input."""

    def __call__(self, x, *, train):
        return {"backbone": x}


def torch_state(data, at):
    """Params and statistics of the released code's head, in our names; `at` picks the step."""

    def get(name):
        return at(data, f"projection_head.{name}")

    def linear(n):
        return {"linear": {"kernel": get(f"{n}.weight").T, "bias": get(f"{n}.bias")}}

    bn = {"scale": get("1.weight"), "bias": get("1.bias")}
    head = {"linear1": linear(0), "bn1": bn, "linear2": linear(3)}
    stats = {"head": {"bn1": {"mean": get("1.running_mean"), "var": get("1.running_var")}}}
    return {"network": {"head": head}, "prototypes": at(data, "prototypes.weight")}, stats


def test_published_training_steps(golden, monkeypatch):
    data = golden("swav_train_steps")
    rates = jnp.asarray(data["lr"], jnp.float32)
    frozen = optim.Group("^prototypes", frozen_steps=int(data["cfg__freeze_niters"]))
    settings = {k: float(data[f"cfg__{k}"]) for k in ("momentum", "trust")}

    def schedule(step):
        return rates[step]

    tx = optim.build(
        "larc", schedule, weight_decay=float(data["cfg__wd"]), groups=(frozen,), **settings
    )
    method = SwAV(
        Network(Given(), Head(8, (16,))),
        prototypes=10,
        queue_length=int(data["cfg__queue_length"]),
        queue_starts_epoch=float(data["cfg__queue_created_at_step"]),
        facts=RunFacts(examples=100, batch_size=8),
    )
    stage = Stage(7, method, tx, schedule, (View(size=1),), (0.0,), (1.0,))
    params, stats = torch_state(data, lambda d, name: jnp.asarray(d[f"init__{name}"]))
    params["prototypes"] = unit(params["prototypes"])
    state = TrainState(
        jnp.zeros((), jnp.int32),
        params,
        stats,
        tx.init(params),
        SwAVState(jnp.zeros((2, 16, 8))),
        (),
    )
    feats = jnp.asarray(data["feats"])
    monkeypatch.setattr(train, "draw_views", lambda key, images, *_: tuple(images.swapaxes(0, 1)))
    step_fn = jax.jit(train.train_step, static_argnums=0)
    for i in range(7):
        images = feats[i].swapaxes(0, 1)  # [B, V, D]
        state, metrics = step_fn(stage, state, images, jnp.arange(8), jax.random.key(0))
        np.testing.assert_allclose(metrics["loss"], data["loss"][i], rtol=1e-5)
        assert bool(metrics["queue"]) == bool(data["queue_used"][i])
        params, stats = torch_state(data, lambda d, name, i=i: d[f"after__{name}"][i])
        params["prototypes"] = unit(
            params["prototypes"]
        )  # ours are normalised at the step's end, theirs at its start

        def compare(ours, theirs):
            return np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5)

        jax.tree.map(compare, state.params, params)
        jax.tree.map(compare, state.batch_stats, stats)
    np.testing.assert_allclose(state.method.queue, data["queue_final"], rtol=1e-4, atol=2e-5)


def test_prototypes_stay_at_unit_length(key):
    stage = methods.stage("swav")
    state = methods.fresh_state(stage, key)

    def length(s):
        return np.linalg.norm(s.params["prototypes"], axis=1)

    np.testing.assert_allclose(length(state), 1.0, atol=1e-6)
    for _ in range(2):
        state, _ = jax.jit(train.train_step, static_argnums=0)(
            stage, state, methods.IMAGES, jnp.arange(8), key
        )
        np.testing.assert_allclose(length(state), 1.0, atol=1e-6)


def test_queue_fills_then_counts(key):
    stage = methods.stage("swav")  # two batches long, starts at step 2
    state = methods.fresh_state(stage, key)
    step = jax.jit(train.train_step, static_argnums=0)
    used = []
    filled = []
    for i in range(6):
        state, metrics = step(stage, state, methods.IMAGES, jnp.arange(8) + i, key)
        used.append(float(metrics["queue"]))
        filled.append(int(np.any(state.method.queue[0] != 0, axis=1).sum()))
    assert filled == [0, 0, 8, 16, 16, 16]
    assert used == [0, 0, 0, 0, 1, 1]


def test_queue_changes_the_codes_and_holds_each_views_own_rows(key):
    stage = methods.stage("swav")
    state = methods.fresh_state(stage, key)
    rng = np.random.default_rng(0)
    views = tuple(jnp.asarray(rng.normal(size=(8, s, s, 3)), jnp.float32) for s in (8, 8, 6, 6))
    batch = Batch(views, jnp.arange(8))
    empty, aux = stage.method.loss(state, batch, key)
    full = state.replace(method=SwAVState(unit(rng.normal(size=(2, 16, 6)))))
    assert abs(float(stage.method.loss(full, batch, key)[0]) - float(empty)) > 1e-5
    after = stage.method.post_step(full.replace(step=jnp.asarray(99)), aux, batch).method.queue
    np.testing.assert_array_equal(after[:, :8], aux.carry)
    assert np.abs(after[0, :8] - after[1, :8]).max() > 1e-3


def test_views_of_one_size_share_a_pass_and_the_head_sees_all(key):
    network = methods.network()
    rng = np.random.default_rng(0)
    views = tuple(jnp.asarray(rng.normal(size=(4, s, s, 3)), jnp.float32) for s in (8, 8, 6))
    variables = network.init(key, views, train=False)
    embedding, updated = network.apply(variables, views, train=True, mutable="batch_stats")
    assert embedding.shape == (3, 4, 6)
    backbone = methods.TinyBackbone()
    own = {
        "params": variables["params"]["backbone"],
        "batch_stats": variables["batch_stats"]["backbone"],
    }
    large, stats = backbone.apply(
        own, jnp.concatenate(views[:2]), train=True, mutable="batch_stats"
    )
    small, stats = backbone.apply(own | stats, views[2], train=True, mutable="batch_stats")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        updated["batch_stats"]["backbone"],
        stats["batch_stats"],
    )
    pooled = jnp.concatenate([large["backbone"], small["backbone"]])
    head = {"params": variables["params"]["head"], "batch_stats": variables["batch_stats"]["head"]}
    expected, _ = network.head.apply(head, pooled, train=True, mutable="batch_stats")
    np.testing.assert_allclose(embedding.reshape(12, 6), unit(expected), atol=1e-5)


def test_hard_codes_are_one_hot(key):
    stage = methods.stage("swav")
    hard = dataclasses.replace(stage.method, hard=True, queue_length=0)
    scores = jax.random.uniform(key, (2, 8, 12), minval=-1.0)
    codes, used = hard._codes(scores, jnp.zeros((12, 6)), None)
    assert used is None
    np.testing.assert_array_equal(
        np.sort(codes, axis=-1)[..., -2:], np.broadcast_to([0.0, 1.0], (2, 8, 2))
    )


def checked(**settings):
    """A method that has passed all of its checks."""
    facts = RunFacts(examples=70, batch_size=8)
    method = SwAV(methods.network(), **settings, facts=facts)
    method.check_config(batch_size=8, epochs=4)
    method.check(facts)
    return method


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(queue_length=12), "queue_length=12 is not a multiple of batch_size=8; try 8"),
        (dict(queue_length=3), "try 8"),
        (dict(prototypes=71), "between 2 and the 70 training images"),
        (dict(epsilon=0.0), "^epsilon=0.0: above 0 and finite"),
        (dict(assign=(0, 0)), "different view numbers"),
    ],
)
def test_refusals(settings, message):
    with pytest.raises(ValueError, match=message):
        checked(**dict(prototypes=12) | settings)


def test_no_number_of_prototypes_follows_the_classes():
    def number(examples, classes):
        method = SwAV(methods.network(), facts=RunFacts(examples=examples, classes=classes))
        assert method.prototypes == 0
        return method.clusters

    assert [number(10**6, classes) for classes in (0, 10, 40)] == [512, 128, 400]
    assert number(70, 10) == 70


def test_assignment_views_must_exist(key):
    method = SwAV(methods.network(), prototypes=12, assign=(0, 5))
    with pytest.raises(ValueError, match="does not fit the 2 views"):
        method.init(key, Batch((jnp.zeros((1, 8, 8, 3)),) * 2, jnp.zeros(1, jnp.int32)))
