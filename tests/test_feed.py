"""Batches from the device and from the host are the same batches."""

import io

import numpy as np
import pytest
from helpers.runs import tiny
from rich.console import Console

from ssl_jax import train
from ssl_jax.data.rng import epoch_order
from ssl_jax.ops.mesh import make_mesh
from ssl_jax.runs.metrics import read_records
from ssl_jax.training.batches import Batches

IMAGES = np.random.default_rng(0).integers(0, 256, (22, 3, 3, 1), dtype=np.uint8)


@pytest.mark.parametrize("start", [0, 3])
def test_host_and_device_give_the_same_rows(start, key, tmp_path):
    np.save(tmp_path / "images.npy", IMAGES)
    stored = np.load(tmp_path / "images.npy", mmap_mode="r")
    feeds = [
        Batches(images, make_mesh(), key, batch_size=4, resident=resident)
        for images, resident in ((IMAGES, True), (stored, False))
    ]
    for step in range(start, 12):  # over two epochs of five steps
        (everything, index), (batch, same) = (f.batch(step) for f in feeds)
        np.testing.assert_array_equal(index, same)
        np.testing.assert_array_equal(index, epoch_order(key, step // 5, 22, 4)[step % 5])
        assert everything.shape[0] == 22
        np.testing.assert_array_equal(batch, IMAGES[np.asarray(index)])
        assert len(batch.sharding.device_set) == 2
    for feed in feeds:
        feed.close()


def test_a_run_from_the_host_is_the_run_from_the_device(tmp_path):
    scores = []
    for resident_gb in (8.0, 0.0):
        config = tiny("instance")
        config.epochs = 2
        config.resident_gb = resident_gb
        config.optim.learning_rate = (
            0.003  # two programs: what they round differently grows with the steps' length
        )
        config.evals = dict(knn=config.evals.knn)
        config.eval_epochs = 2
        config.baselines = False
        scores.append(
            train.run(config, tmp_path / str(resident_gb), console=Console(file=io.StringIO()))
        )
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    losses = [
        [r["train/loss"] for r in read_records(tmp_path / str(gb)) if "train/loss" in r]
        for gb in (8.0, 0.0)
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    assert len(losses[0]) == 16
