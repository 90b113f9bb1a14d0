"""What `assign` says of clusters: rows of its table, contact sheets, its page, and a summary."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from rich.markup import escape
from rich.table import Table

from ssl_jax.clustering import contact_sheet, naming_page
from ssl_jax.clustering.cells import PATH_GUARD, TEXT_GUARD, cell, places
from ssl_jax.clustering.how_many import HowMany
from ssl_jax.clustering.placement import OUTLIER, ClusterAssignment
from ssl_jax.clustering.saved import SavedClusters
from ssl_jax.clustering.spread import SpreadLabels
from ssl_jax.data.source import Dataset
from ssl_jax.data.whole import as_seen
from ssl_jax.evaluation import metrics
from ssl_jax.settings.text import counted, encodable, printable

SHOWN = 20  # clusters in the printed table
OVERVIEW = 15  # clusters in the overview
TYPICAL = 8  # images per cluster in the overview
_CAPTIONS = "below each image: its cosine with the cluster's centre, and its name"


@dataclasses.dataclass(frozen=True, eq=False)
class Extras:
    """What else a report has, if anything.

    Attributes:
        saved: the clusters as they are written beside the table.
        how_many: the choice of their number.
        comparison: sentences on other clusters of the same images.
        spread: labels of all images from those of a few.
        features: [N, D] of the images, if they are needed.
    """

    saved: SavedClusters | None = None
    how_many: HowMany | None = None
    comparison: Sequence[str] = ()
    spread: SpreadLabels | None = None
    features: np.ndarray | None = None


class ClusterReport:
    """An assignment together with the images that it describes.

    Args:
        assignment: of the images of `dataset`, in the order of `Dataset.names`.
        dataset: provides images, names and labels.
        extras: what else there is.

    Attributes:
        assignment, extras: as given.
        names: of the images.
        order: clusters by size, largest first.
        used: number of clusters that are not empty.
    """

    def __init__(
        self, assignment: ClusterAssignment, dataset: Dataset, extras: Extras | None = None
    ):
        parts = [dataset.train] if dataset.joined else [dataset.train, dataset.test]
        images = sum(map(len, parts))
        if len(assignment.labels) != images:
            raise ValueError(
                f"clusters of {len(assignment.labels)} images, the data set has {images}"
            )
        self.assignment = assignment
        self.extras = extras or Extras()
        self.names = dataset.names()
        self.order = np.lexsort((np.arange(len(assignment.sizes)), -assignment.sizes))
        self.used = int((assignment.sizes > 0).sum())
        self._images = [part.images for part in parts]
        self._labels = labels_of(dataset)
        self._classes = dataset.classes

    @property
    def labelled(self) -> bool:
        """Whether there are classes."""
        return bool(self._classes)

    def picture(self, row: int) -> np.ndarray:
        """The image [H, W, C] at an index, in its true proportions."""
        train = self._images[0]
        image = train[row] if row < len(train) else self._images[1][row - len(train)]
        return as_seen(image)

    def label(self, row: int) -> str:
        """The class of the image at an index; empty if unknown."""
        return self._classes[self._labels[row]] if self._classes and self._labels[row] >= 0 else ""

    def mostly(self, cluster: int) -> str:
        """The most frequent class among a cluster's labelled images, with its share of them."""
        labels = self._labels[self.assignment.members(cluster)]
        labels = labels[labels >= 0]
        if not len(labels):
            return ""
        counts = np.bincount(labels)
        return f"{printable(self._classes[counts.argmax()])} ({counts.max() / len(labels):.0%})"

    def records(self) -> Iterator[tuple]:
        """The table: its header, then a row per image, sorted by file or by split and row.

        Text is safe for spreadsheets, see `cells`: "./" marks file names, "'" other text.
        """
        header, cells, order = self._places()
        cluster_names = self.assignment.names
        spread = self.extras.spread
        header = (*header, "cluster", *(("name",) if cluster_names else ()))
        header = (*header, "similarity", "margin", "rank")
        if self._classes:
            header = (*header, "class" if spread else "label")
        yield (*header, "label", "confidence") if spread else header
        ranks = self.assignment.ranks
        for i in order:
            cluster = int(self.assignment.labels[i])
            row = (*cells[i], cluster)
            if cluster_names:
                row = (*row, cell(self._name(cluster), TEXT_GUARD))
            row = (
                *row,
                f"{self.assignment.similarity[i]:.4f}",
                f"{self.assignment.margin[i]:.4f}",
                int(ranks[i]),
            )
            if self._classes:
                row = (*row, cell(self.label(i), TEXT_GUARD))
            if spread:
                label = cell(spread.classes[spread.labels[i]], TEXT_GUARD)
                row = (*row, label, f"{spread.confidence[i]:.4f}")
            yield row

    def _places(self) -> tuple[tuple[str, ...], list[tuple], list[int]]:
        """Header and cells of where each image comes from, and the images in the table's order."""
        header, rows = places(self.names)
        cells = [(cell(first, PATH_GUARD), *rest) for first, *rest in rows]
        return header, cells, sorted(range(len(rows)), key=rows.__getitem__)

    def table(self) -> Table:
        """The largest clusters: size, share, most frequent class, most typical images."""
        table = Table(title="clusters", title_justify="left", title_style="")
        for name in ("cluster", "images", "share"):
            table.add_column(name, justify="right")
        if self._classes:
            table.add_column("mostly")
        table.add_column("most typical", no_wrap=True, overflow="ellipsis")
        for cluster in (*self.order[: min(SHOWN, self.used)], *self._outliers):
            size = self._size(cluster)
            cells = [
                escape(self._short_title(cluster)),
                f"{size:,}",
                f"{size / len(self.names):.1%}",
            ]
            if self._classes:
                cells.append(escape(self.mostly(cluster)))
            names = [self.names[i] for i in self.assignment.members(cluster)[:3]]
            table.add_row(*cells, escape(printable(", ".join(names))))
        return table

    def lines(self) -> Iterator[str]:
        """How evenly the images spread over the clusters, and agreement with any labels."""
        sizes = self.assignment.sizes
        if self.used > SHOWN:
            yield f"and {self.used - SHOWN} smaller clusters"
        if self.assignment.outliers:
            share = self.assignment.outliers / len(self.names)
            yield (
                f"{counted(self.assignment.outliers, 'outlier')}, {share:.1%} of the images, in no "
                f"cluster (cluster {OUTLIER} in the table)"
            )
        yield (
            f"{len(sizes)} clusters, {len(sizes) - self.used} of them empty; perplexity "
            f"{self.assignment.perplexity:.1f} ({len(sizes)} if all were equally large); "
            f"the largest holds {sizes.max() / len(self.names):.1%}"
        )
        if (self._labels >= 0).any():
            accuracy = metrics.clustering_accuracy(self._labels, self.assignment.labels)
            nmi = metrics.normalized_mutual_info(self._labels, self.assignment.labels)
            ari = metrics.adjusted_rand_index(self._labels, self.assignment.labels)
            line = f"against the labels: ACC {accuracy:.4f}, NMI {nmi:.4f}, ARI {ari:.4f}"
            yield f"{line}, with the outliers as one more cluster" if self._outliers else line
        yield from self.extras.comparison
        if self.extras.spread:
            yield from self.extras.spread.lines()

    def pages(self, most: int) -> Iterator[tuple[str, Image.Image]]:
        """(file name, page) of the overview and of the `most` largest clusters' sheets.

        Outliers have a sheet of their own.
        """
        digits = len(str(max(len(self.assignment.sizes) - 1, 1)))
        clusters = self.order[: min(most, self.used)]
        shown = (*clusters[:OVERVIEW], *self._outliers) if most else ()
        if shown:
            rows = (self._overview_row(cluster) for cluster in shown)
            yield "overview.png", contact_sheet.overview(rows, _CAPTIONS)
        for cluster in (*clusters, *(self._outliers if most else ())):
            subtitle = ", ".join(self._summary(cluster))
            pictures, captions = self._typical(cluster, contact_sheet.COLUMNS * contact_sheet.ROWS)
            page = contact_sheet.sheet(
                pictures, captions, self._title(cluster), subtitle, _CAPTIONS
            )
            is_outliers = cluster == OUTLIER
            yield "outliers.png" if is_outliers else f"cluster_{cluster:0{digits}}.png", page
        if self.extras.how_many:
            yield "how_many.png", self.extras.how_many.picture()

    def write_page(self, folder: Path, title: str) -> None:
        """Writes the page on which clusters get names into a folder; see `naming_page`."""
        header, cells, order = self._places()
        naming_page.write(
            folder,
            self.assignment,
            title=encodable(title),
            columns={name: [cells[i][column] for i in order] for column, name in enumerate(header)},
            order=order,
            clusters=[int(cluster) for cluster in self.order[: self.used]],
            pictures=lambda rows: [self.picture(row) for row in rows],
            mostly=self.mostly,
        )

    def _overview_row(self, cluster: int) -> tuple[str, list[str], list[np.ndarray], list[str]]:
        return self._title(cluster), self._summary(cluster), *self._typical(cluster, TYPICAL)

    @property
    def _outliers(self) -> tuple[int, ...]:
        """The outliers as one more cluster, if there are any."""
        return (OUTLIER,) if self.assignment.outliers else ()

    def _name(self, cluster: int) -> str:
        """The name of a cluster; "" for one without, and for the outliers."""
        named = self.assignment.names and cluster != OUTLIER
        return self.assignment.names[cluster] if named else ""

    def _title(self, cluster: int) -> str:
        """What a cluster is called on the sheets; `named_files` paints the same."""
        if cluster == OUTLIER:
            return "outliers"
        return contact_sheet.heading(cluster, self._name(cluster))

    def _short_title(self, cluster: int) -> str:
        """What a cluster is called in the column `cluster`."""
        if cluster == OUTLIER:
            return "outliers"
        return printable(f"{cluster} {self._name(cluster)}".rstrip())

    def _size(self, cluster: int) -> int:
        """Number of images in a cluster, or of outliers."""
        return len(self.assignment.members(cluster))

    def _summary(self, cluster: int) -> list[str]:
        """Size, share and most frequent class of a cluster."""
        size = self._size(cluster)
        lines = [f"{size:,} images, {size / len(self.names):.1%}"]
        mostly = self.mostly(cluster)
        if mostly:
            lines.append(f"mostly {mostly}")
        return lines

    def _short_name(self, row: int) -> str:
        """The name of an image without its folders; rows of arrays as "train[17]"."""
        return printable(os.path.basename(self.names[row]))

    def _typical(self, cluster: int, count: int) -> tuple[list[np.ndarray], list[str]]:
        """The most typical images of a cluster, with their similarities and names as captions."""
        members = self.assignment.members(cluster)[:count]
        captions = [f"{self.assignment.similarity[i]:.2f} {self._short_name(i)}" for i in members]
        return [self.picture(i) for i in members], captions


def labels_of(dataset: Dataset) -> np.ndarray:
    """The labels [N] of all images, -1: unknown, in the order of `Dataset.names`."""
    parts = [dataset.train] if dataset.joined else [dataset.train, dataset.test]
    return np.concatenate([part.labels for part in parts])
