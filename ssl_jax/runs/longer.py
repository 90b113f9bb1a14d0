"""More epochs than a finished run had: which run can be continued, and how."""

import glob
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_jax.runs import run_folder
from ssl_jax.runs.metrics import read_records
from ssl_jax.settings.defaults import only_observes
from ssl_jax.settings.old_records import BESIDE, with_later_settings
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import counted


def note(folder: Path, settings: Mapping[str, Any], fingerprint: str) -> str:
    """How to continue a finished run beside `folder` that had fewer epochs; empty if none did.

    Args:
        folder: the run folder with a default name, "runs/swav-1a2b3c4d"; its neighbours "runs/swav"
            and "runs/swav-..." are looked at.
        settings: all settings of the run about to start, as plain dicts.
        fingerprint: of its data.
    """
    if settings["init_from"] or run_folder.steps_in(folder):
        return ""
    stem = folder.name.rpartition("-")[0]
    candidates = []
    for path in folder.parent.glob(f"{glob.escape(stem)}*/config.json"):
        epochs = _epochs_of_finished(path.parent, settings, fingerprint)
        if 0 < epochs < settings["epochs"]:
            candidates.append((epochs, str(path.parent)))
    if not candidates:
        return ""
    epochs, other = max(candidates)
    return (
        f"{other} is a finished run of {counted(epochs, 'epoch')} with the same settings "
        f"otherwise; this run starts from scratch; to continue that one instead, add "
        f"--config.init_from={shlex.quote(other)}"
    )


def _epochs_of_finished(folder: Path, settings: Mapping[str, Any], fingerprint: str) -> int:
    """The epochs of a finished run that differs in its length alone; 0 for other folders."""
    try:
        old = run_folder.read_config(folder)
        complete = with_later_settings(old)
    except SettingError:
        return 0
    if old.get(run_folder.FINGERPRINT, fingerprint) != fingerprint:
        return 0
    epochs = old["epochs"]
    ratio = settings["epochs"] / epochs
    new = run_folder.as_json(settings)
    for name, new_value, old_value in run_folder.differences(new, complete):
        beside = name.split(".")[0] in BESIDE or only_observes(name) or name == "epochs"
        if not beside and not _follows(new_value, old_value, ratio):
            return 0
    records = read_records(folder)
    is_finished = bool(records) and records[-1].get("epoch", 0) >= epochs
    return epochs if is_finished and run_folder.steps_in(folder) else 0


def _follows(new: Any, old: Any, ratio: float) -> bool:
    """Whether a setting changed in proportion to the epochs, as schedules in epochs may."""
    numbers = isinstance(new, (int, float)) and isinstance(old, (int, float))
    return numbers and abs(new - ratio * old) <= 1e-9 * abs(new)
