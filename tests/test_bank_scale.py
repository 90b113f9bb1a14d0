"""No step gathers the bank: traffic between devices does not grow with the number of images."""

import functools
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import methods

from ssl_jax.ops.kmeans import kmeans, random_rows
from ssl_jax.ops.mesh import make_mesh
from ssl_jax.ops.vectors import unit
from ssl_jax.runtime.sharding import batch_sharding, replicated

path = Path(__file__).parent.parent / "experiments" / "bench_bank.py"
spec = importlib.util.spec_from_file_location("bench_bank", path)
bench_bank = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench_bank)


@functools.cache
def travels(name, rows):
    """Bytes of the compiled step's collectives, and of the bank on one of two devices."""
    mesh = make_mesh()
    with jax.set_mesh(mesh):
        step, state, _ = bench_bank.compiled_step(name, rows, mesh, methods.network(bench_bank.DIM))
    for leaf in jax.tree.leaves(state.method):
        if leaf.ndim and leaf.size >= rows:  # bank, labels, neighbours, anchors
            assert leaf.addressable_shards[0].data.size == leaf.size // 2
    return bench_bank.collective_bytes(step.as_text())


@pytest.mark.parametrize(
    "name",
    [
        "instance",
        pytest.param("anchors", marks=pytest.mark.slow),
        pytest.param("aggregation", marks=pytest.mark.slow),
    ],
)
def test_what_travels_in_a_step_does_not_grow_with_the_bank(name):
    small = travels(name, 1280)
    large = travels(name, 12_800)
    assert small > 0
    background = (
        8 * bench_bank.BATCH * (4096 - 320) if name == "aggregation" else 0
    )  # candidates, until there are 4,096
    assert large <= small + 2 * background


@pytest.mark.slow
def test_three_devices_train_like_one():
    """They divide neither the batch nor the bank, and 64 neither."""
    test = "tests/test_contract.py::test_all_devices_train_like_one_and_in_one_trace"
    tests = [f"{test}[{name}]" for name in ("swav", "aggregation", "byol with context")]
    resumes = "tests/test_run.py::test_instance_discrimination_on_all_devices_resumes_on_one"
    call = [sys.executable, "-m", "pytest", "-n", "0", "-m", "", *tests, resumes]
    env = os.environ | {"SSL_JAX_TEST_DEVICES": "3"}
    done = subprocess.run(call, cwd=path.parent.parent, env=env, capture_output=True, text=True)
    assert "4 passed" in done.stdout, done.stdout


def test_padding_adds_less_than_its_own_rows():
    assert travels("instance", 12_801) <= travels("instance", 12_800) + 4 * 64 * bench_bank.DIM


def test_bytes_of_collectives_are_counted():
    text = """
      %a = f32[64,32]{1,0} all-gather(%x), dimensions={0}
      %b = (f32[], s32[8]{0}) all-reduce(%y, %z), to_apply=%sum
      %c = f32[1000,1000]{1,0} dot(%p, %q)
    """
    assert bench_bank.collective_bytes(text) == 4 * 64 * 32 + 4 + 4 * 8


def test_clustering_over_devices_is_clustering(key):
    points = unit(jax.random.normal(key, (203, 6)))  # neither devices nor chunks divide it
    start = random_rows(key, points, 12)
    assert len(np.unique(start, axis=0)) == 12
    settings = dict(iterations=5, metric="euclidean", chunk=32)
    one = kmeans(key, points, 12, init=start, **settings)
    mesh = make_mesh()
    with jax.set_mesh(mesh):
        whole = jax.device_put((key, points, start), replicated(mesh))
        padded = jax.device_put(np.pad(points, ((0, 1), (0, 0))), batch_sharding(mesh))
        of_whole = kmeans(*whole[:2], 12, init=whole[2], **settings)
        of_parts = jax.jit(lambda k, p, s: kmeans(k, p[:203], 12, init=s, **settings))(
            whole[0], padded, whole[2]
        )
    for found in (of_whole, of_parts):
        np.testing.assert_array_equal(found.labels, one.labels)
        np.testing.assert_allclose(found.centroids, one.centroids, atol=1e-6)


def test_published_clusterings_are_matched_in_quality(golden, key):
    data = golden("la_kmeans")
    points = data["x"]
    clusters = int(data["m"])
    objectives = []
    unions = []
    for h in range(10):
        run = jax.random.fold_in(key, h)
        start = random_rows(run, points, clusters)
        found = kmeans(run, points, clusters, iterations=20, metric="euclidean", init=start)
        labels = np.asarray(found.labels)
        assert len(np.unique(labels)) == clusters
        objectives.append(np.sum((points - np.asarray(found.centroids)[labels]) ** 2))
        unions.append(labels)
    np.testing.assert_allclose(np.mean(objectives), data["objective"].mean(), rtol=0.02)
    mates = np.any(np.stack(unions)[:, :, None] == np.stack(unions)[:, None, :], axis=0)
    np.testing.assert_allclose(mates.sum(1).mean(), data["mean_union_size_H"][-1], rtol=0.15)
