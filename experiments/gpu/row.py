"""Trains a named row of `reproduce.py` in bfloat16, rarely evaluated, within a time limit.

    python experiments/gpu/row.py swav-cifar10-200 --out=DIR --seconds=440 [--data=DIR] [--seed=0]
                                                   [--set NAME=VALUE ...]

A finished row writes its line to DIR/results.jsonl, to be added to experiments/results.jsonl. Rerun
the same command to resume a row that ran out of time; its run folder must still be there. Either
way the run's metrics, environment and config are copied to DIR. Images are those copied here, or
--data.
"""

import argparse
import os
import shutil
import sys
import threading
from pathlib import Path

import machine

machine.make_ready()

import reproduce

# Few evaluations and checkpoints; only the first setting becomes part of the row's name.
SETTINGS = ("model.dtype=bfloat16", "baselines=False", "eval_epochs=50", "checkpoint_epochs=100")
COPIED = ("metrics.jsonl", "environment.json", "config.json")
SAVING = 35  # seconds reserved for the current step, the checkpoint and copying


def copy_records(runs: Path, out: Path) -> None:
    """Copies each run's metrics, environment and config to `out`, prefixed by the run's name."""
    for name in COPIED:
        for path in runs.glob(f"*/{name}"):
            shutil.copy(path, out / f"{path.parent.name}.{name}")


def stop_hard(seconds: float, runs: Path, out: Path) -> threading.Timer:
    """Ends the process after `seconds` whatever it is doing, having copied its records."""

    def end() -> None:
        copy_records(runs, out)
        message = f"error: did not stop and save within {seconds:.0f} s; killed"
        print(message, file=sys.stderr, flush=True)
        os._exit(124)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    return timer


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("row", help="one of `python experiments/reproduce.py list`")
    add("--out", type=Path, required=True, help="folder for the results")
    add("--seconds", type=float, required=True, help=f"stop and save {SAVING} s before this")
    add("--data", default="", help="data.dir; default: the images copied here")
    add("--seed", type=int, default=0)
    add("--runs", type=Path, default=machine.WORK / "runs", help="where to put the run folders")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="overrides")
    args = parser.parse_args(arguments)
    if args.seconds <= SAVING:
        parser.error(
            f"--seconds={args.seconds:g}: must exceed {SAVING}, the time reserved for saving"
        )
    return args


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    overridden = [text.partition("=")[0] for text in args.set]
    settings = [text for text in SETTINGS if text.partition("=")[0] not in overridden]
    reproduce.RESULTS = args.out / "results.jsonl"
    timer = stop_hard(args.seconds, args.runs, args.out)
    try:
        reproduce.run(
            args.row,
            data=args.data or machine.images(),
            seed=args.seed,
            minutes=(args.seconds - SAVING) / 60,
            settings=settings + args.set,
            commit=machine.commit(),
            folder=str(args.runs),
        )
    finally:
        timer.cancel()
        copy_records(args.runs, args.out)


if __name__ == "__main__":
    main()
