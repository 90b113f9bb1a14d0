"""Pictures sorted into folders by the names of their clusters."""

import csv
import os
import re
import secrets
import shutil
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ssl_jax.clustering.names import ClusterTable
from ssl_jax.settings.paths import check_writable
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import counted, encodable, printable

LIST = ".sorted.csv"  # in the folder: what was put there, and from where
OUTLIERS = "outliers"
_HARMLESS = {LIST, ".DS_Store", "Thumbs.db"}
_LONGEST = 100  # bytes of the name of a folder
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]')  # in names on Windows, / everywhere
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")  # device names on Windows
_ESCAPE = re.compile(r"\\x([89a-f][0-9a-f])")  # a byte that is not UTF-8, as `encodable` writes it


class SortedFolders:
    """A folder `root` with a folder of pictures for each name.

    The whole is written beside `root` and moved there at the end, so that `root` never holds a part
    of the pictures. Pictures of clusters without a name go to cluster_NN/, outliers to outliers/.

    Args:
        root: the folder to write.
        source: the folder that the files of a table are in.
        sheets: the folder beside the table.
        overwrite: whether to replace `root` if all it holds is from an earlier call.
        linked: make symbolic links in place of copies.
    """

    def __init__(self, root: Path, source: Path, sheets: Path, overwrite: bool, linked: bool):
        self.root = root
        self._source = source
        self._sheets = sheets
        self._overwrite = overwrite
        self._linked = linked

    def check(self) -> None:
        """Checks that the folder can be written.

        Raises:
            SettingError: it cannot, or holds files that may not be replaced.
        """
        root = self.root
        setting = f"--folders={printable(root)}"
        real = Path(os.path.realpath(root))
        if not real.parent.is_dir():
            raise SettingError(f"{setting}: there is no folder {printable(real.parent)}; create it")
        for folder, reason in ((self._source, "the pictures"), (self._sheets, "the sheets")):
            if real.is_relative_to(os.path.realpath(folder)):
                raise SettingError(f"{setting} lies in the folder of {reason}; give another folder")
        if root.is_symlink() or (root.exists() and not root.is_dir()):
            raise SettingError(f"{setting} is not a folder; give another name")
        if root.is_dir() and any(root.iterdir()):
            written = self._written_before()
            foreign = next((name for name in sorted(_files(root)) if name not in written), None)
            if foreign is not None:
                raise SettingError(
                    f"{setting} holds other files ({printable(foreign)}); give a new or an empty "
                    "folder"
                )
            if not self._overwrite:
                raise SettingError(
                    f"{setting} is not empty; --overwrite replaces the pictures of an earlier "
                    "call, or give another folder"
                )
        check_writable(root, "--folders")

    def plan(self, table: ClusterTable) -> dict[str, str]:
        """Where each file of a table goes: see `placed`.

        Raises:
            SettingError: a picture is missing.
        """
        return placed(table, self._sources(table))

    def write(self, targets: Mapping[str, str]) -> str:
        """Writes the folders as planned, and returns a sentence that says so.

        Raises:
            SettingError: they cannot be written.
        """
        fresh = self.root.with_name(f".{self.root.name}-{secrets.token_hex(4)}-new")
        old = fresh.with_name(f"{fresh.name[:-4]}-old")
        try:
            fresh.mkdir()
            for source, target in targets.items():
                self._put(source, fresh / target)
            with open(fresh / LIST, "w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(("file", "from"))
                for source, target in targets.items():
                    writer.writerow((encodable(target), encodable(source)))
            self.check()  # again: copying takes a while
            self._swap(fresh, old)
        except OSError as error:
            raise SettingError(
                f"--folders={printable(self.root)} cannot be written "
                f"({error.strerror or error}); it is as it was before"
            ) from error
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
        what = "links to" if self._linked else "copies of"
        folders = len({target.partition("/")[0] for target in targets.values()})
        return printable(
            f"wrote {self.root}/: {what} {counted(len(targets), 'picture')} in "
            f"{counted(folders, 'folder')}"
        )

    def _put(self, source: str, target: Path) -> None:
        """Copies or links a picture."""
        target.parent.mkdir(exist_ok=True)
        path = os.path.abspath(os.path.join(self._source, source))
        if self._linked:
            target.symlink_to(path)
        else:
            shutil.copyfile(path, target)

    def _swap(self, fresh: Path, old: Path) -> None:
        """Moves the new folder into place, or restores the old one, which waits in `old`."""
        if self.root.is_dir():
            self.root.rename(old)
        try:
            fresh.rename(self.root)
        except BaseException:
            if old.is_dir():
                old.rename(self.root)
            raise

    def _sources(self, table: ClusterTable) -> list[str]:
        """The path below the source folder of the file of each row.

        Raises:
            SettingError: a file that is missing, or lies outside the source folder.
        """
        sources = []
        for text in table.files or ():
            if os.path.isabs(text) or ".." in text.split("/"):
                raise SettingError(
                    f"--out={printable(table.path)}: {printable(text)} is not a path below "
                    "data.dir; give a table that this command wrote"
                )
            raw = _ESCAPE.sub(lambda match: chr(0xDC00 + int(match[1], 16)), text)
            names = [name for name in dict.fromkeys((text, raw)) if self._has(name)]
            if not names:
                raise SettingError(
                    f"data.dir={printable(self._source)} has no file {printable(text)}, which "
                    f"{printable(table.path)} names; give the folder that the table was made of"
                )
            if len(names) > 1:
                raise SettingError(
                    f"data.dir={printable(self._source)} has two files that "
                    f"{printable(table.path)} writes as {printable(text)}; rename one of them and "
                    "make the table again"
                )
            sources.append(os.path.normpath(names[0]))
        return sources

    def _has(self, name: str) -> bool:
        return os.path.isfile(os.path.join(self._source, name))

    def _written_before(self) -> set[str]:
        """The files that an earlier call put into the folder."""
        try:
            with open(self.root / LIST, newline="", encoding="utf-8") as file:
                return {row["file"] for row in csv.DictReader(file)} | _HARMLESS
        except (OSError, UnicodeDecodeError, csv.Error, KeyError):
            return set()


def _files(root: Path) -> Iterator[str]:
    """Files below a folder by their paths, and empty folders."""
    for folder, folders, files in os.walk(root):
        below = os.path.relpath(folder, root)
        for name in files:
            yield encodable(os.path.normpath(os.path.join(below, name)))
        for name in folders:
            path = os.path.join(folder, name)
            if os.path.islink(path) or not os.listdir(path):
                yield encodable(os.path.normpath(os.path.join(below, name)))


def placed(table: ClusterTable, sources: Iterable[str]) -> dict[str, str]:
    """Where each source file goes: "FOLDER/FILE" below the root, without collisions.

    Names that differ in case only, or become alike when they are made safe, are numbered: name,
    name_2.
    """
    width = len(str(max(table.clusters.max(initial=0), 1)))
    folders: dict[tuple[str, int], str] = {}
    taken = _Taken()
    inside: dict[str, _Taken] = {}
    targets: dict[str, str] = {}
    for source, cluster, name, outlier in zip(
        sources, table.clusters.tolist(), table.names, table.outliers
    ):
        if source in targets:  # a file that stands twice in the table
            continue
        key = (name, -1) if name else ("", -1 if outlier else cluster)
        if key not in folders:
            unnamed = OUTLIERS if outlier else f"cluster_{cluster:0{width}}"
            folders[key] = taken.free(safe(name) or unnamed, "")
        folder = folders[key]
        file = os.path.basename(source)
        file = inside.setdefault(folder, _Taken()).free(*os.path.splitext(file))
        targets[source] = f"{folder}/{file}"
    return targets


def safe(name: str) -> str:
    """A name as that of a folder on any system; "" if nothing is left of it.

    Characters that some system forbids become _; so do dots and blanks at the start or the end.
    """
    text = _FORBIDDEN.sub("_", name)
    text = "".join(c if c.isprintable() else "_" for c in text)
    text = text.encode()[:_LONGEST].decode(errors="ignore")
    text = re.sub(r"^[. ]+|[. ]+$", "_", text)
    if not text.strip("_"):
        return ""
    return f"{text}_" if _RESERVED.fullmatch(text) else text


class _Taken:
    """Names that are taken in a folder, on systems that tell cases apart or do not."""

    def __init__(self):
        self._names: set[str] = set()
        self._counts: dict[str, int] = {}

    def free(self, stem: str, suffix: str) -> str:
        """`stem` and `suffix`, with a number between them if that name is taken."""
        chosen = f"{stem}{suffix}"
        first = _folded(chosen)
        while _folded(chosen) in self._names:
            number = self._counts.get(first, 1) + 1
            self._counts[first] = number
            chosen = f"{stem}_{number}{suffix}"
        self._names.add(_folded(chosen))
        return chosen


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
