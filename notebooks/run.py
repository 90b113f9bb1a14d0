"""Runs the notebooks, each from a clean kernel and in a folder of its own, or strips their outputs.

    python notebooks/run.py [NAME ...] [--out=DIR] [--minutes=10]
    python notebooks/run.py --strip [NAME ...]

With SSL_JAX_SMALL=1 they train for a few epochs only, as CI does. What a notebook writes to standard error, a warning
say, fails it as an exception does. Nothing in the repository changes, unless it is to be stripped; --out=DIR takes the
notebooks with their outputs. Needs `pip install -e '.[notebook]'`; to strip needs nothing.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def execute(path, minutes: float, out=None) -> str:
    """Runs one notebook; returns what is wrong with it, or an empty string."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # on a busy machine XLA complains of its own compiling
    if os.environ.get("SSL_JAX_SMALL") == "1":  # most of so short a run is compiling
        fewer = " --xla_cpu_use_fusion_emitters=false" if version("jax").startswith("0.10.") else ""  # gone since
        os.environ.setdefault("XLA_FLAGS", f"--xla_backend_optimization_level=1{fewer}")
    notebook, end = nbformat.read(path, 4), time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout_func=lambda cell: max(end - time.monotonic(), 0.1),
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
            extra_arguments=["--log-level=ERROR"],  # of the kernel itself
        )
        try:
            client.execute()
            wrong = "".join(complaints(notebook))
        except CellTimeoutError:
            wrong = f"not done after {minutes:g} minutes"
        except (CellExecutionError, DeadKernelError) as error:
            wrong = str(error)
    if out:
        Path(out).mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, Path(out) / path.name)
    return wrong


def complaints(notebook):
    """What cells wrote to standard error."""
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            if output.get("name") == "stderr":
                yield output["text"]


def strip(path):
    """Takes outputs, counts and what editors leave behind out of a notebook; tags of cells stay."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    notebook["metadata"] = METADATA
    for cell in notebook["cells"]:
        cell["metadata"] = {k: v for k, v in cell["metadata"].items() if k == "tags"}
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = sorted(p.stem for p in HERE.glob("*.ipynb"))
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all, or of: {', '.join(known)}")
    parser.add_argument("--out", metavar="DIR", help="where the notebooks go with their outputs")
    parser.add_argument("--minutes", type=float, default=10.0, help="for each notebook, at most")
    parser.add_argument("--strip", action="store_true", help="strip outputs in place; nothing is run")
    args = parser.parse_args()
    if unknown := [name for name in args.names if name not in known]:
        parser.error(f"there is no notebook {unknown[0]!r}; choose of: {', '.join(known)}")
    failed = False
    for path in (HERE / f"{name}.ipynb" for name in args.names or known):
        if args.strip:
            strip(path)
            continue
        began = time.monotonic()
        wrong = execute(path, args.minutes, args.out)
        print(f"{path.stem}: {wrong or 'ok'} ({time.monotonic() - began:.0f} s)", flush=True)
        failed |= bool(wrong)
    sys.exit(failed)


if __name__ == "__main__":
    main()
