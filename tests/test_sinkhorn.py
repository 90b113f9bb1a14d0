import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from ssl_jax.ops.mesh import ROWS, make_mesh
from ssl_jax.ops.sinkhorn import sinkhorn

SETTINGS = [(0.05, 3), (0.03, 3), (0.05, 10), (0.03, 10)]


def scores_of(data, case):
    if case == "A":
        return data["A__scores"]
    return (
        data[f"{case}__z_int8"].astype(np.float32)
        @ data[f"{case}__c_int8"].astype(np.float32).T
        / data[f"{case}__scale"]
    )


def plain(scores, epsilon, iterations):
    """Textbook Sinkhorn-Knopp in float64."""
    q = np.exp(np.float64(scores) / epsilon)
    q /= q.sum()
    for _ in range(iterations):
        q /= q.sum(0, keepdims=True) * q.shape[1]
        q /= q.sum(1, keepdims=True) * q.shape[0]
    return q * len(q)


@pytest.mark.parametrize("case", ["A", "D"])
@pytest.mark.parametrize(("epsilon", "iterations"), SETTINGS)
def test_published_codes(golden, case, epsilon, iterations):
    data = golden("swav_sinkhorn")
    codes = sinkhorn(
        scores_of(data, case).astype(np.float32), epsilon=epsilon, iterations=iterations
    )
    expected = data[f"{case}__eps{epsilon}_it{iterations}__q"]
    np.testing.assert_allclose(codes, expected, atol=2e-6)
    np.testing.assert_array_equal(codes.argmax(1), expected.argmax(1))
    np.testing.assert_allclose(codes.sum(1), 1.0, atol=1e-6)


def test_no_iterations_is_the_joint_softmax(golden):
    data = golden("swav_sinkhorn")
    codes = sinkhorn(data["A__scores"], iterations=0)
    np.testing.assert_allclose(codes, data["A0__eps0.05_it0__q"], atol=2e-6)


@pytest.mark.parametrize("case", ["X1_overflow_large_scores", "X3_underflow_dead_prototype"])
def test_extremes_where_the_original_is_nan(golden, case):
    data = golden("swav_sinkhorn")
    assert data[f"{case}__naive32_n_nan"] > 0
    codes = sinkhorn(
        data[f"{case}__scores"],
        epsilon=float(data[f"{case}__eps"]),
        iterations=int(data[f"{case}__iters"]),
    )
    np.testing.assert_allclose(codes, data[f"{case}__q_ref64"], atol=2e-6)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_dead_sample_and_small_epsilon(scale):
    scores = np.random.default_rng(0).normal(size=(32, 12)).astype(np.float32) * scale
    scores[3] -= 8.0
    codes = sinkhorn(scores, epsilon=0.2)
    np.testing.assert_allclose(codes, plain(scores, 0.2, 3), atol=3e-6)


def nasty(rng, kind):
    scores = rng.normal(size=(16, 7)).astype(np.float32)
    if kind == "huge":
        return scores * np.float32(1e38)
    if kind == "infinite":
        scores[0, 0] = np.inf
        scores[1, 1] = -np.inf
        scores[2] = -np.inf
    if kind == "nan":
        scores[4, 2] = np.nan
    if kind == "same":
        scores[:] = 3.0
    if kind == "one-hot":
        scores = np.float32(1e6) * np.eye(16, 7, dtype=np.float32)
    return scores


@pytest.mark.parametrize("kind", ["huge", "infinite", "nan", "same", "one-hot"])
@pytest.mark.parametrize("epsilon", [1e-4, 0.05])
def test_never_nan(kind, epsilon):
    codes = sinkhorn(nasty(np.random.default_rng(1), kind), epsilon=epsilon)
    assert np.isfinite(codes).all()
    np.testing.assert_allclose(codes.sum(1), 1.0, atol=1e-5)


def test_collapsed_scores_give_uniform_codes():
    np.testing.assert_allclose(sinkhorn(jnp.ones((8, 5))), 0.2, atol=1e-6)


def test_many_iterations_balance_the_prototypes():
    scores = np.random.default_rng(2).normal(size=(60, 6))
    np.testing.assert_allclose(
        sinkhorn(scores, epsilon=0.5, iterations=200).sum(0), 10.0, rtol=1e-4
    )


def test_invariances():
    rng = np.random.default_rng(3)
    scores = rng.uniform(-1, 1, (24, 10)).astype(np.float32)
    codes = sinkhorn(scores)
    order = rng.permutation(24)
    np.testing.assert_allclose(sinkhorn(scores[order]), codes[order], atol=1e-6)


@pytest.mark.parametrize("largest", [0.5, 8.0])
def test_constant_added_to_a_prototype_is_taken_out(largest):
    """Also where it raises the span of the scores from below 80 epsilon, a separate branch."""
    rng = np.random.default_rng(3)
    scores = rng.uniform(-1, 1, (24, 10)).astype(np.float32)
    shift = largest * np.linspace(-1, 1, 10, dtype=np.float32)
    np.testing.assert_allclose(sinkhorn(scores + shift), sinkhorn(scores), atol=2e-5)


@pytest.mark.parametrize("span", [79.9, 80.1])
@pytest.mark.parametrize("iterations", [3, 100])
def test_spans_on_both_sides_of_the_plain_kernel(span, iterations):
    scores = np.random.default_rng(6).uniform(-1, 1, (40, 12)).astype(np.float32)
    scores[3] -= 78.0  # a sample and
    scores[:, 5] += 70.0  # a prototype whose entries are near both ends
    scores = (scores - scores.min()) / np.ptp(scores) * np.float32(span)
    codes = sinkhorn(scores, epsilon=1.0, iterations=iterations)
    np.testing.assert_allclose(codes, plain(scores, 1.0, iterations), atol=1e-5)


def test_half_precision_scores_are_computed_in_float32():
    scores = np.random.default_rng(4).uniform(-1, 1, (16, 8))
    half = jnp.asarray(scores, jnp.bfloat16)
    codes = sinkhorn(half, epsilon=0.01)
    assert codes.dtype == jnp.float32
    np.testing.assert_allclose(codes, sinkhorn(half.astype(jnp.float32), epsilon=0.01))


def test_two_devices_gather_no_scores():
    scores = np.random.default_rng(5).uniform(-1, 1, (64, 48)).astype(np.float32)
    mesh = make_mesh()
    rows = jax.device_put(scores, NamedSharding(mesh, ROWS))
    with jax.set_mesh(mesh):
        compiled = jax.jit(sinkhorn, out_shardings=NamedSharding(mesh, ROWS)).lower(rows).compile()
    np.testing.assert_allclose(compiled(rows), sinkhorn(scores), atol=1e-6)
    assert "all-gather" not in compiled.as_text()
