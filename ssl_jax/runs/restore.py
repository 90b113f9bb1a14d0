"""A run folder read back: its config, its method, and the train state of one of its checkpoints."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from ssl_jax.build import Plan, build
from ssl_jax.data.source import Source, stand_in
from ssl_jax.interface import TrainState
from ssl_jax.runs import run_folder
from ssl_jax.runs.checkpoint_reader import CheckpointReader
from ssl_jax.runs.metrics import read_records
from ssl_jax.runtime.sharding import replicated, state_shardings
from ssl_jax.settings.old_records import BESIDE, with_later_settings
from ssl_jax.settings.paths import user_path
from ssl_jax.settings.resolve import SettingError, choose
from ssl_jax.settings.sections import settings_of

PARTS = ("params", "batch_stats", "method", "step")  # what features and evaluators read


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A trained run: `plan` (its last stage gives features, its data may lack images) and the `state` at `step`."""

    folder: Path
    plan: Plan
    state: TrainState
    step: int

    @property
    def epoch(self) -> float:
        """Of the checkpoint."""
        return self.step / self.plan.steps_per_epoch


def config_of(workdir) -> dict[str, Any]:
    """All settings of a run, as plain dicts.

    Raises:
        SettingError: it is no run folder.
    """
    record = with_later_settings(run_folder.read_config(workdir))
    return {k: _tuples(v) for k, v in record.items() if k not in BESIDE}


def config_for(workdir, evals) -> ConfigDict:
    """The config of a run folder, for the evaluators `evals` alone where any are named.

    They are there with all their settings, so that each can be given on the command line.
    """
    settings = config_of(workdir)
    if evals:
        keys = {name.rpartition(".")[2]: name for name in evals}  # by the last part of a dotted name
        settings["evals"] = {key: _settings(name, settings["evals"].get(key, {})) for key, name in keys.items()}
        settings["best"] = f"eval/{next(iter(keys))}/"
    return ConfigDict(settings)


def other_data(settings: dict, given: dict, own: Source) -> dict:
    """The settings with `data` made that of other images, where `given` names other ones than a run's.

    A limit of the run's images, say, says nothing of others. Name, size and cache stay. Other images: another
    `data.name`, or another folder of pictures; that a known set lies elsewhere (`data.dir`) changes nothing.

    Args:
        settings: the run's own, with what is given.
        given: settings of `data` from the command line, by name.
        own: the data of the run.
    """
    name = given.get("name", own.name)
    if name == own.name and not (name == "folder" and "dir" in given):
        return settings
    kept = {name: settings["data"][name] for name in ("name", "size", "cache")}
    return settings | {"data": settings_of(Source) | kept | given}


def _settings(name: str, own: dict) -> dict:
    """All settings of the evaluator `name`, for the run whose own settings of it are `own`."""
    cls = choose("ssl_jax.evaluation", own.get("name", name), "--evals", "Evaluator")
    named = {"name": name} if "." in name else {}
    return settings_of(cls) | named | own


def open_run(workdir, mesh, which="latest") -> Run:
    """The run in `workdir` at a checkpoint, on the devices of `mesh`.

    Args:
        workdir: a run folder; training may go on in it meanwhile.
        mesh: of devices.
        which: "latest", "best" (by the config's `best`, as far as it is kept), or a step.

    Raises:
        SettingError: no run folder, no such checkpoint, or one that lacks what the config needs.
    """
    workdir = user_path(workdir, "--workdir")
    facts = run_folder.read_config(workdir).get(run_folder.FACTS)
    plan = build(config_of(workdir), stand_in(facts) if facts else None)
    source = CheckpointReader(workdir, _step(which, workdir, plan.settings.best), setting="workdir")
    place = state_shardings(mesh, plan.shapes)
    source.check(plan.shapes, PARTS, place)
    fresh = jax.tree.map(lambda x, s: jax.device_put(jax.numpy.zeros(x.shape, x.dtype), s), plan.shapes, place)
    state = source.load_into(fresh, place, PARTS, replicated(mesh))
    source.close()
    return Run(workdir, plan, state, source.step)


def _step(which: Any, workdir: Path, best: str) -> int | None:
    if which == "latest":
        return None
    if which == "best":
        kept = run_folder.steps_in(workdir)
        scores = {r["step"]: r[best] for r in read_records(workdir) if best in r and r["step"] in kept}
        if not scores:
            raise SettingError(f"{workdir} has no checkpoint with a score {best!r}; give latest or a step")
        return max(scores, key=scores.get)
    try:
        return int(which)
    except ValueError as error:
        raise SettingError(f"checkpoint={which!r}: give latest, best or a step") from error


def _tuples(value):
    """JSON's lists as the tuples that configs hold."""
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
