"""CIFAR-10 and CIFAR-100 in folders small enough to copy, as lossless WebP mosaics.

    python experiments/gpu/mosaics.py DIR [PIECE ...]    # restores the binary files under DIR

Unpacking restores the packed files bit for bit. CIFAR-10's files take 180 MB; as mosaics of 10,000
images each they take 104 MB, in pieces of any size, which `prepare.py` makes. A piece holds some
mosaics with their labels and an index of all mosaics, so pieces may arrive one at a time: what is
missing is known.
"""

import argparse
import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PIECES = ".gpu-data-*"
INDEX = "index.json"
COLUMNS = 100  # images side by side; WebP takes at most 16,383 pixels
PIXELS = 3 * 32 * 32
# Data set -> folder of the binary files, label bytes per record, files.
LAYOUTS = {
    "cifar10": (
        "cifar-10-batches-bin",
        1,
        (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"),
    ),
    "cifar100": ("cifar-100-binary", 2, ("train.bin", "test.bin")),
}
ARCHIVES = {"cifar10": "cifar-10-binary.tar.gz", "cifar100": "cifar-100-binary.tar.gz"}


def read(data: Path, dataset: str) -> dict[str, np.ndarray]:
    """Records of each binary file, uint8 [n, label bytes + 3072].

    Args:
        data: the value of `data.dir`: the folder of the files, its parent, or a folder with the
            archive.
        dataset: "cifar10" or "cifar100".

    Raises:
        SystemExit: a file is missing or truncated.
    """
    inner, label_bytes, names = LAYOUTS[dataset]
    folder = data if (data / names[0]).is_file() else data / inner
    archive = data / ARCHIVES[dataset]
    if folder.is_dir():
        raw = {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}
    elif archive.is_file():
        with tarfile.open(archive) as tar:
            raw = {name: tar.extractfile(f"{inner}/{name}").read() for name in names}
    else:
        raw = {}
    missing = [name for name in names if name not in raw]
    if missing:
        sys.exit(f"error: --data={data}: no {missing[0]} there, nor in {inner}/ or {archive.name}")
    size = label_bytes + PIXELS
    for name, content in raw.items():
        if not content or len(content) % size:
            sys.exit(
                f"error: {name} in {data} is not whole records of {size} bytes; download it again"
            )
    return {
        name: np.frombuffer(content, np.uint8).reshape(-1, size) for name, content in raw.items()
    }


def pack(data: Path, dataset: str, root: Path, limit: float, images: int = 10_000) -> list[Path]:
    """Writes a data set as pieces `.gpu-data-1`, `.gpu-data-2` and so on under `root`.

    Args:
        data: as in `read`.
        dataset: as in `read`.
        root: where the pieces go; it must not contain any yet.
        limit: largest size of a piece in MiB.
        images: most images in a mosaic.

    Returns:
        The pieces.
    """
    inner, label_bytes, _ = LAYOUTS[dataset]
    parts = []
    pieces = []
    room = 0.0
    for name, records in read(data, dataset).items():
        for first in range(0, len(records), images):
            chunk = records[first : first + images]
            mosaic = _encode(chunk[:, label_bytes:])
            labels = chunk[:, :label_bytes].tobytes()
            size = (len(mosaic) + len(labels)) / 2**20
            if size > limit:
                sys.exit(
                    f"error: --limit={limit}: {len(chunk):,} images of {name} take {size:.1f} MiB"
                )
            if size > room:
                pieces.append(root / PIECES.replace("*", str(len(pieces) + 1)))
                pieces[-1].mkdir()
                room = limit
            room -= size
            path = pieces[-1] / f"{Path(name).stem}-{first}.webp"
            path.write_bytes(mosaic)
            path.with_suffix(".labels").write_bytes(labels)
            parts.append(
                dict(
                    file=name,
                    first=first,
                    count=len(chunk),
                    piece=pieces[-1].name,
                    mosaic=path.name,
                    sha256=_hash(chunk.tobytes()),
                )
            )
    for piece in pieces:
        index = dict(folder=inner, label_bytes=label_bytes, parts=parts)
        (piece / INDEX).write_text(json.dumps(index))
    return pieces


def unpack(pieces: list[Path], out: Path) -> list[str]:
    """Writes the contents of `pieces` under `out`, where ssl_jax reads them as `data.dir`.

    Keeps what earlier pieces have already written.

    Returns:
        The names of pieces that are still missing.
    """
    missing = []
    for piece in pieces:
        index = json.loads((piece / INDEX).read_text())
        folder = out / index["folder"]
        folder.mkdir(parents=True, exist_ok=True)
        for part in index["parts"]:
            path = folder / part["file"]
            offset = part["first"] * (index["label_bytes"] + PIXELS)
            length = part["count"] * (index["label_bytes"] + PIXELS)
            if _hash(_region(path, offset, length)) == part["sha256"]:
                continue
            source = next((p / part["mosaic"] for p in pieces if p.name == part["piece"]), None)
            if source is None:
                missing.append(part["piece"])
                continue
            content = _records(source, part["count"], index["label_bytes"])
            if _hash(content) != part["sha256"]:
                sys.exit(f"error: {source} is damaged; prepare and copy {part['piece']} again")
            with path.open("r+b" if path.exists() else "w+b") as file:
                file.seek(offset)
                file.write(content)
    return sorted(set(missing))


def _encode(pixels: np.ndarray) -> bytes:
    """A lossless WebP mosaic of channels-first images [n, 3072]; the last row is padded."""
    rows = -(-len(pixels) // COLUMNS)
    full = np.zeros((rows * COLUMNS, PIXELS), np.uint8)
    full[: len(pixels)] = pixels
    tiles = full.reshape(rows, COLUMNS, 3, 32, 32).transpose(0, 3, 1, 4, 2)
    packed = io.BytesIO()
    mosaic = Image.fromarray(np.ascontiguousarray(tiles.reshape(32 * rows, 32 * COLUMNS, 3)))
    mosaic.save(packed, "WEBP", lossless=True, quality=50, method=2, exact=True)
    return packed.getvalue()


def _records(path: Path, count: int, label_bytes: int) -> bytes:
    """The records of one mosaic and its labels, as bytes."""
    with Image.open(path) as opened:
        mosaic = np.asarray(opened.convert("RGB"))
    tiles = mosaic.reshape(-1, 32, COLUMNS, 32, 3).transpose(0, 2, 4, 1, 3)
    pixels = tiles.reshape(-1, PIXELS)[:count]
    labels = np.frombuffer(path.with_suffix(".labels").read_bytes(), np.uint8)
    return np.concatenate([labels.reshape(count, label_bytes), pixels], axis=1).tobytes()


def _region(path: Path, offset: int, length: int) -> bytes:
    """The bytes of a file at `offset`; none if there is no file."""
    if not path.exists():
        return b""
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="the files go into a subfolder")
    parser.add_argument("pieces", type=Path, nargs="*", help=f"default: {PIECES} in the project")
    args = parser.parse_args()
    pieces = args.pieces or sorted(ROOT.glob(PIECES))
    if not pieces:
        sys.exit(f"error: no {PIECES} in {ROOT}: make them with prepare.py --data=DIR")
    if missing := unpack(pieces, args.out):
        sys.exit(f"error: some images are in {', '.join(missing)}, not here yet")
    print(f"all images are in {args.out}")


if __name__ == "__main__":
    main()
