"""What a sweep shows: its results file, table, figure, and which claims about it hold."""

import dataclasses
import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from sweep_grid import REFERENCE, Sweep, as_recorded

from ssl_jax.figures import style, sweeps
from ssl_jax.runs.scores import score_label
from ssl_jax.runtime import file_lock
from ssl_jax.runtime.atomic_file import write_atomically
from ssl_jax.settings.resolve import SettingError

__all__ = ["Claim", "draw", "read", "table", "verdict", "write"]
RESULTS = "results.jsonl"
LABELS = {"knn1/top1": "nearest neighbour"}
SCORES = ("clustering/acc", "clustering/nmi", "knn/top1")
Results = Mapping[tuple[str, ...], Mapping[int, Mapping[str, Any]]]
"""Labels of a cell -> seed -> the line of the results file."""


@dataclasses.dataclass(frozen=True)
class Claim:
    """An ordering of cells that a paper reports.

    Attributes:
        text: what is reported, in words.
        higher: labels of cells.
        lower: labels of cells; each of `higher` scores more than each of these. If empty, all of
            `higher` score the same.
        score: what they are compared by.
    """

    text: str
    higher: Sequence[tuple[str, ...]]
    lower: Sequence[tuple[str, ...]] = ()
    score: str = "clustering/acc"


def read(folder: Path, sweep: Sweep) -> Results:
    """The results of a sweep in its folder; empty if there are none.

    Raises:
        SettingError: the file is damaged, or of a sweep with other settings.
    """
    path = folder / RESULTS
    if not path.exists():
        return {}
    try:
        lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        return by_cell(lines, sweep)
    except (ValueError, KeyError, TypeError) as error:
        raise SettingError(
            f"{path} is damaged ({error}); repair it, or remove it to rerun"
        ) from error
    except SettingError as error:
        raise SettingError(f"{path}: {error}; choose another --name") from error


def by_cell(lines: Sequence[Mapping[str, Any]], sweep: Sweep) -> Results:
    """Lines of a results file by cell and seed; the last line of a run counts.

    Raises:
        SettingError: a line is of a sweep with other settings.
    """
    results: dict[tuple[str, ...], dict[int, Mapping[str, Any]]] = {}
    expected = sweep.record()
    changes = {cell.labels: as_recorded(cell.settings) for cell in sweep.cells()}
    for line in lines:
        labels = tuple(line["cell"])
        expected["changes"] = changes.get(labels, line["changes"])
        for name, value in expected.items():
            if line.get(name) != value:
                raise SettingError(f"it was made with {name} {line.get(name)}, not {value}")
        results.setdefault(labels, {})[line["seed"]] = line
    return results


def write(folder: Path, line: Mapping[str, Any]) -> None:
    """Adds a line to the results file, which is replaced as a whole; one process at a time."""
    path = folder / RESULTS
    with file_lock.held(file_lock.opened(path), "writing results"):
        old = path.read_text("utf-8") if path.exists() else ""
        write_atomically(path, f"{old}{json.dumps(line)}\n")


def scores_of(results: Results, names: Sequence[str] = ()) -> tuple[str, ...]:
    """The scores to show: `names`, or by default those of `SCORES` that were measured.

    Raises:
        SettingError: one of `names` was not measured; lists those that were.
    """
    lines = [line for seeds in results.values() for line in seeds.values()]
    measured = dict.fromkeys(name for line in lines for name in line["numbers"])
    for name in names:
        if name not in measured:
            raise SettingError(f"--scores={name}: not measured; choose of {', '.join(measured)}")
    return tuple(names) or tuple(name for name in SCORES if name in measured)


def by_seed(results: Results, cell: tuple[str, ...], score: str) -> dict[int, float]:
    """A score of a cell by its seed, ascending; runs that failed are left out."""
    lines = sorted(results.get(cell, {}).items())
    return {seed: line["numbers"][score] for seed, line in lines if score in line["numbers"]}


def label_of_score(name: str) -> str:
    """The display name of a score, also of those that only the named sweeps have."""
    return LABELS.get(name) or score_label(name)


def values_of(results: Results, cell: tuple[str, ...], score: str) -> list[float]:
    """A score of a cell, in the order of its seeds; runs that failed are left out."""
    return list(by_seed(results, cell, score).values())


def table(sweep: Sweep, results: Results, names: Sequence[str] = ()) -> str:
    """A Markdown table: for each cell the mean over seeds of each score, and its range."""
    scores = scores_of(results, names)
    head = [*(f"`{axis.name}`" for axis in sweep.axes), "seeds", *map(label_of_score, scores)]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for cell in sweep.cells():
        lines_of_cell = results.get(cell.labels, {})
        labels = [*cell.labels, *[""] * (len(sweep.axes) - len(cell.labels))]
        texts = [_spread(values_of(results, cell.labels, score)) for score in scores]
        lines.append(f"| {' | '.join([*labels, _seeds(lines_of_cell), *texts])} |")
    return "\n".join(lines)


def _seeds(lines: Mapping[int, Mapping[str, Any]]) -> str:
    """The seeds of a cell, with those whose run failed marked."""
    texts = [f"{seed} (failed)" if "failed" in lines[seed] else str(seed) for seed in sorted(lines)]
    return ", ".join(texts) or "-"


def _spread(values: Sequence[float]) -> str:
    """Mean, lowest and highest value."""
    if not values:
        return "-"
    mean = f"{statistics.mean(values):.3f}"
    return f"{mean} ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else mean


def draw(sweep: Sweep, results: Results, names: Sequence[str] = ()) -> Figure | None:
    """Scores against the value, or a heat map of two axes; None for more axes, or no results."""
    scores = scores_of(results, names)
    if not scores or len(sweep.axes) > 2:
        return None
    titles = [label_of_score(score) for score in scores]
    reference = [values_of(results, (REFERENCE,), score) for score in scores]
    labels = [list(axis.values) for axis in sweep.axes]
    if len(labels) == 1:
        values = [[by_seed(results, (x,), score) for x in labels[0]] for score in scores]
        return sweeps.score_curves(sweep.axes[0].name, labels[0], titles, values, reference)
    grids = [
        [[values_of(results, (y, x), score) for x in labels[1]] for y in labels[0]]
        for score in scores
    ]
    names_of_axes = (sweep.axes[0].name, sweep.axes[1].name)
    return sweeps.heat_maps(names_of_axes, labels[0], labels[1], titles, grids, reference)


def save(folder: Path, text: str, figure: Figure | None) -> list[Path]:
    """Writes table.md and figure.png; returns their paths."""
    paths = [folder / "table.md"]
    write_atomically(paths[0], f"{text}\n")
    if figure:
        paths.append(folder / "figure.png")
        paths[1].write_bytes(style.encoded(figure, "png"))
    return paths


def verdict(claim: Claim, results: Results) -> str:
    """Whether a claim holds: only a gap between the seeds' ranges decides.

    "A above B" holds if the lowest seed of A is above the highest seed of B, and the reverse holds
    if it is the other way round; everything else is not decided. One seed decides nothing. For what
    is not decided, the number of seeds in which A is above B is given: cells that share epochs
    differ less within a seed than between seeds.
    """
    equal = not claim.lower
    if equal:
        pairs = list(itertools.combinations(claim.higher, 2))
    else:
        pairs = list(itertools.product(claim.higher, claim.lower))
    above = []
    below = []
    for a, b in pairs:
        first = values_of(results, a, claim.score)
        second = values_of(results, b, claim.score)
        if min(len(first), len(second)) < 2:
            continue
        if min(first) > max(second):
            above.append(f"{', '.join(a)} above {', '.join(b)}")
        elif max(first) < min(second):
            below.append(f"{', '.join(b)} above {', '.join(a)}")
    seeds = [len(values_of(results, cell, claim.score)) for cell in claim.higher]
    if equal and not (above or below):
        return "holds: no two ranges are apart" if min(seeds) > 1 else "not decided (too few seeds)"
    if equal:
        return f"does not hold: {'; '.join(above + below)}"
    if len(above) == len(pairs):
        return "holds"
    if len(below) == len(pairs):
        return "the reverse holds"
    undecided = f"not decided ({_within_seeds(claim, pairs, results)})"
    return "; ".join(above + below + [f"the rest {undecided}"]) if above or below else undecided


def _within_seeds(
    claim: Claim, pairs: Sequence[tuple[tuple[str, ...], tuple[str, ...]]], results: Results
) -> str:
    """In how many comparisons of two runs with the same seed the claim is right."""
    differences = []
    for a, b in pairs:
        first = by_seed(results, a, claim.score)
        second = by_seed(results, b, claim.score)
        differences += [first[seed] - second[seed] for seed in first if seed in second]
    if not differences:
        return "not measured"
    right = sum(difference > 0 for difference in differences)
    return f"as reported in {right} of {len(differences)} comparisons within a seed"
