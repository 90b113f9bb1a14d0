"""Our training step as the loop runs it, and what the other side needs to know to do the same."""

import dataclasses
import runpy
import tempfile
import time
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from bench_step import plan_of
from ml_collections import ConfigDict

from ssl_jax import train
from ssl_jax.build import fresh_state
from ssl_jax.data.augment import draw_views
from ssl_jax.ops.mesh import make_mesh
from ssl_jax.runtime.sharding import state_shardings
from ssl_jax.training.batches import Batches

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def config_of(case):
    """The config of the case; hidden layers before BatchNorm without bias, as lightly has them."""
    method = {"multicrop": "swav"}.get(case["method"], case["method"])
    variant = "imagenet_bs256" if case["method"] == "multicrop" else "cifar10"
    config = runpy.run_path(str(CONFIGS / f"{method}.py"))["get_config"](variant)
    config.batch_size = case["batch"]
    config.model.update(width=case["width"], dtype=case["dtype"])
    config.head.bias, config.data.whole = False, False
    if method == "swav":
        config.method.queue_length = 0
    return config


def recipe(plan):
    """What the other side needs to know to do the same."""
    config, stage = ConfigDict(plan.record), plan.stages[-1]
    shared = {name: config.optim[name] for name in ("name", "learning_rate", "weight_decay", "momentum")}
    return {
        "views": [dataclasses.asdict(view) for view in stage.views],
        "statistics": [np.asarray(stage.mean).tolist(), np.asarray(stage.std).tolist()],
        "image": plan.dataset.train.images.shape[1],
        "model": config.model.to_dict(),
        "head": config.head.to_dict(),
        "method": {k: v for k, v in config.method.items() if isinstance(v, (int, float, tuple))},
        "optim": shared,
    }


def step(case):
    """The loop's own jitted step on resident images, on one device; `alone` on views that are drawn once."""
    config, mesh = config_of(case), make_mesh(jax.devices()[:1])
    jax.set_mesh(mesh)
    with tempfile.TemporaryDirectory() as folder:
        plan = plan_of(config, Path(folder))
    shardings, stage, key = state_shardings(mesh, plan.shapes), plan.stages[-1], jax.random.key(0)
    feed = Batches(plan.dataset.train.images, mesh, key, batch_size=plan.batch_size, resident=True)
    pixels = jnp.asarray(plan.dataset.train.images[: plan.batch_size])
    views = draw_views(key, pixels, stage.views, stage.mean, stage.std)
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
    params = plan.shapes.params
    facts = {"parameters": count(params), "backbone": count(params["network"]["backbone"]), "recipe": recipe(plan)}

    def make(stage, batch):
        state, done, step_fn = fresh_state(plan, key, shardings), 0, train.jit_step(mesh, shardings)
        jax.block_until_ready(state)

        def run(calls):
            nonlocal state, done
            began = time.perf_counter()
            for _ in range(calls):
                state, metrics = step_fn(stage, state, *batch(done), key)
                done += 1
            jax.block_until_ready(state)
            return {"seconds": time.perf_counter() - began, "loss": float(metrics["loss"])}

        return run

    def alone():
        run = make(dataclasses.replace(stage, resident=False), lambda done: (views, feed.batch(0)[1]))

        def given(calls):  # the same step, where the "images" are the views
            with mock.patch.object(train, "draw_views", lambda key, views, *rest: views):
                return run(calls)

        return given

    return facts, {"ours/augmented": lambda: make(stage, feed.batch), "ours/alone": alone}
