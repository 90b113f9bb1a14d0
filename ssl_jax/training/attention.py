"""Records, while a run trains, what it looks at in a few fixed images."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ssl_jax.build import Plan
from ssl_jax.data.whole import WholePictures, geometry
from ssl_jax.inference import attention
from ssl_jax.interface import TrainState
from ssl_jax.runs import attention_files
from ssl_jax.runtime import processes
from ssl_jax.runtime.sharding import put_all, replicated
from ssl_jax.settings.resolve import SettingError
from ssl_jax.stages import Stage

_SIDE = 256  # pixels of a recorded picture, at most
_SEED = 0  # draws the images: the same in all runs on the same data


class AttentionRecorder:
    """Writes heat maps of fixed training images into the run folder; only observes the run.

    The images are drawn once, whatever the run's seed, so that runs can be compared. All hosts
    must call `record` at the same point of the run.

    Args:
        plan: what is trained; `settings.attention_images` may be 0, and then nothing is recorded.
        folder: the run folder.
        mesh: the devices.

    Raises:
        SettingError: more images than there are, or a method without feature maps.
    """

    def __init__(self, plan: Plan, folder: Path, mesh: Mesh):
        self._folder = folder
        count = plan.settings.attention_images
        images = plan.dataset.train.images
        if count > len(images):
            raise SettingError(
                f"attention_images={count}: between 0 and the {len(images)} training images"
            )
        self._rows = np.random.default_rng(_SEED).permutation(len(images))[:count]
        if not count:
            return
        stage = plan.stages[-1]
        size = stage.views[0].size
        image = jax.ShapeDtypeStruct((1, size, size, images.shape[-1]), np.float32)
        try:
            self._names = attention.names_of(stage.method, plan.shapes, image)
        except ValueError as error:
            raise SettingError(f"attention_images={count}: {error}; set it to 0") from error
        self._stage = stage
        self._bank = attention.has_bank(plan.shapes)
        self._here = images[self._rows]
        self._images = put_all(self._here, replicated(mesh))
        self._key = jax.random.key(_SEED)

    def open(self, step: int) -> None:
        """Drops what was recorded after `step`, the checkpoint that the run resumes from, or 0."""
        if not processes.is_first():
            return
        attention_files.cut(self._folder, step)
        if len(self._rows):
            attention_files.write_images(
                self._folder,
                rows=self._rows,
                pictures=attention.seen(
                    self._stage, self._here, min(self._stage.views[0].size, _SIDE)
                ),
                proportions=_proportions(self._here, self._stage.crop),
                bank=self._bank,
                maps=self._names.maps,
            )

    def missing(self, step: int) -> bool:
        """Whether heat maps of `step` are wanted and not on record; the same on all hosts."""
        recorded = processes.share(attention_files.steps_in(self._folder))
        return bool(len(self._rows)) and step not in recorded

    def record(self, stage: Stage, state: TrainState, step: int) -> None:
        """Writes the heat maps of the encoder at `step`."""
        if not len(self._rows):
            return
        heat, cosine = attention.attention(
            stage, self._names, state, self._images, self._rows, self._key
        )
        if processes.is_first():
            attention_files.write_step(
                self._folder, step, rows=self._rows, heat=heat, cosine=cosine
            )


def _proportions(images: Any, crop: float) -> np.ndarray:
    """Height over width [n] of what is seen of each image: all of it, or a central square."""
    if crop:
        return np.ones(len(images))
    if isinstance(images, WholePictures):
        return np.array([np.divide(*geometry(images[i])) for i in range(len(images))])
    return np.full(len(images), images.shape[1] / images.shape[2])
