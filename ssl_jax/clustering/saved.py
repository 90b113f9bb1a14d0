"""Clusters that last: a file from which any images get the same clusters as before."""

import dataclasses
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import ssl_jax
from ssl_jax.clustering.fingerprint import differences
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

FORMAT = 1
_MARK = "ssl_jax clusters"
_KINDS = ("own", "kmeans", "hdbscan")
_FACTS = {"feature", "weights", "size", "channels", "mean", "std", "range", "crop"}
_BROKEN = (
    *(OSError, ValueError, TypeError, KeyError, EOFError, AttributeError, MemoryError),
    *(NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error, RecursionError),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """Rows that stand for the dense regions that `hdbscan` found.

    Attributes:
        rows: [n, D] unit rows.
        labels: [n] int32 cluster of each row, -1 for outliers.
        radius: [n] the cosine distance within which images belong to a row's cluster.
    """

    rows: np.ndarray
    labels: np.ndarray
    radius: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class SavedClusters:
    """Clusters as `assign` writes them beside its table.

    Attributes:
        centroids: [K, D] unit rows.
        kind: "own", "kmeans" or "hdbscan".
        settings: how they were made, as JSON.
        encoder: the fingerprint of their encoder, see `fingerprint`.
        names: K names of the clusters, "" for one without; or none at all.
        sample: of `hdbscan`.
        version: of ssl_jax that wrote them.
    """

    centroids: np.ndarray
    kind: str
    settings: Mapping[str, Any]
    encoder: Mapping[str, Any]
    names: tuple[str, ...] = ()
    sample: Sample | None = None
    version: str = ssl_jax.__version__

    def write(self, path: Path) -> None:
        """Writes the file; not atomically.

        Raises:
            OSError: it cannot be written.
        """
        facts = dict(
            file=_MARK,
            format=FORMAT,
            version=self.version,
            kind=self.kind,
            settings=dict(self.settings),
            encoder=dict(self.encoder),
            names=list(self.names),
        )
        arrays: dict[str, Any] = dict(centroids=np.asarray(self.centroids, np.float32))
        if self.sample:
            arrays["rows"] = np.asarray(self.sample.rows, np.float32)
            arrays["labels"] = np.asarray(self.sample.labels, np.int32)
            arrays["radius"] = np.asarray(self.sample.radius, np.float32)
        text = json.dumps(facts).encode()  # ASCII: a name that is not UTF-8 is an escape
        with open(path, "wb") as file:
            np.savez(file, facts=np.frombuffer(text, np.uint8), **arrays)

    def check_encoder(self, here: Mapping[str, Any], source: str) -> None:
        """Checks that the clusters were made with this encoder.

        Args:
            here: its fingerprint.
            source: flag and file, for the message.

        Raises:
            SettingError: they were made with another; the message says what differs.
        """
        different = differences(self.encoder, here)
        if different:
            raise SettingError(
                f"{source}: these clusters are of another encoder (here: {different}); take the "
                "run, checkpoint and settings that made them, or make new clusters"
            )


def read(path: Path, source: str) -> SavedClusters:
    """Reads a file of clusters, without pickle.

    Args:
        path: the file.
        source: flag and file, for messages ("--use=clusters.npz").

    Raises:
        SettingError: no such file, or one that holds something else, is damaged, or was written by
            a newer version.
    """
    source = printable(source)
    if not path.is_file():
        reason = "is a folder" if path.is_dir() else "does not exist"
        raise SettingError(f"{source} {reason}; give the .npz that assign writes beside its table")
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files} if _is_marked(file) else {}
    except _BROKEN as error:
        raise SettingError(
            f"{source} is damaged, or no .npz file ({printable(error) or type(error).__name__}); "
            "make the clusters again"
        ) from error
    if not arrays:
        raise SettingError(
            f"{source} holds something else than clusters; give the .npz that assign writes beside "
            "its table"
        )
    try:
        facts = json.loads(arrays["facts"].tobytes())
        if facts["format"] > FORMAT:
            version = printable(facts["version"])
            raise SettingError(
                f"{source} was written by a newer version ({version}); update ssl_jax"
            )
        return _checked(facts, arrays)
    except _BROKEN as error:
        raise SettingError(
            f"{source} is damaged ({printable(error) or type(error).__name__}); make the clusters "
            "again"
        ) from error


def holds_clusters(path: Path) -> bool:
    """Whether a file looks like one of `SavedClusters.write`, which may be replaced."""
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            return _is_marked(file)
    except _BROKEN:
        return False


def _is_marked(file: Any) -> bool:
    """Whether an opened .npz has the mark of clusters."""
    if not isinstance(file, np.lib.npyio.NpzFile) or "facts" not in file.files:
        return False
    return json.dumps(_MARK).encode() in file["facts"].tobytes()


def _checked(facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> SavedClusters:
    """The clusters of a file.

    Raises:
        ValueError: arrays or facts that do not fit; other errors where something is missing.
    """
    centroids = arrays["centroids"]
    if centroids.dtype != np.float32 or centroids.ndim != 2 or len(centroids) < 2:
        raise ValueError("the centres are no table of numbers")
    if not np.isfinite(centroids).all():
        raise ValueError("a centre is not finite")
    names = tuple(map(str, facts["names"]))
    if len(names) not in (0, len(centroids)):
        raise ValueError(f"{len(names)} names of {len(centroids)} clusters")
    if facts["kind"] not in _KINDS or not set(facts["encoder"]) >= _FACTS:
        raise ValueError("facts are missing")
    return SavedClusters(
        centroids=centroids,
        kind=facts["kind"],
        settings=dict(facts["settings"]),
        encoder=dict(facts["encoder"]),
        names=names,
        sample=_sample(arrays, centroids) if facts["kind"] == "hdbscan" else None,
        version=str(facts["version"]),
    )


def _sample(arrays: Mapping[str, np.ndarray], centroids: np.ndarray) -> Sample:
    """The sample of `hdbscan` in a file; see `_checked`."""
    rows = arrays["rows"]
    labels = arrays["labels"]
    radius = arrays["radius"]
    if rows.dtype != np.float32 or rows.shape != (len(labels), centroids.shape[1]):
        raise ValueError("the sampled rows do not fit the centres")
    if labels.dtype != np.int32 or labels.ndim != 1 or not len(labels):
        raise ValueError("the labels of the sampled rows are no list of numbers")
    if labels.min() < -1 or labels.max() >= len(centroids):
        raise ValueError("a sampled row is of a cluster that does not exist")
    if radius.dtype != np.float32 or radius.shape != labels.shape:
        raise ValueError("the radii do not fit the sampled rows")
    if not (np.isfinite(rows).all() and np.isfinite(radius).all()):
        raise ValueError("a sampled row is not finite")
    return Sample(rows, labels, radius)
