"""What an assignment leaves behind and shows: a row for each picture, contact sheets, and who uses which cluster."""

import contextlib
import re
import secrets
import shutil
from pathlib import Path

import numpy as np
from rich.markup import escape
from rich.table import Table

from ssl_jax.clustering import contact_sheet
from ssl_jax.clustering.assignment import ClusterAssignment
from ssl_jax.data.source import Dataset
from ssl_jax.evaluation import metrics
from ssl_jax.settings.paths import check_writable
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import encodable, printable

SHOWN, OVERVIEW, TYPICAL = 20, 15, 8  # clusters in the table; rows and pictures a row of the overview
_ROW = re.compile(r"(\w+)\[(\d+)\]")  # "train[17]"; all other names are files
_FORMULA = tuple("=+-@\t\r＝＋－＠")  # what a spreadsheet takes for the start of one
_OURS = re.compile(r"overview\.png|cluster_\d+\.png")


class ClusterReport:
    """An assignment beside the pictures that it is of.

    Args:
        found: of the images of `dataset`, in the order of `Dataset.names`.
        dataset: gives names and labels.
    """

    def __init__(self, found: ClusterAssignment, dataset: Dataset):
        parts = (dataset.train, dataset.test)[: 1 if dataset.joined else 2]
        if len(found.labels) != sum(map(len, parts)):
            raise ValueError(f"clusters of {len(found.labels)} images, the data set has {sum(map(len, parts))}")
        self.found, self.names, self._images = found, dataset.names(), [x.images for x in parts]
        self._labels, self._classes = np.concatenate([x.labels for x in parts]), dataset.classes
        self.order = np.lexsort((np.arange(len(found.sizes)), -found.sizes))  # of the clusters, largest first
        self.used = int((found.sizes > 0).sum())

    def picture(self, row: int):
        """The image [H, W, C] of a row."""
        first = len(self._images[0])
        return self._images[0][row] if row < first else self._images[1][row - first]

    def label(self, row: int) -> str:
        """Its class, as far as it is known."""
        return self._classes[self._labels[row]] if self._classes and self._labels[row] >= 0 else ""

    def mostly(self, cluster: int) -> str:
        """The commonest class of a cluster's labelled images and its share of them."""
        own = self._labels[self.found.members(cluster)]
        if not len(own := own[own >= 0]):
            return ""
        counts = np.bincount(own)
        return f"{printable(self._classes[counts.argmax()])} ({counts.max() / len(own):.0%})"

    def records(self):
        """The table's head, then a row for each picture, by file or by split and row.

        Texts are safe for spreadsheets, see `_cell`: "./" before a file's name, and "'" before another text.
        """
        rows = [_ROW.fullmatch(name) for name in self.names]
        places, head = [(name,) for name in self.names], ("file",)
        if all(rows):
            places, head = [(row[1], int(row[2])) for row in rows], ("split", "row")
        labelled, found, ranks = bool(self._classes), self.found, self.found.ranks
        yield (*head, "cluster", "similarity", "margin", "rank", *("label",) * labelled)
        for i in sorted(range(len(places)), key=places.__getitem__):
            place = places[i] if all(rows) else (_cell(self.names[i], "./"),)
            own = (int(found.labels[i]), f"{found.similarity[i]:.4f}", f"{found.margin[i]:.4f}", int(ranks[i]))
            yield (*place, *own, *(_cell(self.label(i), "'"),) * labelled)

    def table(self) -> Table:
        """The largest clusters: size, share, commonest class, most typical pictures."""
        shown = Table(title="clusters", title_justify="left", title_style="")
        for name, side in (("cluster", "right"), ("images", "right"), ("share", "right")):
            shown.add_column(name, justify=side)
        if self._classes:
            shown.add_column("mostly")
        shown.add_column("most typical", no_wrap=True, overflow="ellipsis")
        for cluster in self.order[: min(SHOWN, self.used)]:
            size, names = self.found.sizes[cluster], [self.names[i] for i in self.found.members(cluster)[:3]]
            cells = [str(cluster), f"{size:,}", f"{size / len(self.names):.1%}"]
            cells += [escape(self.mostly(cluster))] * bool(self._classes)
            shown.add_row(*cells, escape(printable(", ".join(names))))
        return shown

    def lines(self):
        """How the images spread over the clusters; and how far they agree with labels, where there are any."""
        found, count = self.found, len(self.found.sizes)
        if self.used > SHOWN:
            yield f"and {self.used - SHOWN} smaller clusters"
        yield (
            f"{count} clusters, {count - self.used} of them empty; as even as {found.perplexity:.1f} of one size "
            f"(the perplexity); the largest holds {found.sizes.max() / len(self.names):.1%}"
        )
        if (self._labels >= 0).any():
            scores = dict(ACC=metrics.clustering_accuracy, NMI=metrics.normalized_mutual_info)
            scores |= dict(ARI=metrics.adjusted_rand_index)
            said = ", ".join(f"{name} {score(self._labels, found.labels):.4f}" for name, score in scores.items())
            yield f"against the labels: {said}"

    def pages(self, most: int):
        """(file name, page) of the overview and of the `most` largest clusters' sheets."""
        width = len(str(max(len(self.found.sizes) - 1, 1)))
        chosen = self.order[: min(most, self.used)]
        if len(chosen):
            yield "overview.png", contact_sheet.overview(map(self._row, chosen[:OVERVIEW]))
        for cluster in chosen:
            size, mostly = self.found.sizes[cluster], self.mostly(cluster)
            line = f"{size:,} images, {size / len(self.names):.1%}" + f", mostly {mostly}" * bool(mostly)
            pictures = self._typical(cluster, contact_sheet.COLUMNS * contact_sheet.ROWS)
            yield f"cluster_{cluster:0{width}}.png", contact_sheet.sheet(*pictures, f"cluster {cluster}", line)

    def _row(self, cluster):
        size, mostly = self.found.sizes[cluster], self.mostly(cluster)
        lines = (f"{size:,} images, {size / len(self.names):.1%}", *(f"mostly {mostly}",) * bool(mostly))
        return f"cluster {cluster}", lines, *self._typical(cluster, TYPICAL)

    def _typical(self, cluster, count):
        rows = self.found.members(cluster)[:count]
        return [self.picture(i) for i in rows], [f"{self.found.similarity[i]:.2f}" for i in rows]


def _cell(text: str, guard: str) -> str:
    """A text for a table that a spreadsheet opens: no formula, and UTF-8.

    Bytes of a name that are no UTF-8 become \\xff escapes. `guard` goes before what would become a formula.
    """
    text = encodable(text)
    return guard + text if text.startswith(_FORMULA) else text


def _quoted(cell) -> str:
    """A cell between quotes where it holds a comma, a quote, or a character that is not printed, as a line's end."""
    text = str(cell)
    if text.isprintable() and not set(text) & {",", '"'}:
        return text
    return '"' + text.replace('"', '""') + '"'


class OutputFiles:
    """A table `out` (.csv) and the folder of sheets beside it, `out` without its ending: each whole or not at all.

    A kill between the last two renames can leave the new sheets beside the old table.
    """

    def __init__(self, out: Path, overwrite: bool):
        self.out, self.folder, self._overwrite = out, out.with_suffix(""), overwrite

    def check(self):
        """Raises SettingError where nothing can be written, or something is there that may not be replaced."""
        out, folder = self.out, self.folder
        if out.suffix.lower() != ".csv" or not out.absolute().parent.is_dir():
            raise SettingError(f"--out={out}: give a file that ends in .csv, in a folder that exists")
        if out.is_dir() or (folder.exists() and not folder.is_dir()):
            raise SettingError(f"--out={out}: {out if out.is_dir() else folder} is in the way; give another name")
        held = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
        foreign = [name for name in held if not _OURS.fullmatch(name)]
        if foreign:
            said = f"the sheets go to {folder}/, which holds other files ({printable(foreign[0])})"
            raise SettingError(f"--out={out}: {said}; give another name")
        if (held or out.exists()) and not self._overwrite:
            said = f"{out if out.exists() else f'{folder}/'} is there already"
            raise SettingError(f"--out={out}: {said}; --overwrite replaces table and sheets, or give another name")
        check_writable(out, "--out")

    def write(self, report: ClusterReport, most: int) -> str:
        """Writes both and says so; `most` sheets.

        Raises:
            SettingError: they cannot be written.
        """
        mark = secrets.token_hex(4)
        table, pages, old = (self.out.with_name(f".{self.folder.name}-{mark}-{kind}") for kind in ("csv", "new", "old"))
        try:
            with open(table, "w", newline="", encoding="utf-8") as file:
                file.writelines(",".join(map(_quoted, row)) + "\n" for row in report.records())
            pages.mkdir()
            for name, page in report.pages(most):
                page.save(pages / name)
            count = len(list(pages.glob("cluster_*")))
            self.check()  # again: this took a while
            self._swap(table, pages, old)
        except OSError as error:
            raise SettingError(f"--out={self.out} cannot be written ({error.strerror or error})") from error
        finally:
            with contextlib.suppress(OSError):  # the first one is told
                table.unlink()
            shutil.rmtree(pages, ignore_errors=True)
        sheets_too = f", and {self.folder}/ with overview.png and {count} sheet{'s' * (count > 1)}" * bool(count)
        return printable(f"wrote {self.out}: {len(report.names):,} images{sheets_too}")

    def _swap(self, table, pages, old):
        """Puts table and sheets in place, or leaves what was there; old sheets wait in `old` till all is done."""
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
