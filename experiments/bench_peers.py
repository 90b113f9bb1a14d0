"""Our training step and kernels beside PyTorch with lightly's modules, in one run on one device.

    python experiments/bench_peers.py [--device=auto] [--methods=swav,byol] [--widths=16,64] \
        [--batch=64]
    python experiments/bench_peers.py --kernels    # only Sinkhorn, kNN and k-means
    python experiments/bench_peers.py table        # writes docs/performance.md

Reports and skips what is not installed. `pip install -e '.[peers]'` brings torch, torchvision,
lightly 1.6.0 and faiss, `.[cuda12,peers]` what a GPU needs; on a machine without one install
torch's CPU build first. PyTorch may be in another virtual environment:
--torch-python=VENV/bin/python. torch.compile needs a C++ compiler.

On a GPU the defaults are bfloat16 and batch 512, and ResNet-50 with 2x224 and 6x96 views, batch
128, is added (`--methods=swav,byol,multicrop`).

Each framework runs in its own process, so that neither loads the other's libraries (cuDNN) nor
keeps threads or memory busy. They take turns (A B A B), each with all cores. Times are medians of
the turns after two calls of each; the first call, which compiles, is reported separately. JAX
allocates GPU memory on demand. Run nothing else meanwhile.

    steps     the method's whole step from CIFAR-sized uint8 images on one device, with the same
              network (parameters are compared), head, prototypes, batch, optimiser and views.
              `augmented`: ours draws views inside the jitted step, lightly's transforms run in
              torch's DataLoader, in the training process; `workers`: in worker processes, once
              their prefetched batches are used up; `alone`: views are ready. On a GPU lightly's
              transforms run only in workers, if there are any; with 2x224 and 6x96 views only for
              the first form, since they take longer than any step
    kernels   Sinkhorn-Knopp, weighted kNN (lightly's) and k-means (scikit-learn and faiss, which
              always run on the CPU)
"""

import argparse
import datetime
import json
import math
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peers.sides import Worker, open_sides, processor, work
from peers.table import FORMS, label, lines_of, read, write_table

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "performance.md"
OUT = ROOT / "experiments" / "peers.jsonl"
METHODS = ("swav", "byol", "multicrop")

Case = dict[str, Any]


def cases(args: argparse.Namespace, device: str) -> list[Case]:
    """The cases to measure, as the sides receive them."""
    gpu = device != "cpu"
    methods = args.methods or (METHODS if gpu else METHODS[:2])
    widths = args.widths or ((64,) if gpu else (16, 64))
    batch = args.batch or (512 if gpu else 64)
    shared = dict(kind="step", dtype="bfloat16" if gpu else "float32", workers=args.workers)
    chosen = []
    for method in methods if not args.kernels else ():
        if method == "multicrop":  # at batch 128 each side keeps 17 GB of activations
            chosen.append(dict(shared, method=method, width=64, batch=min(batch, 128)))
            continue
        for width in widths:
            chosen.append(dict(shared, method=method, width=width, batch=batch))
    if not args.steps:
        chosen += kernels(args.clusters, args.scale)
    return [dict(case, forms=args.forms) for case in chosen]


def kernels(clusters: Sequence[int], scale: float = 1.0) -> list[dict]:
    """Sinkhorn, kNN and k-means; `scale` shrinks rows and clusters, for tests."""

    def rows(count: float) -> int:
        return max(round(scale * count), 8)

    knn = dict(kind="knn", rows=rows(50_000), queries=rows(1000), dim=128, k=rows(200), classes=10)
    codes = dict(kind="sinkhorn", prototypes=rows(3000))
    means = dict(kind="kmeans", rows=rows(60_000), dim=512, iterations=20)
    sinkhorn = [
        dict(codes, rows=rows(size), dead=dead)
        for size, dead in ((256, False), (4096, False), (256, True))
    ]
    return [*sinkhorn, knn, *(dict(means, clusters=k) for k in clusters)]


def measure(case: Case, where: Mapping[str, Worker], turns: int, least: float) -> dict:
    """Times the contenders of a case in turns.

    Args:
        case: one of `cases`.
        where: the process of each contender, see `prepared`.
        turns: how many of each contender, after those that warm it up.
        least: shortest turn in seconds; each turn makes as many calls as that takes.

    Returns:
        For each contender median milliseconds per call and what it reports, or why it is missing.
    """
    results = {}
    calls = {}

    def ask(what: str, name: str, count: int) -> tuple[float | None, dict[str, Any]]:
        say(f"{label(case)}: {name}")
        answer = where[name].ask(what, name=name, calls=count)
        if "error" in answer:
            print(f"skipped: {label(case)}: {name}: {answer['error']}", flush=True)
            results[name] = {"skipped": answer["error"]}
            calls.pop(name, None)
        return answer.pop("seconds", None), answer

    for name in where:
        first, _ = ask("start", name, 1)
        again, _ = ask("time", name, 1) if first else (None, None)
        if again:
            results[name] = {"first": round(first, 3)}
            calls[name] = min(max(math.ceil(least / again), 1), 1000)
    times = {name: [] for name in calls}
    for _ in range(turns):
        for name, count in list(calls.items()):
            seconds, checks = ask("time", name, count)
            if seconds:
                times[name].append(1e3 * seconds / count)
                results[name] |= checks
    say("")
    for name in calls:
        results[name] |= {
            "ms": median(times[name]),
            "from": round(min(times[name]), 3),
            "to": round(max(times[name]), 3),
        }
    return results


def say(text: str) -> None:
    """Shows what is being measured, on a terminal, in place of the previous text."""
    if sys.stderr.isatty():
        print(f"\r{text}\033[K", end="", file=sys.stderr, flush=True)


def median(values: Sequence[float]) -> float:
    return round(statistics.median(values), 3)


def prepared(case: Case, sides: Mapping[str, Worker]) -> dict:
    """Contender -> its side. Ours gives the others the recipe; parameter counts must agree."""
    where = {}
    for side, worker in sides.items():
        if worker.process.poll() is not None:
            worker.begin()
        answer = worker.ask("prepare", case=case)
        if "error" in answer:
            print(f"skipped: {case['kind']}: {side}: {answer['error']}", flush=True)
            continue
        facts = answer["facts"]
        if side == "ours":
            case |= facts
        elif facts and "parameters" in case:
            same_size(case, facts)
        where |= dict.fromkeys(answer["names"], worker)
    return where


def same_size(ours: Mapping[str, int], theirs: Mapping[str, int]) -> None:
    """Checks that both networks have equal backbones, and whole sizes within 0.1 %.

    Raises:
        SystemExit: they differ.
    """
    whole = ours["parameters"]
    backbone = ours["backbone"]
    if theirs["backbone"] != backbone or abs(theirs["parameters"] - whole) > 1e-3 * whole:
        ours_text = f"backbone {backbone:,} of {whole:,} parameters"
        theirs_text = f"{theirs['backbone']:,} of {theirs['parameters']:,}"
        sys.exit(f"error: the networks differ: {ours_text}, theirs {theirs_text}")


def run(args: argparse.Namespace) -> None:
    """Measures all cases, adding each to the results file as soon as it is done."""
    if not args.out.parent.is_dir():
        sys.exit(f"error: --out={args.out}: no folder {args.out.parent}")
    if args.torch_python and not Path(args.torch_python).is_file():
        sys.exit(f"error: --torch-python={args.torch_python}: no such file")
    sides = open_sides(args)
    hello = sides["ours"].hello
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = hello["name"] if hello["device"] != "cpu" else processor()
    versions = {k: v for worker in sides.values() for k, v in worker.hello["versions"].items()}
    about = dict(
        date=str(datetime.date.today()), device=f"{name}, {cores} CPU cores", versions=versions
    )
    print(f"{about['device']}; {', '.join(f'{k} {v}' for k, v in versions.items())}", flush=True)
    for case in cases(args, hello["device"]):
        where = prepared(case, sides)
        if "ours" not in where and not any(name.startswith("ours/") for name in where):
            continue  # reported above; the others have nothing to compare with
        results = measure(case, where, args.repeats, args.seconds)
        kept = {k: v for k, v in case.items() if k != "recipe"}
        row = about | dict(label=label(case), repeats=args.repeats, case=kept, results=results)
        with args.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print("\n".join([row["label"], *lines_of(row)]), flush=True)
    for worker in sides.values():
        worker.close()


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The checked arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def names(text: str) -> tuple[str, ...]:
        return tuple(text.split(","))

    def numbers(text: str) -> tuple[int, ...]:
        return tuple(map(int, text.split(",")))

    parser.add_argument("command", nargs="?", choices=("run", "table"), default="run")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto")
    parser.add_argument("--methods", type=names, help=", ".join(METHODS))
    parser.add_argument("--widths", type=numbers, help="widths of the ResNet-18")
    parser.add_argument(
        "--clusters", type=numbers, default=(10, 100, 1000), help="clusters of k-means"
    )
    parser.add_argument(
        "--forms", type=json.loads, default=FORMS, help="forms of PyTorch's side, as a JSON list"
    )
    parser.add_argument("--batch", type=int, help="images per step; default: 64, on a GPU 512")
    parser.add_argument(
        "--workers",
        type=int,
        help="worker processes of the loader; default: one per core, up to 16, none below 4 cores",
    )
    parser.add_argument("--repeats", type=int, default=5, help="turns of each contender")
    parser.add_argument("--seconds", type=float, default=1.0, help="shortest turn")
    parser.add_argument("--kernels", action="store_true", help="measure only the kernels")
    parser.add_argument("--steps", action="store_true", help="measure only the steps")
    parser.add_argument(
        "--torch-python", default="", help="Python interpreter that has torch and lightly"
    )
    parser.add_argument(
        "--out", type=Path, default=OUT, help="results file: a line per case, read by `table`"
    )
    # Tests shrink the kernels.
    parser.add_argument("--scale", type=float, default=1.0, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    for method in args.methods or ():
        if method not in METHODS:
            parser.error(f"--methods: {method!r} is not one of {', '.join(METHODS)}")
    if min(args.repeats, args.batch or 1, *(args.widths or (1,))) < 1:
        parser.error("--repeats, --batch and --widths are at least 1")
    if args.workers is None:
        cores = os.cpu_count()
        args.workers = min(cores, 16) if cores >= 4 else 0
    return args


def main() -> None:
    if sys.argv[1:2] == ["worker"]:
        work(sys.argv[2])
        return
    args = parse(sys.argv[1:])
    if args.command == "table":
        write_table(PAGE, read(args.out))
    else:
        run(args)


if __name__ == "__main__":
    main()
