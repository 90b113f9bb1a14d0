"""Scores of a run: their names, the newest on record, and how they are shown."""

from collections import Counter

from rich.markup import escape
from rich.table import Table

from ssl_jax.runs.metrics import read_records

# Prefix of the scores in metrics.jsonl, and how these features are called.
FEATURES = {
    "pixels": "raw pixels",
    "untrained": "untrained encoder",
    "adopted": "before this run",
    "eval": "trained encoder",
}

SCORES = {
    "knn/top1": "kNN",
    "knn_live/top1": "live kNN",
    "linear/top1": "linear",
    "clustering/acc": "cluster ACC",
    "clustering/nmi": "NMI",
    "clustering/ari": "ARI",
    "assignment/acc": "own ACC",
    "assignment/nmi": "own NMI",
    "assignment/ari": "own ARI",
    "neighbourhood/all": "neighbours",
    "neighbourhood/anchors": "anchors'",
    "purity/local_10": "purity",
    "purity/contextual_10": "in context",
    "probe/top1": "probe",
    "augmented/top1": "augmented",
}
MANY = 3  # an evaluator with more scores shows those of SCORES only; the others are on record


def score_label(name: str) -> str:
    """How a score (`knn/top1`) is shown."""
    return SCORES.get(name, name)


def shown_scores(rows: dict[str, dict]) -> list[str]:
    """The scores of `rows` that are shown, the well-known ones first."""
    found = dict.fromkeys(name for row in rows.values() for name in row)
    counts = Counter(n.partition("/")[0] for n in found)
    return [n for n in SCORES if n in found] + [
        n for n in found if n not in SCORES and counts[n.partition("/")[0]] <= MANY
    ]


def format_scores(scores: dict, *, every: bool = False) -> str:
    """Scores by their full name ("eval/knn/top1") on one line: those of `shown_scores`, or `every` one."""
    short = {name.partition("/")[2]: value for name, value in scores.items()}
    shown = list(short) if every else shown_scores({"": short})
    return "  ".join(
        f"{score_label(name)} {short[name]:.4g}" if every else f"{score_label(name)} {short[name]:.4f}"
        for name in shown
    )


def score_table(title: str, rows: dict[str, dict]) -> Table:
    """One row of scores for each kind of features, the best of each column in bold."""
    shown = Table(title=escape(title), title_justify="left", title_style="")
    shown.add_column("features")
    columns = shown_scores(rows)
    best = {n: max(row.get(n, float("-inf")) for row in rows.values()) for n in columns}
    for name in columns:
        shown.add_column(score_label(name), justify="right")
    for key, row in rows.items():
        cell = lambda n, row=row: f"[bold]{row[n]:.4f}[/]" if row[n] == best[n] else f"{row[n]:.4f}"
        shown.add_row(key, *(cell(n) if n in row else "-" for n in columns))
    return shown


def compare_scores(rows: dict[str, dict]) -> list[str]:
    """Plain sentences: where the last row is ahead of each other row, and where it is behind."""
    *others, own = rows
    sentences = []
    for other in others:
        gaps = {n: rows[own][n] - rows[other][n] for n in shown_scores(rows) if n in rows[own] and n in rows[other]}
        signs = {n: (gap > 0) - (gap < 0) for n, gap in gaps.items()}
        ahead, behind, level = (
            ", ".join(f"{score_label(n)} ({gaps[n]:+.4f})" for n in gaps if signs[n] == sign) for sign in (1, -1, 0)
        )
        parts = (
            f"ahead at {ahead}" * bool(ahead),
            f"behind at {behind}" * bool(behind),
            f"level at {level}" * bool(level),
        )
        sentences.append(f"against {other}, the {own} is {'; '.join(filter(None, parts))}")
    return sentences


def latest_scores(folder) -> dict[str, dict]:
    """The newest scores of each kind of features in a run folder: label -> {"knn/top1": ...}."""
    found = {}
    for record in read_records(folder):
        for prefix, label in FEATURES.items():
            own = {k.partition("/")[2]: v for k, v in record.items() if k.startswith(prefix + "/")}
            if own:
                found[label] = own
    return {label: found[label] for label in FEATURES.values() if label in found}
