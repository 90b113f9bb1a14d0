"""Checkpoints with orbax: the latest and the best, none of a step whose loss was not read finite."""

import contextlib
import errno
import os
import re
import shutil
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from ssl_jax.runtime.sharding import same_but_padding
from ssl_jax.settings.resolve import SettingError

_OVERHEAD = 4096  # bytes of each array in a checkpoint, for names, shapes and what is left of a disk's blocks


def check_path(folder, setting: str = "workdir") -> None:
    """Raises SettingError for a path that orbax would take for a pattern, so that it would not find its own files."""
    if found := sorted(set("[]*?") & set(str(Path(folder).absolute()))):
        raise SettingError(
            f"{setting}={str(folder)!r}: no part of a run folder's path may have {' '.join(found)} in its name, since "
            "checkpoints there are not found again; choose another name"
        )


class Checkpoints:
    """The checkpoints of a run folder.

    Args:
        folder: the run folder.
        scores: step -> score, of the steps evaluated so far; the step with the highest is kept. The caller
            goes on filling it (orbax's own record of scores would not outlive the process).
        keep: so many of the latest stay; 0 for all.
    """

    def __init__(self, folder: Path, scores: dict[int, float], keep: int = 2):
        options = ocp.CheckpointManagerOptions(preservation_policy=_Keep(scores, keep), cleanup_tmp_directories=True)
        self._path = Path(folder) / "checkpoints"
        handlers = ocp.StandardCheckpointHandler()
        self._manager = ocp.CheckpointManager(self._path.absolute(), item_handlers=handlers, options=options)

    def latest(self) -> int | None:
        """The newest complete step, or None."""
        return self._manager.latest_step()

    def holds(self, step: int) -> bool:
        """Whether the checkpoint of `step` is complete on disk."""
        return (self._path / str(step)).is_dir()

    def save(self, step: int, state) -> None:
        """Starts to write `state`; training may go on (and donate it) at once.

        Raises:
            OSError: there is no room. Known beforehand, since orbax's threads each print a page where a disk is full.
        """
        if step not in self._manager.all_steps():
            arrays = jax.tree.leaves(state)
            needed = sum(x.nbytes for x in arrays) + _OVERHEAD * len(arrays)
            if needed > shutil.disk_usage(self._path).free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
            self._manager.save(step, args=ocp.args.StandardSave(state), force=True)

    def restore(self, step: int, shapes, shardings):
        """The state of `step`, in the layout of `shardings`; a bank's padding as this machine's devices want it.

        Raises:
            SettingError: the checkpoint is damaged, or holds other arrays than `shapes` (the first that differs).
        """
        way_out = (
            f"; if it is beyond repair, remove {self._path / str(step)}: the same command goes on from the one before"
        )
        with _reading(lambda why: SettingError(f"checkpoint {step} {why}{way_out}")):
            stored = self._manager.item_metadata(step)
        if differs := _first_other(_shapes(stored), shapes, shardings):
            name, shape, needed = differs
            said = "is missing" if shape is None else f"has shape {shape}"
            raise SettingError(f"checkpoint {step}: {name} {said}, this run needs {needed}")
        target = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)
        with _reading(lambda why: SettingError(f"checkpoint {step} {why}{way_out}")):
            return self._manager.restore(step, args=ocp.args.StandardRestore(target, strict=False))

    def close(self) -> None:
        """Waits for what is being written."""
        self._manager.wait_until_finished()
        self._manager.close()


class _Keep:
    """orbax's preservation policy: the `latest` so many (0: all), and the best by `scores`."""

    def __init__(self, scores, latest):
        self._scores, self._latest = scores, latest

    def should_preserve(self, checkpoints, *, context):
        steps = [c.step for c in checkpoints]
        best = max((s for s in steps if s in self._scores), key=self._scores.get, default=None)
        return [step == best or step in steps[-self._latest :] for step in steps]


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
        # Unfinished ones have longer names.
        self.steps = sorted(int(p.name) for p in path.glob("*") if p.name.isdigit())
        if not self.steps:
            raise SettingError(f"{self._name} holds no checkpoint; give the folder of a run")
        if step not in (None, *self.steps):
            raise SettingError(f"{self._name} holds no checkpoint of step {step}, only of {self.steps}")
        self.step = step or max(self.steps)
        self._path = path / str(self.step) / "default"
        if not (self._path / "_METADATA").is_file():
            raise self._unusable("is unfinished or of another program")
        # Not orbax's manager, in whose constructor all hosts wait for one another; one may not have come this far.
        handler = ocp.StandardCheckpointHandler()
        self._reader = ocp.Checkpointer(handler)
        with _reading(self._unusable):
            self._metadata = handler.metadata(self._path)
        self._stored = _shapes(self._metadata)

    def check(self, shapes, parts, shardings):
        """Raises a SettingError naming the first array of the trees `parts` of `shapes` that is not there.

        In the layout of `shardings` the padding of a bank may be another.
        """
        if differs := _first_other(self._stored, shapes, shardings, parts):
            name, shape, needed = differs
            said = "has no" if shape is None else f"has {shape} for"
            raise SettingError(f"{self._name} {said} {name}, this run needs {needed}")

    def load_into(self, state, shardings, parts, everywhere):
        """`state`, laid out as `shardings`, with the trees `parts` of the checkpoint; its others go `everywhere`."""
        wanted = lambda path: path.split("/")[0] in parts
        leaves, places = jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(shardings)
        own = {_path(p): (x.shape, place) for (p, x), place in zip(leaves, places) if wanted(_path(p))}

        def read(path, x):
            shape, place = own.get(_path(path), (x.shape, everywhere))
            return jax.ShapeDtypeStruct(shape, x.dtype, sharding=place)

        target = jax.tree_util.tree_map_with_path(read, self._metadata)
        with _reading(self._unusable):
            stored = self._reader.restore(self._path, args=ocp.args.StandardRestore(target, strict=False))
        found = {_path(p): x for p, x in jax.tree_util.tree_leaves_with_path(stored)}
        take = lambda path, x: found[_path(path)] if _path(path) in own else x
        return jax.tree_util.tree_map_with_path(take, state)

    def _unusable(self, why):
        others = [step for step in self.steps if step != self.step]
        return SettingError(f"{self._name}: checkpoint {self.step} {why}" + f"; there are also {others}" * bool(others))

    def close(self):
        self._reader.close()


@contextlib.contextmanager
def _reading(unusable):
    """Raises `unusable(why)` where orbax cannot read a checkpoint."""
    try:
        yield
    except Exception as error:  # orbax raises all kinds for missing and damaged files
        why = re.split(r" \[tensorstore_spec|\. See full|\n", str(error))[0]
        raise unusable(f"is damaged ({why})") from error


def _shapes(stored) -> dict[str, tuple[int, ...]]:
    """The shapes of a checkpoint's arrays by their path."""
    leaves = jax.tree_util.tree_leaves_with_path(stored)
    return {_path(p): tuple(x.shape) for p, x in leaves if hasattr(x, "shape")}


def _first_other(stored, shapes, shardings, parts=None):
    """(path, shape in `stored` or None, shape needed) of the first array of `shapes` that is another there, or None.

    Only in the trees `parts`, if given. In the layout of `shardings` the padding of a bank may be another.
    """
    for (path, leaf), place in zip(jax.tree_util.tree_leaves_with_path(shapes), jax.tree.leaves(shardings)):
        name = _path(path)
        if parts is None or name.split("/")[0] in parts:
            shape = stored.get(name)
            if shape is None or not same_but_padding(shape, leaf.shape, place):
                return name, shape, tuple(leaf.shape)
    return None


def _path(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
