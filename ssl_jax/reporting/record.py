"""A run on record: what its folder holds besides data and checkpoints."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
        name: short, and unique among the runs of a report.
        folder: of the run.
        settings: all settings, as in config.json.
        facts: facts of the data; empty for runs of early versions.
        fingerprint: of the data; their name for runs of early versions.
        records: content of metrics.jsonl.
        evaluations: content of evaluations.jsonl.
        starts: content of environment.json.
    """

    name: str
    folder: Path
    settings: dict[str, Any]
    facts: dict[str, Any]
    fingerprint: str
    records: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    starts: list[dict[str, Any]]

    @property
    def scores(self) -> dict[str, dict[str, float]]:
        """The latest scores of each kind of features: {"trained encoder": {"knn/top1": ...}}."""
        return latest_scores(self.folder)

    @property
    def evaluated(self) -> dict[str, Any] | None:
        """The latest record with scores of the trained encoder."""
        for record in reversed(self.records):
            if any(key.startswith("eval/") for key in record):
                return record
        return None

    @property
    def best(self) -> dict[str, Any] | None:
        """The record with the highest value of the score that the setting `best` names.

        It was selected on the test images that it is scored on.
        """
        name = self.settings["best"]
        scored = (record for record in self.records if name in record)
        return max(scored, key=lambda record: record[name], default=None)

    @property
    def epoch(self) -> float:
        """The last epoch on record."""
        return self.records[-1]["epoch"] if self.records else 0.0


def read(folders: Sequence[str | Path]) -> list[Record]:
    """The runs in these folders, in this order.

    Raises:
        SettingError: not a run folder.
    """
    paths = [user_path(folder, "RUN") for folder in folders]
    for path in paths:
        check_path(path, "RUN")
    return [_read(path, name) for path, name in zip(paths, names_of(paths))]


def names_of(folders: Sequence[str | Path]) -> list[str]:
    """The last part of each path, preceded by as many parts as tell all paths apart."""
    parts = [Path(folder).absolute().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        names = [printable(encodable("/".join(path[-depth:]))) for path in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({i})" for i, name in enumerate(names, 1)]  # the same folder twice


def _read(path: Path, name: str) -> Record:
    config = run_folder.read_config(path)
    evaluations = path / "evaluations.jsonl"
    return Record(
        name=name,
        folder=path,
        settings={key: value for key, value in config.items() if key not in BESIDE},
        facts=config.get(run_folder.FACTS) or {},
        fingerprint=config.get(run_folder.FINGERPRINT) or config["data"]["name"],
        records=read_records(path),
        evaluations=_lines(evaluations.read_bytes()) if evaluations.is_file() else [],
        starts=provenance.read(path),
    )


def _lines(raw: bytes) -> list[dict[str, Any]]:
    """The lines that are complete and hold scores."""
    evaluations = []
    for line in raw.splitlines():
        try:
            evaluation = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError):
            continue
        if isinstance(evaluation, dict) and isinstance(evaluation.get("scores"), dict):
            evaluations.append(evaluation)
    return evaluations
