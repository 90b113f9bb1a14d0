"""Checkpoints with orbax: the latest two and the best, none of a step whose loss was not read finite."""

from pathlib import Path

import jax
import orbax.checkpoint as ocp

from ssl_jax.settings import SettingError


class Checkpoints:
    """The checkpoints of a run folder.

    Args:
        folder: the run folder.
        scores: step -> score, of the steps evaluated so far; the step with the highest is kept. The caller
            goes on filling it (orbax's own record of scores would not outlive the process).
    """

    def __init__(self, folder: Path, scores: dict[int, float]):
        options = ocp.CheckpointManagerOptions(preservation_policy=_Keep(scores), cleanup_tmp_directories=True)
        path = Path(folder).absolute() / "checkpoints"
        self._manager = ocp.CheckpointManager(path, item_handlers=ocp.StandardCheckpointHandler(), options=options)

    def latest(self) -> int | None:
        """The newest complete step, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state) -> None:
        """Starts to write `state`; training may go on (and donate it) at once."""
        if step not in self._manager.all_steps():
            self._manager.save(step, args=ocp.args.StandardSave(state), force=True)

    def restore(self, step: int, shapes, shardings):
        """The state of `step`, in the layout of `shardings`.

        Raises:
            SettingError: the checkpoint holds other arrays than `shapes` (the first that differs).
        """
        _compare(self._manager.item_metadata(step), shapes, step)
        target = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)
        return self._manager.restore(step, args=ocp.args.StandardRestore(target))

    def close(self) -> None:
        """Waits for what is being written."""
        self._manager.wait_until_finished()
        self._manager.close()


class _Keep:
    """orbax's preservation policy: the latest two, and the best by `scores`."""

    def __init__(self, scores):
        self._scores = scores

    def should_preserve(self, checkpoints, *, context):
        steps = [c.step for c in checkpoints]
        best = max((s for s in steps if s in self._scores), key=self._scores.get, default=None)
        return [step == best or step in steps[-2:] for step in steps]


class Donor:
    """A checkpoint of another run, to go on from.

    Args:
        folder: that run's folder.
        step: of the checkpoint; None for the last.

    Raises:
        SettingError: it holds no checkpoint, or none of this step.
    """

    def __init__(self, folder, step=None):
        path = Path(folder).absolute() / "checkpoints"
        self._folder, steps = folder, []
        if path.is_dir():
            self._manager = ocp.CheckpointManager(path, item_handlers=ocp.StandardCheckpointHandler())
            steps = self._manager.all_steps()
        if not steps:
            raise SettingError(f"init_from={str(folder)!r} holds no checkpoint; give the folder of a run")
        if step not in (None, *steps):
            raise SettingError(f"init_from={str(folder)!r} holds no checkpoint of step {step}, only of {sorted(steps)}")
        self.step = step or max(steps)
        self._stored = {_path(p): x for p, x in _leaves(self._manager.item_metadata(self.step))}

    def check(self, shapes, parts):
        """Raises a SettingError naming the first array of the trees `parts` of `shapes` that is not there."""
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
            name = _path(path)
            if name.split("/")[0] not in parts:
                continue
            shape = tuple(self._stored[name].shape) if name in self._stored else None
            if shape != tuple(leaf.shape):
                said = "has no" if shape is None else f"has {shape} for"
                raise SettingError(f"init_from={str(self._folder)!r} {said} {name}, this run needs {tuple(leaf.shape)}")

    def adopt(self, state, shardings, parts, everywhere):
        """`state`, laid out as `shardings`, with the trees `parts` of the checkpoint, read as `everywhere` says."""
        metadata = self._manager.item_metadata(self.step)
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), metadata)
        stored = self._manager.restore(self.step, args=ocp.args.StandardRestore(target))
        found = {_path(p): x for p, x in jax.tree_util.tree_leaves_with_path(stored)}

        def take(path, own, place):
            other = found.get(_path(path)) if _path(path).split("/")[0] in parts else None
            return own if other is None else jax.device_put(other, place)

        return jax.tree_util.tree_map_with_path(take, state, shardings)

    def close(self):
        self._manager.close()


def _leaves(stored):
    return [(p, x) for p, x in jax.tree_util.tree_leaves_with_path(stored) if hasattr(x, "shape")]


def _compare(stored, shapes, step: int) -> None:
    found = {_path(p): tuple(x.shape) for p, x in jax.tree_util.tree_leaves_with_path(stored) if hasattr(x, "shape")}
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        shape = found.get(_path(path))
        if shape != tuple(leaf.shape):
            said = "is missing" if shape is None else f"has shape {shape}"
            raise SettingError(f"checkpoint {step}: {_path(path)} {said}, this run needs {tuple(leaf.shape)}")


def _path(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
