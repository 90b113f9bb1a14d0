"""Checkpoints with orbax: the latest and the best, none of a step whose loss was not read finite."""

import errno
import os
import shutil
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from ssl_jax.runs.checkpoint_files import first_other, reading, shapes_of, verify
from ssl_jax.runs.sealing import Sealing
from ssl_jax.runtime import processes
from ssl_jax.settings.resolve import SettingError

_OVERHEAD = 4096  # bytes of each array in a checkpoint, for names, shapes and what is left of a disk's blocks


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
        self._preserved = options.preservation_policy
        self._sealing: Sealing | None = None

    def latest(self) -> int | None:
        """The newest complete step, or None."""
        return self._manager.latest_step()

    def holds(self, step: int) -> bool:
        """Whether the checkpoint of `step` is complete on disk."""
        return (self._path / str(step)).is_dir()

    def save(self, step: int, state) -> None:
        """Starts to write `state`; training may go on (and donate it) at once.

        The first checkpoint that this process writes is read back, so that a folder that loses them is noticed.

        Raises:
            OSError: there is no room. Known beforehand, since orbax's threads each print a page where a disk is full.
            StorageError: the checkpoint before this one could not be read back.
        """
        if step in self._manager.all_steps():
            return
        first = self._sealing is None
        self.wait()
        arrays = jax.tree.leaves(state)
        needed = sum(x.nbytes for x in arrays) + _OVERHEAD * len(arrays)
        if needed > shutil.disk_usage(self._path).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        expected = shapes_of(state) if first else None
        self._manager.save(step, args=ocp.args.StandardSave(state), force=True)
        if processes.is_first():
            self._sealing = Sealing(self._path / str(step), expected)
            self._sealing.start()

    def prune(self) -> None:
        """Removes what is neither among the latest nor the best, once a score has come after its checkpoint."""
        self.wait()
        steps = sorted(self._manager.all_steps())
        for step, stays in zip(steps, self._preserved.stays(steps)):
            if not stays:
                self._manager.delete(step)

    def verify(self, step: int) -> None:
        """Raises SettingError where a file of a checkpoint is not as it was written; the first process reads them."""
        if processes.is_first():
            verify(self._path / str(step), lambda why: SettingError(self._damaged(step, why)))

    def _damaged(self, step, why) -> str:
        earlier = [other for other in self._manager.all_steps() if other < step]
        way_out = "there is no earlier one; name another folder with --workdir"
        if earlier:
            way_out = f"--checkpoint=previous sets it aside and goes on from {max(earlier)}"
        return f"checkpoint {step} of {self._path.parent} is damaged ({why}); {way_out}"

    def restore(self, step: int, shapes, shardings):
        """The state of `step`, in the layout of `shardings`; a bank's padding as this machine's devices want it.

        Raises:
            SettingError: the checkpoint is damaged, or holds other arrays than `shapes` (the first that differs).
        """
        with reading(lambda why: SettingError(self._damaged(step, why))):
            stored = self._manager.item_metadata(step)
        if differs := first_other(shapes_of(stored), shapes, shardings):
            name, shape, needed = differs
            said = "is missing" if shape is None else f"has shape {shape}"
            raise SettingError(f"checkpoint {step}: {name} {said}, this run needs {needed}")
        target = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)
        with reading(lambda why: SettingError(self._damaged(step, why))):
            return self._manager.restore(step, args=ocp.args.StandardRestore(target, strict=False))

    def wait(self) -> None:
        """Waits for what is being written, checksums and all."""
        try:
            self._manager.wait_until_finished()
        finally:
            if self._sealing:
                self._sealing.finish()

    def close(self) -> None:
        """Waits for what is being written, and ends orbax's threads."""
        self.wait()
        self._manager.close()


class _Keep:
    """orbax's preservation policy: the `latest` so many (0: all), and the best by `scores`."""

    def __init__(self, scores, latest):
        self._scores, self._latest = scores, latest

    def should_preserve(self, checkpoints, *, context):
        return self.stays([c.step for c in checkpoints])

    def stays(self, steps) -> list[bool]:
        """For each of the ascending `steps`, whether it is kept."""
        best = max((s for s in steps if s in self._scores), key=self._scores.get, default=None)
        return [step == best or step in steps[-self._latest :] for step in steps]
