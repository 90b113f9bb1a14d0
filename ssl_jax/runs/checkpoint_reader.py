"""Reads a checkpoint of another run, or of one that is evaluated, without changing it."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.sharding import Sharding

from ssl_jax.interface import TrainState
from ssl_jax.runs import checksums
from ssl_jax.runs.checkpoint_files import (
    Shape,
    check_path,
    first_other,
    others,
    path_of,
    reading,
    shapes_of,
    verify,
)
from ssl_jax.runs.run_folder import steps_in
from ssl_jax.runtime import processes
from ssl_jax.settings.resolve import SettingError


class CheckpointReader:
    """A checkpoint of another run, to start from or to read; nothing of it is changed.

    Args:
        folder: that run's folder.
        step: the checkpoint's step; None for the last.
        setting: the setting that names the folder, for messages.

    Raises:
        SettingError: the folder holds no checkpoint, none of this step, or one that is unfinished
            or was written by another program.
    """

    def __init__(self, folder: Path | str, step: int | None = None, setting: str = "init_from"):
        check_path(folder, setting)
        path = Path(folder).absolute() / "checkpoints"
        self._name = f"{setting}={str(folder)!r}"
        self.steps = steps_in(folder)
        if not self.steps:
            raise SettingError(f"{self._name} holds no checkpoint; give the folder of a run")
        if step not in (None, *self.steps):
            raise SettingError(
                f"{self._name} holds no checkpoint of step {step}, only of {self.steps}"
            )
        self.step = step or self.steps[-1]
        self._path = path / str(self.step) / "default"
        if not (self._path / "_METADATA").is_file() and not checksums.exist(self._path.parent):
            raise self._unusable("is unfinished or was written by another program")
        # Not orbax's manager: its constructor is a barrier, which some hosts may never reach.
        if processes.is_first():
            verify(path / str(self.step), self._damaged)
        handler = ocp.StandardCheckpointHandler()
        self._reader = ocp.Checkpointer(handler)
        with reading(self._damaged):
            self._metadata = handler.metadata(self._path)
        self.stored = shapes_of(self._metadata)

    def check(self, shapes: TrainState, parts: Collection[str], shardings: Any) -> None:
        """Checks that the checkpoint has the trees `parts` of `shapes`.

        A bank may be padded differently where `shardings` lay it out over devices.

        Raises:
            SettingError: names the first array that is missing or has another shape.
        """
        if mismatch := first_other(self.stored, shapes, shardings, parts):
            name, shape, needed = mismatch
            problem = "has no" if shape is None else f"has {shape} for"
            raise SettingError(f"{self._name} {problem} {name}, this run needs {needed}")

    def misfits(
        self, shapes: TrainState, parts: Collection[str], shardings: Any
    ) -> list[tuple[str, Shape | None, Shape]]:
        """All arrays of the trees `parts` that the checkpoint lacks or has in another shape.

        Returns:
            path, shape in the checkpoint (None where missing) and needed shape of each.
        """
        return list(others(self.stored, shapes, shardings, parts))

    def check_one(self, name: str, place: str, shapes: TrainState) -> None:
        """Checks that the array at `place` of the checkpoint fits as `name` of `shapes`.

        Raises:
            SettingError: it does not; names it and both shapes.
        """
        needed = {
            path_of(path): tuple(x.shape) for path, x in jax.tree_util.tree_leaves_with_path(shapes)
        }[name]
        shape = self.stored.get(place)
        if shape != needed:
            problem = "has no" if shape is None else f"has {shape} for"
            raise SettingError(f"{self._name} {problem} {place}, this run needs {needed}")

    def load_into(
        self,
        state: TrainState,
        shardings: Any,
        parts: Collection[str],
        everywhere: Sharding,
        places: Mapping[str, str | None] | None = None,
    ) -> TrainState:
        """`state` with the trees `parts` replaced by those of the checkpoint.

        Args:
            state: a complete train state.
            shardings: the layout of the trees that are taken, a tree like `state`.
            parts: top-level trees to take.
            everywhere: where orbax puts the checkpoint's other arrays, which are dropped.
            places: paths in the checkpoint of arrays that are elsewhere in `state`; None for those
                that stay as they are.
        """
        leaves = jax.tree_util.tree_leaves_with_path(state)
        places = places or {}
        taken = {}
        sources = {}
        for (path, x), sharding in zip(leaves, jax.tree.leaves(shardings)):
            name = path_of(path)
            place = places.get(name, name)
            if name.split("/")[0] in parts and place is not None:
                taken[place] = (x.shape, sharding)
                sources[name] = place

        def target_of(path, x):
            shape, sharding = taken.get(path_of(path), (x.shape, everywhere))
            return jax.ShapeDtypeStruct(shape, x.dtype, sharding=sharding)

        target = jax.tree_util.tree_map_with_path(target_of, self._metadata)
        with reading(self._damaged):
            restored = self._reader.restore(
                self._path, args=ocp.args.StandardRestore(target, strict=False)
            )
        arrays = {path_of(path): x for path, x in jax.tree_util.tree_leaves_with_path(restored)}

        def replaced(path: Any, x: jax.Array) -> jax.Array:
            if path_of(path) not in sources:
                return x
            place = sources[path_of(path)]
            # Two networks must not share an array, which the step would donate twice.
            return arrays[place] if place == path_of(path) else jnp.copy(arrays[place])

        return jax.tree_util.tree_map_with_path(replaced, state)

    def _damaged(self, why: str) -> SettingError:
        return self._unusable(f"is damaged ({why})")

    def _unusable(self, why: str) -> SettingError:
        others = [step for step in self.steps if step != self.step]
        hint = f"; other checkpoints: {others}" if others else ""
        return SettingError(f"{self._name}: checkpoint {self.step} {why}{hint}")

    def close(self) -> None:
        """Ends orbax's threads."""
        self._reader.close()
