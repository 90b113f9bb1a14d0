"""What every method must keep to, on one device and on two (test_bank_scale: on three)."""

import collections
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import methods

from ssl_jax import train
from ssl_jax.data.augment import draw_views
from ssl_jax.data.rng import LOSS, VIEWS, epoch_order, key_for
from ssl_jax.inference.embed import embed
from ssl_jax.interface import Batch
from ssl_jax.ops.mesh import make_mesh
from ssl_jax.ops.neighbours import contextual_features
from ssl_jax.ops.vectors import dot
from ssl_jax.runtime.sharding import put, replicated, state_shardings
from ssl_jax.training.refresh import refresh

NAMES = methods.names()
METHODS = methods.methods()  # `features` differ by method alone

stage_of = functools.cache(methods.stage)  # one object, so that tests share what was traced


@functools.cache
def fresh(name):
    """The first state of a method on one device, as host arrays."""
    make = jax.jit(lambda key: methods.fresh_state(stage_of(name), key))
    return jax.device_get(make(jax.random.key(7)))


class Bench:
    """One method on so many devices: state, jitted step, and a count of traces."""

    def __init__(self, name, devices, monkeypatch=None):
        self.stage = stage_of(name)
        self.mesh = make_mesh(jax.devices()[:devices])
        self.key = jax.random.key(7)
        self.traces = collections.Counter()
        original = train.draw_views

        def counted(*args):
            self.traces["step"] += 1
            return original(*args)

        if monkeypatch:
            monkeypatch.setattr(train, "draw_views", counted)

        def make(key):
            return methods.fresh_state(self.stage, key)

        with jax.set_mesh(self.mesh):
            self.shapes = jax.eval_shape(make, self.key)
            self.shardings = state_shardings(self.mesh, self.shapes)
            self.step_fn = train.jit_step(self.mesh, self.shardings)
            if devices == 1:
                self.state = jax.device_put(fresh(name), self.shardings)
            else:
                self.state = jax.jit(make, out_shardings=self.shardings)(self.key)
            self.images = jax.device_put(methods.IMAGES, replicated(self.mesh))
            self.labels = jax.device_put(methods.labels_for(self.stage), replicated(self.mesh))

    def rows(self, step):
        """The batch of a step."""
        order = epoch_order(
            self.key, step // methods.STEPS_PER_EPOCH, len(methods.IMAGES), methods.BATCH
        )
        return np.asarray(order[step % methods.STEPS_PER_EPOCH])

    @functools.cached_property
    def margin(self):
        """(state, rows, step) -> the smallest margin that decides on a neighbour in the step."""
        return jax.jit(functools.partial(_margin, self.stage, self.key))

    def run(self, steps, first=0):
        """Losses of so many steps, with refreshes; each step is waited for."""
        losses = []
        with jax.set_mesh(self.mesh):
            for step in range(first, first + steps):
                self.state, _ = refresh(
                    self.stage, self.state, self.images, self.shardings, step, self.key
                )
                index = put(self.rows(step), replicated(self.mesh))
                self.state, metrics = self.step_fn(
                    self.stage, self.state, self.images, index, self.key, self.labels
                )
                losses.append(float(metrics["loss"]))
                self.metrics = {name: float(value) for name, value in metrics.items()}
        return losses


def own(x):
    """`x` without a bank's padding, which depends on the devices."""
    return np.asarray(x)[tuple(slice(methods.EXAMPLES) for _ in x.shape)]


def follow(one, all_, steps=10):
    """Step by step from one state: contextual neighbours differ only where they nearly tie."""
    flips = 0
    for step in range(steps):
        before = jax.device_get(one.state)
        all_.state = jax.device_put(before, all_.shardings)
        (expected,) = one.run(1, first=step)
        (found,) = all_.run(1, first=step)
        if abs(found - expected) > 1e-5 * max(abs(expected), 1.0):
            assert nearly_tied(one, before, step) < 1e-5
            flips += 1
            all_.state = jax.device_put(jax.device_get(one.state), all_.shardings)
    assert flips < steps / 2


def nearly_tied(bench, state, step):
    """The smallest margin that decided on a neighbour in the step."""
    state, _ = refresh(bench.stage, state, methods.IMAGES, None, step, bench.key)
    return float(bench.margin(state, bench.rows(step), step))


def _margin(stage, key, state, index, step):
    margins = []
    positives = stage.method.positives

    class Recorder:
        metrics = positives.metrics

        def select(self, pos_state, keys, index, step):
            plain = dot(keys, keys)
            context = contextual_features(keys, k1=positives.k1, k2=positives.k2)
            for similarity, k in (
                (plain, positives.k1),
                (plain, positives.k2),
                (dot(context, context), positives.k),
            ):
                top = jax.lax.top_k(similarity, k + 1)[0]
                margins.append(jnp.min(top[:, k - 1] - top[:, k]))
            return positives.select(pos_state, keys, index, step)

    method = dataclasses.replace(stage.method, positives=Recorder())
    pixels = jnp.asarray(methods.IMAGES)[index]
    views = draw_views(key_for(key, VIEWS, step), pixels, stage.views, stage.mean, stage.std)
    method.loss(state, Batch(views, index), key_for(key, LOSS, step))
    return jnp.stack(margins).min()


def _combinations_are_slow(names):
    """Names of methods alone, and of combinations, such as "byol with context", as slow tests."""
    return [pytest.param(x, marks=pytest.mark.slow) if " " in x else x for x in names]


@pytest.mark.parametrize("name", _combinations_are_slow(NAMES))
def test_all_devices_train_like_one_and_in_one_trace(name, monkeypatch):
    devices = jax.device_count()
    one = Bench(name, 1, monkeypatch)
    all_ = Bench(name, devices)
    for expected, found in zip(jax.tree.leaves(one.state), jax.tree.leaves(all_.state)):
        np.testing.assert_array_equal(own(found), own(expected))
    if name.endswith("with context"):
        follow(one, all_)
    else:
        np.testing.assert_allclose(all_.run(1), one.run(1), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(all_.run(9, first=1), one.run(9, first=1), rtol=1e-4, atol=1e-4)
    pairs = zip(jax.tree_util.tree_leaves_with_path(one.state), jax.tree.leaves(all_.state))
    for (path, expected), found in pairs:
        # Ten steps let rounding grow; momenta are the first to show it.
        np.testing.assert_allclose(
            own(found), own(expected), rtol=1e-4, atol=2e-4, err_msg=jax.tree_util.keystr(path)
        )
        if "bank" in jax.tree_util.keystr(path):
            assert found.addressable_shards[0].data.shape[0] == found.shape[0] // devices
    assert one.traces["step"] == 2  # one for each number of devices
    after = jax.eval_shape(lambda s: s, one.state)
    assert jax.tree.structure(after) == jax.tree.structure(one.shapes)
    assert jax.tree.leaves(after) == jax.tree.leaves(one.shapes)
    assert int(one.state.step) == 10
    assert isinstance(
        one.stage.method.diagnose(one.metrics), str | None
    )  # of the metrics that it logs itself


@pytest.mark.parametrize("name", NAMES)
def test_no_gradient_into_targets_banks_or_queues(name, key):
    stage = stage_of(name)
    state = jax.tree.map(jnp.asarray, fresh(name))
    rng = np.random.default_rng(1)

    # A queue that is full and a target that has moved: whatever the state holds, it is a constant.
    def moved(x):
        return (
            x + 0.1 * rng.normal(size=x.shape)
            if x.dtype == np.float32
            else rng.integers(0, 2, x.shape)
        )

    def noise(x):
        return jnp.asarray(moved(x), x.dtype)

    state = state.replace(method=jax.tree.map(noise, state.method))
    views = tuple(
        jnp.asarray(rng.normal(size=(8, v.size, v.size, 3)), jnp.float32)
        for v in stage.views
        for _ in range(v.count)
    )

    def loss(params, method):
        batch = methods.batch_for(stage, views, jnp.arange(8))
        return stage.method.loss(state.replace(params=params, method=method), batch, key)[0]

    of_params, of_method = jax.jit(jax.grad(loss, argnums=(0, 1), allow_int=True))(
        state.params, state.method
    )
    assert any(np.any(g) for g in jax.tree.leaves(of_params))
    assert not any(np.any(g) for g in jax.tree.leaves(of_method) if g.dtype == np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_step_lowers_for_accelerators(name):
    stage = stage_of(name)
    mesh = make_mesh()
    with jax.set_mesh(mesh):
        shapes = jax.eval_shape(lambda key: methods.fresh_state(stage, key), jax.random.key(0))
        shardings = state_shardings(mesh, shapes)

        def place(x, s):
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)

        state = jax.tree.map(place, shapes, shardings)
        images = jax.ShapeDtypeStruct(methods.IMAGES.shape, jnp.uint8, sharding=replicated(mesh))
        index = jax.ShapeDtypeStruct((methods.BATCH,), jnp.int32, sharding=replicated(mesh))
        traced = train.jit_step(mesh, shardings).trace(
            stage, state, images, index, jax.random.key(0), methods.labels_for(stage)
        )
        text = traced.lower(lowering_platforms=("cuda", "tpu")).as_text()
    assert "stablehlo" in text
    assert "num_partitions = 2" in text


@pytest.mark.parametrize("name", METHODS)
def test_embed_is_in_data_set_order_whatever_the_chunk(name):
    stage = stage_of(name)
    state = fresh(name)
    settings = dict(names=("embedding", "backbone"), size=8, mean=stage.mean, std=stage.std)
    images = jnp.asarray(methods.IMAGES)
    whole, parts = (embed(stage.method, state, images, chunk=c, **settings) for c in (70, 16))
    backwards = embed(stage.method, state, images[::-1], chunk=16, **settings)
    for name in settings["names"]:
        assert whole[name].shape[0] == len(images)
        np.testing.assert_allclose(whole[name], parts[name], atol=1e-5)
        np.testing.assert_allclose(whole[name], backwards[name][::-1], atol=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(whole["embedding"], axis=1), 1.0, atol=1e-5)
