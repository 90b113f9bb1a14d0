"""Writes the tables of docs/sweeps.md from the results of the named sweeps.

    python experiments/sweeps_page.py [--collect=runs/sweeps]

With `--collect`, the results of the named sweeps in that folder first replace theirs in
experiments/sweeps.jsonl. Two figures are drawn: those of CoNR's figures 3a and 3b.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reproduce import ROOT, write_table
from sweep_tables import RESULTS, by_cell, draw, label_of_score, table, verdict
from sweeps import SWEEPS, Named

from ssl_jax.figures import style
from ssl_jax.runtime.atomic_file import write_atomically

FILE = ROOT / "experiments" / "sweeps.jsonl"
PAGE = ROOT / "docs" / "sweeps.md"
FIGURES = {"conr-keep": "sweep_keep.png", "conr-graph": "sweep_graph.png"}
SCORES = ("clustering/acc", "clustering/nmi", "knn1/top1", "knn/top1", "linear/top1")
MARKS = ("<!-- sweeps: python experiments/sweeps_page.py -->", "<!-- end of sweeps -->")


def collect(folder: Path) -> None:
    """Replaces the results of the sweeps that `folder` has in the results file."""
    lines = _lines()
    for name in SWEEPS:
        path = folder / name / RESULTS
        if path.exists():
            new = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
            lines = [line for line in lines if line["sweep"] != name]
            lines += [{"sweep": name, **line} for line in new]
    write_atomically(FILE, "".join(f"{json.dumps(line)}\n" for line in lines))


def _lines() -> list[dict[str, Any]]:
    return (
        [json.loads(line) for line in FILE.read_text("utf-8").splitlines()] if FILE.exists() else []
    )


def sections(lines: Sequence[Mapping[str, Any]]) -> str:
    """What holds, and a section for each sweep with results; the others are named at the end."""
    parts = [f"### Which orderings hold\n\n{_claims(lines)}\n"]
    without = []
    for name, named in SWEEPS.items():
        own = [line for line in lines if line["sweep"] == name]
        if own:
            parts.append(_section(name, named, own))
        else:
            without.append(f"`{name}`")
    if without:
        parts.append(f"Defined, but not run yet: {', '.join(without)}.\n")
    return "\n".join(parts).strip()


def _claims(lines: Sequence[Mapping[str, Any]]) -> str:
    """A table of all claims of sweeps with results."""
    rows = ["| sweep | reported | score | here |", "| --- | --- | --- | --- |"]
    for name, named in SWEEPS.items():
        own = [line for line in lines if line["sweep"] == name]
        for claim in named.claims if own else ():
            answer = verdict(claim, by_cell(own, named.sweep))
            label = label_of_score(claim.score)
            rows.append(f"| [{name}](#{name}) | {claim.text} | {label} | {answer} |")
    return "\n".join(rows)


def _section(name: str, named: Named, lines: Sequence[Mapping[str, Any]]) -> str:
    results = by_cell(lines, named.sweep)
    scores = [score for score in SCORES if all(score in line["numbers"] for line in lines)]
    parts = [f"### {name}\n", f"{named.source}. {named.reports}{_setup(named)}\n"]
    parts.append(f"{table(named.sweep, results, scores)}\n")
    if name in FIGURES:
        parts.append(f"![{named.source}]({FIGURES[name]})\n")
    minutes = sum(line["minutes"] for line in lines)
    commits = ", ".join(dict.fromkeys(", ".join(line["commit"] for line in lines).split(", ")))
    parts.append(f"{len(lines)} runs, {minutes:.0f} min, {lines[0]['device']}, {commits}.\n")
    return "\n".join(parts)


def _setup(named: Named) -> str:
    """A sentence on the runs."""
    sweep = named.sweep
    text = f" Here: `{sweep.config}`, {sweep.settings['epochs']} epochs"
    if sweep.share_epochs:
        text += f", the first {sweep.share_epochs} shared by all runs of a seed"
    if sweep.reference:
        changes = ", ".join(f"`{name}={value}`" for name, value in sweep.reference.items())
        text += f"; the reference is {changes}"
    return f"{text}."


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--collect", default="", metavar="DIR", help="where the sweeps were run")
    args = parser.parse_args()
    if args.collect:
        collect(Path(args.collect))
    lines = _lines()
    write_table(PAGE, sections(lines), MARKS)
    for name, file in FIGURES.items():
        own = [line for line in lines if line["sweep"] == name]
        if own:
            sweep = SWEEPS[name].sweep
            figure = draw(sweep, by_cell(own, sweep), SCORES[:2])
            (PAGE.parent / file).write_bytes(style.encoded(figure, "png", dpi=110))


if __name__ == "__main__":
    main()
