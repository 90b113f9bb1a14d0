"""environment.json: when and how long a run trained, with which versions, on which devices."""

import datetime
import json
import platform
import time
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

from ssl_jax.runs.metrics import write_atomically

FILE = "environment.json"
_PACKAGES = (
    "ssl_jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "scikit-learn",
)


class Start:
    """One start of a run: appends an entry to the list in environment.json.

    Args:
        folder: the run folder.
        step: that the run starts or resumes at.
    """

    def __init__(self, folder: Path, step: int):
        self._path = Path(folder) / FILE
        self._start_time = time.monotonic()
        self._previous = read(folder)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._entry = {
            "began": now,
            "seconds": 0.0,
            "first_step": step,
            "last_step": step,
            **here(),
        }
        self._write()

    def reached(self, step: int) -> None:
        """Records that the run has reached `step`."""
        seconds = round(time.monotonic() - self._start_time, 1)
        self._entry |= {"seconds": seconds, "last_step": step}
        self._write()

    def _write(self) -> None:
        write_atomically(self._path, json.dumps([*self._previous, self._entry], indent=2) + "\n")


def here() -> dict[str, Any]:
    """Versions, system and devices of this process."""
    devices = Counter(f"{d.platform}: {d.device_kind}" for d in jax.devices())
    installed = {package: _version(package) for package in _PACKAGES}
    versions = {package: number for package, number in installed.items() if number}
    return {
        "versions": {"python": platform.python_version(), **versions},
        "system": f"{platform.system()} {platform.machine()}",
        "devices": dict(devices),
        "processes": jax.process_count(),
    }


def device(kind: str) -> str:
    """A device's "platform: name" as "name (platform)", or just the name if it says both."""
    platform_name, _, name = kind.partition(": ")
    return name if name.lower().startswith(platform_name) else f"{name} ({platform_name})"


def read(folder: Path | str) -> list[dict[str, Any]]:
    """The starts of a run folder; empty if environment.json is missing or unreadable."""
    path = Path(folder) / FILE
    try:
        starts = json.loads(path.read_text("utf-8")) if path.is_file() else []
    except (OSError, ValueError, RecursionError):
        return []
    return (
        [start for start in starts if isinstance(start, dict)] if isinstance(starts, list) else []
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a checkout, not installed
        return None
