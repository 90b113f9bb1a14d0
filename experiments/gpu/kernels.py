"""The GPU kernels of a profiler's trace: time and count of each, and time by kind.

python experiments/gpu/kernels.py TRACE_FOLDER [STEPS]
"""

import argparse
import gzip
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# Kind -> pattern of its kernels' names; the first match counts. cuDNN and cuBLAS name kernels by
# their function, XLA names fusions by their root operation.
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

    Empty if no GPU was traced.

    Raises:
        SystemExit: there is no trace.
    """
    files = sorted(folder.rglob("*.trace.json.gz"), key=lambda p: p.stat().st_mtime)
    if not files:
        sys.exit(
            f"error: no *.trace.json.gz under {folder}; bench_step.py --profile={folder} writes one"
        )
    events = json.loads(gzip.decompress(files[-1].read_bytes()))["traceEvents"]
    processes = {}
    threads = {}
    for event in events:
        if event.get("name") == "process_name":
            processes[event["pid"]] = event["args"]["name"]
        if event.get("name") == "thread_name":
            threads[event["pid"], event["tid"]] = event["args"]["name"]
    totals = {}
    for event in events:
        if event.get("ph") != "X" or "GPU" not in processes.get(event["pid"], ""):
            continue
        # Only streams: other threads list the same time again, by operation.
        if "Stream" in threads.get((event["pid"], event["tid"]), ""):
            time, count = totals.get(event["name"], (0.0, 0))
            totals[event["name"]] = (time + event["dur"], count + 1)
    kernels = [
        Kernel(name, us / steps / 1e3, count / steps) for name, (us, count) in totals.items()
    ]
    return sorted(kernels, key=lambda kernel: -kernel.ms)


def kind_of(name: str) -> str:
    """The first of `KINDS` that matches a kernel's name."""
    return next(kind for kind, pattern in KINDS.items() if re.search(pattern, name, re.IGNORECASE))


def by_kind(kernels: list[Kernel]) -> dict[str, float]:
    """Milliseconds per step of each kind that occurs, the longest first."""
    times = {}
    for kernel in kernels:
        kind = kind_of(kernel.name)
        times[kind] = times.get(kind, 0.0) + kernel.ms
    return dict(sorted(times.items(), key=lambda item: -item[1]))


def lines(kernels: list[Kernel]) -> Iterator[str]:
    """The totals, then a line for each kernel."""
    total = sum(kernel.ms for kernel in kernels)
    count = sum(kernel.count for kernel in kernels)
    yield f"{total:.3f} ms a step in {count:,.0f} kernels"
    for kind, ms in by_kind(kernels).items():
        yield f"{ms:9.3f} ms  {kind}"
    yield ""
    for kernel in kernels:
        yield f"{kernel.ms:9.4f} ms {kernel.count:6.1f}  {kernel.name[:200]}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "steps", type=int, nargs="?", default=5, help="number of steps in the trace"
    )
    args = parser.parse_args()
    kernels = read(args.folder, args.steps)
    if not kernels:
        sys.exit(f"error: the trace in {args.folder} has no GPU kernels")
    print("\n".join(lines(kernels)))


if __name__ == "__main__":
    main()
