"""What evaluation costs, in seconds: the kNN grid, the probe with its grid, ten-restart clustering.

    python experiments/bench_eval.py [--train=50000] [--test=10000] [--dim=512] [--classes=10]
    python experiments/bench_eval.py --workdir=RUN [--data=DIR] [--train=50000] [--test=10000]

Runs on random clustered features, or on those of a trained run, whose embedding pass is then timed
too. Each line includes compilation. `--shares 1` probes with all labels only.
"""

import argparse
import inspect
import time
from collections.abc import Callable
from typing import Any


def random_splits(train: int, test: int, dim: int, classes: int) -> dict:
    """Splits of random features [n, dim] in overlapping clusters, one for each class."""
    import jax
    import numpy as np

    from ssl_jax.interface import Split

    centres = jax.random.normal(jax.random.key(0), (classes, dim)) / 4

    def split(seed: int, count: int):
        labels = np.random.default_rng(seed).integers(0, classes, count).astype(np.int32)
        x = centres[labels] + jax.random.normal(jax.random.key(seed), (count, dim))
        return Split(dict.fromkeys(("backbone", "embedding"), x), labels)

    splits = dict(train=split(1, train), test=split(2, test))
    return splits | dict(trained=splits["train"])


def splits_of_run(args: argparse.Namespace) -> tuple[dict, int]:
    """Features of a run, at most `args.train` and `args.test` images; number of classes."""
    import jax

    from ssl_jax.inference.transfer import evaluation_of
    from ssl_jax.ops.mesh import make_mesh
    from ssl_jax.runs.restore import config_for, open_run

    config = config_for(args.workdir, ("probe", "clustering"))
    config.data.limit = args.train
    if args.data:
        config.data.dir = args.data
    mesh = make_mesh()
    with jax.set_mesh(mesh):
        run = open_run(args.workdir, mesh)
        score = evaluation_of(run, config)
        splits = jax.block_until_ready(score.scorer.splits(run.plan.stages[-1], run.state))
    test = {name: x[: args.test] for name, x in splits["test"].features.items()}
    test = splits["test"]._replace(features=test, labels=splits["test"].labels[: args.test])
    return splits | dict(test=test), int(test.labels.max()) + 1


def evaluators(args: argparse.Namespace, examples: int, classes: int) -> dict:
    """The evaluators to time, by name."""
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


def measure(
    name: str, evaluator: Any, splits: dict[str, Any], status: Callable[[str], None]
) -> tuple[float, dict]:
    """Seconds and scores of one evaluator."""
    status(name)
    began = time.perf_counter()
    if "report" in inspect.signature(evaluator.run).parameters:
        values = evaluator.run(splits, None, report=lambda text: status(f"{name}: {text}"))
    else:
        values = evaluator.run(splits, None)
    scores = dict(values)
    return time.perf_counter() - began, scores


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("train", 50_000), ("test", 10_000), ("dim", 512), ("classes", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--workdir", default="")
    parser.add_argument(
        "--data", default="", help="the run's data set, if it is no longer in the recorded folder"
    )
    parser.add_argument("--shares", type=float, nargs="+", default=(0.01, 0.1, 1.0))
    args = parser.parse_args()

    from rich.console import Console

    from ssl_jax.runs.console import Status

    began = time.perf_counter()
    classes = args.classes
    if args.workdir:
        splits, classes = splits_of_run(args)
    else:
        splits = random_splits(args.train, args.test, args.dim, classes)
    results = {"features": (time.perf_counter() - began, {})}
    with Status(Console()) as progress:
        for name, evaluator in evaluators(args, len(splits["train"].labels), classes).items():
            results[name] = measure(name, evaluator, splits, progress.status)
    shape = splits["train"].features["backbone"].shape
    print(
        f"{shape[0]:,} + {len(splits['test'].labels):,} images, {shape[1]} features of the backbone"
    )
    print(f"{'task':>10} {'seconds':>8}  scores")
    for name, (seconds, scores) in results.items():
        shown = "  ".join(f"{score} {value:.4g}" for score, value in scores.items())
        print(f"{name:>10} {seconds:8.1f}  {shown}")


if __name__ == "__main__":
    main()
