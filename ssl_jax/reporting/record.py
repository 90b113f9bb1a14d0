"""What a run folder says of itself, without its data or its checkpoints."""

import dataclasses
import json
from pathlib import Path

from ssl_jax.runs import provenance, run_folder
from ssl_jax.runs.checkpoint_files import check_path
from ssl_jax.runs.metrics import read_records
from ssl_jax.runs.scores import latest_scores
from ssl_jax.settings.old_records import BESIDE
from ssl_jax.settings.paths import user_path
from ssl_jax.settings.text import encodable, printable


@dataclasses.dataclass(frozen=True)
class Record:
    """A run on record.

    Attributes:
        name: short, and of this run alone among those of a report.
        folder: of the run.
        settings: all of its config, as JSON holds it.
        facts: of its data; empty in folders of before they were kept.
        records: of metrics.jsonl.
        evaluations: of evaluations.jsonl.
        starts: of environment.json.
    """

    name: str
    folder: Path
    settings: dict
    facts: dict
    records: list
    evaluations: list
    starts: list

    @property
    def scores(self) -> dict[str, dict]:
        """The newest scores of each kind of features: {"trained encoder": {"knn/top1": ...}}."""
        return latest_scores(self.folder)

    @property
    def evaluated(self) -> dict | None:
        """The newest record with scores of the trained encoder."""
        return next((r for r in reversed(self.records) if any(k.startswith("eval/") for k in r)), None)

    @property
    def best(self) -> dict | None:
        """The record with the best score by the config's `best`, which was chosen by what it is scored on."""
        name = self.settings["best"]
        return max((r for r in self.records if name in r), key=lambda r: r[name], default=None)

    @property
    def epoch(self) -> float:
        """The last on record."""
        return self.records[-1]["epoch"] if self.records else 0.0


def read(folders) -> list[Record]:
    """The runs in these folders, in this order.

    Raises:
        SettingError: a folder that is no run folder.
    """
    folders = [user_path(f, "RUN") for f in folders]
    for folder in folders:
        check_path(folder, "RUN")
    return [_read(path, name) for path, name in zip(folders, names_of(folders))]


def names_of(folders) -> list[str]:
    """The last part of each folder's path; as many more of them as tell all folders apart."""
    parts = [Path(f).absolute().parts for f in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        names = [printable(encodable("/".join(p[-depth:]))) for p in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({i})" for i, name in enumerate(names, 1)]  # one folder twice


def _read(path, name):
    recorded = run_folder.read_config(path)
    settings = {k: v for k, v in recorded.items() if k not in BESIDE}
    facts = recorded.get(run_folder.FACTS) or {}
    lines = path / "evaluations.jsonl"
    evaluations = _lines(lines.read_bytes()) if lines.is_file() else []
    return Record(name, path, settings, facts, read_records(path), evaluations, provenance.read(path))


def _lines(raw: bytes) -> list[dict]:
    """Those lines that are whole and hold scores."""
    found = []
    for line in raw.splitlines():
        try:
            record = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and isinstance(record.get("scores"), dict):
            found.append(record)
    return found
