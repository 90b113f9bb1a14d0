"""What a run leaves behind and shows: metrics.jsonl, TensorBoard events, a progress bar, tables."""

import json
import os
import time
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from tensorboardX import SummaryWriter


class Metrics:
    """`metrics.jsonl` (one object a record) and TensorBoard events of a run folder.

    Args:
        folder: the run folder.
        step: of the run's own checkpoint that it goes on from; later records are cut off, at 0 all of them. Records
            of a refresh at this very step go too: resuming repeats the refresh.
    """

    def __init__(self, folder: Path, step: int):
        self._path = Path(folder) / "metrics.jsonl"
        stays = lambda r: r["step"] < step or r["step"] == step and "refresh" not in r
        kept = [r for r in read(folder) if step and stays(r)]
        replace(self._path, "".join(json.dumps(r) + "\n" for r in kept))
        self._file = self._path.open("a", buffering=1)
        self._events = SummaryWriter(str(folder), purge_step=step + 1, flush_secs=10)

    def write(self, step: int, epoch: float, values) -> None:
        """One record; non-numbers go to the file only."""
        record = {"step": step, "epoch": round(epoch, 4), **values}
        self._file.write(json.dumps(record) + "\n")
        for name, value in values.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                self._events.add_scalar(name, value, step)

    def flush(self) -> None:
        """Everything written so far reaches the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flushes and closes both."""
        self.flush()
        self._file.close()
        self._events.close()


class Nowhere:
    """Stands for a writer on all hosts but one, and before there is one: takes every call, and writes nothing."""

    def __getattr__(self, name):
        return lambda *args, **kwargs: None


def read(folder) -> list[dict]:
    """The records of a run folder, in order; a last line that was cut short is left out."""
    path = Path(folder) / "metrics.jsonl"
    records = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def replace(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text(text, "utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class Status:
    """What is under way, as a context: a spinner with the last line told, gone at the end; or lines, now and then.

    Args:
        console: where to.
        every: seconds between lines where there is no terminal.
    """

    def __init__(self, console: Console, every: float = 10.0):
        self._console, self._every, self._said = console, every, time.monotonic()
        self._live = console.status("") if console.is_terminal else None

    def __enter__(self):
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_):
        if self._live:
            self._live.stop()

    def status(self, text: str) -> None:
        """Shows `text` in place of what was told before."""
        if self._live:
            self._live.update(text)
        elif time.monotonic() - self._said >= self._every:
            self._said = time.monotonic()
            self._console.print(text, highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, highlight=False, soft_wrap=True)


class Bar:
    """Epoch, time left, loss, last score, images a second.

    A live bar in a terminal, one line that changes in a notebook, lines where there is neither.
    """

    def __init__(self, console: Console, epochs: int, steps: int, start: int):
        columns = (
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            TextColumn("{task.percentage:3.0f}%"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
        )
        self._console, self._epochs, self._steps, self._began = console, epochs, steps, (time.monotonic(), start)
        self._bar = Progress(*columns, console=console) if console.is_terminal else None
        self._line = None  # of a notebook
        if self._bar:
            self._task = self._bar.add_task("", total=steps, completed=start, epoch=f"0/{epochs}", text="compiling")
            self._bar.start()

    def update(self, step: int, epoch: float, text: str, *, line: bool) -> None:
        """Shows `text`; without a terminal only where `line` says so."""
        label = f"{int(epoch)}/{self._epochs}"
        if self._bar:
            self._bar.update(self._task, completed=step, epoch=label, text=text)
        elif line:
            began, first = self._began
            left = (time.monotonic() - began) * (self._steps - step) / max(step - first, 1)
            text = f"epoch {label}  {text}  {left:.0f} s left"
            if self._console.is_jupyter:
                self._show(text)
            else:
                self._console.print(text, highlight=False, soft_wrap=True)

    def _show(self, text):
        """`text` in place of the notebook's line before it."""
        from IPython.display import Pretty, display  # there, as this is a notebook

        if self._line:
            self._line.update(Pretty(text))
        else:
            self._line = display(Pretty(text), display_id=True)

    def status(self, text: str) -> None:
        """What is under way, until the next update; nothing without a terminal."""
        if self._bar:
            self._bar.update(self._task, text=text)

    def note(self, text: str) -> None:
        """A line that stays, above the bar."""
        (self._bar.console if self._bar else self._console).print(text, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        if self._bar:
            self._bar.stop()


SCORES = {
    "knn/top1": "kNN",
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


def wide(console: Console) -> int | None:
    """The width to print a table at: all of it where no terminal sets a limit."""
    return None if console.is_terminal else 160


def label(name: str) -> str:
    """How a score (`knn/top1`) is shown."""
    return SCORES.get(name, name)


def names(rows: dict[str, dict]) -> list[str]:
    """The scores of `rows` that are shown, the well-known ones first."""
    found = dict.fromkeys(name for row in rows.values() for name in row)
    counts = Counter(n.partition("/")[0] for n in found)
    return [n for n in SCORES if n in found] + [
        n for n in found if n not in SCORES and counts[n.partition("/")[0]] <= MANY
    ]


def listed(scores: dict, *, every: bool = False) -> str:
    """Scores by their full name ("eval/knn/top1") on one line: those of `names`, or `every` one."""
    short = {name.partition("/")[2]: value for name, value in scores.items()}
    shown = list(short) if every else names({"": short})
    return "  ".join(
        f"{label(name)} {short[name]:.4g}" if every else f"{label(name)} {short[name]:.4f}" for name in shown
    )


def table(title: str, rows: dict[str, dict]) -> Table:
    """One row of scores for each kind of features, the best of each column in bold."""
    shown = Table(title=title, title_justify="left", title_style="")
    shown.add_column("features")
    columns = names(rows)
    best = {n: max(row.get(n, float("-inf")) for row in rows.values()) for n in columns}
    for name in columns:
        shown.add_column(label(name), justify="right")
    for key, row in rows.items():
        cell = lambda n, row=row: f"[bold]{row[n]:.4f}[/]" if row[n] == best[n] else f"{row[n]:.4f}"
        shown.add_row(key, *(cell(n) if n in row else "-" for n in columns))
    return shown


def comparison(rows: dict[str, dict]) -> list[str]:
    """Plain sentences: where the last row is ahead of each other row, and where it is behind."""
    *others, own = rows
    sentences = []
    for other in others:
        gaps = {n: rows[own][n] - rows[other][n] for n in names(rows) if n in rows[own] and n in rows[other]}
        signs = {n: (gap > 0) - (gap < 0) for n, gap in gaps.items()}
        ahead, behind, level = (
            ", ".join(f"{label(n)} ({gaps[n]:+.4f})" for n in gaps if signs[n] == sign) for sign in (1, -1, 0)
        )
        parts = (
            f"ahead at {ahead}" * bool(ahead),
            f"behind at {behind}" * bool(behind),
            f"level at {level}" * bool(level),
        )
        sentences.append(f"against {other}, the {own} is {'; '.join(filter(None, parts))}")
    return sentences
