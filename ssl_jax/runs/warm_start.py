"""Where a run begins: at random, or at another run's checkpoint (`init_from`)."""

import dataclasses
from pathlib import Path

import jax

from ssl_jax.build import Plan
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
    """Another run's checkpoint: which of its trees are taken, and the step that this run begins at."""

    source: CheckpointReader
    parts: tuple[str, ...]
    first_step: int

    def load_into(self, state, shardings, everywhere):
        """The fresh `state` with what is taken; see `CheckpointReader.load_into`."""
        found = self.source.load_into(state, shardings, self.parts, everywhere)
        self.source.close()
        return found


def find(plan: Plan, workdir: Path) -> WarmStart | None:
    """What `config.init_from` gives to a run that has no checkpoint of its own yet, or None.

    Positives begin with the other run's state where it has the same shape, else anew; they are refreshed at once.

    Raises:
        SettingError: no checkpoint there, an array that this run needs and it lacks, or a step outside this run.
    """
    settings = plan.settings
    if not settings.init_from:
        if settings.init_fresh or settings.init_epoch:
            raise SettingError("init_fresh and init_epoch go with init_from; name a run folder there")
        return None
    if run_folder.steps_in(workdir):
        return None
    other = user_path(settings.init_from, "init_from")
    per_epoch = _steps_per_epoch(other) or plan.steps_per_epoch
    source = CheckpointReader(other, round(settings.init_epoch * per_epoch) or None)
    check = lambda parts: source.check(plan.shapes, parts, _places(plan))
    if settings.init_fresh:
        check(NETWORKS)
        return WarmStart(source, NETWORKS, 0)
    check(ALL)
    _check_step(plan, source.step, per_epoch)
    parts = ALL
    try:
        check(("positives",))
        parts += ("positives",)
    except SettingError:
        pass
    return WarmStart(source, parts, source.step)


def _places(plan):
    """The layout in which a bank may have another padding: only one of as many images has the same rows."""
    mesh = make_mesh()
    try:
        count = run_folder.read_config(plan.settings.init_from)[run_folder.FACTS]["shape"][0]
    except (SettingError, KeyError):
        count = None
    if count == len(plan.dataset.train):
        return state_shardings(mesh, plan.shapes)
    return jax.tree.map(lambda _: replicated(mesh), plan.shapes)


def _steps_per_epoch(workdir):
    """Steps of an epoch of the run in `workdir`, as it logged them; None where it logged none."""
    records = [r for r in read_records(workdir) if r.get("epoch", 0) > 0]
    return round(records[-1]["step"] / records[-1]["epoch"]) if records else None


def _check_step(plan, step, per_epoch):
    """The other run's steps are steps of this run, and inside it."""
    way_out = "init_fresh=True takes the networks only and begins at step 0"
    if per_epoch != plan.steps_per_epoch:
        raise SettingError(
            f"init_from={plan.settings.init_from!r} had {per_epoch} steps an epoch, this run has "
            f"{plan.steps_per_epoch}; give its batch_size and data, or {way_out}"
        )
    if step >= plan.total_steps:
        raise SettingError(
            f"init_from={plan.settings.init_from!r} is at step {step}, this run ends at {plan.total_steps}; "
            f"raise epochs, or {way_out}"
        )
