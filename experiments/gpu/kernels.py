"""Kernels of a GPU in a profiler's trace: each with its time and count, and their time by kind.

python experiments/gpu/kernels.py TRACE_FOLDER [STEPS]
"""

import argparse
import gzip
import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

# Kind -> what its kernels' names contain; the first that fits counts. cuDNN and cuBLAS name theirs
# by what they do, XLA its fusions by the operation at their root.
KINDS = {
    "gradients of kernels": r"wgrad",
    "gradients of inputs": r"dgrad|deconv",
    "convolutions forward": r"fprop|implicit_?gemm|convolve",
    "float32 products without tensor cores": r"ffma|sgemm|gemv",
    "matrix products": r"gemm|nvjet|cutlass|dot",
    "windows (max pooling)": r"reduce_window",
    "scatter": r"scatter",
    "transposes": r"transpose|nchwToNhwc|nhwcToNchw",
    "reductions": r"reduc",
    "copies": r"^mem(cpy|set)",
    "collectives": r"nccl|all_?gather|all_?reduce",
    "elementwise": r"",
}


class Kernel(NamedTuple):
    """One kernel of a step, over all its calls."""

    name: str
    ms: float
    count: float


def read(folder: Path, steps: int) -> list[Kernel]:
    """Kernels in the newest trace under `folder`, the longest first, as means over `steps`.

    Empty where no GPU was traced.
    """
    files = sorted(folder.rglob("*.trace.json.gz"), key=lambda p: p.stat().st_mtime)
    if not files:
        sys.exit(
            f"error: no *.trace.json.gz under {folder}; bench_step.py --profile={folder} writes one"
        )
    events = json.loads(gzip.decompress(files[-1].read_bytes()))["traceEvents"]
    named = lambda kind: [event for event in events if event.get("name") == kind]
    processes = {e["pid"]: e["args"]["name"] for e in named("process_name")}
    threads = {(e["pid"], e["tid"]): e["args"]["name"] for e in named("thread_name")}
    found = {}
    for event in events:
        if event.get("ph") != "X" or "GPU" not in processes.get(event["pid"], ""):
            continue
        if "Stream" in threads.get(
            (event["pid"], event["tid"]), ""
        ):  # others repeat it by operation
            time, count = found.get(event["name"], (0.0, 0))
            found[event["name"]] = (time + event["dur"], count + 1)
    kernels = [Kernel(name, us / steps / 1e3, count / steps) for name, (us, count) in found.items()]
    return sorted(kernels, key=lambda kernel: -kernel.ms)


def kind_of(name: str) -> str:
    """The first of `KINDS` that fits a kernel's name."""
    return next(kind for kind, pattern in KINDS.items() if re.search(pattern, name, re.IGNORECASE))


def by_kind(kernels: list[Kernel]) -> dict[str, float]:
    """Milliseconds a step of each kind that occurs, the longest first."""
    found = {}
    for kernel in kernels:
        kind = kind_of(kernel.name)
        found[kind] = found.get(kind, 0.0) + kernel.ms
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def lines(kernels: list[Kernel]):
    """The sums, and a line for each kernel."""
    total = sum(kernel.ms for kernel in kernels)
    count = sum(kernel.count for kernel in kernels)
    yield f"{total:.3f} ms a step in {count:,.0f} kernels"
    for kind, ms in by_kind(kernels).items():
        yield f"{ms:9.3f} ms  {kind}"
    yield ""
    for kernel in kernels:
        yield f"{kernel.ms:9.4f} ms {kernel.count:6.1f}  {kernel.name[:200]}"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("steps", type=int, nargs="?", default=5, help="in the trace")
    args = parser.parse_args()
    kernels = read(args.folder, args.steps)
    if not kernels:
        sys.exit(f"error: the trace in {args.folder} has no kernels of a GPU")
    print("\n".join(lines(kernels)))


if __name__ == "__main__":
    main()
