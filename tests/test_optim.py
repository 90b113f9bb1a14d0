import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.runs import tiny

from ssl_jax import optim
from ssl_jax.build import build
from ssl_jax.settings import defaults
from ssl_jax.settings.resolve import SettingError

LARS_PARAMS = ("weight", "bias", "bn_scale", "bn_bias_zero", "zero_grad")


@pytest.mark.parametrize("tag", ["swav", "nomom"])
def test_published_larc(golden, tag):
    data = golden("lars")
    rates = jnp.asarray(data["lr"], jnp.float32)
    tx = optim.larc(
        lambda step: rates[step],
        momentum=float(data[f"{tag}__cfg_mom"]),
        weight_decay=float(data[f"{tag}__cfg_wd"]),
        trust=float(data[f"{tag}__cfg_tc"]),
        clip=bool(data[f"{tag}__cfg_clip"]),
    )
    params = {p: jnp.asarray(data[f"init__{p}"]) for p in LARS_PARAMS}
    state = tx.init(params)
    for i in range(5):
        updates, state = tx.update({p: data[f"grads__{p}"][i] for p in LARS_PARAMS}, state, params)
        params = optax.apply_updates(params, updates)
        for p in LARS_PARAMS:
            np.testing.assert_allclose(
                params[p], data[f"{tag}__after__{p}"][i], rtol=1e-5, atol=1e-7, err_msg=f"{p} {i}"
            )
            if tag == "swav":
                buffer = optax.tree_utils.tree_get(state, "trace")[p]
                np.testing.assert_allclose(
                    buffer, data[f"swav__momentum__{p}"][i], rtol=1e-5, atol=1e-7
                )


def test_clipped_larc_never_exceeds_the_sgd_step():
    params = {"w": jnp.full(4, 10.0)}
    grads = {"w": jnp.full(4, 0.01)}
    for rate in (1e-4, 1e-1):
        tx = optim.larc(rate, momentum=0.0, weight_decay=0.0, trust=0.02, clip=True)
        step = -tx.update(grads, tx.init(params), params)[0]["w"]
        # trust |p| / |g| = 20: below the rate nothing is scaled, above it the step is the larger
        # rate's.
        np.testing.assert_allclose(step, min(20.0 / rate, 1.0) * rate * 0.01, rtol=1e-5)
    tx = optim.larc(100.0, momentum=0.0, weight_decay=0.0, trust=0.02, clip=True)
    np.testing.assert_allclose(
        -tx.update(grads, tx.init(params), params)[0]["w"], 20.0 * 0.01, rtol=1e-5
    )


def run(tx, steps=4, params=None):
    params = params or {"prototypes": jnp.ones((3, 2)), "rest": {"bias": jnp.ones(2)}}
    state = tx.init(params)
    path = []
    for i in range(steps):
        grads = jax.tree.map(lambda p, i=i: p * (i + 1.0), params)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        path.append(params)
    return path


@pytest.mark.parametrize("name", ["sgd", "adam", "larc"])
def test_frozen_group_has_no_momentum_no_decay_and_its_clock_goes_on(name):
    rates = jnp.array([0.4, 0.3, 0.2, 0.1])
    settings = dict(weight_decay=0.1, groups=(optim.Group("prototypes", frozen_steps=2),))
    frozen = run(optim.build(name, lambda s: rates[s], **settings))
    np.testing.assert_array_equal(frozen[1]["prototypes"], 1.0)
    # From step 2 on it moves like a fresh optimiser that starts there, at the rates of steps 2 and
    # 3.
    params = {"prototypes": jnp.ones((3, 2))}
    tx = optim.build(name, lambda s: rates[s + 2], weight_decay=0.1)
    state = tx.init(params)
    for i in (2, 3):
        updates, state = tx.update(
            jax.tree.map(lambda p, i=i: p * (i + 1.0), params), state, params
        )
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(frozen[i]["prototypes"], params["prototypes"], rtol=1e-6)
    free = run(optim.build(name, lambda s: rates[s], weight_decay=0.1))
    np.testing.assert_array_equal(frozen[3]["rest"]["bias"], free[3]["rest"]["bias"])


def test_group_rules():
    groups = (
        optim.Group("bias$", weight_decay=0.0),
        optim.Group("prototypes", factor=0.5, fixed_rate=True),
    )
    tx = optim.build(
        "sgd", lambda s: 0.1 / (s + 1), weight_decay=1.0, peak=0.1, groups=groups, momentum=0.0
    )
    first, second = run(tx, 2)
    np.testing.assert_allclose(first["rest"]["bias"], 0.9)  # no decay
    np.testing.assert_allclose(first["prototypes"], 1 - 0.05 * 2)  # half the rate, with decay
    # The rate does not follow the schedule.
    np.testing.assert_allclose(second["prototypes"], 0.9 * (1 - 0.05 * 3), rtol=1e-6)


def test_a_group_may_have_another_direction():
    params = {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.full(2, 2.0)}
    grads = jax.tree.map(jnp.ones_like, params)
    plain = optim.Group("bias$", name="sgd", weight_decay=0.0)
    tx = optim.build(
        "larc",
        lambda s: 0.1,
        weight_decay=0.5,
        groups=(plain,),
        momentum=0.0,
        trust=0.02,
        clip=True,
    )
    updates, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose(updates["bias"], -0.1, rtol=1e-6)
    # |p| = 4, |g| = 2: trust 0.02 * 4 / (2 + 0.5 * 4) = 0.02, over the rate 0.2 and below one.
    np.testing.assert_allclose(updates["kernel"], -0.1 * 2.0 * 0.2, rtol=1e-5)


def test_errors_name_the_way_out():
    with pytest.raises(SettingError, match="larc, lars, sgd, adam"):
        optim.build("adamw", lambda s: 0.1)
    with pytest.raises(SettingError, match="did you mean 'momentum'"):
        optim.build("sgd", lambda s: 0.1, momentun=0.9)
    with pytest.raises(SettingError, match="'head' matches no parameter"):
        optim.build("sgd", lambda s: 0.1, groups=(optim.Group("head"),)).init({"bias": jnp.ones(1)})


def test_lars_scales_each_tensor_by_its_own_lengths():
    rng = np.random.default_rng(0)
    p = rng.normal(size=(4, 3)).astype(np.float32)
    m = 0.0
    rate = 0.3
    wd = 0.1
    tx = optim.build("lars", lambda step: rate, weight_decay=wd, momentum=0.9, trust=0.01)
    params = {"w": jnp.asarray(p)}
    state = tx.init(params)
    for _ in range(3):
        g = rng.normal(size=p.shape).astype(np.float32)
        updates, state = tx.update({"w": jnp.asarray(g)}, state, params)
        params = optax.apply_updates(params, updates)
        u = g + wd * p
        m = 0.9 * m + 0.01 * np.linalg.norm(p) / np.linalg.norm(u) * u
        p = p - rate * m
        np.testing.assert_allclose(params["w"], p, rtol=1e-5)


def test_a_group_of_a_config_has_the_optimiser_that_it_names():
    config = tiny("instance")
    config.optim.update(name="lars", learning_rate=1.0, trust=0.001, momentum=0.0, weight_decay=0.0)
    config.optim.groups = dict(plain=defaults.group("(bias|scale)$", name="sgd"))
    tx = build(config).stages[-1].tx
    params = {"kernel": jnp.full((2, 2), 4.0), "bias": jnp.full(2, 4.0)}
    rate = build(config).stages[-1].schedule(0)
    grads = jax.tree.map(lambda x: 0.5 * jnp.ones_like(x), params)
    updates, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose(updates["bias"], -rate * grads["bias"], rtol=1e-6)
    np.testing.assert_allclose(updates["kernel"], -rate * 0.001 * 8 * grads["kernel"], rtol=1e-3)
    config.optim.groups = dict(plain=defaults.group("(bias|scale)$", name="nobody"))
    with pytest.raises(SettingError, match="nobody"):
        build(config)
