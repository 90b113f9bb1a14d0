"""Clusters as a Parquet table with thumbnails and places, for embedding-atlas and other tools."""

import io
import json
import secrets
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ssl_jax.clustering.output import ClusterReport
from ssl_jax.clustering.placement import ClusterAssignment
from ssl_jax.clustering.plane import places
from ssl_jax.data.channels import shown
from ssl_jax.settings.paths import check_writable
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import counted, encodable, printable

SIDE = 64  # pixels of a thumbnail's longer side, at most
_BLOCK = 500  # rows written at once
_QUALITY = 85  # of JPEG
_SHARP = 48  # thumbnails up to this many pixels a side are PNG: JPEG would blur them


def check(path: Path, overwrite: bool) -> None:
    """Checks that the table can be written.

    Raises:
        SettingError: it cannot, or it exists and may not be replaced.
    """
    if path.suffix.lower() != ".parquet" or not path.absolute().parent.is_dir():
        raise SettingError(
            f"--parquet={path}: give a file that ends in .parquet, in a folder that exists"
        )
    if path.is_dir() or (path.exists() and not overwrite):
        raise SettingError(
            f"--parquet={path} already exists; --overwrite replaces a file, or give another name"
        )
    check_writable(path, "--parquet")


def write(report: ClusterReport, path: Path) -> list[str]:
    """Writes the table, whole or not at all, and returns sentences on it and how to open it.

    A row per image, in the order of `Dataset.names`: `file`; `cluster` and `cluster_name`, as
    numbers are shown as a scale; `similarity`, `margin`, `rank`; `label` where there are classes,
    or `class`, `label` and `confidence` where labels were spread; `image`, a struct of bytes and
    path as Hugging Face's `Image`; `x` and `y`.

    Args:
        report: of the images, with their features.
        path: the file.

    Raises:
        SettingError: it cannot be written.
    """
    import pyarrow.parquet as pq

    plane = places(report.extras.features)
    made = path.with_name(f".{path.name}-{secrets.token_hex(4)}-new")
    schema = _schema(report)
    try:
        with pq.ParquetWriter(made, schema) as writer:
            for table in _tables(report, plane, schema):
                writer.write_table(table)
        made.replace(path)
    except OSError as error:
        raise SettingError(
            f"--parquet={path} cannot be written ({error.strerror or error})"
        ) from error
    finally:
        made.unlink(missing_ok=True)
    written = f"wrote {path}: {counted(len(report.names), 'image')} with thumbnails and places"
    return [printable(written), f"to look at it (pip install embedding-atlas): {command(path)}"]


def command(path: Path) -> str:
    """The command line that opens the table."""
    name = printable(shlex.quote(str(path)))
    if name.startswith("-"):
        name = f"./{name}"
    return f"embedding-atlas {name} --x x --y y --image image --text file"


def _schema(report: ClusterReport) -> Any:
    """The columns; `image` is declared as Hugging Face's datasets do."""
    import pyarrow as pa

    columns = [
        ("file", pa.string()),
        ("cluster", pa.int32()),
        ("cluster_name", pa.string()),
        ("similarity", pa.float32()),
        ("margin", pa.float32()),
        ("rank", pa.int32()),
    ]
    if report.labelled:
        columns.append(("class" if report.extras.spread else "label", pa.string()))
    if report.extras.spread:
        columns += [("label", pa.string()), ("confidence", pa.float32())]
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns += [("image", image), ("x", pa.float32()), ("y", pa.float32())]
    kinds = {pa.string(): "string", pa.int32(): "int32", pa.float32(): "float32"}
    features = {
        name: {"_type": "Image"} if kind == image else {"dtype": kinds[kind], "_type": "Value"}
        for name, kind in columns
    }
    notes = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema(columns, metadata=notes)


def _tables(report: ClusterReport, plane: np.ndarray, schema: Any) -> Iterator[Any]:
    """The rows in blocks, so that few thumbnails are in memory."""
    import pyarrow as pa

    found = report.assignment
    digits = len(str(max(len(found.sizes) - 1, 1)))
    for start in range(0, len(report.names), _BLOCK):
        rows = range(start, min(start + _BLOCK, len(report.names)))
        names = [encodable(report.names[i]) for i in rows]
        thumbnails = [thumbnail(report.picture(i)) for i in rows]
        columns = {
            "file": names,
            "cluster": found.labels[start : rows.stop],
            "cluster_name": [_cluster_name(found, found.labels[i], digits) for i in rows],
            "similarity": found.similarity[start : rows.stop],
            "margin": found.margin[start : rows.stop],
            "rank": found.ranks[start : rows.stop],
            "image": [{"bytes": raw, "path": name} for raw, name in zip(thumbnails, names)],
            "x": plane[start : rows.stop, 0],
            "y": plane[start : rows.stop, 1],
        }
        spread = report.extras.spread
        if report.labelled:
            name = "class" if spread else "label"
            columns[name] = [encodable(report.label(i)) or None for i in rows]
        if spread:
            columns["label"] = [encodable(spread.classes[spread.labels[i]]) for i in rows]
            columns["confidence"] = spread.confidence[start : rows.stop]
        arrays = [pa.array(columns[field.name], field.type) for field in schema]
        yield pa.Table.from_arrays(arrays, schema=schema)


def _cluster_name(found: ClusterAssignment, cluster: int, digits: int) -> str:
    """What a cluster is called: its number, and its name if it has one."""
    if cluster < 0:
        return "outlier"
    name = found.names[cluster] if found.names else ""
    return encodable(f"cluster {cluster:0{digits}} {name}".rstrip())


def thumbnail(picture: np.ndarray) -> bytes:
    """An image [H, W, C] in its proportions, its longer side at most `SIDE` pixels, encoded."""
    image = Image.fromarray(np.ascontiguousarray(shown(picture)))
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    if max(picture.shape[:2]) <= _SHARP:
        image.save(file, "PNG")
    else:
        image.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
