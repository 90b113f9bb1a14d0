"""A named row of `reproduce.py` in bfloat16 and rarely evaluated, within so many seconds.

    python experiments/gpu/row.py swav-cifar10-200 --out=DIR --seconds=440 [--data=DIR] [--seed=0]
                                                   [--set NAME=VALUE ...]

A finished row leaves its line in DIR/results.jsonl, to be added to experiments/results.jsonl. One
that was stopped goes on with the same command, as long as its run folder is there. Either way the
run's metrics, environment and config are copied to DIR. Images are those carried here, or --data.
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

# Few evaluations and checkpoints; none of these but the first is part of the row's name.
SETTINGS = ("model.dtype=bfloat16", "baselines=False", "eval_epochs=50", "checkpoint_epochs=100")
COPIED = ("metrics.jsonl", "environment.json", "config.json")
SAVING = 35  # seconds kept for the step that runs, the checkpoint and copying


def copy_records(runs: Path, out: Path) -> None:
    """Copies what each run says of itself to `out`, named by the run."""
    for name in COPIED:
        for path in runs.glob(f"*/{name}"):
            shutil.copy(path, out / f"{path.parent.name}.{name}")


def stop_hard(seconds: float, runs: Path, out: Path) -> threading.Timer:
    """Ends the process after so many seconds whatever it does, its records copied before."""

    def end():
        copy_records(runs, out)
        print(
            f"error: not stopped and saved within {seconds:.0f} s; ended",
            file=sys.stderr,
            flush=True,
        )
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
    add("row", help="`python experiments/reproduce.py list` lists them")
    add("--out", type=Path, required=True, help="the folder for what is to be taken home")
    add("--seconds", type=float, required=True, help=f"stop and save {SAVING} s before this")
    add("--data", default="", help="data.dir; default: the images that were carried here")
    add("--seed", type=int, default=0)
    add("--runs", type=Path, default=machine.WORK / "runs", help="the folder for run folders")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="more settings, which win")
    args = parser.parse_args(arguments)
    if args.seconds <= SAVING:
        parser.error(f"--seconds={args.seconds:g}: give more than {SAVING}, which saving may take")
    return args


def main(arguments: list[str] | None = None):
    args = parse(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    given = [text.partition("=")[0] for text in args.set]
    settings = [text for text in SETTINGS if text.partition("=")[0] not in given] + args.set
    reproduce.RESULTS = args.out / "results.jsonl"
    timer = stop_hard(args.seconds, args.runs, args.out)
    try:
        reproduce.run(
            args.row,
            data=args.data or machine.images(),
            seed=args.seed,
            minutes=(args.seconds - SAVING) / 60,
            settings=settings,
            commit=machine.commit(),
            folder=str(args.runs),
        )
    finally:
        timer.cancel()
        copy_records(args.runs, args.out)


if __name__ == "__main__":
    main()
