"""The section `evals`: the evaluators by name, and what they all see of an image."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from ssl_jax.settings import ranges
from ssl_jax.settings.resolve import SettingError, fill


@dataclasses.dataclass(frozen=True)
class EvalSettings:
    """Settings of `evals` beside those of each evaluator.

    Attributes:
        crop: side of the central square that scores see, as a share of an image's short side: 0.875
            is torchvision's resize to 256 and central crop of 224 pixels; 0 is all of the image,
            squeezed into a square. What a method embeds during training, as CoNR does to cluster
            all images, is the same, so a run keeps it.
    """

    crop: float = 0.0

    def __post_init__(self) -> None:
        ranges.between(0, 1, crop=self.crop)


_NAMES = tuple(field.name for field in dataclasses.fields(EvalSettings))


def evaluators(evals: Mapping[str, Any]) -> dict[str, Any]:
    """The sections of the evaluators in `evals`, by name, without the settings that they share."""
    return {name: values for name, values in evals.items() if name not in _NAMES}


def shared(evals: Mapping[str, Any]) -> EvalSettings:
    """The settings that the evaluators in `evals` share; those it lacks have their defaults.

    Raises:
        SettingError: a wrong type, a number outside its range, or an evaluator of that name.
    """
    values = {name: evals[name] for name in _NAMES if name in evals}
    for name, value in values.items():
        if isinstance(value, Mapping | ConfigDict):
            raise SettingError(f"evals.{name} {_taken(name)}")
    return fill(EvalSettings, values, "evals")


def check_names(names: Iterable[str]) -> None:
    """Checks that no evaluator has the name of a setting that all share.

    Raises:
        SettingError: one has.
    """
    for name in names:
        if name in _NAMES:
            raise SettingError(f"--evals: {name} {_taken(name)}")


def _taken(name: str) -> str:
    return f"is a number that all evaluators share; an evaluator called {name} needs another name"


def complete(config: Any) -> None:
    """Adds the settings that evaluators share to a config that lacks them, as flags need them.

    A recipe that replaces `evals` by a few evaluators loses them. Whole numbers become floats, so
    that a flag may have decimals.

    Args:
        config: changed in place, even if it is locked; anything but a ConfigDict with a section
            `evals` is left alone.
    """
    if not isinstance(config, ConfigDict) or not isinstance(config.get("evals"), ConfigDict):
        return
    evals = config.evals
    with config.unlocked(), evals.ignore_type():
        for name, default in dataclasses.asdict(EvalSettings()).items():
            value = evals.get(name, default)
            if name not in evals or type(value) is int:
                evals[name] = float(value)
