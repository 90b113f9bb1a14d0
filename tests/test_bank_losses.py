"""Losses over the memory bank against the published implementations and against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.ops import losses
from ssl_jax.ops.memory import init_bank, update_bank
from ssl_jax.ops.neighbours import cluster_mates
from ssl_jax.ops.vectors import unit

LOSS = dict(rtol=5e-6)
GRADIENT = dict(atol=1e-6)
ROWS = dict(atol=5e-7)


def check(data, case, loss, raw, expected_loss="loss"):
    """Loss and gradients, with respect to unit features and through the normalisation."""
    value, grad_raw = jax.value_and_grad(lambda x: loss(unit(x)))(raw)
    np.testing.assert_allclose(value, data[f"{case}_{expected_loss}"], **LOSS)
    np.testing.assert_allclose(grad_raw, data[f"{case}_grad_raw"], **GRADIENT)
    np.testing.assert_allclose(jax.grad(loss)(unit(raw)), data[f"{case}_grad_features"], **GRADIENT)


def test_published_nce_over_two_steps(golden):
    data = golden("id_nce")
    bank = data["memory"]
    normaliser = None
    for step in ("step1", "step2"):
        raw = data["raw_features"] if step == "step1" else data["step2_raw_features"]
        index = data[f"{step}_sample_indexes"][:, 0]
        noise = data[f"{step}_sample_indexes"][:, 1:]
        if normaliser is None:
            normaliser = losses.estimated_normaliser(
                unit(raw), bank, index, noise, temperature=0.07
            )
        np.testing.assert_allclose(normaliser, data[f"{step}_Z"], rtol=5e-6)

        def loss(x, i=index, n=noise, b=bank, z=normaliser):
            return losses.instance_nce(x, b, i, n, temperature=0.07, normaliser=z)

        check(data, step, loss, raw)
        bank = update_bank(bank, index, unit(raw), momentum=0.5)
        np.testing.assert_allclose(bank[index], data[f"{step}_memory_rows_after"], **ROWS)


def test_nce_with_a_given_normaliser_against_loops():
    rng = np.random.default_rng(0)
    features, bank = (np.asarray(unit(rng.normal(size=(n, 8)))) for n in (5, 40))
    index = rng.integers(0, 40, 5)
    noise = rng.integers(0, 40, (5, 7))
    z = 2876934.2 / 1281167 * 40
    ratio = 7 / 40
    expected = []
    for f, i, others in zip(np.float64(features), index, noise):
        p = np.exp(np.float64(bank)[[i, *others]] @ f / 0.07) / z
        expected.append(
            -np.log(p[0] / (p[0] + ratio)) - sum(np.log(ratio / (q + ratio)) for q in p[1:])
        )
    found = losses.instance_nce(features, bank, index, noise, temperature=0.07, normaliser=z)
    np.testing.assert_allclose(found, np.mean(expected), rtol=1e-5)


def test_no_gradient_through_an_estimated_normaliser(key):
    features = unit(jax.random.normal(key, (4, 8)))
    bank = unit(jax.random.normal(key, (20, 8)))
    index = jnp.arange(4)
    noise = jax.random.randint(key, (4, 6), 0, 20)

    def estimate(x):
        return losses.estimated_normaliser(x, bank, index, noise, temperature=0.1)

    assert not np.any(jax.grad(estimate)(features))

    def free(x):
        return losses.instance_nce(x, bank, index, noise, temperature=0.1, normaliser=estimate(x))

    def given(x):
        return losses.instance_nce(
            x, bank, index, noise, temperature=0.1, normaliser=estimate(features)
        )

    np.testing.assert_allclose(
        jax.grad(free)(features), jax.grad(given)(features), rtol=1e-5, atol=1e-7
    )


def test_sampled_softmax_against_loops():
    rng = np.random.default_rng(0)
    features, bank = (np.asarray(unit(rng.normal(size=(n, 8)))) for n in (5, 30))
    index = rng.integers(0, 30, 5)
    noise = rng.integers(0, 30, (5, 7))
    expected = []
    for f, i, others in zip(np.float64(features), index, noise):
        weights = np.exp(np.float64(bank)[[i, *others]] @ f / 0.2)
        expected.append(-np.log(weights[0] / weights.sum()))
    found = losses.instance_sampled_nll(features, bank, index, noise, temperature=0.2)
    np.testing.assert_allclose(found, np.mean(expected), rtol=1e-6)


def test_sampled_softmax_over_every_row_is_the_full_softmax():
    rng = np.random.default_rng(0)
    features = unit(rng.normal(size=(5, 8)))
    bank = unit(rng.normal(size=(30, 8)))
    index = np.arange(5)
    others = np.stack([np.delete(np.arange(30), i) for i in index])
    found = losses.instance_sampled_nll(features, bank, index, others, temperature=0.1)
    np.testing.assert_allclose(
        found, losses.instance_nll(features, bank, index, temperature=0.1), rtol=1e-6
    )


def test_loss_before_learning_is_that_of_random_directions(key):
    """ln N + ln E[exp(cosine / T)]: 10.82 + 0.39 for 50,000 rows of 128 dimensions at T = 0.1."""
    bank = init_bank(key, 50_000, 128)
    features = unit(jax.random.normal(jax.random.fold_in(key, 1), (256, 128)))
    found = losses.instance_nll(features, bank, jnp.arange(256), temperature=0.1)
    np.testing.assert_allclose(found, 11.21, atol=0.1)
    np.testing.assert_allclose(
        losses.instance_nll_at_chance(50_000, 128, temperature=0.1), 11.21, atol=0.005
    )


@pytest.mark.parametrize(
    ("temperature", "dim", "expected"), [(0.1, 128, 1.477), (0.07, 128, 2.208), (0.07, 64, 4.75)]
)
def test_mean_of_random_similarities(temperature, dim, expected, key):
    found = np.exp(losses.instance_nll_at_chance(1, dim, temperature=temperature))
    np.testing.assert_allclose(found, expected, rtol=2e-3)
    cosines = unit(jax.random.normal(key, (200_000, dim)))[:, 0]
    np.testing.assert_allclose(found, jnp.exp(cosines / temperature).mean(), rtol=0.03)


CASES = {"k064_H3": (64, 3), "k500_H3": (500, 3)}


@pytest.mark.parametrize("case", CASES)
def test_published_local_aggregation(golden, case):
    data = golden("la_loss")
    background, clusterings = CASES[case]
    close = cluster_mates(data["cluster_labels"][:clusterings], data["indexes"])
    settings = dict(background=background, temperature=0.07)

    def loss(x):
        return losses.local_aggregation(x, data["memory"], close, **settings)

    check(data, case, loss, data["raw_features"])
    probability, count = losses.close_probability(
        unit(data["raw_features"]), data["memory"], close, **settings
    )
    np.testing.assert_allclose(probability, data[f"{case}_relative_prob"], rtol=5e-6, atol=1e-9)
    np.testing.assert_array_equal(count, data[f"{case}_num_close_in_background"])
    bank = update_bank(data["memory"], data["indexes"], unit(data["raw_features"]), momentum=0.5)
    np.testing.assert_allclose(bank[data["indexes"]], data["memory_rows_after"], **ROWS)


def test_local_aggregation_with_nothing_close_is_finite_and_still(key):
    features = unit(jax.random.normal(key, (3, 8)))
    bank = unit(jax.random.normal(key, (20, 8)))
    nothing = jnp.zeros((3, 20), bool)

    def loss(x):
        return losses.local_aggregation(x, bank, nothing, background=5, temperature=0.01)

    value, gradient = jax.value_and_grad(loss)(features)
    np.testing.assert_allclose(value, 16.118, atol=1e-3)
    np.testing.assert_array_equal(gradient, 0.0)


def test_background_0_is_all_rows(key):
    features = unit(jax.random.normal(key, (3, 8)))
    bank = unit(jax.random.normal(key, (20, 8)))
    close = jax.random.bernoulli(key, 0.3, (3, 20))
    none, every = (
        losses.local_aggregation(features, bank, close, background=k, temperature=0.1)
        for k in (0, 20)
    )
    np.testing.assert_allclose(none, every, rtol=1e-6)
    with pytest.raises(ValueError, match="background=21"):
        losses.local_aggregation(features, bank, close, background=21, temperature=0.1)


ROUNDS = ("round0_k1", "round1_k1", "round2_k1")


@pytest.mark.parametrize("case", ROUNDS)
def test_published_anchor_neighbourhood_loss(golden, case):
    data = golden("and_loss")
    index = data["indexes"]
    position = data[f"{case}_position"][data["indexes"]]
    is_anchor = position >= 0
    assert is_anchor.sum() == data[f"{case}_num_anchor_in_batch"]
    lists = data[f"{case}_neighbours"]
    neighbours = np.zeros((len(index), int(case[-1])), np.int32)
    neighbours[is_anchor] = lists[position[is_anchor]] if len(lists) else 0

    def loss(x):
        return losses.anchor_neighbourhood_nll(
            x, data["memory"], index, neighbours, is_anchor, temperature=0.1
        )

    check(data, case, loss, data["raw_features"])


def test_anchor_loss_of_several_neighbours_against_loops():
    rng = np.random.default_rng(0)
    features, bank = (np.asarray(unit(rng.normal(size=(n, 8)))) for n in (6, 30))
    index = np.arange(6)
    is_anchor = np.arange(6) % 2 == 0
    neighbours = np.stack(
        [rng.choice(np.delete(np.arange(30), i), 5, replace=False) for i in index]
    )
    expected = []
    for f, i, near, anchor in zip(np.float64(features), index, neighbours, is_anchor):
        p = np.exp(np.float64(bank) @ f / 0.1)
        p /= p.sum()
        expected.append(-np.log(p[i] + p[near].sum() * anchor))
    found = losses.anchor_neighbourhood_nll(
        features, bank, index, neighbours, is_anchor, temperature=0.1
    )
    np.testing.assert_allclose(found, np.mean(expected), rtol=1e-6)


def test_anchor_loss_without_anchors_is_instance_discrimination_and_never_overflows(key):
    features = unit(jax.random.normal(key, (4, 8)))
    bank = unit(jax.random.normal(key, (20, 8)))
    index = jnp.arange(4)
    neighbours = jnp.arange(8).reshape(4, 2) + 10
    settings = dict(temperature=0.1)
    plain = losses.instance_nll(features, bank, index, **settings)
    nobody = losses.anchor_neighbourhood_nll(
        features, bank, index, neighbours, jnp.zeros(4, bool), **settings
    )
    np.testing.assert_allclose(nobody, plain, rtol=1e-6)

    def sharp(x):
        return losses.anchor_neighbourhood_nll(
            x, bank, index, neighbours, jnp.ones(4, bool), temperature=1e-3
        )

    value, gradient = jax.value_and_grad(sharp)(-bank[:4])
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
