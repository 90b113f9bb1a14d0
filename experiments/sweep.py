"""Sweeps: trains a config for every value of some settings and several seeds, and compares.

    python experiments/sweep.py configs/conr.py --over positives.boundary.keep=.7,.8,.9,1 \
        --seeds 0,1,2 [--set epochs=40] [--minutes=30]
    python experiments/sweep.py conr --over positives.k1=10,20,30 --over positives.k2=2,5,10
    python experiments/sweep.py swav --over "method.assign=(0,1),(0,)"
    python experiments/sweep.py --list
    python experiments/sweep.py --named=conr-keep [--table]

Every combination of the values is trained with every seed, each as an ordinary run in a folder of
its own. Commas separate values, except inside brackets and quotes. All values are checked before
the first run begins. Rerun the same command to resume: finished runs are skipped, a stopped one
resumes from its checkpoint. More values or seeds may be added later.

Results go to `runs/sweeps/NAME/`: `results.jsonl` has a line for each finished run, `table.md` the
mean over the seeds of each score with its range, `figure.png` the scores against the value, or a
heat map of two settings. Scores are the last epoch's. A run whose loss is no longer finite is
recorded as failed. `--table` writes table and figure of what there is, without training.

Sweeps of the papers have names; they are in `sweeps.py`, with what the papers report. A config
beside `--named` trains that config instead of the digits, with its own settings.
"""

import argparse
import dataclasses
import datetime
import math
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import jax
from ml_collections import ConfigDict
from reproduce import Clock, current_commit, setting
from sweep_grid import Cell, Sweep, as_recorded, axis_of, check
from sweep_tables import RESULTS, Results, draw, read, save, table, write
from sweeps import SWEEPS

from ssl_jax import train
from ssl_jax.runtime import command, compilation
from ssl_jax.settings.paths import check_writable
from ssl_jax.settings.resolve import SettingError

__all__ = ["main", "run", "start"]


def run(sweep: Sweep, folder: Path, *, minutes: float = 0.0) -> bool:
    """Trains what is missing of a sweep.

    Args:
        sweep: the grid.
        folder: where results and run folders go.
        minutes: stop and save after this time; 0 to run to the end.

    Returns:
        whether everything is finished; False if the time ran out.

    Raises:
        SettingError: a value, or a file, that cannot be used.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the state is saved.
    """
    results = read(folder, sweep)
    cells = sweep.cells()
    missing = [
        (cell, seed)
        for seed in sweep.seeds
        for cell in cells
        if seed not in results.get(cell.labels, {})
    ]
    check(sweep, [cell for cell in cells if any(cell is other for other, _ in missing)], folder)
    if missing:
        _check_folder(folder)
    deadline = time.monotonic() + 60 * minutes
    for number, (cell, seed) in enumerate(missing, start=1):
        left = (deadline - time.monotonic()) / 60
        if minutes and left <= 0:
            return False
        print(f"run {number} of {len(missing)}: {cell.folder}, seed {seed}", flush=True)
        try:
            write(folder, _train(sweep, cell, seed, folder, left if minutes else 0.0))
        except KeyboardInterrupt:
            if minutes and time.monotonic() >= deadline:
                return False
            raise
    return True


def _check_folder(folder: Path) -> None:
    """Makes the folder of a sweep.

    Raises:
        SettingError: it cannot be made, or not written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingError(
            f"--folder: {folder} cannot be made ({error.strerror}); give another --folder"
        ) from error
    check_writable(folder / RESULTS, "--folder")


def _train(sweep: Sweep, cell: Cell, seed: int, folder: Path, minutes: float) -> dict[str, Any]:
    """Trains a run for at most `minutes`; its line of the results file."""
    config = sweep.load(cell, seed)
    workdir = folder / f"{cell.folder}-seed{seed}"
    if sweep.share_epochs:
        config.checkpoint_epochs = sweep.share_epochs
        config.keep_checkpoints = 0
        first_seed = sweep.seeds[0] if sweep.share_seed else seed
        first = folder / f"{sweep.cells()[0].folder}-seed{first_seed}"
        if workdir != first:
            config.init_from = str(first)
            config.init_epoch = float(sweep.share_epochs)
    workdir.mkdir(parents=True, exist_ok=True)
    clock = Clock(workdir / "pieces.json", minutes, current_commit())
    line = {"cell": list(cell.labels), "changes": as_recorded(cell.settings), "seed": seed}
    line |= {**sweep.record(), "epochs": config.epochs}
    clock.start()
    try:
        scores = train.run(config, workdir)
        numbers = {name.removeprefix("eval/"): value for name, value in scores.items()}
        line["numbers"] = {name: round(value, 4) for name, value in numbers.items()}
    except train.NotFinite as error:
        line |= {"numbers": {}, "failed": " ".join(str(error).split())}
        print(f"failed: {line['failed']}")
    finally:
        clock.stop()
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    line |= {"minutes": round(clock.total(), 2), "commit": ", ".join(clock.commits)}
    return line | {"device": device, "jax": jax.__version__, "date": str(datetime.date.today())}


def _show(sweep: Sweep, folder: Path, results: Results, scores: Sequence[str]) -> None:
    """Writes table and figure, and prints the table."""
    if not results:
        print(f"{folder} has no results yet")
        return
    text = table(sweep, results, scores)
    print(text)
    paths = save(folder, text, draw(sweep, results, scores))
    if len(sweep.axes) > 2:
        print(f"no figure: it shows one or two settings, not {len(sweep.axes)}")
    print(f"written: {', '.join(map(str, paths))}")


def _sweep_of(args: argparse.Namespace) -> tuple[Sweep, str]:
    """The sweep that the flags describe, and its name.

    Raises:
        SettingError: flags that contradict each other, or a value that cannot be read.
    """
    settings = dict(map(setting, args.set))
    if args.data:
        settings["data.dir"] = args.data
    if args.named:
        if args.named not in SWEEPS:
            raise SettingError(f"--named={args.named}: choose one of {', '.join(SWEEPS)}")
        if args.over or args.reference or args.share_epochs:
            raise SettingError(
                "--named has its own values; leave --over, --reference and --share-epochs out"
            )
        sweep = SWEEPS[args.named].sweep
        if args.config:
            sweep = dataclasses.replace(sweep, config=args.config, settings={}, share_epochs=0)
        sweep = dataclasses.replace(sweep, settings={**sweep.settings, **settings})
        changed = args.config or any(name != "data.dir" for name in settings)
        name = f"{args.named}-{sweep.default_name()}" if changed else args.named
    elif not args.config or not args.over:
        raise SettingError("give a config and --over NAME=VALUE,VALUE; or --named, see --list")
    else:
        axes = tuple(map(axis_of, args.over))
        names = [axis.name for axis in axes]
        twice = {name for name in names if names.count(name) > 1} | set(names) & set(settings)
        if twice:
            raise SettingError(f"{', '.join(sorted(twice))} is given twice; leave one of them out")
        sweep = Sweep(
            args.config,
            axes,
            settings=settings,
            reference=dict(map(setting, args.reference)),
            share_epochs=args.share_epochs,
        )
        name = sweep.default_name()
    if args.seeds:
        sweep = dataclasses.replace(sweep, seeds=_seeds(args.seeds))
    return sweep, args.name or name


def _seeds(text: str) -> tuple[int, ...]:
    try:
        seeds = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise SettingError(f"--seeds={text}: give whole numbers, such as 0,1,2") from error
    if len(set(seeds)) < len(seeds):
        raise SettingError(f"--seeds={text}: a seed is given twice; leave one out")
    return seeds


def _list() -> None:
    for name, named in SWEEPS.items():
        axes = "; ".join(f"{axis.name}: {', '.join(axis.values)}" for axis in named.sweep.axes)
        print(f"{name:<20} {named.source}\n{'':<20} {named.sweep.config}, {axes}")


def _terminated(signum: int, frame: FrameType | None) -> None:
    raise command.Terminated


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("config", nargs="?", default="", help="a config by its name or path, with :variant")
    add("--over", action="append", default=[], metavar="NAME=VALUE,VALUE", help="may be repeated")
    add("--seeds", default="", help="such as 0,1,2; default 0, or those of the named sweep")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="for all runs")
    add("--data", default="", help="data.dir, for configs that need one")
    add(
        "--reference",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="settings of one more run outside the grid, to compare with",
    )
    add(
        "--share-epochs",
        type=int,
        default=0,
        help="train this many epochs once for each seed, with the first cell's settings; the other "
        "cells continue from there",
    )
    add("--minutes", type=float, default=0.0, help="stop and save after this time; 0 = never")
    add("--scores", default="", help="to show, such as clustering/acc,knn/top1")
    add("--name", default="", help="of the sweep's folder")
    add("--folder", default="runs/sweeps", help="where sweeps go")
    add("--named", default="", help="a sweep of the papers, see --list")
    add("--list", action="store_true", help="list the named sweeps")
    add("--table", action="store_true", help="write table and figure only")
    return parser


def start(work: Callable[[], None]) -> None:
    """Does `work`; a failure or a stop is one line, with the exit codes of `ssl_jax.main`."""
    signal.signal(signal.SIGTERM, _terminated)
    compilation.enable_cache()
    try:
        work()
    except KeyboardInterrupt as stopped:
        message = str(stopped) or "stopped; rerun the same command to resume"
        print(message, file=sys.stderr)
        sys.exit(command.exit_code(stopped))
    except Exception as error:
        if explanation := command.explained(error):
            print(f"error: {' '.join(explanation[0].split())}", file=sys.stderr)
            sys.exit(explanation[1])
        raise


def _check_scores(sweep: Sweep, names: Sequence[str]) -> None:
    """Checks that the runs have the evaluators of the scores to show.

    Raises:
        SettingError: one lacks its evaluator; lists those that there are.
    """
    evals = sweep.load(sweep.cells()[0], sweep.seeds[0]).evals
    evaluators = [name for name, value in evals.items() if isinstance(value, ConfigDict)]
    for name in names:
        if name.partition("/")[0] not in evaluators:
            raise SettingError(
                f"--scores={name}: {sweep.config} has no such evaluator; scores begin with one of "
                f"{', '.join(f'{x}/' for x in evaluators)}"
            )


def _work(args: argparse.Namespace) -> None:
    if not 0 <= args.minutes < math.inf:
        raise SettingError(f"--minutes={args.minutes:g}: give 0 or more; 0 never stops")
    sweep, name = _sweep_of(args)
    if args.name and Path(args.name).name != args.name:
        raise SettingError(
            f"--name={args.name}: give the name of a folder; --folder says where it is"
        )
    folder = Path(args.folder) / name
    scores = tuple(filter(None, args.scores.split(",")))
    if not args.table:
        _check_scores(sweep, scores)
    finished = args.table or run(sweep, folder, minutes=args.minutes)
    _show(sweep, folder, read(folder, sweep), scores)
    if not finished:
        print("the time is over; rerun the same command to resume")


def main() -> None:
    args = _parser().parse_args()
    if args.list:
        _list()
    else:
        start(lambda: _work(args))


if __name__ == "__main__":
    main()
