"""Features of a data set as a file, written chunk by chunk: `.npz` or Parquet.

with np.load("features.npz") as file:
    features, names = file["features"], file["names"]  # [N, D], [N]
"""

import contextlib
import dataclasses
import json
import os
import re
import secrets
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ssl_jax.data.source import UNLABELLED, Dataset
from ssl_jax.inference.embed import chunks
from ssl_jax.inference.images import prepared
from ssl_jax.inference.pretrained import Encoder
from ssl_jax.interface import no_progress
from ssl_jax.ops.mesh import make_mesh
from ssl_jax.settings.paths import check_writable
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import encodable, printable

CHUNK = 512  # images in a pass
DTYPES = ("float32", "float16")
_ROW_GROUP = 2**24  # bytes of features in a Parquet file that are written together, about
_NAMES = 65_536  # names converted at once
_ARRAY_ROW = re.compile(r"(\w+)\[(\d+)\]")  # "train[17]"; all other names are files


class FeatureFile:
    """A file of features; it appears under its name only when it is complete.

    Args:
        path: ends in .npz or .parquet.
        overwrite: whether an existing file is replaced.
    """

    def __init__(self, path: Path, overwrite: bool = False):
        self.path = path
        self._overwrite = overwrite

    def check(self) -> None:
        """Checks that the file can be written.

        Raises:
            SettingError: it cannot, or it exists and may not be replaced.
        """
        path = self.path
        shown = printable(path)
        kinds = (".npz", ".parquet")
        if path.suffix.lower() not in kinds or not path.absolute().parent.is_dir():
            raise SettingError(
                f"--out={shown}: give a file that ends in .npz or .parquet, in a folder that exists"
            )
        if path.exists() and not (self._overwrite and path.is_file()):
            raise SettingError(
                f"--out={shown} already exists; --overwrite replaces a file, or give another name"
            )
        check_writable(path, "--out")

    def write(
        self,
        encoder: Encoder,
        dataset: Dataset,
        feature: str = "backbone",
        *,
        dtype: str = "float32",
        source: str = "",
        report: Callable[[str], Any] = no_progress,
    ) -> tuple[int, int]:
        """Writes the features of all images, training images first.

        Memory is bounded: only the features of a few thousand images exist at a time.

        Args:
            encoder: computes the features.
            dataset: the images, with their names and labels.
            feature: one of the encoder's `names`.
            dtype: one of `DTYPES`.
            source: what the encoder comes from, kept in the file.
            report: takes progress lines.

        Returns:
            N and D.

        Raises:
            SettingError: no such feature, no images, no room on the disk, a feature too large for
                float16, or a file that cannot be written.
        """
        self.check_feature(encoder, feature)
        rows = _Rows(dataset)
        dim = _dimension(encoder, feature)
        self._check_room(len(rows) * dim * np.dtype(dtype).itemsize)
        about = {"feature": feature, "encoder": encodable(source)}
        temporary = self.path.with_name(f".{self.path.name}-{secrets.token_hex(4)}-new")
        write = _write_npz if self.path.suffix.lower() == ".npz" else _write_parquet
        try:
            with jax.set_mesh(make_mesh()):
                blocks = _blocks(encoder, rows.splits, feature, dtype, report)
                write(temporary, blocks, rows, _Features(dim, np.dtype(dtype), about))
            self.check()  # again: the features take a while
            os.replace(temporary, self.path)
        except OSError as error:
            raise SettingError(
                f"--out={printable(self.path)} cannot be written ({error.strerror or error})"
            ) from error
        finally:
            with contextlib.suppress(OSError):  # must not hide the first error
                temporary.unlink()
        return len(rows), dim

    @staticmethod
    def check_feature(encoder: Encoder, feature: str) -> None:
        """Checks that the encoder has a feature.

        Raises:
            SettingError: it has not; lists those that it has.
        """
        if feature not in encoder.names:
            raise SettingError(
                f"--feature={printable(feature)}: the encoder has {', '.join(encoder.names)}"
            )

    def _check_room(self, size: int) -> None:
        free = shutil.disk_usage(self.path.absolute().parent).free
        if size > free:
            raise SettingError(
                f"--out={printable(self.path)}: the features take {size / 1e9:,.1f} GB, and "
                f"{free / 1e9:,.1f} GB are free; give another disk, or --dtype=float16"
            )


class _Rows:
    """What is known of each image of a data set, training images first.

    Attributes:
        splits: images of each split that is not empty.
        names: where each image comes from, as UTF-8 can encode it.
        parts: [N] "train" or "test".
        labels: [N] int32 class of each image, -1 where unknown.
        classes: class names; empty without labels.
    """

    def __init__(self, dataset: Dataset):
        splits = [dataset.train] if dataset.joined else [dataset.train, dataset.test]
        trained = len(dataset.train) - dataset.joined
        self.splits = [split.images for split in splits if len(split)]
        self.names = [encodable(name) for name in dataset.names()]
        self.labels = np.concatenate([np.asarray(split.labels, np.int32) for split in splits])
        self.parts = np.where(np.arange(len(self.labels)) < trained, "train", "test")
        self.classes = tuple(encodable(name) for name in dataset.classes)
        if not len(self.labels):
            raise SettingError("there are no images")

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True)
class _Features:
    """The form of the features in a file.

    Attributes:
        dim: D of the features [N, D].
        dtype: of their numbers.
        about: the feature's name and the encoder, by the names that the file has for them.
    """

    dim: int
    dtype: np.dtype
    about: dict[str, str]


def _dimension(encoder: Encoder, feature: str) -> int:
    """D of a feature."""
    image = jax.ShapeDtypeStruct((1, encoder.size, encoder.size, encoder.channels), np.float32)

    def compute(state: Any, images: Any) -> Any:
        return encoder.method.features(state, images, (feature,))[feature]

    return jax.eval_shape(compute, encoder.state, image).shape[-1]


def _blocks(
    encoder: Encoder,
    splits: Sequence[Any],
    feature: str,
    dtype: str,
    report: Callable[[str], Any],
) -> Iterator[np.ndarray]:
    """Yields the features [n, D] of some images after the other, as little-endian `dtype`.

    Raises:
        SettingError: a value that float16 cannot hold.
    """
    total = sum(map(len, splits))
    done = 0
    for images in splits:
        images = prepared(images, encoder.channels, encoder.range)
        left = len(images)
        passes = chunks(
            encoder.method,
            encoder.state,
            images,
            (feature,),
            **encoder.view,
            chunk=CHUNK,
        )
        for part in passes:
            block = np.asarray(part[feature])[:left]
            if dtype == "float16" and np.abs(block).max() > np.finfo(np.float16).max:
                raise SettingError(
                    f"--dtype=float16: the {feature} has values up to {np.abs(block).max():.3g}, "
                    "which float16 cannot hold; leave it out"
                )
            yield np.ascontiguousarray(block, np.dtype(dtype).newbyteorder("<"))
            left -= len(block)
            done += len(block)
            report(f"features of {done:,} of {total:,} images")


def _write_npz(path: Path, blocks: Iterator[np.ndarray], rows: _Rows, features: _Features) -> None:
    """An uncompressed archive, each array a member that is written piece by piece."""
    shape = (len(rows), features.dim)
    dtype = features.dtype.newbyteorder("<")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        _write_array(archive, "features", shape, dtype, blocks)
        width = max(1, *map(len, rows.names))
        text = np.dtype(f"<U{width}")
        pieces = (
            np.array(rows.names[start : start + _NAMES], text)
            for start in range(0, len(rows), _NAMES)
        )
        _write_array(archive, "names", (len(rows),), text, pieces)
        others = {"splits": rows.parts}
        if rows.classes:
            others |= {"labels": rows.labels, "classes": np.array(rows.classes)}
        others |= {name: np.array(value) for name, value in features.about.items()}
        for name, x in others.items():
            _write_array(archive, name, x.shape, x.dtype, [np.ascontiguousarray(x)])


def _write_array(
    archive: zipfile.ZipFile,
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype,
    pieces: Iterator[np.ndarray] | Sequence[np.ndarray],
) -> None:
    """A member NAME.npy of an archive, as `np.save` would write it."""
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": shape,
    }
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, header)
        for piece in pieces:
            member.write(piece.tobytes())


def _write_parquet(
    path: Path, blocks: Iterator[np.ndarray], rows: _Rows, features: _Features
) -> None:
    """A table with a row for each image: file (or split and row), split, label, features."""
    import pyarrow
    from pyarrow import parquet

    number = pyarrow.float16() if features.dtype == np.float16 else pyarrow.float32()
    columns = _columns(rows)
    schema = pyarrow.schema(
        [
            *((name, pyarrow.array(column[:1]).type) for name, column in columns.items()),
            *([("label", pyarrow.string())] if rows.classes else []),
            ("features", pyarrow.list_(number, features.dim)),
        ],
        metadata={"ssl_jax": json.dumps(features.about)},
    )
    start = 0
    with parquet.ParquetWriter(path, schema) as writer:
        for block in _grouped(blocks):
            stop = start + len(block)
            arrays = [pyarrow.array(column[start:stop]) for column in columns.values()]
            if rows.classes:
                arrays.append(pyarrow.array(_label_names(rows, start, stop), pyarrow.string()))
            values = pyarrow.array(block.reshape(-1), number)
            arrays.append(pyarrow.FixedSizeListArray.from_arrays(values, features.dim))
            writer.write_table(pyarrow.table(arrays, schema=schema))
            start = stop


def _columns(rows: _Rows) -> dict[str, Any]:
    """The columns that name an image: split and row of arrays, else file and split."""
    matches = [_ARRAY_ROW.fullmatch(name) for name in rows.names]
    if all(matches):
        return {
            "split": [match[1] for match in matches if match],
            "row": [int(match[2]) for match in matches if match],
        }
    return {"file": rows.names, "split": rows.parts.tolist()}


def _label_names(rows: _Rows, start: int, stop: int) -> list[str | None]:
    """The class of each image from `start` to `stop`; None where unknown."""
    labels = rows.labels[start:stop]
    return [None if label == UNLABELLED else rows.classes[label] for label in labels]


def _grouped(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """The blocks, joined to about `_ROW_GROUP` bytes."""
    waiting = []
    for block in blocks:
        waiting.append(block)
        if sum(block.nbytes for block in waiting) >= _ROW_GROUP:
            yield np.concatenate(waiting)
            waiting = []
    if waiting:
        yield np.concatenate(waiting)
