"""metrics.jsonl and TensorBoard events of a run folder."""

import json
import os
from pathlib import Path

from tensorboardX import SummaryWriter

from ssl_jax.runtime.atomic_file import write_atomically


class MetricsWriter:
    """`metrics.jsonl` (one object a record) and TensorBoard events of a run folder.

    Args:
        folder: the run folder.
        step: of the run's own checkpoint that it goes on from; later records are cut off, at 0 all of them. Records
            of a refresh at this very step go too: resuming repeats the refresh.
    """

    def __init__(self, folder: Path, step: int):
        self._path = Path(folder) / "metrics.jsonl"
        stays = lambda r: r["step"] < step or r["step"] == step and "refresh" not in r
        kept = [r for r in read_records(folder) if step and stays(r)]
        write_atomically(self._path, "".join(json.dumps(r) + "\n" for r in kept))
        self._file = self._path.open("a", buffering=1)
        self._events = SummaryWriter(str(folder), purge_step=step + 1, flush_secs=10)

    def write(self, step: int, epoch: float, values) -> None:
        """One record; non-numbers go to the file only."""
        record = {"step": step, "epoch": round(epoch, 4), **values}
        self._file.write(json.dumps(record) + "\n")
        for name, value in values.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                self._events.add_scalar(name, value, step)

    def flush(self) -> None:
        """Everything written so far reaches the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flushes and closes both."""
        self.flush()
        self._file.close()
        self._events.close()


def read_records(folder) -> list[dict]:
    """The records of a run folder, in order; a last line that was cut short is left out."""
    path = Path(folder) / "metrics.jsonl"
    records = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records
