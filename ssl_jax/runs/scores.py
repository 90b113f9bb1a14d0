"""Scores of a run: their names, the latest on record, and how they are shown."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from ssl_jax.runs.metrics import read_records

# Prefix of the scores in metrics.jsonl -> display name of the features that were scored.
LARGEST_CLASS = "largest_class"
FEATURES = {
    LARGEST_CLASS: "largest class",  # no features: accuracy of always naming the largest class
    "pixels": "raw pixels",
    "untrained": "untrained encoder",
    "adopted": "before this run",
    "eval": "trained encoder",
}

SCORES = {
    "classifier/top1": "classifier",
    "classifier/balanced": "balanced classifier",
    "knn/top1": "kNN",
    "knn_live/top1": "live kNN",
    "knn/balanced": "balanced kNN",
    "linear/top1": "linear",
    "linear/balanced": "balanced linear",
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
    "probe/top1_ten_crop": "ten-crop probe",
    "augmented/top1": "augmented",
    "augmented/top1_ten_crop": "ten-crop augmented",
    "finetune/top1": "fine-tuned",
    "augmented/balanced": "balanced augmented",
    "svm/map": "SVM mAP",
    "svm/map_11point": "11-point mAP",
}
WIDE = 6  # a table with more scores than this has a row for each, to fit into 80 columns
MANY = 3  # of an evaluator with more scores than this only those in SCORES are shown

FEW_IMAGES = 100  # below this many test images, a table says what one image counts

Scores = Mapping[str, float]
"""Scores by name, such as "knn/top1"."""


def score_label(name: str) -> str:
    """The display name of a score (`knn/top1`)."""
    return SCORES.get(name, name)


def shown_scores(rows: Mapping[str, Scores]) -> list[str]:
    """The names of the scores in `rows` that are shown, those in `SCORES` first."""
    names = dict.fromkeys(name for row in rows.values() for name in row)
    counts = Counter(_evaluator(name) for name in names)
    others = [n for n in names if n not in SCORES and counts[_evaluator(n)] <= MANY]
    return [name for name in SCORES if name in names] + others


def _evaluator(name: str) -> str:
    return name.partition("/")[0]


def format_scores(scores: Scores, *, every: bool = False) -> str:
    """Scores on one line, by their full names ("eval/knn/top1").

    Args:
        scores: the scores.
        every: show all of them, to 4 significant digits; else those of `shown_scores`, to 4
            decimals.
    """
    short = {name.partition("/")[2]: value for name, value in scores.items()}
    names = list(short) if every else shown_scores({"": short})
    digits = ".4g" if every else ".4f"
    return "  ".join(f"{score_label(name)} {short[name]:{digits}}" for name in names)


def score_table(title: str, rows: Mapping[str, Scores]) -> Table:
    """A table of scores by kind of features, the best score of each kind in bold.

    A row for each kind of features; or, of many scores, a row for each score.
    """
    names = shown_scores(rows)
    best = {name: max(row.get(name, float("-inf")) for row in rows.values()) for name in names}
    cells = {
        label: [_cell(row.get(name), best[name]) for name in names] for label, row in rows.items()
    }
    labels = [escape(score_label(name)) for name in names]
    if len(names) <= WIDE:
        return table(title, ["features", *labels], [[label, *row] for label, row in cells.items()])
    body = [[label, *row] for label, row in zip(labels, zip(*cells.values()))]
    return table(title, ["score", *cells], body)


def table(
    title: str, head: Sequence[str], body: Iterable[Sequence[str]], words: Collection[str] = ()
) -> Table:
    """A table for the console, with numbers to the right.

    Args:
        title: plain text.
        head: column titles, in rich's markup.
        body: rows of cells, in rich's markup.
        words: titles of columns of text besides the first, which are aligned to the left.
    """
    result = Table(title=escape(title), title_justify="left", title_style="")
    for i, name in enumerate(head):
        result.add_column(name, justify="left" if i == 0 or name in words else "right")
    for row in body:
        result.add_row(*row)
    return result


def _cell(score: float | None, best: float) -> str:
    if score is None:
        return "-"
    return f"[bold]{score:.4f}[/]" if score == best else f"{score:.4f}"


def compare_scores(rows: Mapping[str, Scores]) -> list[str]:
    """Sentences that compare the last row with each of the others, score by score.

    The largest class is left out: it is a floor, which says nothing of features.
    """
    *others, last = (label for label in rows if label != FEATURES[LARGEST_CLASS])
    sentences = []
    for other in others:
        gaps = {
            name: rows[last][name] - rows[other][name]
            for name in shown_scores(rows)
            if name in rows[last] and name in rows[other]
        }
        groups = {
            "better on": [name for name, gap in gaps.items() if gap > 0],
            "worse on": [name for name, gap in gaps.items() if gap < 0],
            "equal on": [name for name, gap in gaps.items() if not (gap > 0 or gap < 0)],
        }
        parts = []
        for verdict, names in groups.items():
            if names:
                scores = ", ".join(_with_gap(name, gaps[name]) for name in names)
                parts.append(f"{verdict} {scores}")
        article = "the " if other == FEATURES["untrained"] else ""
        sentences.append(f"compared with {article}{other}, the {last} is {'; '.join(parts)}")
    return sentences


def _with_gap(name: str, gap: float) -> str:
    """The display name of a score, with its gap unless that is zero."""
    return f"{score_label(name)} ({gap:+.4f})" if gap else score_label(name)


def scored_split(name: str) -> str:
    """The split whose labels an accuracy such as "knn/top1" is of; empty for other scores.

    Names that start with "top1" are accuracies of classifiers on the split "test"; "acc" is the
    accuracy of a clustering of the split "trained".
    """
    score = name.rpartition("/")[2]
    if score.partition("_")[0] == "top1":
        return "test"
    return "trained" if score == "acc" else ""


def few_images(tests: int) -> str:
    """What one image counts in the scores on a small test set; empty for others.

    Args:
        tests: number of labelled test images.
    """
    if not 0 < tests < FEW_IMAGES:
        return ""
    images = "1 test image" if tests == 1 else f"{tests} test images"
    return f"on {images} one image is {1 / tests:.2g} of a score"


def latest_scores(folder: Path | str) -> dict[str, dict[str, float]]:
    """The latest scores of each kind of features in a run folder: label -> {"knn/top1": ...}."""
    latest = {}
    for record in read_records(folder):
        for prefix, label in FEATURES.items():
            scores = {
                name.partition("/")[2]: value
                for name, value in record.items()
                if name.startswith(f"{prefix}/")
            }
            if scores:
                latest[label] = scores
    return {label: latest[label] for label in FEATURES.values() if label in latest}
