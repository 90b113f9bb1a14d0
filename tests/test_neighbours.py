import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding

from ssl_jax.evaluation.knn import weighted_knn
from ssl_jax.ops import neighbours
from ssl_jax.ops.mesh import ROWS, local_top_k, make_mesh, padded_rows
from ssl_jax.ops.neighbours import nearest
from ssl_jax.ops.vectors import unit
from ssl_jax.runtime.sharding import batch_sharding


@pytest.mark.parametrize("chunk", [7, 16, 1000])
def test_nearest_against_numpy(key, chunk):
    queries, keys = (
        unit(jax.random.normal(k, (n, 8))) for k, n in zip(jax.random.split(key), (33, 50))
    )
    similarity, index = nearest(queries, keys, 5, chunk=chunk)
    expected = np.asarray(queries) @ np.asarray(keys).T
    np.testing.assert_array_equal(index, np.argsort(-expected, axis=1)[:, :5])
    np.testing.assert_allclose(similarity, -np.sort(-expected, axis=1)[:, :5], atol=1e-6)


def test_too_many_neighbours(key):
    with pytest.raises(ValueError, match="k=6 nearest neighbours of 5 rows"):
        nearest(np.ones((2, 3)), np.ones((5, 3)), 6)


@pytest.mark.parametrize(("columns", "k"), [(64, 5), (51, 5), (51, 40)])
def test_top_k_over_devices_sends_candidates_only(key, columns, k):
    scores = jax.random.normal(key, (6, columns))
    values, index = jax.lax.top_k(scores, k)
    with jax.set_mesh(make_mesh()):
        compiled = jax.jit(local_top_k, static_argnums=1).lower(scores, k).compile()
    for ours, theirs in zip(compiled(scores), (values, index)):
        np.testing.assert_array_equal(ours, theirs)
    gathers = [line for line in compiled.as_text().splitlines() if "all-gather" in line]
    sent = 2 * min(k, -(-columns // 2))  # candidates of both devices
    assert any(f"f32[6,{sent}]" in line for line in gathers)
    if sent < columns:
        assert not any(f"f32[6,{columns + columns % 2}]" in line for line in gathers)


def test_nearest_with_keys_spread_over_devices(key):
    rows = unit(jax.random.normal(key, (64, 8)))
    mesh = make_mesh()
    with jax.set_mesh(mesh):
        spread = jax.jit(nearest, static_argnums=2)(
            rows, jax.device_put(rows, NamedSharding(mesh, ROWS)), 4
        )
    np.testing.assert_array_equal(spread[1], nearest(rows, rows, 4)[1])


def test_padding_fits_the_devices():
    assert padded_rows(1) == 64
    assert padded_rows(1437) == 1472
    with jax.set_mesh(make_mesh()):
        assert padded_rows(65) == 128


@pytest.mark.parametrize("temperature", [0.1, 0.07])
def test_published_knn_scores(golden, temperature):
    data = golden("knn_eval")
    case = f"k200_T{round(temperature * 1000):03d}"
    scores = weighted_knn(
        data["train_features"],
        data["train_labels"],
        data["test_features"],
        k=200,
        temperature=temperature,
        classes=10,
    )
    np.testing.assert_allclose(scores, data[f"{case}_scores"], rtol=5e-6)
    np.testing.assert_array_equal(scores.argmax(1), data[f"{case}_pred"])
    top1 = 100 * np.mean(np.asarray(scores.argmax(1)) == data["test_labels"])
    np.testing.assert_allclose(top1, data[f"{case}_top1"], rtol=1e-6)


def test_one_nearest_neighbour(golden):
    data = golden("knn_eval")
    scores = weighted_knn(
        data["train_features"], data["train_labels"], data["test_features"], k=1, classes=10
    )
    top1 = 100 * np.mean(np.asarray(scores.argmax(1)) == data["test_labels"])
    np.testing.assert_allclose(top1, data["nn_top1"], rtol=1e-6)


def test_unlabelled_rows_have_no_vote(golden):
    data = golden("knn_eval")
    labels = np.where(data["train_labels"] == 3, -1, data["train_labels"])
    scores = weighted_knn(data["train_features"], labels, data["test_features"], k=400, classes=10)
    assert not np.any(scores[:, 3])
    assert np.all(scores[:, 4] > 0)


def test_cluster_mates_share_a_cluster_in_at_least_one_clustering():
    labels = np.random.default_rng(0).integers(0, 4, (3, 20))
    index = np.array([5, 0, 5, 19])
    found = neighbours.cluster_mates(labels, index)
    expected = [
        [any(labels[h, i] == labels[h, j] for h in range(3)) for j in range(20)] for i in index
    ]
    np.testing.assert_array_equal(found, expected)
    assert found[np.arange(4), index].all()


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize(("k", "share"), [(1, 1), (1, 2), (1, 4), (5, 1), (5, 3)])
def test_published_discovery(golden, k, share, devices):
    data = golden("and_discovery")
    case = f"rate025_k{k}_r{share}"
    bank = data["memory"]
    count = 125 * share
    mesh = make_mesh(jax.devices()[:devices])
    with jax.set_mesh(mesh):
        bank = jax.device_put(bank, batch_sharding(mesh))
        settings = dict(temperature=float(data["tau"]), chunk=64)  # 500 rows do not divide by it
        entropy = neighbours.entropy(bank, **settings)
        is_anchor, near = jax.jit(
            lambda b: neighbours.discover_anchors(b, count=count, k=k, **settings)
        )(bank)
    np.testing.assert_allclose(entropy, data["entropy"], atol=5e-6)
    anchors = data[f"{case}_anchor_indexes"]
    assert set(np.flatnonzero(is_anchor)) == set(anchors)
    np.testing.assert_array_equal(np.asarray(near)[anchors], data[f"{case}_neighbours"])
    same = data["labels"][np.asarray(near)[anchors]] == data["labels"][anchors][:, None]
    np.testing.assert_allclose(same.mean(), data[f"{case}_consistency"], rtol=1e-6)


def test_entropy_against_numpy_where_probabilities_underflow():
    bank = np.asarray(unit(np.random.default_rng(0).normal(size=(30, 4))), np.float64)
    for temperature in (1.0, 0.1, 1e-3):
        logits = bank @ bank.T / temperature
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        expected = -np.sum(p * np.log(np.maximum(p, 1e-300)), axis=1)
        found = neighbours.entropy(np.float32(bank), temperature=temperature, chunk=7)
        np.testing.assert_allclose(found, expected, atol=2e-4 if temperature < 0.01 else 2e-6)


def test_discovery_refuses_what_cannot_be(key):
    bank = unit(jax.random.normal(key, (10, 4)))
    with pytest.raises(ValueError, match="k=10 neighbours"):
        neighbours.discover_anchors(bank, count=5, k=10, temperature=0.1)
    with pytest.raises(ValueError, match="11 anchors of 10 rows"):
        neighbours.discover_anchors(bank, count=11, k=1, temperature=0.1)
