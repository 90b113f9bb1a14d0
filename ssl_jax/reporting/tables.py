"""The tables of a report: scores, later evaluations, differing settings, and environments."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ssl_jax.reporting.record import Record
from ssl_jax.runs import by_class, provenance
from ssl_jax.runs.in_use import SIGNS, means, shown_signs
from ssl_jax.runs.scores import FEATURES, score_label, shown_scores
from ssl_jax.settings.text import encodable, printable

OWN = FEATURES["eval"]
_SAME = 1e-6  # baselines that differ by less are shown once
_NO_VALUE = "\u2013"


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of a report.

    Attributes:
        head: column titles.
        rows: (kind, cells) pairs; kind is "", "own" (scores of the runs) or "quiet".
        best: (row, column) pairs to print in bold.
        note: caption.
        words: whether cells hold text rather than numbers.
    """

    head: list[str]
    rows: list[tuple[str, list[str]]]
    best: frozenset[tuple[int, int]] = frozenset()
    note: str = ""
    words: bool = False


@dataclasses.dataclass(frozen=True)
class _ScoreRow:
    """A row of the table of scores."""

    kind: str
    name: str
    epoch: str
    data: str  # fingerprint
    scores: Mapping[str, float]


def scores(runs: Sequence[Record]) -> Table | None:
    """Each run's scores at its last evaluation, then the baselines, once if the runs agree on them.

    The best epochs follow, in grey: they were selected on the test images that they are scored on.
    """
    rows = []
    for run in runs:
        run_scores = run.scores.get(OWN, {})
        if run_scores:
            epoch = f"{run.evaluated['epoch']:g}"
            rows.append(_ScoreRow("own", run.name, epoch, run.fingerprint, run_scores))
    rows += _baselines(runs)
    rows += [_best_epoch(run) for run in runs if _has_earlier_best(run)]
    names = shown_scores({str(i): row.scores for i, row in enumerate(rows)})
    if not rows or not names:
        return None
    return Table(
        head=["", "epoch", *map(score_label, names)],
        rows=[
            (row.kind, [row.name, row.epoch, *(_number(row.scores.get(name)) for name in names)])
            for row in rows
        ],
        best=_best(rows, names),
    )


def by_features(own: str, rows: Mapping[str, Mapping[str, float]]) -> Table | None:
    """Scores by the name of the features; the row `own` is that of the encoder."""
    kinds = [_ScoreRow("own" if x == own else "", x, "", "", y) for x, y in rows.items()]
    names = shown_scores(rows)
    if not names:
        return None
    return Table(
        head=["", *map(score_label, names)],
        rows=[
            (row.kind, [row.name, *(_number(row.scores.get(name)) for name in names)])
            for row in kinds
        ],
        best=frozenset((row, column - 1) for row, column in _best(kinds, names)),
    )


def _has_earlier_best(run: Record) -> bool:
    """Whether a run's best epoch is not its last evaluation."""
    return run.best is not None and run.best["step"] != run.evaluated["step"]


def _best_epoch(run: Record) -> _ScoreRow:
    best_scores = {
        key.partition("/")[2]: value for key, value in run.best.items() if key.startswith("eval/")
    }
    name = f"{run.name}, best epoch by test images"
    return _ScoreRow("quiet", name, f"{run.best['epoch']:g}", run.fingerprint, best_scores)


def _baselines(runs: Sequence[Record]) -> list[_ScoreRow]:
    """Scores that runs started from.

    One row for all runs on the same data that agree on their common scores.
    """
    merged = []  # (label, data, names of runs, scores)
    for label in FEATURES.values():
        for run in runs:
            baseline = run.scores.get(label)
            if label == OWN or not baseline:
                continue
            names = [run.name]
            for i, (other_label, data, other_names, other) in enumerate(merged):
                same_kind = (other_label, data) == (label, run.fingerprint)
                if same_kind and _agree(other, baseline):
                    names = [*other_names, run.name]
                    baseline = other | baseline
                    del merged[i]
                    break
            merged.append((label, run.fingerprint, names, baseline))
    labels = [label for label, *_ in merged]
    rows = []
    for label, data, names, baseline in merged:
        name = label if labels.count(label) == 1 else f"{label} of {', '.join(names)}"
        rows.append(_ScoreRow("", name, "", data, baseline))
    return rows


def _agree(a: Mapping[str, float], b: Mapping[str, float]) -> bool:
    """Whether `a` and `b` have common scores, all equal."""
    shared = a.keys() & b.keys()
    return bool(shared) and all(abs(a[name] - b[name]) < _SAME for name in shared)


def _best(rows: Sequence[_ScoreRow], names: Sequence[str]) -> frozenset[tuple[int, int]]:
    """(row, column) of the best of several values on the same data, best epochs excluded."""
    best = set()
    for data in {row.data for row in rows}:
        for column, name in enumerate(names, 2):
            values = {
                i: row.scores[name]
                for i, row in enumerate(rows)
                if row.data == data and name in row.scores and row.kind != "quiet"
            }
            if len(values) > 1:
                highest = max(values.values())
                best |= {(i, column) for i, value in values.items() if value == highest}
    return frozenset(best)


def _number(value: float | None) -> str:
    return _NO_VALUE if value is None else f"{value:.4f}"


def signs(runs: Sequence[Record]) -> Table | None:
    """Loss, spread and prototypes or clusters in use of runs without scores, in their last epoch.

    None if there is no such run.
    """
    values = {run.name: means(run.records) for run in runs if not run.evaluated}
    shown = {name: shown_signs(metrics) for name, metrics in values.items() if metrics}
    if not shown:
        return None
    labels = [label for label in SIGNS.values() if any(label in row for row in shown.values())]
    rows = [
        ("own", [name, f"{values[name]['loss']:.4f}", *(row.get(x, _NO_VALUE) for x in labels)])
        for name, row in shown.items()
    ]
    return Table(["", "loss", *labels], rows, note="Means over the last epoch")


def classes(run: Record) -> Table | None:
    """The recall of each class at the last evaluation of a run; None if it is not on record."""
    scores = by_class.read(run.folder, run.evaluated["step"]) if run.evaluated else {}
    return recalls(run.name, scores)


def recalls(name: str, scores: Mapping[str, Any]) -> Table | None:
    """The recall of each class; None without `scores`.

    Args:
        name: of the run or file.
        scores: as `by_class.by_class` returns them.
    """
    if not scores:
        return None
    head, rows, selection = by_class.table(scores)
    averages = ", ".join(
        f"{score_label(f'{key}/balanced')} {float(np.mean(values)):.4f}"
        for key, values in scores["recall"].items()
    )
    note = f"Recall of each class in {name}; {averages}"
    rows = [[printable(encodable(cell)) for cell in row] for row in rows]
    return Table(
        head, [("", row) for row in rows], note=f"{note}; {selection}" if selection else note
    )


def evaluations(run: Record) -> Table | None:
    """The evaluations that ssl_jax.evaluate appended to a run, one row per call."""
    if not run.evaluations:
        return None
    all_scores = [evaluation.get("scores", {}) for evaluation in run.evaluations]
    names = shown_scores({str(i): row for i, row in enumerate(all_scores)})
    rows = []
    for evaluation, row in zip(run.evaluations, all_scores):
        cells = [
            evaluation.get("date", ""),
            evaluation.get("data", ""),
            str(evaluation.get("step", "")),
            *(_number(row.get(name)) for name in names),
            ", ".join(evaluation.get("failed") or {}) or _NO_VALUE,
        ]
        rows.append(("", cells))
    return Table(["date", "data", "step", *map(score_label, names), "failed"], rows)


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Settings by their full names, as text: {"optim.learning_rate": "0.03"}."""
    values = {}
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            values |= flat(value, f"{prefix}{key}.")
        else:
            values[f"{prefix}{key}"] = json.dumps(value)
    return values


def differences(runs: Sequence[Record]) -> Table | None:
    """Settings that all runs have, with differing values; None if there are none."""
    settings = [flat(run.settings) for run in runs]
    shared = sorted(set.intersection(*map(set, settings)))
    rows = []
    for name in shared:
        values = [run_settings[name] for run_settings in settings]
        if len(set(values)) > 1:
            rows.append(("", [name, *values]))
    return Table(["setting", *(run.name for run in runs)], rows, words=True) if rows else None


def unshared(runs: Sequence[Record]) -> str:
    """Settings that only some of the runs have, one per line."""
    settings = [flat(run.settings) for run in runs]
    shared = set.intersection(*map(set, settings))
    lines = [
        f"{run.name}: {name} = {run_settings[name]}"
        for run, run_settings in zip(runs, settings)
        for name in sorted(run_settings.keys() - shared)
    ]
    return "\n".join(lines)


def environments(runs: Sequence[Record]) -> Table | None:
    """Where and when runs trained, one row for each start of each run."""
    rows = []
    for run in runs:
        for i, start in enumerate(run.starts):
            devices = start.get("devices", {}).items()
            cells = [
                "" if i else run.name,
                str(start.get("began", "")).replace("T", " ").replace("+00:00", " UTC"),
                duration(start.get("seconds", 0.0)),
                f"{start.get('first_step', 0)} to {start.get('last_step', 0)}",
                ", ".join(f"{count} \u00d7 {provenance.device(kind)}" for kind, count in devices),
                start.get("system", ""),
                ", ".join(f"{name} {x}" for name, x in start.get("versions", {}).items()),
            ]
            rows.append(("", cells))
    head = ["run", "began", "trained for", "steps", "devices", "system", "versions"]
    return Table(head, rows, words=True) if rows else None


def duration(seconds: float) -> str:
    """A duration for readers: "38 s", "2 min 5 s", "3 h 10 min"."""
    whole = round(seconds)
    hours = whole // 3600
    minutes = whole % 3600 // 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"
