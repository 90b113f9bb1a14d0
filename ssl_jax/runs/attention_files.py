"""The folder `attention` of a run: heat maps of fixed images over training.

`images.npz` has the images; `STEP.npz` their heat maps at a step.
"""

import dataclasses
import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from ssl_jax.settings.resolve import SettingError

FOLDER = "attention"
_IMAGES = "images"
_OF_IMAGES = ("rows", "pictures", "proportions", "bank", "maps")
_OF_STEP = ("rows", "heat", "cosine")


@dataclasses.dataclass(frozen=True, eq=False)
class Recorded:
    """Heat maps of n images at T steps.

    Attributes:
        rows: [n] rows of the training set.
        pictures: [n, S, S, C] uint8, what the encoder sees.
        proportions: [n] true height over width of what a picture shows.
        bank: whether cosines are with rows of a memory bank, not with means over views.
        maps: name of the feature maps that the heat is of.
        steps: [T] ascending.
        heat: T arrays [n, h, w]; all of a run have one shape unless its views change their size.
        cosine: [T, n].
    """

    rows: np.ndarray
    pictures: np.ndarray
    proportions: np.ndarray
    bank: bool
    maps: str
    steps: list[int]
    heat: list[np.ndarray]
    cosine: np.ndarray


def write_images(folder: Path, **arrays: Any) -> None:
    """Writes the images: `rows`, `pictures`, `proportions`, `bank` and `maps` of `Recorded`."""
    _write(folder, _IMAGES, arrays)


def write_step(folder: Path, step: int, **arrays: Any) -> None:
    """Writes `rows` [n], `heat` [n, h, w] and `cosine` [n] at a step."""
    _write(folder, str(step), arrays)


def steps_in(folder: Path) -> list[int]:
    """The steps with heat maps in a run folder, ascending."""
    paths = (Path(folder) / FOLDER).glob("*.npz")
    return sorted(int(path.stem) for path in paths if path.stem.isdecimal())


def cut(folder: Path, step: int) -> None:
    """Removes heat maps of steps after `step`, the checkpoint that a run resumes from; 0: all."""
    for later in steps_in(folder):
        if later > step or not step:
            _path(folder, str(later)).unlink(missing_ok=True)


def read(folder: Path) -> Recorded:
    """The heat maps of a run folder, of the images that all its steps have.

    Raises:
        SettingError: there are none, or a file is damaged.
    """
    steps = steps_in(folder)
    if not steps:
        raise SettingError(
            f"{folder} has no heat maps; train with --config.attention_images=8 in a new folder"
        )
    images = _read(folder, _IMAGES, _OF_IMAGES)
    maps = [_read(folder, str(step), _OF_STEP) for step in steps]
    # Another number on resuming has the same images first.
    count = min(len(part["rows"]) for part in (images, *maps))
    for step, part in zip(steps, maps):
        if not np.array_equal(part["rows"][:count], images["rows"][:count]):
            raise SettingError(
                f"{_path(folder, str(step))} is of other images than {_IMAGES}.npz; remove it"
            )
    return Recorded(
        rows=images["rows"][:count],
        pictures=images["pictures"][:count],
        proportions=images["proportions"][:count],
        bank=bool(images["bank"]),
        maps=str(images["maps"]),
        steps=steps,
        heat=[part["heat"][:count] for part in maps],
        cosine=np.stack([part["cosine"][:count] for part in maps]),
    )


def _path(folder: Path, name: str) -> Path:
    return Path(folder) / FOLDER / f"{name}.npz"


def _write(folder: Path, name: str, arrays: dict[str, Any]) -> None:
    """Writes a file whole or not at all."""
    path = _path(folder, name)
    path.parent.mkdir(exist_ok=True)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    temporary = path.with_suffix(".tmp")
    try:
        temporary.write_bytes(buffer.getvalue())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(folder: Path, name: str, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    path = _path(folder, name)
    try:
        with np.load(io.BytesIO(path.read_bytes())) as arrays:
            return {key: arrays[key] for key in names}
    except FileNotFoundError as error:
        raise SettingError(
            f"{path} is missing; without it nothing is drawn of the others, so remove {path.parent}"
        ) from error
    except Exception as error:  # zipfile and zlib raise all kinds for damaged files
        raise SettingError(
            f"{path} is damaged ({str(error) or type(error).__name__}); remove it"
        ) from error
