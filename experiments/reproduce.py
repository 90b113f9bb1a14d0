"""Published results, reproduced: named runs, resumable in pieces of any length, one results file, README's table.

    python experiments/reproduce.py list
    python experiments/reproduce.py run swav-cifar10-200 --data=DIR [--minutes=9] [--set model.dtype=bfloat16]
    python experiments/reproduce.py table

`run` goes on where the row stopped, for at most so many minutes; when the row is finished, its numbers (the last
epoch's, and beside them the best epoch's, which was chosen on the test images) become a line of
experiments/results.jsonl. `table` writes README.md's table from those lines, and docs/results.md, where each published
number stands with its protocol. The rows are in `published.py`.
A row run with `--set` is recorded as a row of its own, under a name that includes the settings, unless they only
observe (eval_epochs, say).
"""

import argparse
import ast
import datetime
import json
import os
import runpy
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

from published import ROWS, Row

__all__ = ["ROWS", "Row", "load", "main", "read", "record", "run", "table", "write_table"]
ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "experiments" / "results.jsonl"
NUMBERS = (
    "eval/knn/top1",
    "eval/knn_live/top1",
    "eval/linear/top1",
    "eval/clustering/acc",
    "eval/clustering/nmi",
    "eval/clustering/ari",
)
LABELS = {
    "knn/top1": "kNN",
    "knn_live/top1": "live kNN",
    "linear/top1": "linear",
    "clustering/nmi": "NMI",
    "clustering/acc": "ACC",
    "clustering/ari": "ARI",
}
BEGIN, END = "<!-- results: python experiments/reproduce.py table -->", "<!-- end of results -->"


def run(name: str, *, data="", seed=0, minutes=0.0, settings=(), commit="", folder="runs/reproduce") -> bool:
    """Trains the row on, for at most `minutes` (0: to its end); True when it is finished and on record."""
    from ssl_jax import train
    from ssl_jax.runtime import compilation
    from ssl_jax.runtime.preemption import Stopped
    from ssl_jax.settings import defaults
    from ssl_jax.settings.resolve import SettingError

    row = ROWS.get(name) or sys.exit(f"error: no row {name!r}; choose one of: {', '.join(ROWS)}")
    label = " ".join([name, *sorted(s for s in settings if not defaults.only_observes(s.partition("=")[0]))])
    if any((r["row"], r["seed"]) == (label, seed) for r in read()):
        print(f"{label}, seed {seed}, is on record in {RESULTS}")
        return True
    config = load(row.config, row.settings | dict(map(_setting, settings)) | {"seed": seed, "data.dir": data})
    workdir = Path(folder) / f"{label.replace(' ', '-').replace('/', '_')}-seed{seed}"
    compilation.enable_cache()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(f"error: --folder={folder} cannot be written ({error.strerror})")
    clock = Clock(workdir / "pieces.json", minutes, commit or current_commit())
    clock.start()
    try:
        scores = train.run(config, workdir)
    except Stopped as stopped:
        print(f"{stopped}; {clock.total():.1f} minutes so far")
        return False
    except (SettingError, train.NotFinite) as error:
        sys.exit(f"error: {error}")
    finally:
        clock.stop()
    numbers = {key.removeprefix("eval/"): round(scores[key], 4) for key in NUMBERS if key in scores}
    best = best_epochs(workdir)
    record(label, row.config, seed, config.epochs, clock.total(), ", ".join(clock.commits), numbers, best)
    for name, value in numbers.items():
        print(f"{name:<18} last epoch {value:.4f}  best epoch {best[name]:.4f}")
    return True


def best_epochs(workdir) -> dict[str, float]:
    """The highest value of each number over the epochs that were evaluated: chosen on the test images."""
    from ssl_jax.runs.metrics import read_records

    best = {}
    for found in read_records(workdir):
        for key in NUMBERS:
            if key in found:
                name = key.removeprefix("eval/")
                best[name] = max(best.get(name, 0.0), round(found[key], 4))
    return best


def load(config: str, settings: dict):
    """The config of a file and variant, with settings by their dotted names."""
    path, _, variant = config.partition(":")
    get_config = runpy.run_path(str(ROOT / path))["get_config"]
    loaded = get_config(variant) if variant else get_config()
    try:
        loaded.update_from_flattened_dict(settings)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        sys.exit(f"error: --set: {error}")
    return loaded


def _setting(text):
    name, equals, value = text.partition("=")
    if not equals:
        sys.exit(f"error: --set {text!r}: give NAME=VALUE, such as model.dtype=bfloat16")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


class Clock(threading.Thread):
    """Counts the minutes of a row over all its pieces, and asks the process to stop after its share of them.

    What has been counted, and the commits that ran, are on disk every few seconds: a killed piece loses no more.
    """

    def __init__(self, path: Path, minutes: float, commit: str, tick: float = 5.0):
        super().__init__(daemon=True)
        self._path, self._limit, self._tick = path, minutes, tick
        found = json.loads(path.read_text()) if path.exists() else {"minutes": 0.0, "commits": []}
        self._before, self.commits = found["minutes"], list(dict.fromkeys([*found["commits"], commit]))
        self._began, self._over = time.monotonic(), threading.Event()

    def total(self) -> float:
        """Minutes, earlier pieces included."""
        return self._before + (time.monotonic() - self._began) / 60

    def run(self):
        while not self._over.wait(self._tick):
            self._write()
            if self._limit and time.monotonic() - self._began > 60 * self._limit:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    def stop(self):
        """No more counting."""
        self._over.set()
        self._write()

    def _write(self):
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps(dict(minutes=round(self.total(), 3), commits=self.commits)))
        os.replace(temporary, self._path)


def record(row, config, seed, epochs, minutes, commit, numbers, best) -> None:
    """One more line of the results file: `numbers` of the last epoch, `best` of the best one by each number."""
    import jax

    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    fields = dict(row=row, config=config, seed=seed, commit=commit, device=device, epochs=epochs)
    fields |= dict(minutes=round(minutes, 1), jax=jax.__version__, date=str(datetime.date.today()))
    fields |= dict(numbers=numbers, best=best)
    with RESULTS.open("a") as file:
        file.write(json.dumps(fields) + "\n")
    print(json.dumps(fields))


def current_commit() -> str:
    """The checkout's commit, marked where its code has been changed since."""
    git = lambda *args: subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    changed = git("status", "--porcelain", "--untracked-files=no", "--", "ssl_jax", "configs")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + "+changes" * bool(changed)


def read() -> list[dict]:
    """The lines of the results file."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def table(records) -> str:
    """README's table: one line a row, medians over its seeds, in the order of `ROWS`."""
    names = {"knn/top1": "kNN", "linear/top1": "linear", "clustering/acc": "cluster ACC"}
    names |= {"clustering/nmi": "NMI", "clustering/ari": "ARI"}
    published = lambda row: row.published if row.protocol == "-" else f"{row.published} ({row.protocol})"
    lines = [f"| row | seeds | epochs | {' | '.join(names.values())} | published | device | minutes | commit |"]
    lines.append("| --- " * (len(names) + 7) + "|")
    order = list(ROWS)
    labels = sorted({r["row"] for r in records}, key=lambda label: (order.index(label.split()[0]), label))
    for label in labels:
        own = [r for r in records if r["row"] == label]
        middle = lambda key, own=own: statistics.median(r["numbers"][key] for r in own)
        cells = [f"{middle(key):.3f}" if all(key in r["numbers"] for r in own) else "-" for key in names]
        seeds = ", ".join(str(s) for s in sorted(r["seed"] for r in own))
        every = lambda key, own=own: ", ".join(dict.fromkeys(str(r[key]) for r in own))
        minutes = statistics.median(r["minutes"] for r in own)
        parts = [f"`{label}`", seeds, every("epochs"), *cells, published(ROWS[label.split()[0]]), every("device")]
        lines.append("| " + " | ".join(map(str, [*parts, f"{minutes:.0f}", every("commit")])) + " |")
    waiting = [f"`{name}`" for name in ROWS if name not in labels]
    lines += ["", f"Not run yet: {', '.join(waiting)}."] if waiting else []
    return "\n".join(lines)


def published_table(records) -> str:
    """The table of docs/results.md: each published number, how it was taken, the command, and what came of ours.

    Ours are medians over the seeds, of the last epoch and of the best one; with a memory bank, against features
    recomputed and against the live bank.
    """
    head = ("paper or code, table", "row", "config", "command", "published", "protocol", "ours: last / best epoch")
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for name, row in sorted(((n, r) for n, r in ROWS.items() if r.source != "-"), key=lambda item: item[1].source):
        own = [r for r in records if r["row"].split()[0] == name]
        command = f"`python experiments/reproduce.py run {name}{_data_flag(row)}`"
        changes = "".join(f" `{key}={value}`" for key, value in row.settings.items())
        cells = (row.source, f"`{name}`", f"`{row.config}`{changes}", command, row.published, row.protocol, _ours(own))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _data_flag(row) -> str:
    return "" if load(row.config, row.settings).data.name == "digits" else " --data=DIR"


def _ours(records) -> str:
    """What the runs of one row came to, those with other settings apart."""
    parts = []
    for label in dict.fromkeys(r["row"] for r in records):
        own = [r for r in records if r["row"] == label]
        cells = []
        for key, name in LABELS.items():
            last = [r["numbers"][key] for r in own if key in r["numbers"]]
            best = [r["best"][key] for r in own if key in r.get("best", {})]
            if last:
                shown = f"{100 * statistics.median(best):.1f}" if len(best) == len(own) else "not kept"
                cells.append(f"{name} {100 * statistics.median(last):.1f} / {shown}")
        settings = " ".join(label.split()[1:])
        how = f" (`{settings}`)" if settings else ""
        parts.append(f"{', '.join(cells)}{how}; {own[0]['device']}, {own[0]['commit']}")
    return "; ".join(parts) or "not run yet"


def write_table(page: Path, text: str) -> None:
    """Puts a table between its two marks in `page`."""
    old = page.read_text()
    if BEGIN not in old or END not in old:
        sys.exit(f"error: {page} lacks the lines {BEGIN!r} and {END!r}")
    before, after = old.split(BEGIN)[0], old.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="rows, and which are on record")
    commands.add_parser("table", help="write the tables of README.md and docs/results.md from the results file")
    one = commands.add_parser("run", help="train a row, or go on with it")
    one.add_argument("row")
    one.add_argument("--data", default="", help="data.dir, for rows that need one")
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--minutes", type=float, default=0.0, help="stop and save after so many; 0 = to the end")
    one.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of this machine's own")
    one.add_argument("--commit", default="", help="where the checkout has no git")
    one.add_argument("--folder", default="runs/reproduce")
    args = parser.parse_args()
    if args.command == "list":
        found = {(r["row"], r["seed"]) for r in read()}
        for name, row in ROWS.items():
            seeds = ", ".join(f"seed {s}" for n, s in sorted(found) if n == name)
            print(f"{name:<36} {row.config:<46} {row.published:<32} {seeds or 'not run yet'}")
    elif args.command == "table":
        write_table(ROOT / "README.md", table(read()))
        write_table(ROOT / "docs" / "results.md", published_table(read()))
    else:
        settings = dict(data=args.data, seed=args.seed, minutes=args.minutes, settings=args.set)
        run(args.row, **settings, commit=args.commit, folder=args.folder)


if __name__ == "__main__":
    main()
