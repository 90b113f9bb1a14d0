"""BYOL, SimSiam and MoCo v2: whole models against published numbers, schedules, targets."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import methods

from ssl_jax import train
from ssl_jax.interface import Batch, TrainState
from ssl_jax.methods.byol import BYOL, BYOLState
from ssl_jax.methods.common import target_network
from ssl_jax.methods.moco import MoCo
from ssl_jax.methods.simsiam import SimSiam
from ssl_jax.models.layers import BatchNorm, Head
from ssl_jax.models.network import Network
from ssl_jax.optim.schedules import line_cosine


class Flat(nn.Module):
    """No backbone: an "image" [1, 1, C] is its own feature."""

    @nn.compact
    def __call__(self, x, *, train):
        return {"backbone": x.reshape(len(x), -1)}


def image(x):
    return jnp.asarray(x)[:, None, None, :]


def torch_head(data, prefix, places):
    """A `Head`'s parameters and statistics from torch's; `places` maps our names to its numbers."""
    params = {}
    stats = {}
    for name, number in places.items():

        def get(part, number=number):
            return data.get(f"{prefix}{number}.{part}")

        if name.startswith("linear"):
            own = {"kernel": get("weight").T} | (
                {} if get("bias") is None else {"bias": get("bias")}
            )
            params[name] = {"linear": own}
        else:
            if get("weight") is not None:
                params[name] = {"scale": get("weight"), "bias": get("bias")}
            stats[name] = {"mean": get("running_mean"), "var": get("running_var")}
    return jax.tree.map(jnp.asarray, (params, stats))


HEAD = {"linear1": 0, "bn1": 1, "linear2": 3}


def test_published_byol_step(golden):
    data = {k.removeprefix("head_"): v for k, v in golden("byol_loss").items()}
    online, online_stats = torch_head(data, "projector_q.", HEAD)
    target, target_stats = torch_head(data, "projector_k.", HEAD)
    predictor, predictor_stats = torch_head(data, "predictor.", HEAD)
    momentum = float(data["ema_m"])
    settings = dict(momentum=momentum, momentum_schedule="constant", moves="before")
    method = BYOL(Network(Flat(), Head(12, (24,))), predictor=(24,), **settings)
    state = TrainState(
        step=jnp.int32(0),
        params={"network": {"head": online}, "predictor": predictor},
        batch_stats={"network": {"head": online_stats}, "predictor": predictor_stats},
        opt_state=(),
        method=BYOLState(target_network.TargetNetwork({"head": target}, {"head": target_stats})),
        positives=(),
    )
    batch = Batch((image(data["h1"]), image(data["h2"])), jnp.arange(32))

    def loss(params):
        return method.loss(state.replace(params=params), batch, jax.random.key(0))

    (value, aux), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
    np.testing.assert_allclose(value, data["loss"], rtol=2e-6)
    for ours, prefix in (
        (gradients["network"]["head"], "projector_q"),
        (gradients["predictor"], "predictor"),
    ):
        for name, number in HEAD.items():
            own = ours[name]["linear"] if name.startswith("linear") else ours[name]
            weight = own["kernel"].T if "kernel" in own else own["scale"]
            np.testing.assert_allclose(weight, data[f"grad_{prefix}.{number}.weight"], atol=5e-7)
            np.testing.assert_allclose(own["bias"], data[f"grad_{prefix}.{number}.bias"], atol=5e-7)
    after = method.post_step(
        state.replace(batch_stats=aux.batch_stats, step=jnp.int32(1)), aux, batch
    )
    moved, moved_stats = torch_head(data, "after_projector_k.", HEAD)

    def close(a, b):
        return jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=5e-7), a, b)

    close(after.method.target.params["head"], moved)
    close(after.method.target.batch_stats["head"], moved_stats)
    close(
        after.batch_stats["network"]["head"]["bn1"]["mean"],
        data["after_projector_q.1.running_mean"],
    )
    close(
        after.batch_stats["network"]["head"]["bn1"]["var"], data["after_projector_q.1.running_var"]
    )
    close(after.batch_stats["predictor"]["bn1"]["mean"], data["after_predictor.1.running_mean"])


def test_published_simsiam_model(golden):
    data = {k.removeprefix("fb_"): v for k, v in golden("simsiam_loss").items()}
    places = {"linear1": 0, "bn1": 1, "linear2": 3, "bn2": 4, "linear3": 6, "bn3": 7}
    params, stats = torch_head(data, "before_encoder.fc.", places)
    # BatchNorm cancels it, except in the running mean.
    frozen = params["linear3"]["linear"].pop("bias")
    predictor, predictor_stats = torch_head(data, "before_predictor.", HEAD)
    head = Head(24, (16, 16), bias=False, output_norm="plain", output_bias=False)
    method = SimSiam(Network(Flat(), head), predictor=(6,))
    state = TrainState(
        step=jnp.int32(0),
        params={"network": {"head": params}, "predictor": predictor},
        batch_stats={"network": {"head": stats}, "predictor": predictor_stats},
        opt_state=(),
        method=(),
        positives=(),
    )
    batch = Batch((image(data["x1"]), image(data["x2"])), jnp.arange(32))

    def loss(p):
        return method.loss(state.replace(params=p), batch, jax.random.key(0))

    (value, aux), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
    np.testing.assert_allclose(value, data["loss"], rtol=2e-6)
    for name, number in places.items():
        own = gradients["network"]["head"].get(name, {})
        own = own.get("linear", own)
        if own:
            weight = own["kernel"].T if "kernel" in own else own["scale"]
            np.testing.assert_allclose(weight, data[f"grad_encoder.fc.{number}.weight"], atol=5e-7)
    np.testing.assert_allclose(
        gradients["predictor"]["linear2"]["linear"]["kernel"].T,
        data["grad_predictor.3.weight"],
        atol=5e-7,
    )
    found = aux.batch_stats["network"]["head"]
    for name, number in (("bn1", 1), ("bn2", 4), ("bn3", 7)):
        shift = (1 - 0.9**2) * frozen if name == "bn3" else 0.0
        np.testing.assert_allclose(
            found[name]["mean"] + shift, data[f"after_encoder.fc.{number}.running_mean"], atol=1e-6
        )
        np.testing.assert_allclose(
            found[name]["var"], data[f"after_encoder.fc.{number}.running_var"], atol=1e-6
        )


def test_published_momentum_and_rates(golden):
    data = golden("ema_schedule")
    total = 1000 * int(data["iter_per_epoch"])
    found = [target_network.momentum_at(int(n), total, 0.996) for n in data["n_iter"]]
    np.testing.assert_allclose(found, data["ema_momentum"], atol=1e-6)
    rate = line_cosine(0.1, total, warmup_steps=50 * 117, cosine_steps=total)
    np.testing.assert_allclose(
        [rate(int(n) - 1) for n in data["n_iter"]], data["propos_lr"], rtol=2e-5
    )
    np.testing.assert_allclose(
        [0.1 * rate(int(n) - 1) for n in data["n_iter"]], data["conr_lr"], rtol=2e-5
    )
    assert target_network.momentum_at(5, total, 0.9, "constant") == np.float32(0.9)
    # DeepMind's steps count from 0, and its rate is the one of the step before.
    steps = data["deepmind_step"]
    base = data["deepmind_tau"][steps == 0][0]
    found = [target_network.momentum_at(int(n), total, float(base)) for n in steps]
    np.testing.assert_allclose(found, data["deepmind_tau"], atol=1e-6)
    rate = line_cosine(0.1, total, warmup_steps=50 * 117)
    later = steps > 0
    found = [rate(int(n) - 1) for n in steps[later]]
    np.testing.assert_allclose(found, data["deepmind_lr"][later], rtol=1e-4, atol=1e-7)


def test_published_moving_average(golden):
    data = golden("moco_loss")
    for i in (0, 1):
        found = target_network.follow(data[f"ema_k{i}"], data[f"ema_q{i}"], float(data["ema_m"]))
        np.testing.assert_allclose(found, data[f"ema_k{i}_after"], rtol=1e-6)


@pytest.mark.parametrize("groups", [1, 2])
def test_interleaved_batches_are_batches_one_after_the_other(groups, key):
    norm = BatchNorm(groups=groups)
    parts = jax.random.normal(key, (3, 8, 2, 2, 5)) + jnp.arange(3.0).reshape(3, 1, 1, 1, 1)
    variables = norm.init(key, parts[0], train=False)
    params = variables["params"]
    stats = variables["batch_stats"]
    outputs = []
    for part in parts:
        y, updated = norm.apply(
            {"params": params, "batch_stats": stats}, part, train=True, mutable="batch_stats"
        )
        outputs.append(y)
        stats = updated["batch_stats"]
    rows = parts.swapaxes(0, 1).reshape(24, 2, 2, 5)
    together, updated = norm.apply(variables, rows, train=3, mutable="batch_stats")
    np.testing.assert_allclose(
        together.reshape(8, 3, 2, 2, 5).swapaxes(0, 1), jnp.stack(outputs), atol=1e-5
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), updated["batch_stats"], stats
    )


def stepped(name, key, steps=3, **changes):
    """States of a stage's first steps; [0] is the fresh one."""
    stage = methods.stage(name)
    stage = dataclasses.replace(stage, method=dataclasses.replace(stage.method, **changes))
    step = jax.jit(train.train_step, static_argnums=0)
    states = [methods.fresh_state(stage, key)]
    for i in range(steps):
        index = jnp.arange(8 * i, 8 * i + 8)
        states.append(step(stage, states[-1], jnp.asarray(methods.IMAGES), index, key)[0])
    return states


@pytest.mark.parametrize("update", ["after", "before"])
def test_the_target_follows_the_parameters_after_or_before_the_step(update, key):
    first, second = stepped(
        "byol", key, 1, moves=update, momentum=0.5, momentum_schedule="constant"
    )
    online = (second if update == "after" else first).params["network"]
    expected = jax.tree.map(lambda t, o: 0.5 * t + 0.5 * o, first.method.target.params, online)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        second.method.target.params,
        expected,
    )


def test_a_fresh_target_is_another_network(key):
    for fresh in (False, True):
        state = stepped("byol", key, 0, fresh_target=fresh)[0]
        pairs = zip(
            jax.tree.leaves(state.params["network"]), jax.tree.leaves(state.method.target.params)
        )
        assert all(np.array_equal(a, b) for a, b in pairs) != fresh


def test_the_queue_holds_the_newest_keys(key):
    states = stepped("moco", key, 3)
    queues = [np.asarray(s.method.queue) for s in states]
    np.testing.assert_array_equal(queues[1][8:], queues[0][:8])
    np.testing.assert_array_equal(queues[2][8:], queues[1][:8])
    np.testing.assert_allclose(np.linalg.norm(queues[3], axis=1), 1.0, atol=1e-5)
    assert not np.array_equal(queues[3][:8], queues[2][:8])


def test_symmetric_moco_is_both_directions_with_both_views_keys(key):
    method = dataclasses.replace(methods.stage("moco").method, shuffle=False)
    state = methods.fresh_state(methods.stage("moco"), key)
    views = tuple(jax.random.normal(k, (8, 8, 8, 3)) for k in jax.random.split(key))

    def loss(method, views):
        return method.loss(state, Batch(views, jnp.arange(8)), key)

    (there, first) = loss(method, views)
    (back, second) = loss(method, views[::-1])
    both, aux = loss(dataclasses.replace(method, symmetric=True), views)
    np.testing.assert_allclose(both, there + back, rtol=1e-5)
    # The keys of the first view are those of the direction back.
    entering = np.concatenate([second.carry[1], first.carry[1]])
    np.testing.assert_allclose(aux.carry[1], entering, atol=1e-5)


def test_joint_views_are_one_batch(key):
    network = methods.network()
    views = tuple(i + jax.random.normal(jax.random.fold_in(key, i), (8, 8, 8, 3)) for i in range(2))
    variables = network.init(key, views, train=False)
    own = (network, variables["params"], variables["batch_stats"])
    joint, stats = target_network.project(*own, views, joint=True)
    whole, _ = target_network.project(*own, (jnp.concatenate(views),))
    np.testing.assert_allclose(joint.reshape(16, -1), whole[0], atol=1e-5)
    assert np.abs(target_network.project(*own, views)[0] - joint).max() > 1e-2
    p, _ = target_network.predict(Head(6, (10,)), *_predictor(key), joint, joint=True)
    rows = joint.swapaxes(0, 1).reshape(16, 6)
    expected, _ = target_network.predict(Head(6, (10,)), *_predictor(key), rows[None])
    np.testing.assert_allclose(p.swapaxes(0, 1).reshape(16, 6), expected[0], atol=1e-5)


def _predictor(key):
    variables = Head(6, (10,)).init(key, jnp.zeros((1, 6)), train=False)
    return variables["params"], variables["batch_stats"]


def test_shuffled_batches_have_other_groups_and_the_same_rows(key):
    network = methods.network(groups=2)
    view = jax.random.normal(key, (8, 8, 8, 3))
    variables = network.init(key, (view,), train=False)

    def run(net, **kw):
        return target_network.project(
            net, variables["params"], variables["batch_stats"], (view,), **kw
        )[0]

    assert np.abs(run(network) - run(network, shuffle=key)).max() > 1e-3
    whole = methods.network()
    np.testing.assert_allclose(run(whole, shuffle=key), run(whole), atol=1e-5)


def test_embedding_is_the_targets_and_the_rest_the_online_networks(key):
    state = stepped("byol", key, 2, momentum=0.0, momentum_schedule="constant")[-1]
    method = methods.stage("byol").method
    images = jax.random.normal(key, (4, 8, 8, 3))
    found = method.features(state, images, ("backbone", "embedding"))

    def variables(p, s):
        return {"params": p, "batch_stats": s}

    online = method.network.apply(
        variables(state.params["network"], state.batch_stats["network"]),
        images,
        method=Network.features,
    )
    target = state.method.target
    theirs = method.network.apply(
        variables(target.params, target.batch_stats), images, method=Network.features
    )
    np.testing.assert_array_equal(found["backbone"], online["backbone"])
    np.testing.assert_array_equal(found["embedding"], theirs["embedding"])
    assert method.features(state, images, ("embedding",)).keys() == {"embedding"}
    np.testing.assert_allclose(jnp.linalg.norm(found["embedding"], axis=1), 1.0, atol=1e-5)


BAD = (
    (BYOL, dict(momentum=1.5), "momentum=1.5: between 0 and 1"),
    (BYOL, dict(moves="later"), "moves='later': choose after or before"),
    (BYOL, dict(momentum_schedule="line"), "momentum_schedule='line': choose cosine or constant"),
    (MoCo, dict(queue_length=12), "queue_length=12: a multiple of the 8 keys of a step"),
    (
        MoCo,
        dict(queue_length=24, symmetric=True),
        "queue_length=24: a multiple of the 16 keys of a step",
    ),
    (MoCo, dict(queue_length=16, temperature=0.0), "temperature=0.0: above 0"),
    (MoCo, dict(queue_length=16, denominator="all"), "denominator='all': choose each or own"),
    (SimSiam, dict(predictor=(0,)), "at least 1"),
)


@pytest.mark.parametrize(("cls", "settings", "message"), BAD)
def test_settings_that_cannot_be(cls, settings, message):
    with pytest.raises(ValueError, match=message):
        cls(methods.network(), **settings).check_config(batch_size=8, epochs=4)
