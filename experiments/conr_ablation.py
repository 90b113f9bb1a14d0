"""CoNR's ablation: a base run, and from its checkpoint before the second stage a run for each kind of positives.

    python experiments/conr_ablation.py [--config=configs/conr.py:digits] [--bases byol simsiam moco] [--seeds 0 1 2]
                                        [--data=DIR] [--set NAME=VALUE] [--variants ...] [--one]

All runs of a seed share the first stage and end at the same epoch; finished ones are not run again. With --one all
seeds share the first seed's first stage, and differ in what follows. Prints a table of means: NMI, ACC and ARI of
ten-restart cosine k-means on the target's embeddings, and the purity of ten neighbours. Nothing is chosen by its
score: these are the last epoch's.
"""

import argparse
import ast
import statistics
from pathlib import Path

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
SCORES = ("clustering/nmi", "clustering/acc", "clustering/ari", "knn/top1", "purity/local_10", "purity/contextual_10")


def scores_of(base, variant, seed, args) -> dict[str, float]:
    """The last scores of one run, trained unless it is finished."""
    from ssl_jax import train

    settings = dict(map(setting, args.set)) | {"seed": seed, "data.dir": args.data, "baselines": False}
    config = load(f"{args.config}+{base}", settings)
    boundary = config.stages.pretrain.until_epoch
    config.eval_epochs = config.checkpoint_epochs = round(boundary)
    folders = Path(args.folder) / f"{args.config.partition(':')[2]}-{base}"
    folder, first = folders / str(seed), args.seeds[0] if args.one else seed
    config.update_from_flattened_dict(VARIANTS[variant])
    if variant != "base" or seed != first:
        config.init_from, config.init_epoch = str(folders / str(first) / "base"), boundary
    name = "".join(c if c.isalnum() else "-" for c in variant).strip("-")
    return train.run(config, folder / name)


def setting(text):
    name, _, value = text.partition("=")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/conr.py:digits")
    parser.add_argument("--bases", nargs="+", default=("byol", "simsiam", "moco"))
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--variants", nargs="+", default=tuple(VARIANTS)[:5], choices=VARIANTS)
    parser.add_argument("--data", default="")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--one", action="store_true", help="one first stage for all seeds, that of the first")
    parser.add_argument("--folder", default="runs/ablation")
    args = parser.parse_args()
    lines = []
    for base in args.bases:
        found = {variant: [] for variant in args.variants}
        for seed in args.seeds:
            for variant in dict.fromkeys(("base", *args.variants)):
                scores = scores_of(base, variant, seed, args)
                found.setdefault(variant, []).append([scores.get(f"eval/{name}", float("nan")) for name in SCORES])
        for variant, rows in found.items():
            means = [statistics.mean(column) for column in zip(*rows)]
            spread = f"{min(row[1] for row in rows):.3f} to {max(row[1] for row in rows):.3f}"
            lines.append(f"| {base} | {variant} | {' | '.join(f'{m:.3f}' for m in means)} | {spread} |")
    print("| base | positives | NMI | ACC | ARI | kNN | local purity | contextual purity | ACC of the seeds |")
    print("| --- " * 9 + "|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
