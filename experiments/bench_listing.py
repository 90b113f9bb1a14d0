"""How fast a folder of many small pictures is listed, decoded and trained on.

    python experiments/bench_listing.py --config=swav:folder \
        [--images=50000] [--side=16] [--suffix=.png]

Makes the pictures in a temporary folder, in ten class folders, and prints one line of JSON with
seconds of:

    lists         a first look at names, labels and headers (data.store=stream; statistics given)
    lists_again   the same once more, with what the cache keeps
    decodes       listing and decoding into the cache
    opens_again   opening what the cache holds
    first_step    from the open data set to the end of the first training step, compilation included

Views are made no larger than the pictures.
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from PIL import Image

from ssl_jax import train
from ssl_jax.build import build, fresh_state
from ssl_jax.data import datasets
from ssl_jax.ops.mesh import make_mesh
from ssl_jax.runtime import command
from ssl_jax.runtime.sharding import state_shardings
from ssl_jax.settings import command_line
from ssl_jax.training.batches import Batches

IMAGES = flags.DEFINE_integer("images", 50_000, "Number of pictures.", lower_bound=100)
SIDE = flags.DEFINE_integer("side", 16, "Their side in pixels.", lower_bound=1)
SUFFIX = flags.DEFINE_string("suffix", ".png", "Ending of their names.")


def make(folder: Path) -> None:
    """Writes the pictures."""
    rng = np.random.default_rng(0)
    for name in range(10):
        (folder / f"class{name}").mkdir(parents=True)
    for i in range(IMAGES.value):
        pixels = rng.integers(0, 256, (SIDE.value, SIDE.value, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"class{i % 10}" / f"{i:06d}{SUFFIX.value}")


def timed(function: Callable[[], Any]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def first_step(plan: Any) -> None:
    """Compiles and takes one training step."""
    key = jax.random.key(0)
    mesh = make_mesh()
    shardings = state_shardings(mesh, plan.shapes)
    images = plan.dataset.train.images
    batches = Batches(images, mesh, key, batch_size=plan.batch_size, resident=False)
    state = fresh_state(plan, key, shardings)
    _, metrics = train.jit_step(mesh, shardings)(plan.stages[0], state, *batches.batch(0), key)
    jax.block_until_ready(metrics)
    batches.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as place, jax.set_mesh(make_mesh()):
        pictures = Path(place, "pictures")
        make(pictures)
        settings = dict(dir=str(pictures), cache=str(Path(place, "cache")), size=SIDE.value)
        streamed = settings | dict(store="stream", mean=(0.5,) * 3, std=(0.25,) * 3)
        seconds = dict(
            lists=timed(lambda: datasets.load("folder", **streamed)),
            lists_again=timed(lambda: datasets.load("folder", **streamed)),
            decodes=timed(lambda: datasets.load("folder", **settings)),
            opens_again=timed(lambda: datasets.load("folder", **settings)),
        )
        config = command_line.CONFIG.value
        config.data.update(settings)
        for view in config.augment.values():
            view.size = min(view.size, SIDE.value)
        plan = build(config)
        seconds["first_step"] = timed(lambda: first_step(plan))
    facts = dict(images=IMAGES.value, side=SIDE.value, suffix=SUFFIX.value)
    print(json.dumps(facts | {name: round(value, 2) for name, value in seconds.items()}))


if __name__ == "__main__":
    command.start(main)
