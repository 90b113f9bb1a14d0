"""On record beside a run: when, how long, with which versions and on which devices it trained, start by start."""

import datetime
import json
import platform
import time
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import jax

from ssl_jax.runs.metrics import write_atomically

FILE = "environment.json"
_PACKAGES = ("ssl_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scikit-learn")


class Start:
    """One start of a run: an entry at the end of environment.json, which holds a list of them.

    Args:
        folder: the run folder.
        step: that the run begins at, or goes on from.
    """

    def __init__(self, folder, step: int):
        self._path, self._clock = Path(folder) / FILE, time.monotonic()
        self._before = read(folder)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._entry = {"began": now, "seconds": 0.0, "first_step": step, "last_step": step, **here()}
        self._write()

    def reached(self, step: int) -> None:
        """The run has come to `step`."""
        self._entry |= {"seconds": round(time.monotonic() - self._clock, 1), "last_step": step}
        self._write()

    def _write(self):
        write_atomically(self._path, json.dumps([*self._before, self._entry], indent=2) + "\n")


def here() -> dict:
    """Versions, system and devices of this process."""
    devices = Counter(f"{d.platform}: {d.device_kind}" for d in jax.devices())
    return {
        "versions": {"python": platform.python_version(), **{p: v for p in _PACKAGES if (v := _version(p))}},
        "system": f"{platform.system()} {platform.machine()}",
        "devices": dict(devices),
        "processes": jax.process_count(),
    }


def read(folder) -> list[dict]:
    """The starts of a run folder; none where nothing readable is on record, which disturbs no run."""
    path = Path(folder) / FILE
    try:
        found = json.loads(path.read_text("utf-8")) if path.is_file() else []
    except (OSError, ValueError, RecursionError):
        return []
    return [x for x in found if isinstance(x, dict)] if isinstance(found, list) else []


def _version(package):
    try:
        return version(package)
    except PackageNotFoundError:  # run from its source, not installed
        return None
