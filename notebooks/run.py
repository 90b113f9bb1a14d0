"""Runs the notebooks, each in a clean kernel and its own folder, or strips their outputs.

    python notebooks/run.py [NAME ...] [--out=DIR] [--minutes=10]
    python notebooks/run.py --strip [NAME ...]

With SSL_JAX_SMALL=1 they train for only a few epochs, as in CI. Output on standard error, such as a
warning, fails a notebook, as an exception does. The repository is not changed, except by --strip;
--out=DIR saves the notebooks with their outputs. Running needs `pip install -e '.[notebook]'`;
stripping needs nothing.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def execute(path: Path, minutes: float, out: str | None = None) -> str:
    """Runs one notebook; returns what is wrong with it, or an empty string."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    # On a busy machine XLA warns that compiling is slow.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if os.environ.get("SSL_JAX_SMALL") == "1":  # compiling dominates such a short run
        xla_flags = "--xla_backend_optimization_level=1"
        if version("jax").startswith("0.10."):  # later versions lack this flag
            xla_flags += " --xla_cpu_use_fusion_emitters=false"
        os.environ.setdefault("XLA_FLAGS", xla_flags)
    notebook = nbformat.read(path, 4)
    end = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout_func=lambda cell: max(end - time.monotonic(), 0.1),
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
            extra_arguments=["--log-level=ERROR"],  # for the kernel itself
        )
        try:
            client.execute()
            problem = "".join(complaints(notebook))
        except CellTimeoutError:
            problem = f"not done after {minutes:g} minutes"
        except (CellExecutionError, DeadKernelError) as error:
            problem = str(error)
    if out:
        Path(out).mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, Path(out) / path.name)
    return problem


def complaints(notebook: dict[str, Any]) -> Iterator[str]:
    """What cells wrote to standard error."""
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            if output.get("name") == "stderr":
                yield output["text"]


def strip(path: Path) -> None:
    """Removes outputs, execution counts and editors' metadata from a notebook; cell tags stay."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    notebook["metadata"] = METADATA
    for cell in notebook["cells"]:
        cell["metadata"] = {k: v for k, v in cell["metadata"].items() if k == "tags"}
        if cell["cell_type"] == "code":
            cell["outputs"] = []
            cell["execution_count"] = None
    text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    notebooks = sorted(path.stem for path in HERE.glob("*.ipynb"))
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(notebooks)}"
    )
    parser.add_argument("--out", metavar="DIR", help="save the notebooks with their outputs here")
    parser.add_argument("--minutes", type=float, default=10.0, help="time limit of each notebook")
    parser.add_argument(
        "--strip", action="store_true", help="strip outputs in place, without running"
    )
    args = parser.parse_args()
    if unknown := [name for name in args.names if name not in notebooks]:
        parser.error(f"no notebook {unknown[0]!r}; choose from: {', '.join(notebooks)}")
    failed = False
    for path in (HERE / f"{name}.ipynb" for name in args.names or notebooks):
        if args.strip:
            strip(path)
            continue
        began = time.monotonic()
        problem = execute(path, args.minutes, args.out)
        print(f"{path.stem}: {problem or 'ok'} ({time.monotonic() - began:.0f} s)", flush=True)
        failed |= bool(problem)
    sys.exit(failed)


if __name__ == "__main__":
    main()
