"""Every setting of a run with its default. The files in `configs/` start from here.

Each section is made from the dataclass that it fills, whose docstring explains the settings:

    top level       settings.run_settings.RunSettings
    data            data.source.Source
    augment.NAME    data.augment.View
    model           the backbones in models/; `bn_groups`, `bn_momentum` and `init` (their `conv_init`) are shared
    head            models.layers.Head
    method          the methods in methods/
    positives       the positives in positives/
    optim           optim.settings: OptimSettings, ScheduleSettings, and GroupSettings for optim.groups.NAME
    evals.NAME      the evaluators in evaluation/
    stages.NAME     `until_epoch`, and overrides of method, positives, augment or optim that hold until then; 0: never
"""

import functools
from typing import Any

from ml_collections import ConfigDict

from ssl_jax.data.augment import View
from ssl_jax.data.source import Source
from ssl_jax.models.layers import Head
from ssl_jax.optim.settings import GroupSettings, OptimSettings
from ssl_jax.settings.resolve import SettingError, available, choose
from ssl_jax.settings.run_settings import RunSettings
from ssl_jax.settings.sections import settings_of

EVALUATORS = ("knn", "linear", "clustering")  # that score every run, unless its config names others
FROM_MODEL = ("bn_groups", "bn_momentum")  # settings of `model` that the head takes, too


def get_config() -> ConfigDict:
    """Settings common to all methods; `method` and `augment` are left to the config file."""
    config = ConfigDict(settings_of(RunSettings))
    config.data = settings_of(Source)
    config.augment = {}
    config.model = {"name": "resnet"} | shared_model_settings()
    config.head = settings_of(Head, without=FROM_MODEL)
    config.method = {}
    config.positives = {"name": "instance"}
    config.optim = settings_of(OptimSettings) | {"groups": {}}
    config.stages = {}
    config.evals = {name: evaluator(name) for name in EVALUATORS}
    return config


@functools.cache
def shared_model_settings() -> dict[str, Any]:
    """The settings of all backbones of the library at their defaults; a backbone ignores those that it lacks."""
    shared = {}
    for backbone in available("ssl_jax.models", "Backbone").values():
        shared |= model_settings(backbone)
    return shared


def model_settings(backbone: type) -> dict[str, Any]:
    """The settings of one backbone at their defaults, by their names in the section `model`."""
    settings = settings_of(backbone)
    if "conv_init" in settings:  # every Flax module has a function `init`
        settings["init"] = settings.pop("conv_init")
    return settings


def method(name: str, **changes) -> dict[str, Any]:
    """The section `method`: all settings of the method `name` at their defaults, except for `changes`."""
    return {"name": name} | settings_of(choose("ssl_jax.methods", name, "method.name", "Method"), **changes)


def positives(name: str, **changes) -> dict[str, Any]:
    """The section `positives`, likewise."""
    return {"name": name} | settings_of(choose("ssl_jax.positives", name, "positives.name", "Positives"), **changes)


def evaluator(name: str, **changes) -> dict[str, Any]:
    """A section of `evals`, likewise."""
    named = {"name": name} if "." in name else {}
    return named | settings_of(choose("ssl_jax.evaluation", name, "evals", "Evaluator"), **changes)


def view(size: int, **changes) -> dict[str, Any]:
    """A group of views in `augment`, likewise."""
    return settings_of(View, size=size, **changes)


def digits_view(**changes) -> dict[str, Any]:
    """A view for handwritten digits of 8x8 pixels: a crop keeps most of a digit, and only its contrast changes."""
    shape = dict(scale=(0.6, 1.0), ratio=(3 / 5, 5 / 3), flip=0.0)
    colours = dict(jitter=1.0, brightness=0.6, contrast=0.6, saturation=0.0, hue=0.0, grayscale=0.0)
    return view(8, **shape | colours | changes)


def group(pattern: str, **changes) -> dict[str, Any]:
    """A group of parameters in `optim.groups`, likewise."""
    return settings_of(GroupSettings, pattern=pattern, **changes)


def line_cosine(config: ConfigDict, *, warmup: float, cosine: float) -> None:
    """The schedule `line_cosine` with parts that are shares of `config.epochs`, also where those are overridden."""
    epochs = config.get_oneway_ref("epochs").to_float()
    config.optim.schedule.update(name="line_cosine", warmup_epochs=epochs * warmup, cosine_epochs=epochs * cosine)


def by_name(*variants) -> dict:
    """The variants of a config file, functions of a config, by their names; `VARIANTS` of the file."""
    return {variant.__name__: variant for variant in variants}


def apply_variant(config: ConfigDict, name: str, variants: dict) -> ConfigDict:
    """`config` after `variants[name](config)`, for the part of --config=NAME:VARIANT behind the colon.

    Raises:
        SettingError: no such variant; lists those that exist.
    """
    if name not in variants:
        raise SettingError(f"variant {name!r} is not known; choose one of: {', '.join(variants)}")
    variants[name](config)
    return config


_PLACES = ("data.dir", "data.cache", "data.download", "data.store", "data.workers")
_OBSERVING = ("evals", "eval_epochs", "checkpoint_epochs", "keep_checkpoints", "log_steps", "baselines", "best")


def only_observes(name: str) -> bool:
    """Whether the setting `name` ("evals.knn.k", "data.dir") leaves the training as it is."""
    return name.split(".")[0] in _OBSERVING or name in _PLACES
