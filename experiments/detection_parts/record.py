"""What a finished detector leaves: a line in the results file, and its settings in its folder."""

import datetime
import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ssl_jax.runtime.atomic_file import write_atomically
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "experiments" / "detection.jsonl"
SETTINGS = "settings.json"
RESULT = "result.json"
_CODE = ("ssl_jax", "experiments/detection.py", "experiments/detection_parts")


def check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Writes the settings into a new folder; in an old one they must be the same.

    Raises:
        SettingError: they differ, or the folder cannot be written.
    """
    path = folder / SETTINGS
    settings = json.loads(json.dumps(settings))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_atomically(path, json.dumps(settings, indent=2))
        earlier = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingError(
            f"--workdir={printable(folder)} cannot be written ({error.strerror})"
        ) from error
    except ValueError as error:
        raise SettingError(f"{printable(path)} is damaged; give another --workdir") from error
    changed = [name for name in settings if earlier.get(name) != settings[name]]
    if changed:
        text = ", ".join(f"{name}={earlier.get(name)}, not {settings[name]}" for name in changed)
        raise SettingError(
            f"--workdir={printable(folder)} has a detector with other settings "
            f"({printable(text)}); give another --workdir"
        )


def finished(folder: Path) -> dict[str, Any] | None:
    """The result in a folder; None before the end."""
    path = folder / RESULT
    return json.loads(path.read_text("utf-8")) if path.exists() else None


def record(folder: Path, results: Path, line: Mapping[str, Any]) -> None:
    """Adds a line to the results file, unless it is there; the folder gets it, too."""
    text = json.dumps(line)
    write_atomically(folder / RESULT, text)
    earlier = results.read_text("utf-8").splitlines() if results.exists() else []
    if text not in earlier:
        with results.open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")


def read(results: Path = RESULTS) -> list[dict[str, Any]]:
    """The lines of the results file."""
    if not results.exists():
        return []
    return [json.loads(line) for line in results.read_text("utf-8").splitlines()]


def origin(device: str) -> dict[str, Any]:
    """Command, date, device and versions of this process."""
    import torch

    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    packages = ("torch", "torchvision", "pycocotools", "numpy")
    versions = {package: version(package) for package in packages}
    return dict(
        command=shlex.join(["python", "experiments/detection.py", *sys.argv[1:]]),
        date=str(datetime.date.today()),
        device=f"1 x {name}",
        versions=versions | {"python": platform.python_version()},
    )


def current_commit() -> str:
    """The checkout's commit, marked if the code of this script has uncommitted changes."""
    commit = _git("rev-parse", "--short", "HEAD") or "unknown"
    changes = _git("status", "--porcelain", "--untracked-files=no", "--", *_CODE)
    return f"{commit}+changes" if changes else commit


def _git(*args: str) -> str:
    process = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True)
    return process.stdout.strip()
