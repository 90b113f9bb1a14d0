"""Where a run begins: at random, or from a checkpoint or a weight file (`init_from`)."""

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Sharding

from ssl_jax.build import Plan
from ssl_jax.interface import TrainState
from ssl_jax.ops.mesh import make_mesh
from ssl_jax.runs import backbone_arrays, run_folder, weights_start
from ssl_jax.runs.checkpoint_reader import CheckpointReader
from ssl_jax.runs.metrics import read_records
from ssl_jax.runs.weights_start import WeightsStart
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
        places: paths of arrays in the checkpoint, for those that are elsewhere in this run; None
            for those that begin at random.
        notes: sentences for the user.
    """

    source: CheckpointReader
    parts: tuple[str, ...]
    first_step: int
    places: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def load_into(self, state: TrainState, shardings: Any, everywhere: Sharding) -> TrainState:
        """The fresh `state` with `parts` replaced; see `CheckpointReader.load_into`."""
        loaded = self.source.load_into(state, shardings, self.parts, everywhere, self.places)
        self.source.close()
        return loaded


def find(plan: Plan, workdir: Path) -> WarmStart | WeightsStart | None:
    """The warm start that `config.init_from` gives; None if unset or if the run has a checkpoint.

    Positives take over the other run's state where its shapes fit, and start fresh otherwise; they
    are refreshed at once. With `init_fresh` the other run may be of another method: whatever is no
    backbone may differ, and then begins at random; target networks that it lacks get its backbone.

    Raises:
        SettingError: `init_from` holds no checkpoint, lacks an array that this run needs, or is at
            a step outside this run; or the weight file cannot be used.
    """
    settings = plan.settings
    if not settings.init_from:
        if settings.init_fresh or settings.init_epoch or settings.init_prefix:
            raise SettingError(
                "init_fresh, init_epoch and init_prefix need init_from; set it to a run folder"
            )
        return None
    if run_folder.steps_in(workdir):
        return None
    other = user_path(settings.init_from, "init_from")
    if weights_start.is_weight_file(other):
        if settings.init_epoch:
            raise SettingError(
                f"init_epoch={settings.init_epoch:g}: init_from={settings.init_from!r} is a weight "
                "file, which has no epochs; leave it out"
            )
        return weights_start.of_file(plan, other)
    if settings.init_prefix:
        raise SettingError(
            f"init_prefix={settings.init_prefix!r}: init_from={settings.init_from!r} is a run "
            "folder, not a weight file; leave it out"
        )
    per_epoch = _steps_per_epoch(other) or plan.steps_per_epoch
    source = CheckpointReader(other, round(settings.init_epoch * per_epoch) or None)

    def check(parts: Collection[str]) -> None:
        source.check(plan.shapes, parts, _shardings(plan))

    if settings.init_fresh:
        places = _places(plan, source)
        return WarmStart(source, NETWORKS, first_step=0, places=places, notes=_notes(places))
    try:
        check(ALL)
    except SettingError as error:
        places = _places(plan, source)
        raise SettingError(f"{error}; {_taken_fresh(places)}") from error
    _check_step(plan, source.step, per_epoch)
    parts = ALL
    try:
        check(("positives",))
        parts += ("positives",)
    except SettingError:
        pass
    return WarmStart(source, parts, first_step=source.step)


def _places(plan: Plan, source: CheckpointReader) -> dict[str, str | None]:
    """Where arrays of the networks are in a checkpoint of a run that differs; see `WarmStart`.

    Raises:
        SettingError: a backbone's array is missing or has another shape; names both.
    """
    places: dict[str, str | None] = {}
    theirs = backbone_arrays.online(source.stored)
    for name, _, _ in source.misfits(plan.shapes, NETWORKS, _shardings(plan)):
        places[name] = None
        if backbone_arrays.is_backbone(name):
            places[name] = theirs.get(backbone_arrays.place(name), name)
            source.check_one(name, places[name], plan.shapes)
    return places


def _notes(places: Mapping[str, str | None]) -> tuple[str, ...]:
    """A sentence on what begins at random."""
    tops = [_module(name) for name, place in places.items() if place is None]
    if not tops:
        return ()
    return (f"begins at random, as it differs in init_from: {', '.join(dict.fromkeys(tops))}",)


def _taken_fresh(places: Mapping[str, str | None]) -> str:
    """What a run that lacks arrays can still be used for, as a way out."""
    tops = dict.fromkeys(_module(name) for name, place in places.items() if place is None)
    rest = f", with a random start of: {', '.join(tops)}" if tops else ""
    return f"set init_fresh=True, which takes only the networks and starts at step 0{rest}"


def _module(name: str) -> str:
    """What a user calls the part of the train state that an array belongs to."""
    parts = name.split("/")
    for part in ("head", "predictor"):
        if part in parts:
            return "the target's head" if "target" in parts else f"the {part}"
    return parts[1] if len(parts) > 1 else name


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
