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
import ast
import statistics
from pathlib import Path
from typing import Any

from reproduce import load

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


def scores_of(base: str, variant: str, seed: int, args: argparse.Namespace) -> dict[str, float]:
    """The last scores of one run, which is trained unless it has finished."""
    from ssl_jax import train

    settings = dict(map(setting, args.set)) | {
        "seed": seed,
        "data.dir": args.data,
        "baselines": False,
    }
    config = load(f"{args.config}+{base}", settings)
    boundary = config.stages.pretrain.until_epoch
    config.eval_epochs = config.checkpoint_epochs = round(boundary)
    folders = Path(args.folder) / f"{args.config.partition(':')[2]}-{base}"
    folder = folders / str(seed)
    first = args.seeds[0] if args.one else seed
    config.update_from_flattened_dict(VARIANTS[variant])
    if variant != "base" or seed != first:
        config.init_from = str(folders / str(first) / "base")
        config.init_epoch = boundary
    name = "".join(c if c.isalnum() else "-" for c in variant).strip("-")
    return train.run(config, folder / name)


def setting(text: str) -> tuple[str, Any]:
    """Name and value of NAME=VALUE; the value is a Python literal or else text."""
    name, _, value = text.partition("=")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


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
    lines = []
    for base in args.bases:
        scores = {variant: [] for variant in args.variants}
        for seed in args.seeds:
            for variant in dict.fromkeys(("base", *args.variants)):
                last = scores_of(base, variant, seed, args)
                values = [last.get(f"eval/{name}", float("nan")) for name in SCORES]
                scores.setdefault(variant, []).append(values)
        for variant, seeds in scores.items():
            means = " | ".join(f"{statistics.mean(column):.3f}" for column in zip(*seeds))
            accuracies = [values[1] for values in seeds]
            spread = f"{min(accuracies):.3f} to {max(accuracies):.3f}"
            lines.append(f"| {base} | {variant} | {means} | {spread} |")
    columns = ("base", "positives", "NMI", "ACC", "ARI", "kNN", "local purity")
    columns += ("contextual purity", "ACC of the seeds")
    print(f"| {' | '.join(columns)} |")
    print("| --- " * len(columns) + "|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
