"""Names of clusters into the files of `assign`: table, saved clusters, sheets and page."""

import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from ssl_jax.clustering import contact_sheet, naming_page, saved
from ssl_jax.clustering.names import ClusterTable
from ssl_jax.clustering.output import OVERVIEW
from ssl_jax.clustering.output_files import OutputFiles
from ssl_jax.clustering.saved import SavedClusters
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

_SHEET = re.compile(r"cluster_(\d+)\.png")


def write(table: ClusterTable, output: OutputFiles) -> str:
    """Replaces names in a table, and in clusters and folder beside it; says so in a sentence.

    Raises:
        SettingError: they cannot be written, or the clusters are not those of the table.
    """
    clusters = _named_clusters(table, output.clusters)

    def draw(folder: Path) -> None:
        files = sorted(output.folder.iterdir()) if output.folder.is_dir() else []
        sheets = sum(1 for path in files if _SHEET.fullmatch(path.name))  # the last row: outliers
        for path in files:
            match = _SHEET.fullmatch(path.name)
            if path.name == "overview.png":
                titles = [table.title(cluster) for cluster in table.order[: min(OVERVIEW, sheets)]]
                with Image.open(path) as page:
                    contact_sheet.retitled_rows(page, titles).save(folder / path.name)
            elif match:
                with Image.open(path) as page:
                    title = table.title(int(match[1]))
                    contact_sheet.retitled(page, title).save(folder / path.name)
            elif path.name == "names.js":
                outliers = np.flatnonzero(table.outliers & (table.clusters >= 0)).tolist()
                naming_page.write_names(folder, table.cluster_names, outliers)
            else:
                shutil.copyfile(path, folder / path.name)

    output.replace(table.records(), draw, clusters)
    into = f" and {output.clusters}" if clusters else ""
    onto = f" and onto the sheets in {output.folder}/" if output.folder.is_dir() else ""
    comma = "," if into and onto else ""
    return printable(f"wrote the names into {output.out}{into}{comma}{onto}")


def _named_clusters(table: ClusterTable, path: Path) -> SavedClusters | None:
    """The clusters beside a table with its names; None if there are none.

    Clusters that no row of the table is in keep their names: it may be one of `--use`.

    Raises:
        SettingError: a file that cannot be read, or has other clusters than the table.
    """
    if not path.exists():
        return None
    source = f"--out={table.path}: {path}"
    clusters = saved.read(path, source)
    count = len(clusters.centroids)
    if table.clusters.max(initial=0) >= count:
        raise SettingError(
            printable(
                f"{source} has {count} clusters, the table has cluster {table.clusters.max()}; "
                "move this file away, or assign again"
            )
        )
    names = list(clusters.names or [""] * count)
    for cluster in table.order:
        names[cluster] = table.cluster_names.get(cluster, "")
    return dataclasses.replace(clusters, names=tuple(names) if any(names) else ())
