import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.ops.memory import init_bank, push_queue, update_bank
from ssl_jax.ops.vectors import unit


def test_published_update(golden):
    data = golden("id_softmax")
    bank = update_bank(
        data["memory"], data["indexes"], data["features"], momentum=float(data["momentum"])
    )
    np.testing.assert_allclose(bank[data["indexes"]], data["memory_rows_after"], atol=5e-7)
    rest = np.setdiff1d(np.arange(len(bank)), data["indexes"])
    np.testing.assert_array_equal(bank[rest], data["memory"][rest])


def test_repeated_index_updates_once_with_the_mean(key):
    bank = unit(jax.random.normal(key, (10, 4)))
    features = unit(jax.random.normal(jax.random.key(1), (3, 4)))
    after = update_bank(bank, jnp.array([7, 2, 7]), features, momentum=0.5)
    np.testing.assert_allclose(
        after[7], unit(0.5 * bank[7] + 0.25 * (features[0] + features[2])), atol=1e-6
    )
    np.testing.assert_allclose(after[2], unit(bank[2] + features[1]), atol=1e-6)
    swapped = update_bank(bank, jnp.array([7, 7, 2]), features[jnp.array([2, 0, 1])], momentum=0.5)
    np.testing.assert_allclose(after, swapped, atol=1e-6)


def test_bank_starts_with_rows_of_expected_length_one(key):
    bank = init_bank(key, 2000, 64)
    np.testing.assert_allclose((bank**2).sum(1).mean(), 1.0, atol=0.02)


def test_queue_is_newest_first():
    queue = jnp.zeros((5, 1))
    for batch in ([[1.0], [2.0]], [[3.0], [4.0]], [[5.0], [6.0]]):
        queue = push_queue(queue, jnp.array(batch))
    np.testing.assert_array_equal(queue[:, 0], [5, 6, 3, 4, 1])
    with pytest.raises(ValueError, match="cannot take 6"):
        push_queue(queue, jnp.zeros((6, 1)))


def test_unit_of_zero_is_zero_without_nan():
    assert not np.any(unit(jnp.zeros((2, 3))))
    assert np.isfinite(jax.grad(lambda x: unit(x).sum())(jnp.zeros((2, 3)))).all()
