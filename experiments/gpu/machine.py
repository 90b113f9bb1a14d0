"""Shared by the scripts in this folder: paths, and the packages and images copied to this machine.

    .gpu-setup      wheels that this machine lacks, and the commit: made by prepare.py
    .gpu-data-1...  images as mosaics: made by prepare.py
    .gpu-work       what the scripts make here: packages, images, compiled programs, runs

All are in the project's root, and ignored by git. All are optional: a machine that has the project
installed and the data needs none of them.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SETUP = ROOT / ".gpu-setup"
WORK = ROOT / ".gpu-work"

# Importing this module makes ssl_jax and the scripts of experiments/ importable.
sys.path[:0] = [str(ROOT), str(ROOT / "experiments")]


def make_ready() -> None:
    """Makes the packages of `.gpu-setup` importable, here and in processes started from here.

    Also sets JAX to keep compiled programs in `.gpu-work` and to allocate GPU memory on demand.
    Must be called before JAX is imported.
    """
    if site := _install(sorted(SETUP.glob("*.whl"))):
        sys.path.insert(0, str(site))
    paths = [site, ROOT, os.environ.get("PYTHONPATH")]
    os.environ["PYTHONPATH"] = os.pathsep.join(str(path) for path in paths if path)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(WORK / "xla"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def _install(wheels: list[Path]) -> Path | None:
    """A folder with the contents of `wheels`, made once; None without wheels."""
    if not wheels:
        return None
    name = hashlib.sha256(" ".join(w.name for w in wheels).encode()).hexdigest()[:8]
    site = WORK / f"site-{name}"
    if site.is_dir():
        return site
    partial = site.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    options = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir"]
    call = [sys.executable, "-m", "pip", "install", *options, "--target", str(partial)]
    done = subprocess.run([*call, *map(str, wheels)], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["pip failed"])[0]
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        sys.exit(f"error: {SETUP.name}: {reason}; was it prepared with --python={python}?")
    partial.rename(site)
    return site


def images() -> str:
    """The folder to use as `data.dir` for the images copied here, or "" if there are none."""
    import mosaics  # needs numpy and Pillow, which may be among the wheels

    pieces = sorted(ROOT.glob(mosaics.PIECES))
    folder = WORK / "data"
    if missing := mosaics.unpack(pieces, folder):
        sys.exit(f"error: some images are in {', '.join(missing)}: copy that here too")
    return str(folder) if folder.is_dir() else ""


def commit() -> str:
    """The commit recorded by prepare.py, or else that of the checkout."""
    import reproduce

    prepared = SETUP / "commit"
    return prepared.read_text().strip() if prepared.exists() else reproduce.current_commit()
