"""Where a run begins: at random, or at another run's checkpoint (`init_from`)."""

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Sharding

from ssl_jax.build import Plan
from ssl_jax.interface import TrainState
from ssl_jax.ops.mesh import make_mesh
from ssl_jax.runs import run_folder
from ssl_jax.runs.checkpoint_reader import CheckpointReader
from ssl_jax.runs.metrics import read_records
from ssl_jax.runtime.sharding import replicated, state_shardings
from ssl_jax.settings.paths import user_path
from ssl_jax.settings.resolve import SettingError

NETWORKS = ("params", "batch_stats", "method")  # with banks, queues and target networks
ALL = (*NETWORKS, "opt_state", "step")


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """Another run's checkpoint to start from.

    Attributes:
        source: the checkpoint.
        parts: the trees of the train state that are taken from it.
        first_step: the step that this run begins at.
    """

    source: CheckpointReader
    parts: tuple[str, ...]
    first_step: int

    def load_into(self, state: TrainState, shardings: Any, everywhere: Sharding) -> TrainState:
        """The fresh `state` with `parts` replaced; see `CheckpointReader.load_into`."""
        loaded = self.source.load_into(state, shardings, self.parts, everywhere)
        self.source.close()
        return loaded


def find(plan: Plan, workdir: Path) -> WarmStart | None:
    """The warm start that `config.init_from` gives; None if unset or if the run has a checkpoint.

    Positives take over the other run's state where its shapes fit, and start fresh otherwise; they
    are refreshed at once.

    Raises:
        SettingError: `init_from` holds no checkpoint, lacks an array that this run needs, or is at
            a step outside this run.
    """
    settings = plan.settings
    if not settings.init_from:
        if settings.init_fresh or settings.init_epoch:
            raise SettingError("init_fresh and init_epoch need init_from; set it to a run folder")
        return None
    if run_folder.steps_in(workdir):
        return None
    other = user_path(settings.init_from, "init_from")
    per_epoch = _steps_per_epoch(other) or plan.steps_per_epoch
    source = CheckpointReader(other, round(settings.init_epoch * per_epoch) or None)

    def check(parts: Collection[str]) -> None:
        source.check(plan.shapes, parts, _shardings(plan))

    if settings.init_fresh:
        check(NETWORKS)
        return WarmStart(source, NETWORKS, first_step=0)
    check(ALL)
    _check_step(plan, source.step, per_epoch)
    parts = ALL
    try:
        check(("positives",))
        parts += ("positives",)
    except SettingError:
        pass
    return WarmStart(source, parts, first_step=source.step)


def _shardings(plan: Plan) -> Any:
    """The layout to compare with: sharded banks may be padded differently if N is the same."""
    mesh = make_mesh()
    try:
        count = run_folder.read_config(plan.settings.init_from)[run_folder.FACTS]["shape"][0]
    except (SettingError, KeyError):
        count = None
    if count == len(plan.dataset.train):
        return state_shardings(mesh, plan.shapes)
    return jax.tree.map(lambda _: replicated(mesh), plan.shapes)


def _steps_per_epoch(workdir: Path) -> int | None:
    """Steps per epoch of the run in `workdir`, from its log; None if it logged none."""
    records = [record for record in read_records(workdir) if record.get("epoch", 0) > 0]
    return round(records[-1]["step"] / records[-1]["epoch"]) if records else None


def _check_step(plan: Plan, step: int, per_epoch: int) -> None:
    """Checks that `step` of the other run means the same in this run, and lies inside it."""
    way_out = "set init_fresh=True, which takes only the networks and starts at step 0"
    if per_epoch != plan.steps_per_epoch:
        raise SettingError(
            f"init_from={plan.settings.init_from!r} had {per_epoch} steps per epoch, this run has "
            f"{plan.steps_per_epoch}; use its batch_size and data, or {way_out}"
        )
    if step >= plan.total_steps:
        raise SettingError(
            f"init_from={plan.settings.init_from!r} is at step {step}, this run ends at "
            f"{plan.total_steps}; raise epochs, or {way_out}"
        )
