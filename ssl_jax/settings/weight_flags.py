"""Flags of commands that take a weight file in place of a run: the file, and what images it takes.

The names of what it takes are those of `load_encoder`, and `command_line.with_run` refuses them
without a file.
"""

import math
from pathlib import Path
from typing import Any

from absl import flags

from ssl_jax.settings.command_line import OF_WEIGHTS
from ssl_jax.settings.paths import user_path
from ssl_jax.settings.ranges import FLOAT32
from ssl_jax.settings.resolve import SettingError

WEIGHTS = flags.DEFINE_string(
    "weights",
    None,
    "Weight file of a ResNet (.safetensors, .pth, ...) in place of a run, named by any library.",
)
flags.DEFINE_integer(
    "size",
    None,
    "With --weights: side in pixels that images are resized to; default: the file's note, else "
    "224 (32 for the stem of CIFAR).",
    lower_bound=1,
    upper_bound=10_000,
)
flags.DEFINE_list(
    "mean",
    None,
    "With --weights: channel means, for pixels in 0..1; default: the file's note, else ImageNet's.",
)
flags.DEFINE_list(
    "std",
    None,
    "With --weights: channel standard deviations; default: the file's note, else ImageNet's.",
)
flags.DEFINE_list(
    "range",
    None,
    "With --weights: the two values that are black and white, of images with more than 8 bits and "
    "of arrays, as LOW,HIGH; default: the file's note, else --data.range.",
)
flags.DEFINE_float(
    "crop",
    None,
    "With --weights: side of the central square that is seen, as a share of an image's short side "
    "(0.875 as published, 0: all of an image); default: the file's note, else 0.",
    lower_bound=0.0,
    upper_bound=1.0,
)
flags.DEFINE_string(
    "prefix",
    None,
    "With --weights: what stands before the network's names, where a file holds several networks.",
)


def weight_file() -> Path | None:
    """The file of --weights; None without.

    Raises:
        SettingError: no file can have this path.
    """
    return user_path(WEIGHTS.value, "--weights") if WEIGHTS.value else None


def image_settings() -> dict[str, Any]:
    """What the flags say of the images that a weight file takes, by the names of `load_encoder`.

    Raises:
        SettingError: statistics that are not numbers, or not positive; or a range that is none.
    """
    given = {name: flags.FLAGS[name].value for name in OF_WEIGHTS}
    given = {name: value for name, value in given.items() if value is not None}
    for name in ("mean", "std"):
        if name in given:
            given[name] = _statistics(given[name], name)
    if "range" in given:
        given["range"] = _range(given["range"])
    return given


def _numbers(texts: list[str]) -> tuple[float, ...]:
    """The values of "0.5,0.4,0.4" or "(0.5, 0.4, 0.4)", split at commas; empty if not numbers."""
    try:
        return tuple(float(text.strip("()[] ")) for text in texts if text.strip("()[] "))
    except ValueError:
        return ()


def _range(texts: list[str]) -> tuple[float, ...]:
    """The two values of --range."""
    values = _numbers(texts)
    within = all(abs(value) <= FLOAT32 for value in values)
    if len(values) != 2 or not within or values[0] >= values[1]:
        raise SettingError(
            f"--range={','.join(texts)}: give the values that are black and white, the first "
            "smaller, such as --range=0,4095"
        )
    return values


def _statistics(texts: list[str], name: str) -> tuple[float, ...]:
    """The values of --mean or --std."""
    values = _numbers(texts)
    within = all(math.isfinite(x) and 0 <= x <= 1 and (name == "mean" or x > 0) for x in values)
    if not values or not within:
        span = "0 to 1" if name == "mean" else "above 0 to 1"
        raise SettingError(
            f"--{name}={','.join(texts)}: give a number from {span} for each channel, such as "
            f"--{name}=0.5,0.5,0.5"
        )
    return values
