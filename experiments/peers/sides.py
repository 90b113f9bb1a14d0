"""The processes that take turns, and what they run."""

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SIDES = {
    "ours": "peers.ours",
    "torch": "peers.torch_schemas,peers.with_torch",
    "arrays": "peers.arrays",
}


class Worker:
    """One side in its process; see `peers/worker.py`."""

    def __init__(self, side: str, python: str, device: str) -> None:
        self.call = [python, ROOT / "experiments" / "bench_peers.py", "worker", SIDES[side]]
        self.device = device
        self.begin()

    def begin(self) -> None:
        """Starts the process, or restarts it after it died."""
        changes = dict(
            XLA_PYTHON_CLIENT_PREALLOCATE="false", TORCHINDUCTOR_FORCE_DISABLE_CACHES="1"
        )
        changes |= dict(PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.process = subprocess.Popen(self.call, env=os.environ | changes, **pipes)
        self.hello = self.ask("hello", device=self.device)

    def ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        """The answer, or {"error": ...}, also if the process has died."""
        try:
            self.process.stdin.write(json.dumps({"ask": what, **arguments}) + "\n")
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            return {"error": f"its process ended with exit code {self.process.wait()}"}

    def close(self) -> None:
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait()


def work(modules: str) -> None:
    """Runs the process of one side, which is the last of `modules`."""
    from peers import worker

    try:
        side = [importlib.import_module(module) for module in modules.split(",")][-1]
    except ImportError as error:
        missing = f"{error.name or error} is not installed"
        worker.serve(lambda device: {"error": missing}, None)
        return
    worker.serve(side.hello, side.prepare)


def open_sides(args: argparse.Namespace) -> dict[str, Worker]:
    """The sides that can take part, by name; reports those that cannot."""
    pythons = {"torch": args.torch_python or sys.executable}
    sides = {side: Worker(side, pythons.get(side, sys.executable), args.device) for side in SIDES}
    for side, worker in list(sides.items()):
        if "error" in worker.hello:
            print(f"skipped: {side}: {worker.hello['error']}", flush=True)
            sides.pop(side).close()
    if "ours" not in sides:
        sys.exit("error: ssl_jax itself cannot run; pip install -e . (or give --device=cpu)")
    for name in ("scikit-learn", "faiss"):
        if name not in sides.get("arrays", sides["ours"]).hello["versions"]:
            print(f"skipped: {name} is not installed", flush=True)
    device = sides["ours"].hello["device"]
    if "torch" in sides and sides["torch"].hello["device"] != device:
        other = sides["torch"].hello["device"]
        sys.exit(
            f"error: JAX would run on {device}, PyTorch on {other}; "
            "give --device=cpu, or install GPU support for both"
        )
    return sides


def processor() -> str:
    """The CPU's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.partition(":")[2].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
