"""All methods, positives, evaluators and backbones of the library, shrunk to a testable size."""

import dataclasses
import functools
import inspect
import runpy
from pathlib import Path

import numpy as np

from helpers.plans import CONFIGS, TINY_MODEL
from ssl_jax.build import build
from ssl_jax.data.source import Dataset, Images
from ssl_jax.settings.resolve import available

# What settings of these names become, wherever a part has them: sizes that 70 images and seconds
# allow.
SHRUNK = dict(
    steps=5,
    epochs=1,
    batch_size=16,
    restarts=1,
    iterations=3,
    k=3,
    k1=4,
    k2=2,
    clusters=3,
    neighbours=(1, 2),
    batches=1,
    ten_crop=0.5,
)


def methods() -> dict[str, type]:
    """The methods of the library by the name of their file."""
    return available("ssl_jax.methods", "Method")


def positives() -> dict[str, type]:
    """The positives of the library by the name of their file."""
    return available("ssl_jax.positives", "Positives")


def evaluators() -> dict[str, type]:
    """The evaluators of the library by the name of their file."""
    return available("ssl_jax.evaluation", "Evaluator")


def backbones() -> dict[str, type]:
    """The backbones of the library by the name of their file."""
    return available("ssl_jax.models", "Backbone")


def shrunk(cls) -> dict:
    """The settings of SHRUNK that a dataclass has; as a tuple where it takes several numbers."""
    fields = {f.name: f for f in dataclasses.fields(cls)}
    found = {name: value for name, value in SHRUNK.items() if name in fields}
    several = {name for name in found if isinstance(fields[name].default, tuple)}
    return {
        name: (value if isinstance(value, tuple) else (value,)) if name in several else _one(value)
        for name, value in found.items()
    }


def _one(value):
    return value[0] if isinstance(value, tuple) else value


@functools.cache
def config_of_method(name: str):
    """The default variant of the config of a method.

    Raises:
        LookupError: none of configs/ has it; names the method.
    """
    for path in sorted(Path(CONFIGS).glob("*.py"), key=lambda path: path.stem != name):
        config = runpy.run_path(str(path))["get_config"]()
        if config.method.name == name:
            return config
    raise LookupError(
        f"no config in configs/ has method.name={name!r} in its default variant: "
        f"write configs/{name}.py"
    )


def stage_of_method(name: str, images: np.ndarray, batch_size: int):
    """The last stage of a method's config, on `images` [N, H, W, C] of two classes."""
    config = config_of_method(name).copy_and_resolve_references().unlock()
    config.batch_size = batch_size
    config.epochs = 5
    config.evals = {}
    config.model = TINY_MODEL
    config.head.update(dim=6, hidden=(10,))
    labels = np.arange(len(images)).astype(np.int32) % 2
    split = Images(images, labels)
    channels = images.shape[-1]
    data = Dataset(split, split, ("a", "b"), (0.5,) * channels, (0.25,) * channels)
    return build(config, data).stages[-1]


def described(cls) -> bool:
    """Whether a part inherits from its contract, and says in a docstring what it is."""
    return any(base.__module__ == "ssl_jax.interface" for base in cls.__mro__) and bool(
        inspect.getdoc(cls)
    )
