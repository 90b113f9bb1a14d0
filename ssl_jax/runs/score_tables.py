"""Tables of all scores of an evaluation, for the console: grids as rows and columns."""

import re
from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from ssl_jax.runs import by_class
from ssl_jax.runs.scores import Scores, shown_scores, table
from ssl_jax.settings.text import encodable, printable

# Scores and settings of a classifier.
_PROBE = ("top1_ten_crop", "top1", "top5", "balanced", "held_out", "rate", "decay")


def every_score(scores: Scores) -> list[Table]:
    """A table for each evaluator with scores that the table of features does not show.

    Args:
        scores: by name ("knn_grid/top1_k20_t0.1").
    """
    by_evaluator: dict[str, dict[str, float]] = {}
    for name, value in scores.items():
        evaluator, _, score = name.partition("/")
        by_evaluator.setdefault(evaluator, {})[score] = value
    shown = set(shown_scores({"": scores}))
    return [
        _evaluator_table(evaluator, values)
        for evaluator, values in by_evaluator.items()
        if not shown >= {f"{evaluator}/{score}" for score in values}
    ]


def _evaluator_table(evaluator: str, values: Mapping[str, float]) -> Table:
    """The scores of one evaluator.

    kNN grids have a row for each k and a column for each temperature; classifiers a row for each
    feature and share of the labels; scores that end in a number, such as purities, a column for
    each number; all others have a row each.
    """
    if cells := _split(values, r"(?P<metric>\w+?)_k(?P<row>\d+)_t(?P<column>[^_]+)"):
        return _grid(f"{evaluator}: top1", "k \\ temperature", cells)
    cells = _split(values, rf"(?P<column>{'|'.join(_PROBE)})(?:_(?P<row>.+))?")
    if len({column for _, column in cells}) > 1:
        renamed = {(row or "all labels", column): x for (row, column), x in cells.items()}
        return _grid(evaluator, "features, labels", renamed)
    if cells := _split(values, r"(?P<row>\D.*?)_(?P<column>\d+)"):
        return _grid(evaluator, "", cells)
    return _grid(evaluator, "", {(name, "score"): value for name, value in values.items()})


def _split(values: Mapping[str, float], pattern: str) -> dict[tuple[str, str], float]:
    """Values by (row, column) as `pattern` finds them in all names; empty if any does not match."""
    cells = {}
    for name, value in values.items():
        match = re.fullmatch(pattern, name)
        if match is None:
            return {}
        cells[match["row"] or "", match["column"]] = value
    return cells if len(cells) == len(values) else {}


def _grid(title: str, corner: str, cells: Mapping[tuple[str, str], float]) -> Table:
    rows = list(dict.fromkeys(row for row, _ in cells))
    columns = list(dict.fromkeys(column for _, column in cells))
    body = [
        [escape(row), *(_cell(column, cells.get((row, column))) for column in columns)]
        for row in rows
    ]
    return table(title, [corner, *map(escape, columns)], body)


def _cell(column: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:g}" if column in ("rate", "decay") else f"{value:.4f}"


def class_table(scores: Mapping[str, Any]) -> Table:
    """The scores of each class, as `by_class.by_class` returns them."""
    head, rows, selection = by_class.table(scores)
    title = f"recall of each class ({selection})" if selection else "recall of each class"
    body = [[escape(printable(encodable(cell))) for cell in row] for row in rows]
    words = [name for name in head if name.startswith("taken for")]
    return table(title, head, body, words)
