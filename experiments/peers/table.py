"""What was measured, in words: lines while it runs, and the tables of docs/performance.md."""

import json
import sys

BEGIN, END = "<!-- peers: python experiments/bench_peers.py table -->", "<!-- end of peers -->"
FORMS = ("eager", "channels-last", "compiled", "compiled, channels-last")


def label(case) -> str:
    """The case in words."""
    if case["kind"] == "step":
        sizes = " + ".join(f"{view['count']}x{view['size']}" for view in case["recipe"]["views"])
        depth = case["recipe"]["model"]["depth"]
        name = {"swav": "SwAV", "byol": "BYOL", "multicrop": "SwAV"}[case["method"]]
        return f"{name}, ResNet-{depth} width {case['width']}, {sizes}, batch {case['batch']}, {case['dtype']}"
    if case["kind"] == "sinkhorn":
        return f"Sinkhorn {case['rows']} x {case['prototypes']}{', a prototype far below the rest' * case['dead']}"
    if case["kind"] == "knn":
        return f"weighted kNN, {case['queries']:,} against {case['rows']:,} x {case['dim']}, k = {case['k']}"
    return f"k-means {case['rows']:,} x {case['dim']}, K = {case['clusters']}"


def lines_of(row):
    """One line a contender, with how many times as long as ours it takes."""
    for name, found in row["results"].items():
        if "ms" not in found:
            continue
        more = [f"{k} {found[k]:.6g}" for k in ("loss", "finite", "top1", "inertia") if k in found]
        ratio = f"{found['ms'] / reference(row, name):7.2f} x ours" if reference(row, name) else ""
        yield f"{name:>34} {found['ms']:11.2f} ms {ratio}, first call {found['first']:.1f} s  {' '.join(more)}"


def reference(row, name):
    """Milliseconds of ours that a contender is measured by: on ready views, or with augmentation."""
    part = "/alone" if name.endswith("/alone") else "/augmented" if "/" in name else ""
    return row["results"].get("ours" + part, {}).get("ms")


def read(path):
    """The rows of the results file, the last of each case on each device."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return list({(row["device"], row["label"]): row for row in rows}.values())


def table(rows) -> str:
    """Markdown: for each device a table of steps and one of kernels."""
    lines = []
    for device in dict.fromkeys(row["device"] for row in rows):
        own = [row for row in rows if row["device"] == device]
        versions = {f"{k} {v}": None for row in own for k, v in row["versions"].items()}
        dates = sorted({row["date"] for row in own})
        repeats = map(str, sorted({row["repeats"] for row in own}))
        lines += [
            f"**{device}**. {', '.join(versions)}; {', '.join(dates)}; medians of {' or '.join(repeats)} turns.",
            "",
        ]
        for kind in ("step", "kernel"):
            chosen = [row for row in own if (row["case"]["kind"] == "step") == (kind == "step")]
            lines += _step_table(chosen) if kind == "step" else _kernel_table(chosen)
    return "\n".join(lines).rstrip()


def _step_table(rows):
    if not rows:
        return []
    lines = [f"| step | views | ours, ms | images/s | first call, s | {' | '.join(FORMS)} |", "| --- " * 9 + "|"]
    names = {"augmented": "drawn in the step", "workers": "drawn by {workers} workers", "alone": "ready"}
    for row in rows:
        for part, words in names.items():
            ours = row["results"].get("ours/alone" if part == "alone" else "ours/augmented", {})
            if "ms" not in ours or part == "workers" and not row["case"]["workers"]:
                continue
            numbers = [f"{ours['ms']:,.0f}", f"{1e3 * row['case']['batch'] / ours['ms']:,.0f}", f"{ours['first']:.0f}"]
            cells = [ratio(row["results"].get(f"{form}/{part}"), ours["ms"]) for form in FORMS]
            lines.append(f"| {' | '.join([row['label'], words.format(**row['case']), *numbers, *cells])} |")
    return [*lines, ""]


def _kernel_table(rows):
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


def ratio(theirs, ours, missing="-") -> str:
    """How many times as long as ours; above 1 we are faster."""
    if not theirs or "ms" not in theirs:
        return f"failed: {theirs['skipped'].split(':')[0]}" if theirs else missing
    return f"{theirs['ms'] / ours:.2f}{' (NaN)' if theirs.get('finite') is False else ''}"


def write_table(page, rows):
    """Puts the table between its two marks in `page`."""
    text = page.read_text()
    if BEGIN not in text or END not in text:
        sys.exit(f"error: {page} lacks the lines {BEGIN!r} and {END!r}")
    page.write_text(f"{text.split(BEGIN)[0]}{BEGIN}\n{table(rows)}\n{END}{text.split(END)[1]}")
