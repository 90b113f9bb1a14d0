"""Checkpoints with orbax: the latest and the best, written only after a finite loss."""

import errno
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from ssl_jax.interface import TrainState
from ssl_jax.runs.checkpoint_files import first_other, reading, shapes_of, verify
from ssl_jax.runs.sealing import Sealing
from ssl_jax.runtime import processes
from ssl_jax.settings.resolve import SettingError

_OVERHEAD = 4096  # bytes per array for names, shapes and partly filled disk blocks


class _Manager(ocp.CheckpointManager):
    """orbax's manager, which leaves it to `StopRequest` to ask JAX whether to stop.

    JAX agrees on where to stop by the number of the last question in each process, whoever asked.
    `StopRequest` counts its questions; orbax would ask with the step of a checkpoint, also from its
    threads, and the processes could agree on a number that they have passed.
    """

    def reached_preemption(self, step: int) -> bool:
        return False


class Checkpoints:
    """The checkpoints of a run folder.

    Args:
        folder: the run folder.
        scores: step -> score of the steps evaluated so far; the step with the highest score is
            kept. The caller keeps adding to it (orbax's own record does not outlive the process).
        keep: how many recent checkpoints to keep; 0 keeps all.
    """

    def __init__(self, folder: Path, scores: dict[int, float], keep: int = 2):
        self._policy = _KeepLatestAndBest(scores, keep)
        self._path = Path(folder) / "checkpoints"
        self._manager = _Manager(
            self._path.absolute(),
            item_handlers=ocp.StandardCheckpointHandler(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self._policy, cleanup_tmp_directories=True
            ),
        )
        self._sealing: Sealing | None = None

    def latest(self) -> int | None:
        """The newest complete step, or None."""
        return self._manager.latest_step()

    def holds(self, step: int) -> bool:
        """Whether the checkpoint of `step` is complete on disk."""
        return (self._path / str(step)).is_dir()

    def save(self, step: int, state: TrainState) -> None:
        """Starts writing `state`; training may continue (and donate it) at once.

        The first checkpoint that this process writes is read back, so that a folder that loses
        files is noticed.

        Raises:
            OSError: the disk has too little room. Checked first, because orbax's threads print a
                page each on a full disk.
            StorageError: the previous checkpoint could not be read back.
        """
        if step in self._manager.all_steps():
            return
        is_first_save = self._sealing is None
        self.wait()
        arrays = jax.tree.leaves(state)
        needed = sum(x.nbytes for x in arrays) + _OVERHEAD * len(arrays)
        if needed > shutil.disk_usage(self._path).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        expected = shapes_of(state) if is_first_save else None
        self._manager.save(step, args=ocp.args.StandardSave(state), force=True)
        if processes.is_first():
            self._sealing = Sealing(self._path / str(step), expected)
            self._sealing.start()

    def prune(self) -> None:
        """Deletes what is neither recent nor best, now that the last score is known."""
        self.wait()
        steps = sorted(self._manager.all_steps())
        for step, keep in zip(steps, self._policy.keeps(steps)):
            if not keep:
                self._manager.delete(step)

    def verify(self, step: int) -> None:
        """Checks the checksums of a checkpoint, on the first process.

        Raises:
            SettingError: a file has changed or is missing.
        """
        if processes.is_first():
            verify(self._path / str(step), lambda why: self._damaged(step, why))

    def _damaged(self, step: int, why: str) -> SettingError:
        earlier = [other for other in self._manager.all_steps() if other < step]
        if earlier:
            way_out = f"--checkpoint=previous sets it aside and resumes from step {max(earlier)}"
        else:
            way_out = "there is no earlier one; choose another folder with --workdir"
        return SettingError(
            f"checkpoint {step} of {self._path.parent} is damaged ({why}); {way_out}"
        )

    def restore(self, step: int, shapes: TrainState, shardings: Any) -> TrainState:
        """The state of `step`, laid out as `shardings`.

        A bank's padding is adapted to the devices of this machine.

        Raises:
            SettingError: the checkpoint is damaged, or its arrays differ from `shapes` (names the
                first that does).
        """
        with reading(lambda why: self._damaged(step, why)):
            stored = self._manager.item_metadata(step)
        if mismatch := first_other(shapes_of(stored), shapes, shardings):
            name, shape, needed = mismatch
            problem = "is missing" if shape is None else f"has shape {shape}"
            raise SettingError(f"checkpoint {step}: {name} {problem}, this run needs {needed}")
        target = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
        )
        with reading(lambda why: self._damaged(step, why)):
            return self._manager.restore(step, args=ocp.args.StandardRestore(target, strict=False))

    def wait(self) -> None:
        """Waits until the checkpoint under way and its checksums are written."""
        try:
            self._manager.wait_until_finished()
        finally:
            if self._sealing:
                self._sealing.finish()

    def close(self) -> None:
        """Waits as `wait` does, and ends orbax's threads."""
        self.wait()
        self._manager.close()


class _KeepLatestAndBest:
    """orbax's preservation policy: the `latest` newest steps (0: all), and the best by `scores`."""

    def __init__(self, scores: Mapping[int, float], latest: int):
        self._scores = scores
        self._latest = latest

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        return self.keeps([checkpoint.step for checkpoint in checkpoints])

    def keeps(self, steps: Sequence[int]) -> list[bool]:
        """For each of the ascending `steps`, whether it is kept."""
        scored = [step for step in steps if step in self._scores]
        best = max(scored, key=self._scores.get, default=None)
        return [step == best or step in steps[-self._latest :] for step in steps]
