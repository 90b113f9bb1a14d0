"""Our training step and kernels beside PyTorch with lightly's modules, in one run on one device.

    python experiments/bench_peers.py [--device=auto] [--methods=swav,byol] [--widths=16,64] [--batch=64]
    python experiments/bench_peers.py --kernels                    # Sinkhorn, kNN and k-means alone
    python experiments/bench_peers.py table                        # into docs/performance.md

What is not installed is left out, and said. `pip install -e '.[peers]'` brings torch, torchvision, lightly 1.6.0 and
faiss, `.[cuda12,peers]` what a GPU needs; for a machine without one install torch's CPU build first. PyTorch may also
be in a virtual environment of its own: --torch-python=VENV/bin/python. torch.compile needs a C++ compiler.

On a GPU the same command takes bfloat16, batch 512, and besides ResNet-50 with 2x224 and 6x96 views, batch 128
(`--methods=swav,byol,multicrop`).

Each framework is a process of its own, so that neither loads the other's libraries (cuDNN), nor keeps threads or memory
busy; they take turns (A B A B), each with all cores. Medians of the turns after two calls of each; the first of these,
which compiles, stands apart. JAX takes GPU memory as it goes. For quiet turns let nothing else run.

    steps     the method's whole step from CIFAR-sized uint8 images: same network (parameters are counted), head,
              prototypes, batch, optimiser and views, on one device. `augmented`: ours draws views inside the jitted
              step, lightly's transforms run in torch's DataLoader, in the training process; `workers`: in so many
              others, once what they had ready is used up; `alone`: views are ready. On a GPU lightly's transforms
              run in workers only, where there are any; with 2x224 and 6x96 views with the first form only, since
              they take longer than any step
    kernels   Sinkhorn-Knopp, weighted kNN (lightly's) and k-means (scikit-learn, faiss: always on the CPU)
"""

import argparse
import datetime
import json
import math
import os
import statistics
import sys
from pathlib import Path

from peers.sides import open_sides, processor, work
from peers.table import FORMS, label, lines_of, read, write_table

ROOT = Path(__file__).resolve().parent.parent
PAGE, OUT = ROOT / "docs" / "performance.md", ROOT / "experiments" / "peers.jsonl"
METHODS = ("swav", "byol", "multicrop")


def cases(args, device) -> list[dict]:
    """What is measured, as the sides are asked for it."""
    gpu = device != "cpu"
    methods = args.methods or (METHODS if gpu else METHODS[:2])
    widths, batch = args.widths or ((64,) if gpu else (16, 64)), args.batch or (512 if gpu else 64)
    shared = dict(kind="step", dtype="bfloat16" if gpu else "float32", workers=args.workers)
    found = []
    for method in methods if not args.kernels else ():
        for width in widths if method != "multicrop" else (64,):
            size = min(batch, 128) if method == "multicrop" else batch  # both sides keep 17 GB of activations then
            found.append(dict(shared, method=method, width=width, batch=size))
    found += kernels(args.clusters, args.scale) if not args.steps else []
    return [dict(case, forms=args.forms) for case in found]


def kernels(clusters, scale=1.0) -> list[dict]:
    """Sinkhorn, kNN and k-means; `scale` shrinks rows and clusters, for tests."""
    rows = lambda count: max(round(scale * count), 8)
    knn = dict(kind="knn", rows=rows(50_000), queries=rows(1000), dim=128, k=rows(200), classes=10)
    codes = dict(kind="sinkhorn", prototypes=rows(3000))
    means = dict(kind="kmeans", rows=rows(60_000), dim=512, iterations=20)
    found = [dict(codes, rows=rows(size), dead=dead) for size, dead in ((256, False), (4096, False), (256, True))]
    return [*found, knn, *(dict(means, clusters=k) for k in clusters)]


def measure(case, where, turns, least) -> dict:
    """Name of each contender -> median milliseconds of a call and what else is known; or why it is missing.

    Args:
        case: one of `cases`.
        where: the process of each contender, see `prepared`.
        turns: of each contender, after those that warm it up.
        least: seconds that a turn takes at least, in as many calls as that needs.
    """
    found, calls = {}, {}

    def ask(what, name, count):
        say(f"{label(case)}: {name}")
        answer = where[name].ask(what, name=name, calls=count)
        if "error" in answer:
            print(f"left out: {label(case)}: {name}: {answer['error']}", flush=True)
            found[name] = {"skipped": answer["error"]}
            calls.pop(name, None)
        return answer.pop("seconds", None), answer

    for name in where:
        first, _ = ask("start", name, 1)
        again, _ = ask("time", name, 1) if first else (None, None)
        if again:
            found[name], calls[name] = {"first": round(first, 3)}, min(max(math.ceil(least / again), 1), 1000)
    taken = {name: [] for name in calls}
    for _ in range(turns):
        for name, count in list(calls.items()):
            seconds, more = ask("time", name, count)
            if seconds:
                taken[name].append(1e3 * seconds / count)
                found[name] |= more
    say("")
    taken = {name: taken[name] for name in calls}
    for name, times in taken.items():
        found[name] |= {"ms": median(times), "from": round(min(times), 3), "to": round(max(times), 3)}
    return found


def say(text):
    """What is being measured, on a terminal, in the place of what was said before."""
    if sys.stderr.isatty():
        print(f"\r{text}\033[K", end="", file=sys.stderr, flush=True)


def median(values):
    return round(statistics.median(values), 3)


def prepared(case, sides) -> dict:
    """Contender -> its side. Ours tells the others of the recipe, and parameters must be as many."""
    where = {}
    for side, worker in sides.items():
        if worker.process.poll() is not None:
            worker.begin()
        answer = worker.ask("prepare", case=case)
        if "error" in answer:
            print(f"left out: {case['kind']}: {side}: {answer['error']}", flush=True)
            continue
        facts = answer["facts"]
        if side == "ours":
            case |= facts
        elif facts and "parameters" in case:
            same_size(case, facts)
        where |= dict.fromkeys(answer["names"], worker)
    return where


def same_size(ours, theirs):
    """Raises SystemExit where the networks differ: backbones at all, or the whole by more than 0.1 %."""
    whole, backbone = ours["parameters"], ours["backbone"]
    if theirs["backbone"] != backbone or abs(theirs["parameters"] - whole) > 1e-3 * whole:
        they = f"{theirs['backbone']:,} of {theirs['parameters']:,}"
        sys.exit(f"error: the networks differ: backbone {backbone:,} of {whole:,} parameters, theirs {they}")


def run(args):
    """Measures all cases; each is a line of the results file as soon as it is done."""
    if not args.out.parent.is_dir():
        sys.exit(f"error: --out={args.out}: there is no folder {args.out.parent}")
    if args.torch_python and not Path(args.torch_python).is_file():
        sys.exit(f"error: --torch-python={args.torch_python}: there is no such file")
    sides = open_sides(args)
    told = sides["ours"].hello
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = told["name"] if told["device"] != "cpu" else processor()
    versions = {k: v for worker in sides.values() for k, v in worker.hello["versions"].items()}
    known = dict(date=str(datetime.date.today()), device=f"{name}, {cores} CPU cores", versions=versions)
    print(f"{known['device']}; {', '.join(f'{k} {v}' for k, v in versions.items())}", flush=True)
    for case in cases(args, told["device"]):
        where = prepared(case, sides)
        if "ours" not in where and not any(name.startswith("ours/") for name in where):
            continue  # said by then; the others have nothing to be compared with
        found = measure(case, where, args.repeats, args.seconds)
        kept = {k: v for k, v in case.items() if k != "recipe"}
        row = known | dict(label=label(case), repeats=args.repeats, case=kept, results=found)
        with args.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print("\n".join([row["label"], *lines_of(row)]), flush=True)
    for worker in sides.values():
        worker.close()


def parse(argv):
    """The arguments, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = lambda text: tuple(text.split(","))
    parser.add_argument("command", nargs="?", choices=("run", "table"), default="run")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto")
    parser.add_argument("--methods", type=names, help=", ".join(METHODS))
    numbers = lambda text: tuple(map(int, text.split(",")))
    parser.add_argument("--widths", type=numbers, help="of the ResNet-18")
    parser.add_argument("--clusters", type=numbers, default=(10, 100, 1000), help="of k-means")
    parser.add_argument("--forms", type=json.loads, default=FORMS, help="of PyTorch's side, as a JSON list")
    parser.add_argument("--batch", type=int, help="images a step: 64, on a GPU 512")
    parser.add_argument("--workers", type=int, help="processes of the second loader; as many as cores, none below 4")
    parser.add_argument("--repeats", type=int, default=5, help="turns")
    parser.add_argument("--seconds", type=float, default=1.0, help="a turn takes at least")
    parser.add_argument("--kernels", action="store_true", help="the kernels alone")
    parser.add_argument("--steps", action="store_true", help="the steps alone")
    parser.add_argument("--torch-python", default="", help="the interpreter that has torch and lightly")
    parser.add_argument("--out", type=Path, default=OUT, help="where a line a case is added; what `table` reads")
    parser.add_argument("--scale", type=float, default=1.0, help=argparse.SUPPRESS)  # tests: smaller kernels
    args = parser.parse_args(argv)
    for method in args.methods or ():
        if method not in METHODS:
            parser.error(f"--methods: {method!r} is not one of {', '.join(METHODS)}")
    if min(args.repeats, args.batch or 1, *(args.widths or (1,))) < 1:
        parser.error("--repeats, --batch and --widths are at least 1")
    if args.workers is None:
        args.workers = min(os.cpu_count(), 16) if os.cpu_count() >= 4 else 0
    return args


def main():
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
