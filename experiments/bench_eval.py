"""What evaluation costs: the kNN grid, the probe with its grid, and clustering with ten restarts, in seconds.

    python experiments/bench_eval.py [--train=50000] [--test=10000] [--dim=512] [--classes=10]
    python experiments/bench_eval.py --workdir=RUN [--data=DIR] [--train=50000] [--test=10000]

On random features in clusters, or on those of a trained run (the time of its embedding pass is shown, too). Each line
includes compilation. `--shares 1` probes with all labels alone.
"""

import argparse
import inspect
import time


def random_splits(train: int, test: int, dim: int, classes: int) -> dict:
    """Splits of random features [n, dim] in as many overlapping clusters as there are classes."""
    import jax
    import numpy as np

    from ssl_jax.interface import Split

    centres = jax.random.normal(jax.random.key(0), (classes, dim)) / 4

    def split(seed, count):
        labels = np.random.default_rng(seed).integers(0, classes, count).astype(np.int32)
        x = centres[labels] + jax.random.normal(jax.random.key(seed), (count, dim))
        return Split(dict.fromkeys(("backbone", "embedding"), x), labels)

    splits = dict(train=split(1, train), test=split(2, test))
    return splits | dict(trained=splits["train"])


def splits_of_run(args) -> tuple[dict, int]:
    """Splits of the run's features, the first so many images of each, and the number of classes."""
    import jax

    from ssl_jax.inference.transfer import evaluation_of
    from ssl_jax.ops.mesh import make_mesh
    from ssl_jax.runs.restore import config_for, open_run

    config = config_for(args.workdir, ("probe", "clustering"))
    config.data.update({"limit": args.train} | ({"dir": args.data} if args.data else {}))
    mesh = make_mesh()
    with jax.set_mesh(mesh):
        run = open_run(args.workdir, mesh)
        score = evaluation_of(run, config)
        splits = jax.block_until_ready(score.scorer.splits(run.plan.stages[-1], run.state))
    test = {name: x[: args.test] for name, x in splits["test"].features.items()}
    test = splits["test"]._replace(features=test, labels=splits["test"].labels[: args.test])
    return splits | dict(test=test), int(test.labels.max()) + 1


def evaluators(args, examples: int, classes: int) -> dict:
    """What is timed, by name."""
    from ssl_jax.evaluation.clustering import Clustering
    from ssl_jax.evaluation.knn_grid import KNNGrid
    from ssl_jax.evaluation.probe import Probe
    from ssl_jax.interface import RunFacts

    facts = RunFacts(examples=examples, labelled=examples, classes=classes)
    return {
        "kNN grid": KNNGrid(facts=facts),
        "probe": Probe(shares=tuple(args.shares), facts=facts),
        "clustering": Clustering(restarts=10, facts=facts),
    }


def measure(name, evaluator, splits, status) -> tuple[float, dict]:
    """Seconds and scores of one evaluator."""
    tells = "report" in inspect.signature(evaluator.run).parameters
    status(name)
    began = time.perf_counter()
    more = dict(report=lambda text: status(f"{name}: {text}")) if tells else {}
    found = dict(evaluator.run(splits, None, **more))
    return time.perf_counter() - began, found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("train", 50_000), ("test", 10_000), ("dim", 512), ("classes", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--workdir", default="")
    parser.add_argument("--data", default="", help="folder of the run's data set, where it is not the recorded one")
    parser.add_argument("--shares", type=float, nargs="+", default=(0.01, 0.1, 1.0))
    args = parser.parse_args()

    from rich.console import Console

    from ssl_jax.runs.console import Status

    began, classes = time.perf_counter(), args.classes
    if args.workdir:
        splits, classes = splits_of_run(args)
    else:
        splits = random_splits(args.train, args.test, args.dim, classes)
    rows = {"features": (time.perf_counter() - began, {})}
    with Status(Console()) as progress:
        for name, evaluator in evaluators(args, len(splits["train"].labels), classes).items():
            rows[name] = measure(name, evaluator, splits, progress.status)
    shape = splits["train"].features["backbone"].shape
    print(f"{shape[0]:,} + {len(splits['test'].labels):,} images, {shape[1]} features of the backbone")
    print(f"{'task':>10} {'seconds':>8}  scores")
    for name, (seconds, found) in rows.items():
        print(f"{name:>10} {seconds:8.1f}  " + "  ".join(f"{k} {v:.4g}" for k, v in found.items()))


if __name__ == "__main__":
    main()
