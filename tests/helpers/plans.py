"""Plans of the project's configs on a few random images."""

import runpy
from pathlib import Path

import numpy as np

from ssl_jax.build import build

CONFIGS = Path(__file__).parents[2] / "configs"
# Where the network does not matter: the tests' own, which takes a tenth of the time.
TINY_MODEL = {"name": "plugins.models.tiny", "width": 4}


def config_of(name, variant):
    return runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"](variant)


def plan_of(name, variant, tmp_path, **changes):
    """The run of a variant on a few random images in place of its data."""
    config = config_of(name, variant)
    rng = np.random.default_rng(0)
    count = 4096
    images = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    labels = np.arange(count) % 10
    np.savez(
        tmp_path / "a.npz",
        images=images,
        labels=labels,
        test_images=images[:20],
        test_labels=labels[:20],
    )
    if config.data.name != "digits":
        config.data.update(name="array", store="cache", dir=str(tmp_path / "a.npz"))
    config.update(changes)
    return build(config)
