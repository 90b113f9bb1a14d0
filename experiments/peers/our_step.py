"""Our training step as the loop runs it, and the recipe that the other side needs to match it."""

import dataclasses
import runpy
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from bench_step import plan_of
from ml_collections import ConfigDict

from ssl_jax import train
from ssl_jax.build import Plan, fresh_state
from ssl_jax.data.augment import draw_views
from ssl_jax.interface import TrainState
from ssl_jax.ops.mesh import make_mesh
from ssl_jax.runtime.sharding import state_shardings
from ssl_jax.stages import Stage
from ssl_jax.training.batches import Batches

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

Case = Mapping[str, Any]
Contender = Callable[[int], dict[str, Any]]  # number of calls -> seconds and checks


def config_of(case: Case) -> ConfigDict:
    """The config of the case; as in lightly, layers before BatchNorm have no bias."""
    method = {"multicrop": "swav"}.get(case["method"], case["method"])
    variant = "imagenet_bs256" if case["method"] == "multicrop" else "cifar10"
    config = runpy.run_path(str(CONFIGS / f"{method}.py"))["get_config"](variant)
    config.batch_size = case["batch"]
    config.model.update(width=case["width"], dtype=case["dtype"])
    config.head.bias = False
    config.data.whole = False
    if method == "swav":
        config.method.queue_length = 0
    return config


def recipe(plan: Plan) -> dict[str, Any]:
    """What the other side needs to know to do the same."""
    config = ConfigDict(plan.record)
    stage = plan.stages[-1]
    optim = ("name", "learning_rate", "weight_decay", "momentum")
    return {
        "views": [dataclasses.asdict(view) for view in stage.views],
        "statistics": [np.asarray(stage.mean).tolist(), np.asarray(stage.std).tolist()],
        "image": plan.dataset.train.images.shape[1],
        "model": config.model.to_dict(),
        "head": config.head.to_dict(),
        "method": {k: v for k, v in config.method.items() if isinstance(v, (int, float, tuple))},
        "optim": {name: config.optim[name] for name in optim},
    }


def size_of(params: Any) -> int:
    """Number of parameters."""
    return sum(x.size for x in jax.tree.leaves(params))


def step(case: Case) -> tuple[dict[str, Any], dict[str, Callable[[], Contender]]]:
    """The loop's own jitted step on resident images, on one device; `alone` on ready views."""
    config = config_of(case)
    mesh = make_mesh(jax.devices()[:1])
    jax.set_mesh(mesh)
    with tempfile.TemporaryDirectory() as folder:
        plan = plan_of(config, Path(folder))
    shardings = state_shardings(mesh, plan.shapes)
    stage = plan.stages[-1]
    key = jax.random.key(0)
    feed = Batches(plan.dataset.train.images, mesh, key, batch_size=plan.batch_size, resident=True)
    pixels = jnp.asarray(plan.dataset.train.images[: plan.batch_size])
    views = draw_views(key, pixels, stage.views, stage.mean, stage.std)
    params = plan.shapes.params
    facts = {
        "parameters": size_of(params),
        "backbone": size_of(params["network"]["backbone"]),
        "recipe": recipe(plan),
    }

    def make(stage: Stage, batch: Callable[[int], Any]) -> Contender:
        state = jax.block_until_ready(fresh_state(plan, key, shardings))
        return timed_steps(train.jit_step(mesh, shardings), stage, state, batch, key)

    def alone() -> Contender:
        streamed = dataclasses.replace(stage, resident=False)
        run = make(streamed, lambda done: (views, feed.batch(0)[1]))

        def run_on_views(
            calls: int,
        ) -> dict[str, float]:  # the same step, with the views in place of the images
            with mock.patch.object(train, "draw_views", lambda key, views, *rest: views):
                return run(calls)

        return run_on_views

    return facts, {"ours/augmented": lambda: make(stage, feed.batch), "ours/alone": alone}


def timed_steps(
    step_fn: Callable[..., Any],
    stage: Stage,
    state: TrainState,
    batch: Callable[[int], Any],
    key: jax.Array,
) -> Contender:
    """A contender that takes steps from `state`; `batch` gives images and index of a step."""
    done = 0

    def run(calls: int) -> dict[str, float]:
        nonlocal state, done
        began = time.perf_counter()
        for _ in range(calls):
            state, metrics = step_fn(stage, state, *batch(done), key)
            done += 1
        jax.block_until_ready(state)
        return {"seconds": time.perf_counter() - began, "loss": float(metrics["loss"])}

    return run
