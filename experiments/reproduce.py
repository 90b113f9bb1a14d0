"""Reproduces published results: named rows, run in pieces of any length, and their tables.

    python experiments/reproduce.py list
    python experiments/reproduce.py run swav-cifar10-200 --data=DIR [--minutes=9] \
        [--set model.dtype=bfloat16]
    python experiments/reproduce.py table

`run` resumes the row where it stopped, for at most `--minutes`. Once the row has finished, its
numbers become a line of experiments/results.jsonl: the last epoch's, and the best epoch's, which
was selected on the test images. `table` writes the tables of docs/results.md: what was measured
here, each published number with its protocol, and the published transfers to other data. The rows
are in `published.py`, the transfers in `transfers.py`. The column "supervised" has the numbers of a
row's supervised twin, which is a row, too (supervised-digits). A row run with `--set` is recorded
separately, under a name that includes the settings, unless they only observe (such as eval_epochs).
"""

import argparse
import ast
import dataclasses
import datetime
import json
import os
import re
import runpy
import shlex
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import papers
from detection_parts.protocol import PROTOCOLS
from detection_parts.record import read as read_detections
from ml_collections import ConfigDict
from published import DETECTORS, ROWS, Row, Score
from transfers import MARKS as TRANSFERS
from transfers import table as transfer_table

__all__ = [
    "ROWS",
    "Clock",
    "Row",
    "current_commit",
    "load",
    "main",
    "read",
    "record",
    "run",
    "setting",
    "table",
    "write_table",
]
Records = Sequence[Mapping[str, Any]]

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "experiments" / "results.jsonl"
CLASSIFIER = "classifier/top1"  # of supervised rows
NUMBERS = (
    f"eval/{CLASSIFIER}",
    "eval/knn/top1",
    "eval/knn_live/top1",
    "eval/linear/top1",
    "eval/clustering/acc",
    "eval/clustering/nmi",
    "eval/clustering/ari",
)
LABELS = {
    CLASSIFIER: "classifier",
    "knn/top1": "kNN",
    "knn_live/top1": "live kNN",
    "linear/top1": "linear",
    "clustering/nmi": "NMI",
    "clustering/acc": "ACC",
    "clustering/ari": "ARI",
}
PAGE = ROOT / "docs" / "results.md"
# The numbers of the table of what was measured here.
TABLE_NUMBERS = {
    "knn/top1": "kNN",
    "linear/top1": "linear",
    "clustering/acc": "cluster ACC",
    "clustering/nmi": "NMI",
    "clustering/ari": "ARI",
}
BEGIN = "<!-- results: python experiments/reproduce.py table -->"
END = "<!-- end of results -->"
MEASURED = ("<!-- measured: python experiments/reproduce.py table -->", "<!-- end of measured -->")


def run(
    name: str,
    *,
    data: str = "",
    seed: int = 0,
    minutes: float = 0.0,
    settings: Sequence[str] = (),
    commit: str = "",
    folder: str = "runs/reproduce",
) -> bool:
    """Trains a row, resuming where it stopped.

    Args:
        name: one of `ROWS`.
        data: `data.dir`, for rows that need one.
        seed: of the run.
        minutes: stop and save after this time; 0 to run to the end.
        settings: overrides as NAME=VALUE.
        commit: recorded with the result; default: the checkout's.
        folder: where the run folders go.

    Returns:
        True once the row has finished and its result is recorded.
    """
    from ssl_jax.runtime import compilation

    if name not in ROWS:
        sys.exit(f"error: no row {name!r}; choose one of: {', '.join(ROWS)}")
    row = ROWS[name]
    label = _label(name, settings)
    if any((result["row"], result["seed"]) == (label, seed) for result in read()):
        print(f"{label}, seed {seed}, is already recorded in {RESULTS}")
        return True
    overrides = dict(map(setting, settings)) | {"seed": seed, "data.dir": data}
    config = load(row.config, row.settings | overrides)
    workdir = Path(folder) / f"{label.replace(' ', '-').replace('/', '_')}-seed{seed}"
    compilation.enable_cache()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(f"error: --folder={folder} cannot be written ({error.strerror})")
    clock = Clock(workdir / "pieces.json", minutes, commit or current_commit())
    scores = _train(config, workdir, clock)
    if scores is None:
        return False
    numbers = {key.removeprefix("eval/"): round(scores[key], 4) for key in NUMBERS if key in scores}
    best = best_epochs(workdir)
    record(
        row=label,
        config=row.config,
        seed=seed,
        epochs=config.epochs,
        minutes=clock.total(),
        commit=", ".join(clock.commits),
        numbers=numbers,
        best=best,
    )
    for name, value in numbers.items():
        print(f"{name:<18} last epoch {value:.4f}  best epoch {best[name]:.4f}")
    return True


def _label(name: str, settings: Sequence[str]) -> str:
    """The name to record: the row's, and the settings that change its result."""
    from ssl_jax.settings import defaults

    changes = [text for text in settings if not defaults.only_observes(text.partition("=")[0])]
    return " ".join([name, *sorted(changes)])


def _train(config: ConfigDict, workdir: Path, clock: "Clock") -> dict[str, float] | None:
    """Trains while `clock` counts; the last scores, or None if the time ran out."""
    from ssl_jax import train
    from ssl_jax.runtime.preemption import Stopped
    from ssl_jax.settings.resolve import SettingError

    clock.start()
    try:
        return train.run(config, workdir)
    except Stopped as stopped:
        print(f"{stopped}; {clock.total():.1f} minutes so far")
        return None
    except (SettingError, train.NotFinite) as error:
        sys.exit(f"error: {error}")
    finally:
        clock.stop()


def best_epochs(workdir: Path) -> dict[str, float]:
    """The highest value of each number over all evaluated epochs: chosen on the test images."""
    from ssl_jax.runs.metrics import read_records

    best = {}
    for values in read_records(workdir):
        for key in NUMBERS:
            if key in values:
                name = key.removeprefix("eval/")
                best[name] = max(best.get(name, 0.0), round(values[key], 4))
    return best


def load(config: str, settings: Mapping[str, Any]) -> ConfigDict:
    """The config of a file and variant, with overrides by dotted name."""
    from ssl_jax.settings import config_files, eval_settings

    path, _, variant = config.partition(":")
    if base := settings.get("base"):  # the config file needs it when it builds the config
        variant = f"{variant.partition('+')[0] or 'digits'}+{base}"
    file = ROOT / path if (ROOT / path).is_file() else config_files.find(path)
    get_config = runpy.run_path(str(file))["get_config"]
    loaded = get_config(variant) if variant else get_config()
    eval_settings.complete(loaded)
    for name, value in settings.items():
        try:
            loaded.update_from_flattened_dict({name: value})
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            sys.exit(f"error: {_refused(name, value, error)}")
    return loaded


def _refused(name: str, value: Any, error: Exception) -> str:
    """One line on a value that a config does not take."""
    text = " ".join(str(error.args[0]).split())
    if match := re.search(r"cannot be casted to type <class '(?:.*\.)?(\w+)'>", text):
        kind = "a section: give its settings" if match[1] == "ConfigDict" else match[1]
        return f"{name}={value!r} has the wrong type; it takes {kind}"
    return f"{name}={value!r} cannot be set: {text}"


def setting(text: str) -> tuple[str, Any]:
    """Name and value of NAME=VALUE: true, false, a Python literal, or else text."""
    name, equals, value = text.partition("=")
    if not equals:
        sys.exit(f"error: --set {text!r}: give NAME=VALUE, such as model.dtype=bfloat16")
    if value in ("true", "false"):
        return name, value == "true"
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


class Clock(threading.Thread):
    """Counts a row's minutes over all its pieces, and stops the process at the time limit.

    The count and the commits that ran are written every few seconds, so a killed piece loses no
    more than that.
    """

    def __init__(self, path: Path, minutes: float, commit: str, tick: float = 5.0) -> None:
        super().__init__(daemon=True)
        self._path = path
        self._limit = minutes
        self._tick = tick
        pieces = json.loads(path.read_text()) if path.exists() else {"minutes": 0.0, "commits": []}
        self._earlier = pieces["minutes"]
        self.commits = list(dict.fromkeys([*pieces["commits"], commit]))
        self._began = time.monotonic()
        self._stopped = threading.Event()

    def total(self) -> float:
        """Minutes, earlier pieces included."""
        return self._earlier + (time.monotonic() - self._began) / 60

    def run(self) -> None:
        """Writes the count and, past the limit, sends SIGTERM to this process."""
        while not self._stopped.wait(self._tick):
            self._write()
            if self._limit and time.monotonic() - self._began > 60 * self._limit:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    def stop(self) -> None:
        """Stops counting."""
        self._stopped.set()
        self._write()

    def _write(self) -> None:
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps(dict(minutes=round(self.total(), 3), commits=self.commits)))
        os.replace(temporary, self._path)


def record(
    *,
    row: str,
    config: str,
    seed: int,
    epochs: int,
    minutes: float,
    commit: str,
    numbers: Mapping[str, float],
    best: Mapping[str, float],
) -> None:
    """Adds a line to the results file: `numbers` of the last epoch, `best` of the best epoch."""
    import jax

    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    fields = dict(row=row, config=config, seed=seed, commit=commit, device=device, epochs=epochs)
    fields |= dict(minutes=round(minutes, 1), jax=jax.__version__, date=str(datetime.date.today()))
    fields |= dict(numbers=numbers, best=best)
    with RESULTS.open("a") as file:
        file.write(json.dumps(fields) + "\n")
    print(json.dumps(fields))


def current_commit() -> str:
    """The checkout's commit, marked if its code has uncommitted changes."""
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", "ssl_jax", "configs")
    commit = _git("rev-parse", "--short", "HEAD") or "unknown"
    return f"{commit}+changes" if changed else commit


def _git(*args: str) -> str:
    process = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True)
    return process.stdout.strip()


def read() -> list[dict]:
    """The lines of the results file."""
    if not RESULTS.exists():
        return []
    return [json.loads(line) for line in RESULTS.read_text().splitlines()]


def table(records: Records) -> str:
    """What was measured here: one line per row, medians over its seeds, in the order of `ROWS`."""
    head = ("row", "seeds", "epochs", *TABLE_NUMBERS.values())
    head += ("supervised", "published", "device", "minutes", "commit")
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    order = list(ROWS)
    labels = sorted(
        {r["row"] for r in records}, key=lambda label: (order.index(label.split()[0]), label)
    )
    for label in labels:
        cells = _table_cells(label, records)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _table_cells(label: str, records: Records) -> list[str]:
    """The cells of one line of the table of what was measured here."""
    row = ROWS[label.split()[0]]
    runs = [run for run in records if run["row"] == label]
    cells = [f"`{label}`", ", ".join(str(seed) for seed in sorted(run["seed"] for run in runs))]
    cells.append(_distinct(runs, "epochs"))
    for key in TABLE_NUMBERS:
        values = [run["numbers"][key] for run in runs if key in run["numbers"]]
        cells.append(f"{statistics.median(values):.3f}" if len(values) == len(runs) else "-")
    classifier = _median(CLASSIFIER, [r for r in records if r["row"] == (row.supervised or label)])
    cells.append("-" if classifier is None else f"{classifier:.3f}")
    cells.append(row.published if row.protocol == "-" else f"{row.published} ({row.protocol})")
    minutes = statistics.median(run["minutes"] for run in runs)
    return [*cells, _distinct(runs, "device"), f"{minutes:.0f}", _distinct(runs, "commit")]


def _median(key: str, runs: Records) -> float | None:
    """The median over the runs of a number of the last epoch; None if no run has it."""
    values = [run["numbers"][key] for run in runs if key in run["numbers"]]
    return statistics.median(values) if values else None


def _distinct(runs: Records, key: str) -> str:
    return ", ".join(dict.fromkeys(str(run[key]) for run in runs))


def published_table(records: Records) -> str:
    """Published numbers with their protocols, our commands and results.

    Ours are medians over the seeds, of the last epoch and of the best one; with a memory bank,
    against recomputed features and against the live bank.
    """
    head = (
        "paper or code, table",
        "row",
        "config",
        "command",
        "published",
        "supervised",
        "protocol",
        "ours: last / best epoch",
    )
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    rows = [(name, row) for name, row in ROWS.items() if row.source != "-"]
    for name, row in sorted(rows, key=lambda item: item[1].source):
        runs = [r for r in records if r["row"].split()[0] == name]
        command = f"`python experiments/reproduce.py run {name}{_data_flag(row)}`"
        changes = "".join(f" `{key}={value}`" for key, value in row.settings.items())
        cells = (
            row.source,
            f"`{name}`",
            f"`{row.config}`{changes}",
            command,
            row.published,
            _supervised(row, records),
            row.protocol,
            _ours(runs),
        )
        lines.append(f"| {' | '.join(cells)} |")
        lines.extend(_score_line(name, row, score) for score in row.scores)
    lines += detector_lines(read_detections())
    return "\n".join(lines)


def detector_lines(records: Records) -> list[str]:
    """The published numbers of object detection, which `detection.py` measures."""
    lines = []
    for name, row in sorted(DETECTORS.items(), key=lambda item: item[1].source):
        protocol = f"Faster R-CNN on {row.train.upper()} trainval, ResNet-{row.depth}, VOC07 test"
        twin = f"supervised-{row.train}"
        ours = [_detector(record, row.train) for record in records if record["row"] == name]
        cells = (
            row.source,
            f"`{name}`",
            "-" if row.backbone == "-" else f"`{row.backbone}`",
            f"`python experiments/detection.py --row={name} --backbone=FILE --voc=VOCdevkit`",
            row.published,
            "-" if name == twin else f"{DETECTORS[twin].published} (`{twin}`)",
            protocol,
            "; ".join(ours) or "recipe, not yet measured",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _detector(result: Mapping[str, Any], train: str) -> str:
    """The result of one detector, with the settings that are not its paper's."""
    paper = json.loads(json.dumps(dataclasses.asdict(PROTOCOLS[train])))
    numbers = ", ".join(f"{key} {100 * x:.1f}" for key, x in result["numbers"].items())
    settings = (f"{key}={x}" for key, x in result["protocol"].items() if x != paper.get(key))
    changes = " ".join(f"`{text}`" for text in settings)
    return f"{numbers}{f' ({changes})' if changes else ''}; {result['device']}, {result['commit']}"


def _score_line(name: str, row: Row, score: Score) -> str:
    """A number that `ssl_jax.evaluate` measures on the run of a row, as a line of the table."""
    flags = [f"--workdir=runs/reproduce/{name}-seed0", *score.flags()]
    command = shlex.join(["python", "-m", "ssl_jax.evaluate", *flags])
    cells = (
        score.source,
        f"`{name}`, then",
        f"`{row.config}`",
        f"`{command}`",
        score.published,
        "-",
        score.protocol,
        "command, not yet measured",
    )
    return f"| {' | '.join(cells)} |"


def _supervised(row: Row, records: Records) -> str:
    """The published number of a row's supervised twin, and what its classifier reached here."""
    if not row.supervised:
        return "-"
    parts = []
    if ROWS[row.supervised].published != "-":
        parts.append(ROWS[row.supervised].published)
    classifier = _median(CLASSIFIER, [r for r in records if r["row"] == row.supervised])
    if classifier is not None:
        parts.append(f"ours {100 * classifier:.1f}")
    return f"{', '.join(parts)} (`{row.supervised}`)" if parts else f"`{row.supervised}`"


def _data_flag(row: Row) -> str:
    return "" if load(row.config, row.settings).data.name == "digits" else " --data=DIR"


def _ours(records: Records) -> str:
    """The results of one row; runs with other settings are listed separately."""
    parts = []
    for label in dict.fromkeys(r["row"] for r in records):
        runs = [r for r in records if r["row"] == label]
        cells = []
        for key, name in LABELS.items():
            last = [r["numbers"][key] for r in runs if key in r["numbers"]]
            best = [r["best"][key] for r in runs if key in r.get("best", {})]
            if last:
                best_text = "not kept"
                if len(best) == len(runs):
                    best_text = f"{100 * statistics.median(best):.1f}"
                cells.append(f"{name} {100 * statistics.median(last):.1f} / {best_text}")
        settings = " ".join(label.split()[1:])
        changes = f" (`{settings}`)" if settings else ""
        parts.append(f"{', '.join(cells)}{changes}; {runs[0]['device']}, {runs[0]['commit']}")
    return "; ".join(parts) or "recipe, not yet measured"


def write_table(page: Path, text: str, marks: tuple[str, str] = (BEGIN, END)) -> None:
    """Replaces the text between two marks in `page`."""
    begin, end = marks
    old = page.read_text()
    if begin not in old or end not in old:
        sys.exit(f"error: {page} lacks the lines {begin!r} and {end!r}")
    before = old.split(begin)[0]
    after = old.split(end)[1]
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def list_rows() -> None:
    """Prints each row, its published number, and the seeds already recorded."""
    recorded = sorted({(r["row"], r["seed"]) for r in read()})
    for name, row in ROWS.items():
        seeds = ", ".join(f"seed {seed}" for label, seed in recorded if label == name)
        print(f"{name:<36} {row.config:<46} {row.published:<32} {seeds or 'not run yet'}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="list the rows and those already recorded")
    commands.add_parser("table", help="write the tables of docs/results.md")
    one = commands.add_parser("run", help="train a row, or resume it")
    one.add_argument("row")
    one.add_argument("--data", default="", help="data.dir, for rows that need one")
    one.add_argument("--seed", type=int, default=0)
    one.add_argument(
        "--minutes",
        type=float,
        default=0.0,
        help="stop and save after this time; 0 = run to the end",
    )
    one.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="override a setting, may be repeated",
    )
    one.add_argument("--commit", default="", help="commit to record, if the checkout has no git")
    one.add_argument("--folder", default="runs/reproduce")
    args = parser.parse_args()
    if args.command == "list":
        list_rows()
    elif args.command == "table":
        write_table(PAGE, table(read()), MEASURED)
        write_table(PAGE, published_table(read()))
        write_table(PAGE, transfer_table(), TRANSFERS)
        write_table(PAGE, papers.table(), papers.MARKS)
    else:
        run(
            args.row,
            data=args.data,
            seed=args.seed,
            minutes=args.minutes,
            settings=args.set,
            commit=args.commit,
            folder=args.folder,
        )


if __name__ == "__main__":
    main()
