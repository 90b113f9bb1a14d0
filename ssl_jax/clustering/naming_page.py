"""The page on which clusters get names: what `assign` leaves as index.html beside the sheets.

The folder needs no server and no network. index.html holds style, script (page/ in this folder),
and what is known of each cluster. Three kinds of files are loaded beside it, as classic scripts and
pictures, which browsers allow for files on disk:

- thumbs_NN.jpg or .png: the thumbnails of a cluster, when the cluster is opened;
- rows.js: where each picture comes from and its cluster, in the order of the table, after the page
  is shown: for captions, and for labels.csv, which has every picture, not only those shown;
- names.js: the names in the table, those of `assign --names` or of the clusters of `--use`.

Nothing that comes from a disk or a data set is written as HTML: it is JSON, and the script shows it
as text.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl_jax.clustering import thumbnails
from ssl_jax.clustering.placement import OUTLIER, ClusterAssignment
from ssl_jax.settings.text import encodable

NEAR = 4  # near clusters shown beside a cluster
FILES = r"index\.html|rows\.js|names\.js|thumbs_\d+\.(?:jpg|png)"  # a pattern of their names
_TEMPLATE = Path(__file__).parent / "page"
_BLOCK = 256  # centres compared at once
_ESCAPES = {character: f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def write(
    folder: Path,
    assignment: ClusterAssignment,
    *,
    title: str,
    columns: Mapping[str, Sequence[Any]],
    order: Sequence[int],
    clusters: Sequence[int],
    pictures: Callable[[np.ndarray], Sequence[Any]],
    mostly: Callable[[int], str],
) -> None:
    """Writes the page and its files into a folder.

    Args:
        folder: exists.
        assignment: of N pictures.
        title: name of the table.
        columns: where pictures come from, N cells each: "file", or "split" and "row", as in the
            table, and in its order.
        order: [N] the picture of each row of the table.
        clusters: those that are not empty, largest first.
        pictures: the pictures of an array of rows of `assignment`.
        mostly: a note on a cluster, such as its most frequent class, or "".

    Raises:
        OSError: the files cannot be written.
    """
    place = np.empty(len(order), np.int64)  # row of the table of each picture
    place[np.asarray(order)] = np.arange(len(order))
    labels = assignment.labels[np.asarray(order)].tolist()
    rows = encoded(dict(columns=columns, clusters=labels))
    most = thumbnails.most_per_cluster(len(clusters))
    near = _near(assignment.centroids, clusters)
    groups = [(int(c), assignment.members(c)) for c in clusters]
    if assignment.outliers:
        groups.append((OUTLIER, assignment.members(OUTLIER)))
    described = []
    for i, (cluster, members) in enumerate(groups):
        entry: dict[str, Any] = dict(id=cluster, size=len(members))
        if cluster >= 0:
            entry |= dict(mostly=mostly(cluster), near=near.get(cluster, []))
        if i < thumbnails.CLUSTERS or cluster < 0:
            shown = thumbnails.chosen(assignment, members, most)
            path, sizes = thumbnails.write_sprite(pictures(shown.rows), folder / f"thumbs_{i}")
            entry |= dict(
                sprite=path.name,
                counts=[len(shown.typical), len(shown.borderline), len(shown.far)],
                rows=place[shown.rows].tolist(),
                similarity=_rounded(assignment.similarity[shown.rows]),
                margin=_rounded(assignment.margin[shown.rows]),
                sizes=sizes,
            )
        described.append(entry)
    data = dict(
        title=title,
        key=hashlib.sha256(rows.encode()).hexdigest()[:16],
        pictures=len(order),
        width=len(str(max(len(assignment.centroids) - 1, 1))),
        side=thumbnails.SIDE,
        columns=thumbnails.COLUMNS,
        most=most,
        clusters=described,
    )
    (folder / "rows.js").write_text(f"pageRows({rows});\n", "utf-8")
    names = {cluster: encodable(name) for cluster, name in enumerate(assignment.names) if name}
    write_names(folder, {cluster: names[cluster] for cluster in clusters if cluster in names}, [])
    (folder / "index.html").write_text(_filled(data), "utf-8")


def write_names(folder: Path, names: Mapping[int, str], outliers: Sequence[int]) -> None:
    """Writes names.js: names of clusters, and the rows of the table that are outliers.

    The script tells by `token` whether a browser knows these names already.
    """
    ordered = {str(cluster): names[cluster] for cluster in sorted(names)}
    text = encoded(dict(names=ordered, outliers=outliers))
    token = hashlib.sha256(text.encode()).hexdigest()[:16] if names or outliers else ""
    (folder / "names.js").write_text(f'pageNames({text}, "{token}");\n', "utf-8")


def encoded(value: Any) -> str:
    """JSON that may stand in a script of an HTML page: no character of it ends the script."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character, escape in _ESCAPES.items():
        text = text.replace(character, escape)
    return text


def _filled(data: Mapping[str, Any]) -> str:
    """index.html with its style, script and data."""
    contents = {
        "STYLE": (_TEMPLATE / "page.css").read_text("utf-8"),
        "SCRIPT": (_TEMPLATE / "page.js").read_text("utf-8"),
        "DATA": encoded(data),
    }
    parts = re.split(r"/\* (\w+) \*/", (_TEMPLATE / "index.html").read_text("utf-8"))
    parts[1::2] = [contents[name] for name in parts[1::2]]
    return "".join(parts)


def _near(centroids: np.ndarray, clusters: Sequence[int]) -> dict[int, list[tuple[int, float]]]:
    """The nearest other clusters of the largest ones, with the cosine of their centres."""
    centres = np.asarray(centroids)[np.asarray(clusters, np.int64)]
    near = {}
    for start in range(0, min(len(clusters), thumbnails.CLUSTERS), _BLOCK):
        cosine = centres[start : start + _BLOCK] @ centres.T
        for i, row in enumerate(cosine, start):
            row[i] = -np.inf
            best = np.argsort(-row, kind="stable")[: min(NEAR, len(clusters) - 1)]
            near[int(clusters[i])] = [(int(clusters[j]), round(float(row[j]), 3)) for j in best]
    return near


def _rounded(values: np.ndarray) -> list[float]:
    """Numbers as JSON has them: three digits, 0 for those that are not finite."""
    return np.round(np.nan_to_num(values.astype(float), posinf=0, neginf=0), 3).tolist()
