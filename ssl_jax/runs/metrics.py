"""metrics.jsonl and TensorBoard events of a run folder."""

import json
import os
import shutil
from pathlib import Path

from ssl_jax.runs.events import EventWriter
from ssl_jax.runtime.atomic_file import write_atomically

METRICS = "metrics.jsonl"
_MEASURED = ("train/", "speed/", "refresh/", "eval/", "pixels/", "untrained/", "adopted/")


class MetricsWriter:
    """`metrics.jsonl` (one object a record) and TensorBoard events of a run folder.

    Args:
        folder: the run folder.
        step: of the run's own checkpoint that it goes on from; later records are cut off, at 0 all of them. Records
            of a refresh at this very step go too: resuming repeats the refresh.

    Attributes:
        damaged: lines of the file that were no records and are left out; if there were any, the file as it was is
            `metrics.jsonl.damaged`.
    """

    def __init__(self, folder: Path, step: int):
        self._path = Path(folder) / METRICS
        self.damaged = damaged_lines(folder)
        if self.damaged:
            shutil.copyfile(self._path, self._path.with_name(f"{METRICS}.damaged"))
        stays = lambda r: r["step"] < step or r["step"] == step and "refresh" not in r
        kept = [r for r in read_records(folder) if step and stays(r)]
        write_atomically(self._path, "".join(json.dumps(r) + "\n" for r in kept))
        self._file = self._path.open("a", buffering=1)
        self._events = EventWriter(folder, purge_step=step + 1)

    def write(self, step: int, epoch: float, values) -> None:
        """One record; non-numbers go to the file only."""
        record = {"step": step, "epoch": round(epoch, 4), **values}
        self._file.write(json.dumps(record) + "\n")
        for name, value in values.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                self._events.add_scalar(name, value, step)

    @property
    def events_failure(self) -> str:
        """Why there are no more events for TensorBoard, or nothing: a full disk, say."""
        return self._events.failure

    def flush(self) -> None:
        """Everything written so far reaches the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flushes and closes both."""
        self._events.close()
        with self._file:
            self.flush()


def read_records(folder) -> list[dict]:
    """The records of a run folder, in order; lines that are no records are left out, see `damaged_lines`."""
    return [record for record in map(_record, _lines(folder)) if record is not None]


def damaged_lines(folder) -> int:
    """How many lines of metrics.jsonl are no records; a last one that a kill has cut short does not count."""
    lines = _lines(folder)
    torn = bool(lines) and not lines[-1].endswith(b"\n")
    return sum(_record(line) is None for line in lines[: len(lines) - torn])


def _lines(folder) -> list[bytes]:
    path = Path(folder) / METRICS
    return path.read_bytes().splitlines(keepends=True) if path.is_file() else []


def _record(line: bytes) -> dict | None:
    """A line as a record: a step, and numbers where others count on them."""
    try:
        record = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):  # no JSON, no UTF-8, or too deep
        return None
    if not isinstance(record, dict) or type(record.get("step")) is not int or not _is_number(record.get("epoch", 0)):
        return None
    measured = (value for name, value in record.items() if name.startswith(_MEASURED))
    return record if all(map(_is_number, measured)) else None


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
