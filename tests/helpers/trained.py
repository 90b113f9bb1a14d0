"""Run folders that nobody trained, and what is read of run folders."""

import jax
import numpy as np

from ssl_jax.build import build
from ssl_jax.inference.transfer import evaluation_of
from ssl_jax.ops.mesh import make_mesh
from ssl_jax.runs.checkpoint import Checkpoints
from ssl_jax.runs.restore import config_for, open_run
from ssl_jax.runs.run_folder import claim


def made(folder, config):
    """A run folder without training: a config, and a checkpoint of random numbers at step 8."""
    plan = build(config)
    rng = np.random.default_rng(0)

    def numbers(path, x):
        if not np.issubdtype(x.dtype, np.floating):
            return np.full(x.shape, 8, x.dtype)
        values = rng.standard_normal(x.shape).astype(x.dtype)
        if path[-1] == jax.tree_util.DictKey("prototypes"):
            return values / np.linalg.norm(values, axis=1, keepdims=True)
        return (
            1 + 0.1 * np.abs(values) if path[-1] == jax.tree_util.DictKey("var") else 0.5 * values
        )

    state = jax.tree_util.tree_map_with_path(numbers, plan.shapes)
    with claim(folder, plan.record, plan.dataset.fingerprint(), plan.dataset.facts()):
        checkpoints = Checkpoints(folder, {})
        checkpoints.save(8, state)
        checkpoints.close()
    return folder


def opened(folder):
    with jax.set_mesh(make_mesh()):
        return open_run(folder, make_mesh())


def scores(folder, which="latest", evals=(), **data):
    config = config_for(folder, evals)
    config.data.update(data)
    with jax.set_mesh(make_mesh()):
        return dict(evaluation_of(open_run(folder, make_mesh(), which), config)())
