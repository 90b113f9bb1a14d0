"""The run folder: one process, one config."""

import contextlib
import functools
import json
import shlex
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ssl_jax.runs.metrics import write_atomically
from ssl_jax.runtime import file_lock
from ssl_jax.settings import automatic
from ssl_jax.settings.defaults import only_observes
from ssl_jax.settings.old_records import BESIDE, earlier_values, with_later_settings
from ssl_jax.settings.paths import user_path
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.whole_config import SECTIONS

# Entries of config.json beside the settings: the data's fingerprint, its `Dataset.facts`, and the
# names of settings that are younger than the run.
FINGERPRINT, FACTS, KEPT = BESIDE


@contextlib.contextmanager
def claim(
    folder: Path, settings: Mapping[str, Any], fingerprint: str, facts: Mapping | None = None
) -> Iterator[None]:
    """Locks the run folder for this process, if it is new or holds a run that trains the same way.

    The lock ends with the process, however that ends.

    Args:
        folder: the run folder.
        settings: all settings of the run, as plain dicts.
        fingerprint: of the data; `data.dir` may move, but the images may not change.
        facts: further facts of the data, for commands that read the run without its images.

    Raises:
        SettingError: the folder cannot be written, is in use, is damaged, or holds another run.
    """
    path = folder / "config.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = file_lock.lock_file(folder / ".lock")
    except OSError as error:
        raise SettingError(f"workdir {folder} cannot be written: {error.strerror}") from error
    with lock:
        if not file_lock.locked(lock):
            raise SettingError(
                f"another process is training in {folder}; wait for it, or choose another folder "
                "with --workdir"
            )
        new = as_json(settings) | {FINGERPRINT: fingerprint, FACTS: facts or {}}
        _check_files(folder)
        if path.exists():
            old = _read_record(path)
            _check_same_training(new, old, path)
            if kept := list(_kept_settings(old)):
                new[KEPT] = kept
        write_atomically(path, json.dumps(new, indent=2) + "\n")
        yield


def as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as config.json holds them, with lists in place of tuples."""
    return json.loads(json.dumps(settings))


def steps_in(folder: Path | str) -> list[int]:
    """The steps of a run folder's finished checkpoints, ascending."""
    # Unfinished checkpoints have names that are not numbers.
    paths = (Path(folder) / "checkpoints").glob("*")
    return sorted(int(path.name) for path in paths if path.name.isdecimal())


def _check_files(folder: Path) -> None:
    """Raises SettingError if something else is in place of a file, or config.json is lost."""
    for name in ("config.json", "metrics.jsonl", "environment.json"):
        if (folder / name).exists() and not (folder / name).is_file():
            raise SettingError(
                f"{folder / name} is not a file; move it away, "
                "or choose another folder with --workdir"
            )
    if steps_in(folder) and not (folder / "config.json").exists():
        raise SettingError(
            f"{folder} has checkpoints but no config.json, so it is unknown what was trained "
            "there; restore the file, or choose another folder with --workdir"
        )


def read_config(folder: Path | str) -> dict[str, Any]:
    """The config.json of a run folder: all settings, the data's fingerprint and facts.

    Raises:
        SettingError: it is missing or damaged.
    """
    path = user_path(folder, "--workdir") / "config.json"
    if not path.exists():
        parent = path.parent.parent
        others = [] if path.parent.exists() else _runs_in(parent, path.parent.name)
        if others:
            raise SettingError(f"{folder} does not exist; {parent} has {', '.join(others)}")
        raise SettingError(
            f"{folder} is not a run folder: it has no config.json; give one that ssl_jax.main made"
        )
    return _read_record(path)


def _runs_in(folder: Path, name: str) -> list[str]:
    """Up to three run folders in `folder`, those whose names start with `name` first."""
    try:
        names = [path.parent.name for path in folder.glob("*/config.json")]
    except OSError:  # only for a hint
        return []
    return sorted(names, key=lambda other: (not other.startswith(name), other))[:3]


def _read_record(path: Path) -> dict[str, Any]:
    """The settings in a config.json.

    Raises:
        SettingError: the file cannot be read, or does not hold the settings of a run.
    """
    try:
        if not path.is_file():  # reading a pipe would never end
            raise ValueError("it is not a regular file")
        record = json.loads(path.read_text("utf-8"))
        problem = _problem_with(record)
    except (ValueError, RecursionError, OSError) as error:
        problem = getattr(error, "strerror", None) or error
    if problem:
        raise SettingError(
            f"{path} is damaged ({problem}); repair it, or choose another folder with --workdir"
        )
    return record


def _problem_with(record: Any) -> str:
    """Why this JSON cannot be the settings of a run; empty if it can."""
    if not isinstance(record, dict):
        return "it has no settings"
    for name in SECTIONS:
        if not isinstance(record.get(name, {}), dict):
            return f"{name} is not a section"
    if not _all_have(record.get("augment"), "size"):
        return "an entry of augment has no size"
    if not _all_have(record.get("optim", {}).get("groups", {}), "pattern"):
        return "an entry of optim.groups has no pattern"
    if not isinstance(record.get("method"), dict) or "name" not in record["method"]:
        return "it has no method.name"
    try:
        _kept_settings(record)
    except (KeyError, TypeError, AttributeError):
        return f"{KEPT} lists unknown settings"
    return ""


def _all_have(section: Any, key: str) -> bool:
    """Whether `section` is a dict of dicts that all contain `key`."""
    return isinstance(section, dict) and all(
        isinstance(entry, dict) and key in entry for entry in section.values()
    )


def with_kept_settings(
    settings: dict[str, Any], folder: Path, given: Collection[str] = ()
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The settings that a run in `folder` resumes with, and a note on those that differ.

    A run older than a setting keeps its original behaviour, whatever today's config says.

    Args:
        settings: of a complete config; may be changed in place. Automatic ones are those that were
            chosen when the run started.
        folder: a run folder, or where one will be.
        given: names of settings given by hand, which are not replaced.

    Raises:
        SettingError: config.json is damaged, or a setting given by hand is not the run's.
    """
    path = Path(folder) / "config.json"
    old = _read_record(path) if path.exists() else None
    kept = _kept_settings(old) if old else {}
    if old:
        settings = automatic.as_recorded(settings, with_later_settings(old))
    changed = []
    for name, value in kept.items():
        *sections, last = name.split(".")
        section = functools.reduce(lambda part, key: part.get(key, {}), sections, settings)
        if section.get(last, value) != value:
            if name in given:
                raise _conflict(folder, name, value, section[last])
            section[last] = value
            changed.append(f"{name}={value}")
    if not changed:
        return settings, ()
    values = ", ".join(changed)
    note = f"{folder} is older than some settings and keeps its original behaviour: {values}"
    return settings, (note,)


def _kept_settings(old: dict[str, Any]) -> dict[str, Any]:
    """Settings younger than the run that wrote this config.json, with the values it uses."""
    completed = with_later_settings(old)
    values = {
        name: functools.reduce(lambda part, key: part[key], name.split("."), completed)
        for name in old.get(KEPT, ())
    }
    return values | earlier_values(old)


def check_shape(folder: Path, name: str, facts: Mapping[str, Any]) -> None:
    """Checks that a data set has the shape and the classes of the one that a run was trained on.

    Before the numbers of the run, such as its batch size, are compared with other images.

    Args:
        folder: a run folder, or where one will be.
        name: of the data set.
        facts: of the data set.

    Raises:
        SettingError: config.json is damaged, or it is another data set.
    """
    path = folder / "config.json"
    recorded = (_read_record(path) if path.exists() else {}).get(FACTS) or {}
    new = as_json(facts)
    if any(recorded.get(key, new[key]) != new[key] for key in ("shape", "classes")):
        raise _different_images(folder, name)


def _different_images(folder: Path, name: str) -> SettingError:
    return SettingError(
        f"{folder} was trained on different images than data.name={name!r} holds now; choose "
        "another folder with --workdir"
    )


def _check_same_training(new: dict[str, Any], old: dict[str, Any], path: Path) -> None:
    if old.get(FINGERPRINT, new[FINGERPRINT]) != new[FINGERPRINT]:
        raise _different_images(path.parent, new["data"]["name"])
    changes = differences(with_later_settings(new), with_later_settings(old))
    for name, new_value, old_value in changes:
        if name.split(".")[0] not in BESIDE and not only_observes(name):
            raise _conflict(path.parent, name, old_value, new_value)


def _conflict(folder: Path, name: str, old_value: Any, new_value: Any) -> SettingError:
    message = f"{folder} was trained with {name}={old_value!r}, not {new_value!r}; "
    if name == "epochs" and steps_in(folder) and old_value < new_value:
        source = shlex.quote(str(folder))
        return SettingError(
            f"{message}to continue it for longer, add --config.init_from={source} and choose "
            "another folder with --workdir"
        )
    return SettingError(f"{message}choose another folder with --workdir")


def differences(
    new: Mapping[str, Any], old: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Yields (whole name, new value, old value) of each setting that differs."""
    for key in sorted({*new, *old}):
        name = f"{prefix}{key}"
        new_value = new.get(key)
        old_value = old.get(key)
        if isinstance(new_value, dict) and isinstance(old_value, dict):
            yield from differences(new_value, old_value, f"{name}.")
        elif new_value != old_value:
            yield name, new_value, old_value
