"""A checkpoint of another run, or of one that is read: nothing of it is changed."""

from pathlib import Path

import jax
import orbax.checkpoint as ocp

from ssl_jax.runs import checksums
from ssl_jax.runs.checkpoint_files import check_path, first_other, path_of, reading, shapes_of, verify
from ssl_jax.runs.run_folder import steps_in
from ssl_jax.runtime import processes
from ssl_jax.settings.resolve import SettingError


class CheckpointReader:
    """A checkpoint of another run, to go on from or to read; nothing of it is changed.

    Args:
        folder: that run's folder.
        step: of the checkpoint; None for the last.
        setting: that named the folder, for messages.

    Raises:
        SettingError: it holds no checkpoint, none of this step, or one that is unfinished or of another program.
    """

    def __init__(self, folder, step=None, setting="init_from"):
        check_path(folder, setting)
        path = Path(folder).absolute() / "checkpoints"
        self._name = f"{setting}={str(folder)!r}"
        self.steps = steps_in(folder)
        if not self.steps:
            raise SettingError(f"{self._name} holds no checkpoint; give the folder of a run")
        if step not in (None, *self.steps):
            raise SettingError(f"{self._name} holds no checkpoint of step {step}, only of {self.steps}")
        self.step = step or self.steps[-1]
        self._path = path / str(self.step) / "default"
        if not (self._path / "_METADATA").is_file() and not checksums.exist(self._path.parent):
            raise self._unusable("is unfinished or of another program")
        # Not orbax's manager, in whose constructor all hosts wait for one another; one may not have come this far.
        if processes.is_first():
            verify(path / str(self.step), self._damaged)
        handler = ocp.StandardCheckpointHandler()
        self._reader = ocp.Checkpointer(handler)
        with reading(self._damaged):
            self._metadata = handler.metadata(self._path)
        self._stored = shapes_of(self._metadata)

    def check(self, shapes, parts, shardings):
        """Raises a SettingError naming the first array of the trees `parts` of `shapes` that is not there.

        In the layout of `shardings` the padding of a bank may be another.
        """
        if differs := first_other(self._stored, shapes, shardings, parts):
            name, shape, needed = differs
            said = "has no" if shape is None else f"has {shape} for"
            raise SettingError(f"{self._name} {said} {name}, this run needs {needed}")

    def load_into(self, state, shardings, parts, everywhere):
        """`state`, laid out as `shardings`, with the trees `parts` of the checkpoint; its others go `everywhere`."""
        wanted = lambda path: path.split("/")[0] in parts
        leaves, places = jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(shardings)
        own = {path_of(p): (x.shape, place) for (p, x), place in zip(leaves, places) if wanted(path_of(p))}

        def read(path, x):
            shape, place = own.get(path_of(path), (x.shape, everywhere))
            return jax.ShapeDtypeStruct(shape, x.dtype, sharding=place)

        target = jax.tree_util.tree_map_with_path(read, self._metadata)
        with reading(self._damaged):
            stored = self._reader.restore(self._path, args=ocp.args.StandardRestore(target, strict=False))
        found = {path_of(p): x for p, x in jax.tree_util.tree_leaves_with_path(stored)}
        take = lambda path, x: found[path_of(path)] if path_of(path) in own else x
        return jax.tree_util.tree_map_with_path(take, state)

    def _damaged(self, why):
        return self._unusable(f"is damaged ({why})")

    def _unusable(self, why):
        others = [step for step in self.steps if step != self.step]
        also = f"; there are also {others}" if others else ""
        return SettingError(f"{self._name}: checkpoint {self.step} {why}{also}")

    def close(self):
        self._reader.close()
