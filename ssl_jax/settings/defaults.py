"""Every setting of a run with its default. The files in `configs/` start from here.

Each section of a config is made from a dataclass, whose docstring explains the settings;
docs/settings.md lists them all.

    top level       settings.run_settings.RunSettings
    data            data.source.Source
    augment.NAME    data.augment.View
    model           the backbones in models/; all share `bn_groups`, `bn_momentum` and `init`
                    (their field `conv_init`)
    head            models.layers.Head
    method          the methods in methods/
    positives       the positives in positives/
    optim           optim.settings: OptimSettings, ScheduleSettings, and GroupSettings for
                    optim.groups.NAME
    evals           settings.eval_settings.EvalSettings, what all evaluators see of an image
    evals.NAME      the evaluators in evaluation/
    stages.NAME     `until_epoch`, and overrides of method, positives, augment or optim that apply
                    until then; until_epoch=0 skips the stage
"""

import functools
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from ssl_jax.data.augment import View
from ssl_jax.data.source import Source
from ssl_jax.models.layers import Head
from ssl_jax.optim.settings import GroupSettings, OptimSettings
from ssl_jax.settings.eval_settings import EvalSettings
from ssl_jax.settings.resolve import SettingError, available, choose
from ssl_jax.settings.run_settings import RunSettings
from ssl_jax.settings.sections import settings_of

EVALUATORS = ("knn", "linear", "clustering")  # score every run unless its config names others
FROM_MODEL = ("bn_groups", "bn_momentum")  # settings of `model` that apply to the head as well


def get_config() -> ConfigDict:
    """Settings common to all methods; the config file adds `method` and `augment`."""
    config = ConfigDict(settings_of(RunSettings))
    config.data = settings_of(Source)
    config.augment = {}
    config.model = {"name": "resnet"} | shared_model_settings()
    config.head = settings_of(Head, without=FROM_MODEL)
    config.method = {}
    config.positives = {"name": "instance"}
    config.optim = settings_of(OptimSettings) | {"groups": {}}
    config.stages = {}
    config.evals = settings_of(EvalSettings) | {name: evaluator(name) for name in EVALUATORS}
    return config


@functools.cache
def shared_model_settings() -> dict[str, Any]:
    """The settings of all the library's backbones at their defaults.

    A backbone ignores the settings that it lacks.
    """
    shared = {}
    for backbone in available("ssl_jax.models", "Backbone").values():
        shared |= model_settings(backbone)
    return shared


def model_settings(backbone: type) -> dict[str, Any]:
    """The settings of one backbone at their defaults, by their names in the section `model`."""
    settings = settings_of(backbone)
    if "conv_init" in settings:  # a Flax module cannot have a field `init`
        settings["init"] = settings.pop("conv_init")
    return settings


def method(name: str, **changes: Any) -> dict[str, Any]:
    """The section `method` for the method `name`: its defaults, updated by `changes`."""
    cls = choose("ssl_jax.methods", name, "method.name", "Method")
    return {"name": name} | settings_of(cls, **changes)


def positives(name: str, **changes: Any) -> dict[str, Any]:
    """The section `positives` for positives `name`: their defaults, updated by `changes`."""
    cls = choose("ssl_jax.positives", name, "positives.name", "Positives")
    return {"name": name} | settings_of(cls, **changes)


def evaluator(name: str, **changes: Any) -> dict[str, Any]:
    """A section of `evals` for the evaluator `name`: its defaults, updated by `changes`."""
    cls = choose("ssl_jax.evaluation", name, "evals", "Evaluator")
    name_setting = {"name": name} if "." in name else {}
    return name_setting | settings_of(cls, **changes)


def view(size: int, **changes: Any) -> dict[str, Any]:
    """A group of views in `augment`: the defaults of `View`, updated by `changes`."""
    return settings_of(View, size=size, **changes)


def own_images(config: ConfigDict, **groups: dict[str, Any]) -> None:
    """What the recipes `:folder` share: whatever is 0 or empty here follows from the images.

    Pictures are kept whole, as squares of 256 pixels: a crop of 0.14 of a picture then has the 96
    pixels of the largest view. Scores see the centre of a picture.

    Args:
        config: changed in place.
        **groups: of views, the section `augment`, whose sizes are set to 0.
    """
    config.automatic = True
    config.data.update(name="folder", size=256)
    config.augment = {name: group | {"size": 0} for name, group in groups.items()}
    config.epochs = 200
    config.batch_size = 0
    config.model.stem = ""
    config.evals.knn.update(k=0, feature="backbone")
    config.evals.crop = 0.875


def own_arrays(config: ConfigDict) -> None:
    """What the recipes `:array` change in `:folder`.

    Scores see all of an image, as arrays may hold crops already.
    """
    config.data.name = "array"
    config.evals.crop = 0.0


def digits_view(**changes: Any) -> dict[str, Any]:
    """A view for 8x8 handwritten digits: crops keep most of a digit, jitter varies contrast."""
    shape = dict(scale=(0.6, 1.0), ratio=(3 / 5, 5 / 3), flip=0.0)
    colours = dict(jitter=1.0, brightness=0.6, contrast=0.6, saturation=0.0, hue=0.0, grayscale=0.0)
    return view(8, **shape | colours | changes)


def group(pattern: str, **changes: Any) -> dict[str, Any]:
    """A group in `optim.groups`: the defaults of `GroupSettings`, updated by `changes`."""
    return settings_of(GroupSettings, pattern=pattern, **changes)


def line_cosine(config: ConfigDict, *, warmup: float, cosine: float) -> None:
    """Sets the schedule `line_cosine`, with `warmup` and `cosine` as fractions of `config.epochs`.

    The lengths follow an override of `config.epochs`.
    """
    epochs = config.get_oneway_ref("epochs").to_float()
    config.optim.schedule.update(
        name="line_cosine", warmup_epochs=epochs * warmup, cosine_epochs=epochs * cosine
    )


def by_name(*variants: Callable[[ConfigDict], None]) -> dict[str, Callable[[ConfigDict], None]]:
    """The `VARIANTS` of a config file: functions that change a config, by their names."""
    return {variant.__name__: variant for variant in variants}


def apply_variant(
    config: ConfigDict, name: str, variants: dict[str, Callable[[ConfigDict], None]]
) -> ConfigDict:
    """Applies the variant of --config=NAME:VARIANT to `config`, and returns it.

    Raises:
        SettingError: no such variant; lists those that exist.
    """
    if name not in variants:
        raise SettingError(f"variant {name!r} is not known; choose one of: {', '.join(variants)}")
    variants[name](config)
    return config


_PLACES = ("data.dir", "data.cache", "data.download", "data.store", "data.workers")
_OBSERVING = (
    "evals",
    "eval_epochs",
    "checkpoint_epochs",
    "keep_checkpoints",
    "log_steps",
    "attention_images",
    "baselines",
    "best",
)
_SEEN_IN_TRAINING = ("evals.crop",)  # by methods that embed all images between steps


def only_observes(name: str) -> bool:
    """Whether the setting `name` ("evals.knn.k", "data.dir") does not affect training."""
    if name in _SEEN_IN_TRAINING:
        return False
    return name.split(".")[0] in _OBSERVING or name in _PLACES
