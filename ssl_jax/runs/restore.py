"""Reads a run folder back: its config, its method, and the train state of a checkpoint."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ssl_jax.build import Plan, build
from ssl_jax.data.datasets import reads_bands
from ssl_jax.data.source import Source, stand_in
from ssl_jax.interface import TrainState
from ssl_jax.runs import run_folder
from ssl_jax.runs.checkpoint_reader import CheckpointReader
from ssl_jax.runs.metrics import read_records
from ssl_jax.runtime.sharding import replicated, state_shardings
from ssl_jax.settings import eval_settings
from ssl_jax.settings.defaults import EVALUATORS
from ssl_jax.settings.old_records import BESIDE, with_later_settings
from ssl_jax.settings.paths import user_path
from ssl_jax.settings.resolve import SettingError, choose
from ssl_jax.settings.run_settings import RunSettings
from ssl_jax.settings.sections import settings_of

PARTS = ("params", "batch_stats", "method", "step")  # what features and evaluators read
# The same images, wherever `data.dir` is.
_PUBLISHED = (
    "digits",
    "cifar10",
    "cifar100",
    "places205",
    "voc07",
    "inat18",
    "cub200",
    "dogs",
)


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A trained run, or a weight file in place of one; see `inference.weights_run`.

    Attributes:
        folder: the run folder, or the weight file.
        plan: its parts; features come from the last stage, and its data may lack images.
        state: the train state at `step`.
        step: of the checkpoint; 0 for a weight file.
        fingerprint: of the images that it was trained on; empty if unknown.
        from_file: whether it is a weight file, without epochs and data.
        notes: sentences for the user on what was taken from the file.
    """

    folder: Path
    plan: Plan
    state: TrainState
    step: int
    fingerprint: str = ""
    from_file: bool = False
    notes: tuple[str, ...] = ()

    @property
    def epoch(self) -> float:
        """The epoch of the checkpoint."""
        return self.step / self.plan.steps_per_epoch

    @property
    def title(self) -> str:
        """What messages call it: the folder with the epoch, or the file."""
        return str(self.folder) if self.from_file else f"{self.folder} at epoch {self.epoch:g}"

    def __repr__(self) -> str:
        """One line, without settings and weights."""
        method = type(self.plan.stages[-1].method).__name__
        return f"Run({str(self.folder)!r}, {method}, epoch {self.epoch:g})"


def config_of(workdir: Path | str) -> dict[str, Any]:
    """All settings of a run, as plain dicts.

    Raises:
        SettingError: `workdir` is not a run folder.
    """
    record = with_later_settings(run_folder.read_config(workdir))
    return {name: _tuples(value) for name, value in record.items() if name not in BESIDE}


def config_for(workdir: Path | str, evals: Sequence[str]) -> ConfigDict:
    """The config of a run folder; if `evals` names evaluators, with those instead of the run's.

    Each evaluator has all its settings, so that any can be overridden on the command line.
    """
    return ConfigDict(_with_evaluators(config_of(workdir), evals))


def config_of_weights(evals: Sequence[str]) -> ConfigDict:
    """The settings that scores and clusters of a weight file take: `data`, `evals`, and a few more.

    Pictures of a folder are the default data.

    Args:
        evals: names of evaluators; if empty, those that score every run.
    """
    settings = {
        "data": settings_of(Source, name="folder"),
        "evals": settings_of(eval_settings.EvalSettings),
        "resident_gb": RunSettings().resident_gb,
    }
    return ConfigDict(_with_evaluators(settings, evals or EVALUATORS))


def _with_evaluators(settings: dict[str, Any], evals: Sequence[str]) -> dict[str, Any]:
    """`settings`; if `evals` names evaluators, with those instead of its own."""
    if evals:
        names = {name.rpartition(".")[2]: name for name in evals}  # dotted: by the last part
        eval_settings.check_names(names)
        shared = dataclasses.asdict(eval_settings.shared(settings["evals"]))
        settings["evals"] = shared | {
            key: _evaluator_settings(name, settings["evals"].get(key, {}))
            for key, name in names.items()
        }
        settings["best"] = f"eval/{next(iter(names))}/"
    return settings


def other_data(settings: dict[str, Any], given: Mapping[str, Any], own: Source) -> dict[str, Any]:
    """`settings` with a fresh section `data` if `given` names other images than the run's.

    A limit on the run's images, say, does not apply to others; only name, size, keep, bands and
    cache are kept. Other images are another `data.name`, or another `data.dir`, except that a
    published data set (digits, cub200, ..., tfds:<name>) is the same wherever it is.

    Args:
        settings: the run's, with what is given.
        given: settings of `data` from the command line, by name.
        own: the data of the run.
    """
    same_name = given.get("name", own.name) == own.name
    moves_freely = own.name in _PUBLISHED or own.name.startswith("tfds:")
    if same_name and (moves_freely or _same_place(given.get("dir", own.dir), own.dir)):
        return settings
    names = ["name", "size", "keep", "cache"]
    if reads_bands(given.get("name", own.name)):
        names.append("bands")
    kept = {name: settings["data"][name] for name in names}
    return settings | {"data": {**settings_of(Source), **kept, **given}}


def _same_place(place: str, other: str) -> bool:
    """Whether two values of `data.dir` lead to the same file or folder."""
    if place == other:
        return True
    paths = [user_path(text, "data.dir") for text in (place, other)]
    return os.path.realpath(paths[0]) == os.path.realpath(paths[1])


def with_range(
    settings: dict[str, Any], run: Run, *, lasting: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """`settings` of data for a run trained on more than 8 bits: values mean what they meant there.

    Unless `data.range` is given, the values that were black and white in training are so again. A
    weight file that does not say which these are needs it: the same picture must not look different
    beside others.

    Args:
        settings: complete settings, whose data may be others than the run's.
        run: the run, or a weight file in place of one.
        lasting: whether a run trained on 8 bits needs it, too, as for clusters made before.

    Returns:
        the settings, and the fields `of_run` and `needs_range` of `Source`.
    """
    data = settings["data"]
    limits = run.plan.dataset.range
    if data["range"] or not reads_bands(data["name"]):
        return settings, {}
    if limits:
        return settings | {"data": data | {"range": limits}}, {"of_run": True}
    return settings, {"needs_range": run.folder.name} if run.from_file or lasting else {}


def _evaluator_settings(name: str, recorded: dict[str, Any]) -> dict[str, Any]:
    """All settings of the evaluator `name`; those the run has `recorded` override the defaults."""
    cls = choose("ssl_jax.evaluation", recorded.get("name", name), "--evals", "Evaluator")
    module = {"name": name} if "." in name else {}
    return settings_of(cls) | module | recorded


def open_run(workdir: Path | str, mesh: Mesh, which: str | int = "latest") -> Run:
    """The run in `workdir` at a checkpoint, on the devices of `mesh`.

    Args:
        workdir: a run folder; it may be training meanwhile.
        mesh: the devices.
        which: "latest", "best" (by the config's `best`, among the checkpoints kept), or a step.

    Raises:
        SettingError: no run folder, no such checkpoint, or one that lacks arrays of the config.
    """
    workdir = user_path(workdir, "--workdir")
    record = run_folder.read_config(workdir)
    facts = record.get(run_folder.FACTS)
    plan = build(config_of(workdir), stand_in(facts) if facts else None, recorded=True)
    source = CheckpointReader(workdir, _step(which, workdir, plan.settings.best), setting="workdir")
    shardings = state_shardings(mesh, plan.shapes)
    source.check(plan.shapes, PARTS, shardings)
    zeros = jax.tree.map(
        lambda x, s: jax.device_put(jax.numpy.zeros(x.shape, x.dtype), s), plan.shapes, shardings
    )
    state = source.load_into(zeros, shardings, PARTS, replicated(mesh))
    source.close()
    fingerprint = record.get(run_folder.FINGERPRINT) or ""
    return Run(workdir, plan, state, source.step, fingerprint)


def _step(which: str | int, workdir: Path, best: str) -> int | None:
    if which == "latest":
        return None
    if which == "best":
        steps = run_folder.steps_in(workdir)
        scores = {
            record["step"]: record[best]
            for record in read_records(workdir)
            if best in record and record["step"] in steps
        }
        if not scores:
            raise SettingError(
                f"{workdir} has no checkpoint with a score {best!r}; give latest or a step"
            )
        return max(scores, key=scores.get)
    try:
        return int(which)
    except ValueError as error:
        raise SettingError(f"checkpoint={which!r}: give latest, best or a step") from error


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that configs hold."""
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
