"""The output of `assign`: a table with a row per image, contact sheets, and a summary."""

import contextlib
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from rich.markup import escape
from rich.table import Table

from ssl_jax.clustering import contact_sheet
from ssl_jax.clustering.assignment import ClusterAssignment
from ssl_jax.data.source import Dataset
from ssl_jax.evaluation import metrics
from ssl_jax.settings.paths import check_writable
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import encodable, printable

SHOWN = 20  # clusters in the printed table
OVERVIEW = 15  # clusters in the overview
TYPICAL = 8  # images per cluster in the overview
_CAPTIONS = "below each image: its cosine with the cluster's centre"
_ARRAY_ROW = re.compile(r"(\w+)\[(\d+)\]")  # "train[17]"; all other names are files
_FORMULA = tuple("=+-@\t\r＝＋－＠")  # characters that start a formula in a spreadsheet
_SHEET_NAME = re.compile(r"overview\.png|cluster_\d+\.png")


class ClusterReport:
    """An assignment together with the images that it describes.

    Args:
        assignment: of the images of `dataset`, in the order of `Dataset.names`.
        dataset: provides images, names and labels.

    Attributes:
        assignment: as given.
        names: of the images.
        order: clusters by size, largest first.
        used: number of clusters that are not empty.
    """

    def __init__(self, assignment: ClusterAssignment, dataset: Dataset):
        parts = [dataset.train] if dataset.joined else [dataset.train, dataset.test]
        images = sum(map(len, parts))
        if len(assignment.labels) != images:
            raise ValueError(
                f"clusters of {len(assignment.labels)} images, the data set has {images}"
            )
        self.assignment = assignment
        self.names = dataset.names()
        self.order = np.lexsort((np.arange(len(assignment.sizes)), -assignment.sizes))
        self.used = int((assignment.sizes > 0).sum())
        self._images = [part.images for part in parts]
        self._labels = np.concatenate([part.labels for part in parts])
        self._classes = dataset.classes

    def picture(self, row: int) -> np.ndarray:
        """The image [H, W, C] at an index."""
        train = self._images[0]
        return train[row] if row < len(train) else self._images[1][row - len(train)]

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

        Text is safe for spreadsheets, see `_cell`: "./" marks file names, "'" other text.
        """
        matches = [_ARRAY_ROW.fullmatch(name) for name in self.names]
        if all(matches):
            header = ("split", "row")
            places = [(match[1], int(match[2])) for match in matches]
            cells = places
        else:
            header = ("file",)
            places = [(name,) for name in self.names]
            cells = [(_cell(name, "./"),) for name in self.names]
        labelled = bool(self._classes)
        header = (*header, "cluster", "similarity", "margin", "rank")
        yield (*header, "label") if labelled else header
        ranks = self.assignment.ranks
        for i in sorted(range(len(places)), key=places.__getitem__):
            row = (
                *cells[i],
                int(self.assignment.labels[i]),
                f"{self.assignment.similarity[i]:.4f}",
                f"{self.assignment.margin[i]:.4f}",
                int(ranks[i]),
            )
            yield (*row, _cell(self.label(i), "'")) if labelled else row

    def table(self) -> Table:
        """The largest clusters: size, share, most frequent class, most typical images."""
        table = Table(title="clusters", title_justify="left", title_style="")
        for name in ("cluster", "images", "share"):
            table.add_column(name, justify="right")
        if self._classes:
            table.add_column("mostly")
        table.add_column("most typical", no_wrap=True, overflow="ellipsis")
        for cluster in self.order[: min(SHOWN, self.used)]:
            size = self.assignment.sizes[cluster]
            cells = [str(cluster), f"{size:,}", f"{size / len(self.names):.1%}"]
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
        yield (
            f"{len(sizes)} clusters, {len(sizes) - self.used} of them empty; perplexity "
            f"{self.assignment.perplexity:.1f} ({len(sizes)} if all were equally large); "
            f"the largest holds {sizes.max() / len(self.names):.1%}"
        )
        if (self._labels >= 0).any():
            accuracy = metrics.clustering_accuracy(self._labels, self.assignment.labels)
            nmi = metrics.normalized_mutual_info(self._labels, self.assignment.labels)
            ari = metrics.adjusted_rand_index(self._labels, self.assignment.labels)
            yield f"against the labels: ACC {accuracy:.4f}, NMI {nmi:.4f}, ARI {ari:.4f}"

    def pages(self, most: int) -> Iterator[tuple[str, Image.Image]]:
        """(file name, page) of the overview and of the `most` largest clusters' sheets."""
        digits = len(str(max(len(self.assignment.sizes) - 1, 1)))
        clusters = self.order[: min(most, self.used)]
        if len(clusters):
            rows = (self._overview_row(cluster) for cluster in clusters[:OVERVIEW])
            yield "overview.png", contact_sheet.overview(rows, _CAPTIONS)
        for cluster in clusters:
            subtitle = ", ".join(self._summary(cluster))
            pictures, captions = self._typical(cluster, contact_sheet.COLUMNS * contact_sheet.ROWS)
            title = f"cluster {cluster}"
            page = contact_sheet.sheet(pictures, captions, title, subtitle, _CAPTIONS)
            yield f"cluster_{cluster:0{digits}}.png", page

    def _overview_row(self, cluster: int) -> tuple[str, list[str], list[np.ndarray], list[str]]:
        return f"cluster {cluster}", self._summary(cluster), *self._typical(cluster, TYPICAL)

    def _summary(self, cluster: int) -> list[str]:
        """Size, share and most frequent class of a cluster."""
        size = self.assignment.sizes[cluster]
        lines = [f"{size:,} images, {size / len(self.names):.1%}"]
        mostly = self.mostly(cluster)
        if mostly:
            lines.append(f"mostly {mostly}")
        return lines

    def _typical(self, cluster: int, count: int) -> tuple[list[np.ndarray], list[str]]:
        """The most typical images of a cluster, with their similarities as captions."""
        members = self.assignment.members(cluster)[:count]
        captions = [f"{self.assignment.similarity[i]:.2f}" for i in members]
        return [self.picture(i) for i in members], captions


def _cell(text: str, guard: str) -> str:
    """Text that is safe in a spreadsheet: UTF-8, and no formula.

    Invalid bytes of a file name become \\xff escapes. `guard` goes before text that would start a
    formula.
    """
    text = encodable(text)
    return guard + text if text.startswith(_FORMULA) else text


def _quoted(cell: object) -> str:
    """A CSV cell, quoted if it holds a comma, a quote, or an unprintable character."""
    text = str(cell)
    if text.isprintable() and not set(text) & {",", '"'}:
        return text
    return '"' + text.replace('"', '""') + '"'


def _sheets_folder(out: Path) -> Path:
    """The folder for the sheets of a table."""
    folder = out.with_suffix("")
    if folder.is_dir():
        names = [path.name for path in folder.iterdir()]
        if names and not any(_SHEET_NAME.fullmatch(name) for name in names):
            return out.with_name(f"{folder.name}_sheets")
    return folder


class OutputFiles:
    """A table `out` (.csv), and a folder of contact sheets named `out` without its suffix.

    If a folder of that name holds other things only, such as a run, the sheets' folder ends in
    "_sheets".

    Each is written completely or not at all. A kill between the last two renames can leave the new
    sheets beside the old table.
    """

    def __init__(self, out: Path, overwrite: bool):
        self.out = out
        self.folder = _sheets_folder(out)
        self._overwrite = overwrite

    def check(self) -> None:
        """Checks that table and sheets can be written.

        Raises:
            SettingError: they cannot, or something exists that may not be replaced.
        """
        out = self.out
        folder = self.folder
        if out.suffix.lower() != ".csv" or not out.absolute().parent.is_dir():
            raise SettingError(
                f"--out={out}: give a file that ends in .csv, in a folder that exists"
            )
        if out.is_dir() or (folder.exists() and not folder.is_dir()):
            obstacle = out if out.is_dir() else folder
            raise SettingError(f"--out={out}: {obstacle} is in the way; give another name")
        files = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        for name in files:
            if not _SHEET_NAME.fullmatch(name):
                raise SettingError(
                    f"--out={out}: the sheets go to {folder}/, which holds other files "
                    f"({printable(name)}); give another name"
                )
        if (files or out.exists()) and not self._overwrite:
            existing = out if out.exists() else f"{folder}/"
            raise SettingError(
                f"--out={out}: {existing} already exists; --overwrite replaces table and sheets, "
                "or give another name"
            )
        check_writable(out, "--out")

    def write(self, report: ClusterReport, most: int) -> str:
        """Writes the table and at most `most` sheets, and returns a sentence that says so.

        Raises:
            SettingError: they cannot be written.
        """
        prefix = f".{self.folder.name}-{secrets.token_hex(4)}"
        table = self.out.with_name(f"{prefix}-csv")
        pages = self.out.with_name(f"{prefix}-new")
        old = self.out.with_name(f"{prefix}-old")
        try:
            with open(table, "w", newline="", encoding="utf-8") as file:
                file.writelines(",".join(map(_quoted, row)) + "\n" for row in report.records())
            pages.mkdir()
            for name, page in report.pages(most):
                page.save(pages / name)
            sheets = len(list(pages.glob("cluster_*")))
            self.check()  # again: writing the pages takes a while
            self._swap(table, pages, old)
        except OSError as error:
            raise SettingError(
                f"--out={self.out} cannot be written ({error.strerror or error})"
            ) from error
        finally:
            with contextlib.suppress(OSError):  # must not hide the first error
                table.unlink()
            shutil.rmtree(pages, ignore_errors=True)
        message = f"wrote {self.out}: {len(report.names):,} images"
        if sheets:
            message += f", and {self.folder}/ with overview.png and {sheets} sheet"
            message += "s" if sheets > 1 else ""
        return printable(message)

    def _swap(self, table: Path, pages: Path, old: Path) -> None:
        """Moves table and sheets into place, or restores the old ones, which wait in `old`."""
        try:
            if self.folder.exists():
                self.folder.rename(old)
            if any(pages.iterdir()):
                pages.rename(self.folder)
            table.replace(self.out)
        except BaseException:
            if self.folder.exists() and not pages.exists():
                self.folder.rename(pages)
            if old.exists():
                old.rename(self.folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
