"""Checkpoints with orbax: the latest two and the best, none of a step whose loss was not read finite."""

from pathlib import Path

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as policy

from ssl_jax.settings import SettingError


class Checkpoints:
    """The checkpoints of a run folder.

    Args:
        folder: the run folder.
        best: name of the score that `best` is chosen by.
    """

    def __init__(self, folder: Path, *, best: str):
        keep = policy.AnyPreservationPolicy(
            [
                policy.LatestN(2),
                policy.BestN(n=1, get_metric_fn=lambda m: m[best], keep_checkpoints_without_metrics=False),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=keep, cleanup_tmp_directories=True, enable_async_checkpointing=True
        )
        self._best = best
        path = Path(folder).absolute() / "checkpoints"
        self._manager = ocp.CheckpointManager(path, item_handlers=ocp.StandardCheckpointHandler(), options=options)

    def latest(self) -> int | None:
        """The newest complete step, or None."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """The step with the best score, or None."""
        return self._manager.best_step()

    def save(self, step: int, state, scores) -> None:
        """Starts to write `state`; training may go on (and donate it) at once."""
        if step in self._manager.all_steps():
            return
        metrics = {self._best: scores[self._best]} if self._best in scores else None
        self._manager.save(step, args=ocp.args.StandardSave(state), metrics=metrics, force=True)

    def restore(self, step: int, shapes, shardings):
        """The state of `step`, in the layout of `shardings`.

        Raises:
            SettingError: the checkpoint holds other arrays than `shapes` (the first that differs).
        """
        compare(self._manager.item_metadata(step), shapes, step)
        target = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)
        return self._manager.restore(step, args=ocp.args.StandardRestore(target))

    def close(self) -> None:
        """Waits for what is being written."""
        self._manager.wait_until_finished()
        self._manager.close()


def compare(stored, shapes, step: int) -> None:
    """Raises a one-line error for the first array of `shapes` that `stored` lacks or holds in another shape."""
    found = {_path(p): tuple(x.shape) for p, x in jax.tree_util.tree_leaves_with_path(stored) if hasattr(x, "shape")}
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        shape = found.get(_path(path))
        if shape != tuple(leaf.shape):
            said = "is missing" if shape is None else f"has shape {shape}"
            raise SettingError(f"checkpoint {step}: {_path(path)} {said}, this run needs {tuple(leaf.shape)}")


def _path(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
