"""CoNR's ablation: a base run, then one run for each kind of positives from its checkpoint.

    python experiments/conr_ablation.py [--config=configs/conr.py:digits] \
        [--bases byol simsiam moco] [--seeds 0 1 2] [--data=DIR] [--set NAME=VALUE] \
        [--variants ...] [--one]

The checkpoint is the one before the second stage: all runs of a seed share the first stage and end
at the same epoch. Finished runs are not repeated. With --one all seeds share the first seed's first
stage and differ only in what follows.

Prints a table of means: NMI, ACC and ARI of ten-restart cosine k-means on the target's embeddings,
and the purity of ten neighbours. All are the last epoch's; nothing is selected by its score.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import sweep
from reproduce import load, setting
from sweep_grid import REFERENCE, Axis, Sweep
from sweep_tables import read, values_of

VARIANTS = {
    "base": {"positives.name": "instance"},
    "+ local neighbours": {"positives.name": "neighbours", "positives.boundary.keep": 1.0},
    "+ contextual": {"positives.boundary.keep": 1.0},
    "+ filter": {"positives.boundary.relax": False},
    "+ relaxation": {},
    "local, filter": {"positives.name": "neighbours", "positives.boundary.relax": False},
    "local, relaxation": {"positives.name": "neighbours"},
}
SCORES = (
    "clustering/nmi",
    "clustering/acc",
    "clustering/ari",
    "knn/top1",
    "purity/local_10",
    "purity/contextual_10",
)


def ablation(base: str, args: argparse.Namespace) -> Sweep:
    """The sweep of one base: its own run as the reference, the kinds of positives as values."""
    settings: dict[str, Any] = dict(map(setting, args.set))
    if args.data:
        settings["data.dir"] = args.data
    config = f"{args.config}+{base}"
    boundary = round(load(config, settings).stages.pretrain.until_epoch)
    variants = {name: VARIANTS[name] for name in args.variants if name != "base"}
    return Sweep(
        config,
        (Axis("positives", variants),),
        tuple(args.seeds),
        {"eval_epochs": boundary, **settings},
        reference=VARIANTS["base"],
        share_epochs=boundary,
        share_seed=args.one,
    )


def rows(base: str, args: argparse.Namespace) -> list[str]:
    """Trains what is missing of one base; its lines of the table."""
    grid = ablation(base, args)
    folder = Path(args.folder) / f"{args.config.partition(':')[2]}-{base}"
    sweep.run(grid, folder)
    results = read(folder, grid)
    lines = []
    for cell in grid.cells():
        columns = [values_of(results, cell.labels, score) for score in SCORES]
        means = [f"{statistics.mean(column):.3f}" if column else "-" for column in columns]
        accuracies = values_of(results, cell.labels, "clustering/acc")
        spread = f"{min(accuracies):.3f} to {max(accuracies):.3f}"
        name = "base" if cell.labels == (REFERENCE,) else cell.labels[0]
        lines.append(f"| {base} | {name} | {' | '.join(means)} | {spread} |")
    return lines


def show(args: argparse.Namespace) -> None:
    """Trains what is missing, and prints the table."""
    lines = [line for base in args.bases for line in rows(base, args)]
    columns = ("base", "positives", "NMI", "ACC", "ARI", "kNN", "local purity")
    columns += ("contextual purity", "ACC of the seeds")
    print(f"| {' | '.join(columns)} |")
    print("| --- " * len(columns) + "|")
    print("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/conr.py:digits")
    parser.add_argument("--bases", nargs="+", default=("byol", "simsiam", "moco"))
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--variants", nargs="+", default=tuple(VARIANTS)[:5], choices=VARIANTS)
    parser.add_argument("--data", default="")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument(
        "--one", action="store_true", help="all seeds share the first seed's first stage"
    )
    parser.add_argument("--folder", default="runs/ablation")
    args = parser.parse_args()
    sweep.start(lambda: show(args))


if __name__ == "__main__":
    main()
