"""Published results, reproduced: named runs, resumable in pieces of any length, one results file, README's table.

    python experiments/reproduce.py list
    python experiments/reproduce.py run swav-cifar10-200 --data=DIR [--minutes=9] [--set model.dtype=bfloat16]
    python experiments/reproduce.py table

`run` goes on where the row stopped, for at most so many minutes; when the row is finished, its numbers (the last
epoch's, never the best one's) become a line of experiments/results.jsonl. `table` writes README.md's from those lines.
A row with `--set` is one of its own, and named so, unless the setting only observes (eval_epochs, say).
"""

import argparse
import ast
import dataclasses
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

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "experiments" / "results.jsonl"
NUMBERS = ("eval/knn/top1", "eval/linear/top1", "eval/clustering/acc", "eval/clustering/nmi", "eval/clustering/ari")
BEGIN, END = "<!-- results: python experiments/reproduce.py table -->", "<!-- end of results -->"


@dataclasses.dataclass(frozen=True)
class Row:
    """One reproduction: a config, what is set otherwise, and what was published for it."""

    config: str
    settings: dict = dataclasses.field(default_factory=dict)
    published: str = "-"


def _cifar(method, classes, published, schedules=(100, 200)):
    config = f"configs/{method}.py:cifar{classes}"
    rows = {epochs: {"epochs": epochs, "evals.knn.k": 200} for epochs in schedules}
    if method in ("instance", "local_aggregation") and 100 in rows:  # the rate drops at 60 % and 80 % of the way
        rows[100]["optim.schedule.at_epochs"] = (60.0, 80.0)
    return {f"{method}-cifar{classes}-{e}": Row(config, s, published.get(e, "-")) for e, s in rows.items()}


_BASES = ("byol", "simsiam", "moco")
_PUBLISHED = {  # NMI / ACC / ARI of CoNR's tables 1 and 4: the base, and with CoNR
    ("byol", 10): ("79.4 / 87.8 / 76.6", "86.7 / 93.2 / 86.1"),
    ("byol", 20): ("55.5 / 53.9 / 37.6", "60.4 / 60.4 / 44.3"),
    ("simsiam", 10): ("78.6 / 85.6 / 73.6, ResNet-34", "85.2 / 91.4 / 83.6"),
    ("simsiam", 20): ("52.2 / 48.5 / 32.7, ResNet-34", "59.4 / 59.2 / 43.1"),
    ("moco", 10): ("66.9 / 77.6 / 60.8, ResNet-34", "81.4 / 88.9 / 79.1"),
    ("moco", 20): ("39.0 / 39.7 / 24.2, ResNet-34", "52.6 / 54.5 / 37.7"),
}


def _clustering(base, classes):
    """The base and CoNR on it, 1,000 epochs as published, and 250 as rows of their own."""
    config, found = f"configs/conr.py:paper_cifar{classes}+{base}", {}
    for epochs in (250, 1000):
        for kind, settings in enumerate(({"positives.name": "instance"}, {})):
            published = f"NMI / ACC / ARI {_PUBLISHED[base, classes][kind]}" if epochs == 1000 else "-"
            name = f"{'conr-' * kind}{base}-cifar{classes}-{epochs}"
            found[name] = Row(config, settings | {"epochs": epochs}, published)
    return found


_SMALL = {"data.limit": 10_000, "model.width": 16, "batch_size": 128, "epochs": 10}  # a quarter of an hour on a CPU
# One view an image, so twice the epochs; both methods with one schedule.
_SMALL_BANK = _SMALL | {"epochs": 20, "optim.schedule.name": "constant", "optim.nesterov": True}
_SMALL_ANCHORS = _SMALL_BANK | {"eval_epochs": 4}
ROWS = {
    "swav-digits": Row("configs/swav.py"),
    "instance-digits": Row("configs/instance.py"),
    "anchor_neighbourhood-digits": Row("configs/anchor_neighbourhood.py"),
    "local_aggregation-digits": Row("configs/local_aggregation.py"),
    "swav-cifar10-small": Row("configs/swav.py:cifar10", _SMALL),
    "instance-cifar10-small": Row("configs/instance.py:cifar10", _SMALL_BANK),
    "anchor_neighbourhood-cifar10-small": Row("configs/anchor_neighbourhood.py:cifar10", _SMALL_ANCHORS),
    **_cifar("swav", 10, {200: "kNN 84.2 (lightly, best epoch)"}),
    **_cifar("swav", 100, {}),
    **_cifar("instance", 10, {200: "kNN 80.8 (authors, best epoch)"}),
    **_cifar("instance", 100, {200: "kNN 50.7 (AND authors)"}),
    **_cifar("anchor_neighbourhood", 10, {1000: "kNN 86.3 (authors, best epoch)"}, (1000,)),
    **_cifar("anchor_neighbourhood", 100, {1000: "kNN 57.2 (authors, best epoch)"}, (1000,)),
    **_cifar("local_aggregation", 10, {}),
    **{f"{base}-digits": Row(f"configs/{base}.py") for base in _BASES},
    **{f"conr-{base}-digits": Row(f"configs/conr.py:digits+{base}") for base in _BASES},
    **{name: row for base, classes in _PUBLISHED for name, row in _clustering(base, classes).items()},
}


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
    workdir.mkdir(parents=True, exist_ok=True)
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
    record(label, row.config, seed, config.epochs, clock.total(), ", ".join(clock.commits), numbers)
    return True


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


def record(row, config, seed, epochs, minutes, commit, numbers) -> None:
    """One more line of the results file."""
    import jax

    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    fields = dict(row=row, config=config, seed=seed, commit=commit, device=device, epochs=epochs)
    fields |= dict(minutes=round(minutes, 1), jax=jax.__version__, date=str(datetime.date.today()), numbers=numbers)
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
        parts = [f"`{label}`", seeds, every("epochs"), *cells, ROWS[label.split()[0]].published, every("device")]
        lines.append("| " + " | ".join(map(str, [*parts, f"{minutes:.0f}", every("commit")])) + " |")
    waiting = [f"`{name}`" for name in ROWS if name not in labels]
    lines += ["", f"Not run yet: {', '.join(waiting)}."] if waiting else []
    return "\n".join(lines)


def write_table(readme: Path) -> None:
    """Puts the table between its two marks in `readme`."""
    text = readme.read_text()
    if BEGIN not in text or END not in text:
        sys.exit(f"error: {readme} lacks the lines {BEGIN!r} and {END!r}")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    readme.write_text(f"{before}{BEGIN}\n{table(read())}\n{END}{after}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="rows, and which are on record")
    commands.add_parser("table", help="write README.md's table from the results file")
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
            print(f"{name:<24} {row.config:<28} {row.published:<32} {seeds or 'not run yet'}")
    elif args.command == "table":
        write_table(ROOT / "README.md")
    else:
        settings = dict(data=args.data, seed=args.seed, minutes=args.minutes, settings=args.set)
        run(args.row, **settings, commit=args.commit, folder=args.folder)


if __name__ == "__main__":
    main()
