"""The measurements in words: lines while they run, and the tables of docs/performance.md."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

BEGIN = "<!-- peers: python experiments/bench_peers.py table -->"
END = "<!-- end of peers -->"
FORMS = ("eager", "channels-last", "compiled", "compiled, channels-last")

Row = Mapping[str, Any]  # a line of the results file


def label(case: Mapping[str, Any]) -> str:
    """The case in words."""
    if case["kind"] == "step":
        sizes = " + ".join(f"{view['count']}x{view['size']}" for view in case["recipe"]["views"])
        depth = case["recipe"]["model"]["depth"]
        name = {"swav": "SwAV", "byol": "BYOL", "multicrop": "SwAV"}[case["method"]]
        network = f"{name}, ResNet-{depth} width {case['width']}"
        return f"{network}, {sizes}, batch {case['batch']}, {case['dtype']}"
    if case["kind"] == "sinkhorn":
        outlier = ", a prototype far below the rest" if case["dead"] else ""
        return f"Sinkhorn {case['rows']} x {case['prototypes']}{outlier}"
    if case["kind"] == "knn":
        bank = f"{case['rows']:,} x {case['dim']}"
        return f"weighted kNN, {case['queries']:,} against {bank}, k = {case['k']}"
    return f"k-means {case['rows']:,} x {case['dim']}, K = {case['clusters']}"


def lines_of(row: Row) -> Iterator[str]:
    """One line per contender, with its time relative to ours."""
    for name, result in row["results"].items():
        if "ms" not in result:
            continue
        checks = ("loss", "finite", "top1", "inertia")
        shown = " ".join(f"{key} {result[key]:.6g}" for key in checks if key in result)
        ours = reference(row, name)
        relative = f"{result['ms'] / ours:7.2f} x ours" if ours else ""
        times = f"{result['ms']:11.2f} ms {relative}, first call {result['first']:.1f} s"
        yield f"{name:>34} {times}  {shown}"


def reference(row: Row, name: str) -> float | None:
    """Our milliseconds to compare a contender with: on ready views, or with augmentation."""
    part = ""
    if "/" in name:
        part = "/alone" if name.endswith("/alone") else "/augmented"
    return row["results"].get("ours" + part, {}).get("ms")


def read(path: Path) -> list[Row]:
    """The rows of the results file: the last one of each case on each device."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return list({(row["device"], row["label"]): row for row in rows}.values())


def table(rows: Sequence[Row]) -> str:
    """Markdown: for each device a table of steps and one of kernels."""
    lines = []
    for device in dict.fromkeys(row["device"] for row in rows):
        of_device = [row for row in rows if row["device"] == device]
        versions = {f"{k} {v}": None for row in of_device for k, v in row["versions"].items()}
        dates = sorted({row["date"] for row in of_device})
        turns = " or ".join(map(str, sorted({row["repeats"] for row in of_device})))
        about = f"{', '.join(versions)}; {', '.join(dates)}; medians of {turns} turns."
        lines += [f"**{device}**. {about}", ""]
        lines += _step_table([row for row in of_device if row["case"]["kind"] == "step"])
        lines += _kernel_table([row for row in of_device if row["case"]["kind"] != "step"])
    return "\n".join(lines).rstrip()


def _step_table(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    lines = [
        f"| step | views | ours, ms | images/s | first call, s | {' | '.join(FORMS)} |",
        "| --- " * 9 + "|",
    ]
    names = {
        "augmented": "drawn in the step",
        "workers": "drawn by {workers} workers",
        "alone": "ready",
    }
    for row in rows:
        for part, words in names.items():
            ours = row["results"].get("ours/alone" if part == "alone" else "ours/augmented", {})
            if "ms" not in ours or part == "workers" and not row["case"]["workers"]:
                continue
            numbers = [
                f"{ours['ms']:,.0f}",
                f"{1e3 * row['case']['batch'] / ours['ms']:,.0f}",
                f"{ours['first']:.0f}",
            ]
            cells = [ratio(row["results"].get(f"{form}/{part}"), ours["ms"]) for form in FORMS]
            lines.append(
                f"| {' | '.join([row['label'], words.format(**row['case']), *numbers, *cells])} |"
            )
    return [*lines, ""]


def _kernel_table(rows: Sequence[Row]) -> list[str]:
    others = ("eager", "compiled", "scikit-learn", "faiss")
    if not rows:
        return []
    lines = [f"| kernel | ours, ms | {' | '.join(others)} |", "| --- " * 6 + "|"]
    for row in rows:
        ours = row["results"].get("ours", {})
        if "ms" not in ours:
            continue
        cells = [ratio(row["results"].get(name), ours["ms"], "") for name in others]
        lines.append(f"| {row['label']} | {ours['ms']:,.2f} | {' | '.join(cells)} |")
    return [*lines, ""]


def ratio(theirs: Mapping[str, Any] | None, ours: float, missing: str = "-") -> str:
    """Their time divided by ours; above 1 we are faster."""
    if not theirs or "ms" not in theirs:
        return f"failed: {theirs['skipped'].split(':')[0]}" if theirs else missing
    return f"{theirs['ms'] / ours:.2f}{' (NaN)' if theirs.get('finite') is False else ''}"


def write_table(page: Path, rows: Sequence[Row]) -> None:
    """Replaces the text between the two marks in `page`."""
    text = page.read_text()
    if BEGIN not in text or END not in text:
        sys.exit(f"error: {page} lacks the lines {BEGIN!r} and {END!r}")
    page.write_text(f"{text.split(BEGIN)[0]}{BEGIN}\n{table(rows)}\n{END}{text.split(END)[1]}")
