"""The tables of a report: scores, other evaluations, settings that differ, where and when runs trained."""

import dataclasses
import json

from ssl_jax.runs.scores import FEATURES, score_label, shown_scores

OWN = FEATURES["eval"]
_SAME = 1e-6  # baselines that differ by less are one


@dataclasses.dataclass(frozen=True)
class Table:
    """`rows` of (kind, cells), kinds being "", "own" (of the runs) and "quiet"; `best` (row, column) pairs."""

    head: list
    rows: list
    best: frozenset = frozenset()
    note: str = ""
    words: bool = False  # not numbers


def scores(runs) -> Table | None:
    """Each run's scores at its last evaluation, then the baselines, once where runs agree on them.

    Below them, quiet, the best epochs: they were chosen by the images that they are scored on.
    """
    rows = []
    for run in runs:
        found = run.scores.get(OWN, {})
        if found:
            rows.append(("own", run.name, f"{run.evaluated['epoch']:g}", found))
    rows += _baselines(runs)
    for run in runs:
        if run.best is not None and run.best is not run.evaluated and run.best["step"] != run.evaluated["step"]:
            found = {k.partition("/")[2]: v for k, v in run.best.items() if k.startswith("eval/")}
            rows.append(("quiet", f"{run.name}, best epoch by test images", f"{run.best['epoch']:g}", found))
    names = shown_scores({str(i): row[3] for i, row in enumerate(rows)})
    if not rows or not names:
        return None
    cells = [(kind, [name, at, *(_number(own.get(n)) for n in names)]) for kind, name, at, own in rows]
    return Table(["", "epoch", *map(score_label, names)], cells, _best(rows, names))


def _baselines(runs):
    """("", name, "", scores) of what runs began from; once where they agree on all that they both scored."""
    found = {}  # (features, runs): scores
    for label in FEATURES.values():
        for run in runs if label != OWN else ():
            values = run.scores.get(label)
            if not values:
                continue
            twin = next((key for key, known in found.items() if key[0] == label and _agree(known, values)), None)
            names = (*twin[1], run.name) if twin else (run.name,)
            found[label, names] = (found.pop(twin) if twin else {}) | values
    kinds = [label for label, _ in found]
    name = lambda label, names: label if kinds.count(label) == 1 else f"{label} of {', '.join(names)}"
    return [("", name(*key), "", values) for key, values in found.items()]


def _agree(a, b):
    """Whether there are scores that both have, and these are the same."""
    shared = a.keys() & b.keys()
    return bool(shared) and all(abs(a[n] - b[n]) < _SAME for n in shared)


def _best(rows, names):
    """(row, column) of the best of each column with several numbers, best epochs left out."""
    found = set()
    for j, name in enumerate(names):
        values = {i: row[3][name] for i, row in enumerate(rows) if name in row[3] and row[0] != "quiet"}
        found |= {(i, j + 2) for i, v in values.items() if v == max(values.values()) and len(values) > 1}
    return frozenset(found)


def _number(value):
    return "\u2013" if value is None else f"{value:.4f}"


def evaluations(run) -> Table | None:
    """What ssl_jax.evaluate appended to a run, a line a call."""
    if not run.evaluations:
        return None
    rows = {str(i): e.get("scores", {}) for i, e in enumerate(run.evaluations)}
    names = shown_scores(rows)
    cells = []
    for entry, own in zip(run.evaluations, rows.values()):
        failed = ", ".join(entry.get("failed") or {})
        first = [entry.get("date", ""), entry.get("data", ""), str(entry.get("step", ""))]
        cells.append(("", [*first, *(_number(own.get(n)) for n in names), failed or "\u2013"]))
    return Table(["date", "data", "step", *map(score_label, names), "failed"], cells)


def flat(settings, prefix="") -> dict[str, str]:
    """Settings by their full name, as text: {"optim.learning_rate": "0.03"}."""
    found = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        found |= flat(value, name + ".") if isinstance(value, dict) and value else {name: json.dumps(value)}
    return found


def differences(runs) -> Table | None:
    """Settings that all runs have, and not the same; None where there is none."""
    own = [flat(run.settings) for run in runs]
    shared = sorted(set.intersection(*map(set, own)))
    rows = [("", [n, *(x[n] for x in own)]) for n in shared if len({x[n] for x in own}) > 1]
    return Table(["setting", *(run.name for run in runs)], rows, words=True) if rows else None


def unshared(runs) -> str:
    """Settings that some runs have and others have not, as lines."""
    own = [flat(run.settings) for run in runs]
    shared = set.intersection(*map(set, own))
    lines = [f"{run.name}: {n} = {x[n]}" for run, x in zip(runs, own) for n in sorted(x.keys() - shared)]
    return "\n".join(lines)


def environments(runs) -> Table | None:
    """A line for each start of each run."""
    rows = []
    for run in runs:
        for i, s in enumerate(run.starts):
            steps = f"{s.get('first_step', 0)} to {s.get('last_step', 0)}"
            devices = ", ".join(f"{n} \u00d7 {_device(kind)}" for kind, n in s.get("devices", {}).items())
            known = s.get("versions", {})
            versions = ", ".join(f"{n} {v}" for n, v in known.items())
            began = str(s.get("began", "")).replace("T", " ").replace("+00:00", " UTC")
            name = run.name if not i else ""
            rows.append(
                ("", [name, began, duration(s.get("seconds", 0.0)), steps, devices, s.get("system", ""), versions])
            )
    head = ["run", "began", "trained for", "steps", "devices", "system", "versions"]
    return Table(head, rows, words=True) if rows else None


def _device(kind):
    """ "cpu: cpu" as "cpu"."""
    platform, _, name = kind.partition(": ")
    return name if name.lower().startswith(platform) else f"{name} ({platform})"


def duration(seconds: float) -> str:
    """For readers: "38 s", "2 min 5 s", "3 h 10 min"."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"
