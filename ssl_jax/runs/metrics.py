"""metrics.jsonl and TensorBoard events of a run folder."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_jax.runs.events import EventWriter
from ssl_jax.runtime.atomic_file import write_atomically

METRICS = "metrics.jsonl"
_MEASURED = (
    "train/",
    "speed/",
    "refresh/",
    "eval/",
    "pixels/",
    "untrained/",
    "adopted/",
    "largest_class/",
)


class MetricsWriter:
    """Appends to `metrics.jsonl` (one object per record) and to the TensorBoard events of a run.

    Args:
        folder: the run folder.
        step: the run's own checkpoint that it resumes from; later records are dropped, all of them
            for 0. So are records of a refresh at this very step, since resuming repeats it.

    Attributes:
        damaged: number of damaged lines that were dropped; if any, the original file is kept as
            `metrics.jsonl.damaged`.
    """

    def __init__(self, folder: Path, step: int):
        self._path = Path(folder) / METRICS
        self.damaged = damaged_lines(folder)
        if self.damaged:
            shutil.copyfile(self._path, self._path.with_name(f"{METRICS}.damaged"))
        records = [record for record in read_records(folder) if _precedes(record, step)]
        write_atomically(self._path, "".join(json.dumps(record) + "\n" for record in records))
        self._file = self._path.open("a", buffering=1)
        self._events = EventWriter(folder, purge_step=step + 1)

    def write(self, step: int, epoch: float, values: Mapping[str, Any]) -> None:
        """Writes one record; values that are not numbers go to metrics.jsonl only."""
        record = {"step": step, "epoch": round(epoch, 4), **values}
        self._file.write(json.dumps(record) + "\n")
        for name, value in values.items():
            if _is_number(value):
                self._events.add_scalar(name, value, step)

    @property
    def events_failure(self) -> str:
        """Why TensorBoard events are no longer written, such as a full disk; else empty."""
        return self._events.failure

    def flush(self) -> None:
        """Forces everything written so far to disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flushes and closes both files."""
        self._events.close()
        with self._file:
            self.flush()


def read_records(folder: Path | str) -> list[dict[str, Any]]:
    """The records of a run folder, in order; skips damaged lines (see `damaged_lines`)."""
    records = (_parse(line) for line in _lines(folder))
    return [record for record in records if record is not None]


def damaged_lines(folder: Path | str) -> int:
    """How many lines of metrics.jsonl are damaged, not counting a last one cut short by a kill."""
    lines = _lines(folder)
    if lines and not lines[-1].endswith(b"\n"):
        lines = lines[:-1]
    return sum(_parse(line) is None for line in lines)


def _precedes(record: Mapping[str, Any], step: int) -> bool:
    """Whether a run that resumes at `step` keeps this record."""
    if not step:
        return False
    return record["step"] < step or (record["step"] == step and "refresh" not in record)


def _lines(folder: Path | str) -> list[bytes]:
    path = Path(folder) / METRICS
    return path.read_bytes().splitlines(keepends=True) if path.is_file() else []


def _parse(line: bytes) -> dict[str, Any] | None:
    """A line as a record; None if it lacks a step, or a number where readers expect one."""
    try:
        record = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):  # not JSON, not UTF-8, or nested too deep
        return None
    if not isinstance(record, dict) or type(record.get("step")) is not int:
        return None
    measured = [value for name, value in record.items() if name.startswith(_MEASURED)]
    numbers = [record.get("epoch", 0), *measured]
    return record if all(map(_is_number, numbers)) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
