"""The files that `assign` writes: a table, saved clusters, and a folder of sheets with a page."""

import contextlib
import re
import secrets
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from ssl_jax.clustering import naming_page
from ssl_jax.clustering.cells import quoted
from ssl_jax.clustering.output import ClusterReport
from ssl_jax.clustering.saved import SavedClusters, holds_clusters
from ssl_jax.settings.paths import check_writable
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import counted, printable

_SHEET = re.compile(r"(?:overview|how_many|outliers|cluster_\d+)\.png")
_FILE = re.compile(rf"{_SHEET.pattern}|{naming_page.FILES}|\.DS_Store|Thumbs\.db")


def _sheets_folder(out: Path) -> Path:
    """The folder for the sheets of a table."""
    folder = out.with_suffix("")
    if folder.is_dir():
        names = [path.name for path in folder.iterdir()]
        if names and not any(_SHEET.fullmatch(name) for name in names):
            return out.with_name(f"{folder.name}_sheets")
    return folder


class OutputFiles:
    """A table `out` (.csv), saved clusters (.npz), and a folder of sheets; all named like `out`.

    If a folder of that name holds other things only, such as a run, the sheets' folder ends in
    "_sheets".

    Each is written completely or not at all. A kill between the last renames can leave the new
    sheets or clusters beside the old table.
    """

    def __init__(self, out: Path, overwrite: bool):
        self.out = out
        self.clusters = out.with_suffix(".npz")
        self.folder = _sheets_folder(out)
        self._overwrite = overwrite

    def check(self) -> None:
        """Checks that table, clusters and sheets can be written.

        Raises:
            SettingError: they cannot, or something exists that may not be replaced.
        """
        out = self.out
        folder = self.folder
        if out.suffix.lower() != ".csv" or not out.absolute().parent.is_dir():
            raise SettingError(
                f"--out={out}: give a file that ends in .csv, in a folder that exists"
            )
        for obstacle in (out, self.clusters):
            if obstacle.is_dir():
                raise SettingError(f"--out={out}: {obstacle} is in the way; give another name")
        if folder.exists() and not folder.is_dir():
            raise SettingError(f"--out={out}: {folder} is in the way; give another name")
        files = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        strangers = [name for name in files if not _FILE.fullmatch(name)]
        if not any(_SHEET.fullmatch(name) for name in files):  # a page of the user's
            strangers = files
        if strangers:
            raise SettingError(
                f"--out={out}: the sheets go to {folder}/, which holds other files "
                f"({printable(strangers[0])}); move them away, or give another name"
            )
        if self.clusters.exists() and not holds_clusters(self.clusters):
            raise SettingError(
                f"--out={out}: the clusters go to {self.clusters}, which holds something else "
                "or is damaged; move it away, or give another name"
            )
        existing = [path for path in (out, self.clusters) if path.exists()]
        existing += [f"{folder}/"] if files else []
        if existing and not self._overwrite:
            raise SettingError(
                f"--out={out}: {existing[0]} already exists; --overwrite replaces table and "
                "sheets, or give another name"
            )
        check_writable(out, "--out")

    def write(self, report: ClusterReport, most: int) -> str:
        """Writes the table, the clusters and at most `most` sheets; returns a sentence on them.

        Raises:
            SettingError: they cannot be written.
        """

        pages = []

        def draw(folder: Path) -> None:
            for name, page in report.pages(most):
                page.save(folder / name)
                pages.append(name)
            if most:
                report.write_page(folder, self.out.name)

        self.replace(report.records(), draw, report.extras.saved)
        message = f"wrote {self.out}: {len(report.names):,} images"
        others = [name for name in ("overview.png", "how_many.png") if name in pages]
        sheets = len(pages) - len(others)
        parts = [*others, *([counted(sheets, "sheet")] if sheets else [])]
        if parts:
            listed = " and ".join([", ".join(parts[:-1]), parts[-1]]) if parts[1:] else parts[0]
            message += f", and {self.folder}/ with {listed}"
        if most:
            message += "; to name clusters, open index.html there in a browser"
        if report.extras.saved:
            message += f"; --use={self.clusters} puts other images into the same clusters"
        return printable(message)

    def replace(
        self,
        records: Iterable[tuple],
        draw: Callable[[Path], None],
        saved: SavedClusters | None,
    ) -> None:
        """Puts table, clusters and folder into the place of earlier ones, if all can be written.

        Args:
            records: rows of the table, its header first.
            draw: fills the empty folder that it is given; an empty one is not kept.
            saved: the clusters; None: none, and earlier ones are removed.

        Raises:
            SettingError: they cannot be written.
        """
        prefix = f".{self.folder.name}-{secrets.token_hex(4)}"
        table = self.out.with_name(f"{prefix}-csv")
        clusters = self.out.with_name(f"{prefix}-npz")
        pages = self.out.with_name(f"{prefix}-new")
        try:
            with open(table, "w", newline="", encoding="utf-8") as file:
                file.writelines(",".join(map(quoted, row)) + "\n" for row in records)
            if saved:
                saved.write(clusters)
            pages.mkdir()
            draw(pages)
            if not any(pages.iterdir()):
                pages.rmdir()
            self.check()  # again: writing the pages takes a while
            self._swap(table, {pages: self.folder, clusters: self.clusters})
        except OSError as error:
            raise SettingError(
                f"--out={self.out} cannot be written ({error.strerror or error})"
            ) from error
        finally:
            for path in (table, clusters):
                with contextlib.suppress(OSError):  # must not hide the first error
                    path.unlink()
            shutil.rmtree(pages, ignore_errors=True)

    def _swap(self, table: Path, others: dict[Path, Path]) -> None:
        """Moves the table and `others`, where they exist, to their places.

        What was there before waits under another name, and is restored after an error, else
        deleted: also where nothing takes its place.
        """
        waiting = {}
        moved = []
        try:
            for new, place in others.items():
                if place.exists():
                    old = new.with_name(f"{new.name}-old")
                    place.rename(old)
                    waiting[old] = place
                if new.exists():
                    new.rename(place)
                    moved.append((place, new))
            table.replace(self.out)
        except BaseException:
            for place, new in moved:
                place.rename(new)
            for old, place in waiting.items():
                old.rename(place)
            raise
        for old in waiting:
            if old.is_dir():
                shutil.rmtree(old, ignore_errors=True)
            else:
                old.unlink(missing_ok=True)
