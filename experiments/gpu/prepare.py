"""Fills the folders to copy to a machine without network; README.md here has the next steps.

    python experiments/gpu/prepare.py [--data=DIR] [--dataset=cifar10] [--limit=50]
                                      [--python=3.12] [--wheels=clu,pooch] [--no-check]

`.gpu-setup` gets the wheels and the commit; `.gpu-data-1` and so on get the images. Finally the
benchmark runs once at a tiny size on this machine, so that mistakes show up before copying.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import machine
import mosaics
import reproduce

HERE = Path(__file__).resolve().parent
# Small packages that container images with JAX and PyTorch often lack.
WHEELS = (
    "clu,ml-collections,tensorboardx,pooch,importlib-resources,zipp,threadpoolctl,platformdirs,"
    "toml,dm-tree,orbax-checkpoint,pytest,pluggy,iniconfig"
)
PLATFORMS = ("manylinux_2_28", "manylinux_2_24", "manylinux_2_17", "manylinux2014")


def pinned(names: list[str], lock: Path) -> list[str]:
    """Packages as requirements, at the lock file's versions where it has them."""
    versions = dict(re.findall(r"^([\w.-]+)==([\w.]+)", lock.read_text(), re.MULTILINE))
    return [f"{name}=={versions[name]}" if name in versions else name for name in names]


def download(requirements: list[str], folder: Path, python: str, processor: str) -> None:
    """Downloads wheels, without their dependencies, for another machine's Python."""
    kind = ["--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    for platform in PLATFORMS:
        kind += ["--platform", f"{platform}_{processor}"]
    call = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *kind]
    call += ["-d", str(folder), *requirements]
    process = subprocess.run(call, capture_output=True, text=True)
    if process.returncode:
        lines = (process.stderr + process.stdout).strip().splitlines() or ["pip failed"]
        reason = next((line for line in lines if "ERROR" in line), lines[-1])
        sys.exit(f"error: --wheels: {reason}")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--data",
        type=Path,
        help="folder with CIFAR's binary files, as for data.dir; default: no images",
    )
    add("--dataset", choices=tuple(mosaics.LAYOUTS), default="cifar10")
    add("--limit", type=float, default=50.0, help="largest size of an image folder, in MiB")
    add(
        "--wheels",
        default=WHEELS,
        help="packages that the machine lacks, comma-separated; may be empty",
    )
    add("--python", default="3.12", help="that machine's Python version")
    add("--processor", default="x86_64", help="x86_64 or aarch64")
    add("--no-check", dest="check", action="store_false", help="skip the tiny benchmark")
    add("--root", type=Path, default=machine.ROOT, help="where to put the folders")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    setup = args.root / machine.SETUP.name
    for old in (setup, *args.root.glob(mosaics.PIECES)):
        shutil.rmtree(old, ignore_errors=True)
    setup.mkdir()
    (setup / "commit").write_text(reproduce.current_commit() + "\n")
    if names := [name for name in args.wheels.split(",") if name]:
        wheels = pinned(names, machine.ROOT / "requirements.lock")
        download(wheels, setup, args.python, args.processor)
    pieces = mosaics.pack(args.data, args.dataset, args.root, args.limit) if args.data else []
    for folder in (setup, *pieces):
        size = sum(p.stat().st_size for p in folder.iterdir()) / 2**20
        print(f"{folder.name}: {len(list(folder.iterdir()))} files, {size:.1f} MiB")
    if args.check:
        with tempfile.TemporaryDirectory() as out:
            flags = [f"--out={out}", f"--cases={HERE / 'tiny.json'}"]
            if subprocess.run([sys.executable, HERE / "bench.py", *flags]).returncode:
                sys.exit("error: the tiny benchmark failed; see above")


if __name__ == "__main__":
    main()
