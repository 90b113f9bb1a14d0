"""The run folder: one process, one config."""

import contextlib
import functools
import json
from pathlib import Path
from typing import Any

from ssl_jax.runs.metrics import write_atomically
from ssl_jax.runtime import file_lock
from ssl_jax.settings.defaults import only_observes
from ssl_jax.settings.old_records import BESIDE, earlier_values, with_later_settings
from ssl_jax.settings.paths import user_path
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.whole_config import SECTIONS

# Beside the settings in config.json: the data's fingerprint, what `Dataset.facts` tells of them, and
# the names of settings that the run had before there were settings for them.
FINGERPRINT, FACTS, KEPT = BESIDE


@contextlib.contextmanager
def claim(folder: Path, settings: dict, fingerprint: str, facts: dict | None = None):
    """Holds the run folder for this process alone, once it is new or of a run that trains the same way.

    The lock ends with the process, however that ends.

    Args:
        folder: the run folder.
        settings: all of the run, as plain dicts.
        fingerprint: of the data; `data.dir` may move, the images may not change.
        facts: what else of the data goes on record, for those who read the run without it.
    """
    path = folder / "config.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = file_lock.lock_file(folder / ".lock")
    except OSError as error:
        raise SettingError(f"workdir {folder} cannot be written: {error.strerror}") from error
    with lock:
        if not file_lock.locked(lock):
            raise SettingError(f"another process is training in {folder}; name another folder with --workdir")
        new = json.loads(json.dumps(settings)) | {FINGERPRINT: fingerprint, FACTS: facts or {}}
        _check_files(folder)
        if path.exists():
            old = _recorded(path)
            _same_training(new, old, path)
            new |= {KEPT: names} if (names := list(_kept(old))) else {}
        write_atomically(path, json.dumps(new, indent=2) + "\n")
        yield


def steps_in(folder) -> list[int]:
    """The steps of a run folder's finished checkpoints, ascending; unfinished ones have longer names."""
    return sorted(int(p.name) for p in (Path(folder) / "checkpoints").glob("*") if p.name.isdecimal())


def _check_files(folder: Path) -> None:
    """Raises SettingError where something else stands in the place of a file, or a run has lost its config.json."""
    for name in ("config.json", "metrics.jsonl", "environment.json"):
        if (folder / name).exists() and not (folder / name).is_file():
            raise SettingError(f"{folder / name} is not a file; move it away, or name another folder with --workdir")
    if steps_in(folder) and not (folder / "config.json").exists():
        raise SettingError(
            f"{folder} has checkpoints and no config.json, so nothing tells what was trained there; put the file back, "
            "or name another folder with --workdir"
        )


def read_config(folder) -> dict:
    """The config.json of a run folder: all settings, the data's fingerprint and facts.

    Raises:
        SettingError: there is none, or it is damaged.
    """
    path = user_path(folder, "--workdir") / "config.json"
    if not path.exists():
        raise SettingError(f"{folder} is not a run folder: it has no config.json; name one that ssl_jax.main made")
    return _recorded(path)


def _recorded(path) -> dict:
    """The settings in a config.json.

    Raises:
        SettingError: they cannot be read, or are not those of a run.
    """
    try:
        if not path.is_file():  # a pipe would be read for ever
            raise ValueError("it is not a regular file")
        record = json.loads(path.read_text("utf-8"))
        wrong = _not_of_a_run(record)
    except (ValueError, RecursionError, OSError) as error:
        wrong = getattr(error, "strerror", None) or error
    if wrong:
        raise SettingError(f"{path} is damaged ({wrong}); put it right, or name another folder with --workdir")
    return record


def _not_of_a_run(record) -> str:
    """What tells that JSON is not the settings of a run; or nothing."""
    if not isinstance(record, dict):
        return "it holds no settings"
    for name in SECTIONS:
        if not isinstance(record.get(name, {}), dict):
            return f"{name} is no section"
    for section, part, needed in (("augment", record.get("augment"), "size"), ("optim", _groups(record), "pattern")):
        if not isinstance(part, dict) or not all(isinstance(own, dict) and needed in own for own in part.values()):
            return f"a part of {section} has no {needed}"
    if not isinstance(record.get("method"), dict) or "name" not in record["method"]:
        return "it names no method"
    try:
        _kept(record)
    except (KeyError, TypeError, AttributeError):
        return f"{KEPT} names settings that are not there"
    return ""


def _groups(record):
    return record.get("optim", {}).get("groups", {})


def with_kept_settings(settings: dict, folder: Path, given=()) -> tuple[dict, tuple[str, ...]]:
    """The settings that a run in `folder` goes on with, and a note listing those that differ.

    A run that is older than a setting keeps what it did before there was one, whatever a config of today says.

    Args:
        settings: of a complete config; they are changed in place.
        folder: a run folder, or where one will be.
        given: names of settings that were given by hand, and so are not replaced.

    Raises:
        SettingError: the config.json there is damaged, or a setting given by hand is not the run's.
    """
    path = Path(folder) / "config.json"
    kept = _kept(_recorded(path)) if path.exists() else {}
    changed = []
    for name, value in kept.items():
        *sections, last = name.split(".")
        section = functools.reduce(lambda part, key: part.get(key, {}), sections, settings)
        if section.get(last, value) != value:
            if name in given:
                raise _other(folder, name, value, section[last])
            section[last] = value
            changed.append(f"{name}={value}")
    if not changed:
        return settings, ()
    return settings, (f"{folder} is older than some settings, and keeps what it did: {', '.join(changed)}",)


def _kept(old: dict) -> dict[str, Any]:
    """Settings that this config.json lacks, or lacked when the run began, with the values that the run uses."""
    completed = with_later_settings(old)
    values = {
        name: functools.reduce(lambda part, key: part[key], name.split("."), completed) for name in old.get(KEPT, ())
    }
    return values | earlier_values(old)


def _same_training(new: dict, old: dict, path: Path):
    if old.get(FINGERPRINT, new[FINGERPRINT]) != new[FINGERPRINT]:
        raise SettingError(
            f"{path.parent} was trained on other images than data.name={new['data']['name']!r} holds now; name another "
            "folder with --workdir"
        )
    for name, ours, theirs in _differences(*map(with_later_settings, (new, old))):
        if name.split(".")[0] not in BESIDE and not only_observes(name):
            raise _other(path.parent, name, theirs, ours)


def _other(folder, name, theirs, ours) -> SettingError:
    return SettingError(
        f"{folder} was trained with {name}={theirs!r}, not {ours!r}; name another folder with --workdir"
    )


def _differences(new, old, prefix=""):
    for key in sorted({*new, *old}):
        ours, theirs, name = new.get(key), old.get(key), f"{prefix}{key}"
        if isinstance(ours, dict) and isinstance(theirs, dict):
            yield from _differences(ours, theirs, f"{name}.")
        elif ours != theirs:
            yield name, ours, theirs
