"""Names of clusters: from the labels.csv of the page into a table."""

import csv
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from rich.markup import escape
from rich.table import Table

from ssl_jax.clustering import contact_sheet
from ssl_jax.clustering.cells import TEXT_GUARD, cell, unguarded
from ssl_jax.clustering.output import SHOWN
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

_ADDED = ("name", "outlier")  # columns of a named table


class ClusterTable:
    """A table that `assign` wrote, with names if it has been given some.

    Attributes:
        path: of the table.
        header: names of the columns, without "name" and "outlier".
        rows: [N] their cells.
        clusters: [N] int64 cluster of each row; -1: none.
        names: [N] name of each row; "": none.
        outliers: [N] bool: rows marked as outliers.
    """

    def __init__(self, path: Path):
        """Reads a table.

        Raises:
            SettingError: it is missing or cannot be read.
        """
        header, rows = _read(path, "--out", "run this command without --names and --folders first")
        places = tuple(name for name in ("file", "split", "row") if name in header)
        if places not in (("file",), ("split", "row")) or "cluster" not in header:
            raise SettingError(
                f"--out={printable(path)}: its first line has no column file, or split and row, "
                "beside cluster; give a table that this command wrote"
            )
        self.path = path
        self.header = tuple(name for name in header if name not in _ADDED)
        self._places = places
        columns = [header.index(name) for name in self.header]
        self.rows = [tuple(row[i] for i in columns) for row in rows]
        self.clusters = np.zeros(len(rows), np.int64)
        cluster = header.index("cluster")
        for i, row in enumerate(rows):
            try:
                self.clusters[i] = int(row[cluster])
            except ValueError as error:
                raise SettingError(
                    f"--out={printable(path)}, row {i + 1}: {printable(row[cluster])!r} is not "
                    "the number of a cluster; give a table that this command wrote"
                ) from error
        self.names = [""] * len(rows)
        self.outliers = self.clusters < 0
        if "name" in header:
            self.names = [_name(row[header.index("name")]) for row in rows]
        if "outlier" in header:
            self.outliers |= [row[header.index("outlier")] == "1" for row in rows]

    @property
    def files(self) -> list[str] | None:
        """The cells of the column "file"; None if the rows are not files."""
        if self._places != ("file",):
            return None
        column = self.header.index("file")
        return [row[column] for row in self.rows]

    def place(self, i: int) -> tuple[str, ...]:
        """The cells that say where a row comes from."""
        return tuple(self.rows[i][self.header.index(name)] for name in self._places)

    def name_from(self, path: Path) -> None:
        """Takes names and outliers from a file with a row per picture, as the page downloads it.

        Its columns are those that say where a picture comes from, `label`, and, if it has them,
        `cluster` and `outlier` (1). An empty label is none.

        Raises:
            SettingError: a file that cannot be read, lacks a picture of the table or has others, or
                was made for other clusters.
        """
        setting = f"--names={printable(path)}"
        header, rows = _read(path, "--names", "give the file that the page downloads")
        missing = [name for name in (*self._places, "label") if name not in header]
        if missing:
            raise SettingError(
                f"{setting}: its first line has no column {missing[0]}, only "
                f"{printable(', '.join(header))}; give the file that the page downloads, with "
                "commas between its cells"
            )
        columns = [header.index(name) for name in self._places]
        given: dict[tuple[str, ...], list[tuple[int, list[str]]]] = {}
        for number, row in enumerate(rows, 1):
            given.setdefault(tuple(row[i] for i in columns), []).append((number, row))
        names = []
        outliers = self.clusters < 0
        for i, cluster in enumerate(self.clusters):
            same = given.get(self.place(i))
            if not same:
                raise SettingError(
                    f"{setting} has no row for {_shown(self.place(i))}; it needs one for each "
                    f"picture of {printable(self.path)}: download it from the page of that table"
                )
            number, row = same.pop(0)  # a place that stands there twice, in the order of the table
            if "cluster" in header and row[header.index("cluster")] != str(cluster):
                raise SettingError(
                    f"{setting}, row {number}: {_shown(self.place(i))} is in cluster "
                    f"{printable(row[header.index('cluster')])} there and in {cluster} in "
                    f"{printable(self.path)}; download it again from the page of that table"
                )
            mark = row[header.index("outlier")].strip() if "outlier" in header else ""
            if mark not in ("", "0", "1"):
                raise SettingError(
                    f"{setting}, row {number}: outlier={printable(mark)}; write 1 or nothing"
                )
            outliers[i] |= mark == "1"
            names.append("" if outliers[i] else _name(row[header.index("label")]))
        for place, left in given.items():
            if left:
                raise SettingError(
                    f"{setting}, row {left[0][0]}: {_shown(place)} is not in "
                    f"{printable(self.path)}; download it again from the page of that table"
                )
        self.names = names
        self.outliers = outliers
        self.__dict__.pop("cluster_names", None)

    @cached_property
    def cluster_names(self) -> dict[int, str]:
        """The most frequent name in each cluster that has one."""
        counts: dict[int, Counter[str]] = {}
        for cluster, name, outlier in zip(self.clusters.tolist(), self.names, self.outliers):
            if cluster >= 0 and not outlier:
                counts.setdefault(cluster, Counter())[name] += 1
        most = {cluster: names.most_common(1)[0][0] for cluster, names in counts.items()}
        return {cluster: name for cluster, name in most.items() if name}

    def title(self, cluster: int) -> str:
        """The heading of a cluster: its name and number, as on new sheets."""
        return contact_sheet.heading(cluster, self.cluster_names.get(cluster, ""))

    @cached_property
    def order(self) -> list[int]:
        """Clusters that are not empty by size, largest first, as on the sheets."""
        sizes = Counter(c for c in self.clusters.tolist() if c >= 0)
        return sorted(sizes, key=lambda cluster: (-sizes[cluster], cluster))

    def records(self) -> Iterator[tuple[str, ...]]:
        """The table with the columns name and outlier, its header first."""
        yield (*self.header, *_ADDED)
        for row, name, outlier in zip(self.rows, self.names, self.outliers):
            yield (*row, cell(name, TEXT_GUARD), "1" if outlier else "")

    def table(self) -> Table:
        """Names by the number of their pictures, with their clusters."""
        shown = Table(title="names", title_justify="left", title_style="")
        shown.add_column("name")
        for column in ("images", "share"):
            shown.add_column(column, justify="right")
        shown.add_column("clusters", overflow="ellipsis", no_wrap=True)
        groups: dict[str, set[int]] = {}
        sizes: Counter[str] = Counter()
        for cluster, name, outlier in zip(self.clusters.tolist(), self.names, self.outliers):
            key = "" if outlier else name or f"cluster {cluster}"
            sizes[key] += 1
            groups.setdefault(key, set()).add(cluster)
        for key, size in sizes.most_common(SHOWN):
            clusters = ", ".join(map(str, sorted(groups[key])))
            cells = (key or "outliers", f"{size:,}", f"{size / len(self.rows):.1%}", clusters)
            shown.add_row(*(escape(printable(text)) for text in cells))
        return shown

    def lines(self) -> Iterator[str]:
        """How many clusters and pictures have names."""
        named = sum(1 for name in self.names if name)
        different = len(set(self.names) - {""})
        outliers = int(self.outliers.sum())
        yield (
            f"{len(self.cluster_names)} of {len(self.order)} clusters have a name, "
            f"{different} different; {named:,} of {len(self.rows):,} images are named, "
            + ("1 is an outlier" if outliers == 1 else f"{outliers:,} are outliers")
        )


def _name(text: str) -> str:
    """A name from a cell: on one line, without the guard of `cell`."""
    text = unicodedata.normalize("NFC", text)
    name = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return unguarded(name)


def _shown(place: Sequence[str]) -> str:
    return printable(" ".join(place))


def _read(path: Path, flag: str, remedy: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a CSV file.

    Raises:
        SettingError: it cannot be read, is empty, or has rows of several lengths.
    """
    setting = f"{flag}={printable(path)}"
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            header, *rows = csv.reader(file, strict=True)
    except FileNotFoundError as error:
        raise SettingError(f"{setting}: there is no such file; {remedy}") from error
    except OSError as error:
        raise SettingError(f"{setting} cannot be read ({error.strerror}); {remedy}") from error
    except UnicodeDecodeError as error:
        raise SettingError(f"{setting} is not UTF-8; save it as CSV UTF-8, or {remedy}") from error
    except csv.Error as error:
        raise SettingError(f"{setting} is not a CSV file ({error}); {remedy}") from error
    except ValueError as error:
        raise SettingError(f"{setting} is empty; {remedy}") from error
    rows = [row for row in rows if row]
    for number, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise SettingError(
                f"{setting}, row {number}: {len(row)} cells, the first line has {len(header)}; "
                f"{remedy}"
            )
    return header, rows
