import itertools

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from sklearn.cluster import KMeans as ScikitKMeans

from ssl_jax.evaluation import metrics
from ssl_jax.ops.kmeans import kmeans
from ssl_jax.ops.mesh import ROWS, make_mesh


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_published_lloyd(golden, key, metric):
    data = golden("kmeans_propos")
    found = kmeans(
        key,
        data["X"],
        6,
        iterations=int(data[f"{metric}_last_iter"]) + 1,
        metric=metric,
        init=data["init"],
    )
    np.testing.assert_array_equal(found.labels, data[f"{metric}_labels"])
    np.testing.assert_allclose(found.inertia, data[f"{metric}_inertia"], rtol=1e-5)
    np.testing.assert_allclose(found.centroids, data[f"{metric}_centroids"], atol=1e-5)


def blobs(n=600, clusters=12, dim=6, spread=0.35):
    rng = np.random.default_rng(0)
    return (
        rng.normal(size=(clusters, dim))[rng.integers(clusters, size=n)]
        + spread * rng.normal(size=(n, dim))
    ).astype(np.float32)


@pytest.mark.parametrize("devices", [1, 2])
def test_sums_that_follow_the_moves_stay_the_means(key, devices):
    # An odd count; some points change clusters in most iterations.
    x = blobs(n=601, spread=0.8)
    centroids = x[:7]
    moved = []
    for _ in range(25):
        labels = np.argmin(((x[:, None] - centroids[None]) ** 2).sum(2), axis=1)
        centroids = np.stack([x[labels == c].mean(0) for c in range(7)])
        moved.append(labels)
    assert sum(0 < (a != b).sum() <= len(x) // 8 for a, b in itertools.pairwise(moved)) > 5
    with jax.set_mesh(make_mesh(jax.devices()[:devices])):
        found = kmeans(key, x, 7, iterations=25, metric="euclidean", init=x[:7])
    np.testing.assert_allclose(found.centroids, centroids, atol=2e-6)


def test_as_tight_as_scikit_learn(key):
    x = blobs()
    ours = kmeans(key, x, 12, iterations=100, restarts=10, metric="euclidean")
    theirs = ScikitKMeans(12, n_init=10, random_state=0).fit(x)
    square = ((x - np.asarray(ours.centroids)[ours.labels]) ** 2).sum()
    assert square < 1.01 * theirs.inertia_
    np.testing.assert_allclose(
        ours.inertia,
        np.sqrt(((x - np.asarray(ours.centroids)[ours.labels]) ** 2).sum(1)).sum(),
        rtol=1e-4,
    )


def test_chunks_do_not_matter(key):
    x = blobs()
    whole, parts = (kmeans(key, x, 5, iterations=10, chunk=c) for c in (10_000, 64))
    np.testing.assert_array_equal(whole.labels, parts.labels)
    np.testing.assert_allclose(whole.inertia, parts.inertia, rtol=1e-5)


def test_restarts_keep_the_best(key):
    x = blobs(clusters=20)
    one, ten = (float(kmeans(key, x, 20, iterations=20, restarts=r).inertia) for r in (1, 10))
    assert ten <= one


def test_empty_clusters_are_refilled(key):
    x = blobs(clusters=4, spread=0.1)
    far = np.concatenate([x[:1], x[:1] + 50, x[:1] + 60, x[:1] + 70])
    found = kmeans(key, x, 4, iterations=50, metric="euclidean", init=far)
    assert len(np.unique(found.labels)) == 4


def test_as_many_clusters_as_points(key):
    x = blobs(8)
    found = kmeans(key, x, 8, iterations=5, restarts=3, metric="euclidean")
    assert sorted(np.asarray(found.labels)) == list(range(8))
    np.testing.assert_allclose(found.inertia, 0.0, atol=1e-2)


def test_bad_input(key):
    with pytest.raises(ValueError, match="9 clusters for 8 points"):
        kmeans(key, np.ones((8, 2)), 9, iterations=1)
    with pytest.raises(ValueError, match="choose cosine or euclidean"):
        kmeans(key, np.ones((8, 2)), 2, iterations=1, metric="manhattan")


def test_two_devices(key):
    x = blobs()
    mesh = make_mesh()
    single = kmeans(key, x, 5, iterations=10)
    with jax.set_mesh(mesh):
        spread = kmeans(key, jax.device_put(x, NamedSharding(mesh, ROWS)), 5, iterations=10)
    np.testing.assert_array_equal(single.labels, spread.labels)


@pytest.mark.parametrize("case", ["k10", "unbalanced", "perfect_permuted"])
def test_published_scores(golden, case):
    data = golden("cluster_metrics")
    labels = data[f"{case}_labels"]
    predicted = data[f"{case}_pred"]
    for name, score in (
        ("acc", metrics.clustering_accuracy),
        ("nmi", metrics.normalized_mutual_info),
        ("ari", metrics.adjusted_rand_index),
    ):
        np.testing.assert_allclose(score(labels, predicted), data[f"{case}_{name}"], atol=1e-12)


def test_fewer_clusters_than_classes_still_score(golden):
    data = golden("cluster_metrics")
    labels = data["fewer_clusters_labels"]
    predicted = data["fewer_clusters_pred"]
    assert data["fewer_clusters_acc"] == 0  # the original gives up
    np.testing.assert_allclose(metrics.clustering_accuracy(labels, predicted), 0.92, atol=0.005)
    np.testing.assert_allclose(
        metrics.normalized_mutual_info(labels, predicted), data["fewer_clusters_nmi"]
    )


def test_unlabelled_rows_are_left_out():
    labels = np.array([0, 0, 1, 1, -1, -1])
    predicted = np.array([1, 1, 0, 0, 0, 1])
    assert metrics.clustering_accuracy(labels, predicted) == 1.0
    assert metrics.adjusted_rand_index(labels, predicted) == 1.0
    with pytest.raises(ValueError, match="no labelled rows"):
        metrics.clustering_accuracy(np.full(3, -1), np.zeros(3, int))
