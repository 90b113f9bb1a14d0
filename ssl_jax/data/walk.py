"""The files below a folder, following links and reading every real folder once."""

import functools
import os
from collections import Counter
from pathlib import Path

from ssl_jax.data.formats import ending

_AGAIN = "which is already read"
_LOOP = "which contains the link"
_SYSTEM_FOLDERS = ("__MACOSX", "@eaDir")
_MAX_LINKS = 40  # the kernel follows no longer chain


class Walk:
    """Files below `root/top` with one of the given suffixes; hidden files and folders are ignored.

    Real folders come first, then the targets of links, in the order of the links' paths. A link is
    left out if its target is already read, or contains the link or `root/top`, which would loop.
    Regular files are listed without a system call for each; only folders and links need one.

    Args:
        root: a folder.
        top: a folder in it, or "" for `root` itself.
        suffixes: endings of file names, in lower case.

    Attributes:
        files: paths below `root`, sorted.
        left_out: (path below `root`, path of the target, reason) of links left out, sorted.
        outside: (path below `root`, path of the target) of links that are followed out of `root`,
            sorted.
        others: number of files with other endings, by `formats.ending`.

    Raises:
        OSError: a folder cannot be read.
    """

    def __init__(self, root: str | Path, top: str, suffixes: tuple[str, ...]):
        self.files = []
        self.left_out = []
        self.outside = []
        self.others: Counter[str] = Counter()
        self._root = os.fspath(root)
        self._suffixes = suffixes
        self._real = functools.lru_cache(os.path.realpath)
        self._read = {}  # (device, inode) of each folder read so far: its path below the root
        self._links = []  # links to folders, not followed yet
        self._start = self._real(self._path(top))
        if top and os.path.islink(self._path(top)):
            self._note_outside(top)
        self._read_below(top)
        while self._links:
            links = sorted(self._links)
            self._links = []
            for link in links:
                self._follow(link)
        self.files.sort()
        self.left_out.sort()
        self.outside.sort()

    def _path(self, place: str) -> str:
        return os.path.join(self._root, place) if place else self._root

    def _read_below(self, folder: str) -> None:
        """Reads a folder and all real folders below it."""
        waiting = [folder]
        while waiting:
            folder = waiting.pop()
            first = self._read.setdefault(self._identity(folder), folder)
            if first == folder:
                waiting += self._list(folder)
            else:
                self.left_out.append((folder, self._path(first), _AGAIN))

    def _identity(self, place: str) -> tuple[int, int]:
        status = os.stat(self._path(place))
        return status.st_dev, status.st_ino

    def _list(self, folder: str) -> list[str]:
        """Records a folder's files and links, and returns its real folders."""
        folders = []
        prefix = f"{folder}{os.sep}" if folder else ""
        with os.scandir(self._path(folder)) as entries:
            for entry in entries:
                name = entry.name
                if is_ignored(name):
                    continue
                if is_folder(entry):
                    (self._links if entry.is_symlink() else folders).append(prefix + name)
                elif name.lower().endswith(self._suffixes):
                    self.files.append(prefix + name)
                    if entry.is_symlink():
                        self._note_outside(prefix + name)
                else:
                    self.others[ending(name)] += 1
        return folders

    def _follow(self, link: str) -> None:
        """Reads the folder a link leads to, unless it is already read or would loop."""
        target = self._real(self._path(link))
        parent = self._real(os.path.dirname(self._path(link)))
        first = self._read.get(self._identity(link))
        if first is not None:
            self.left_out.append((link, self._path(first), _AGAIN))
        elif _within(self._start, target) or _within(parent, target):
            self.left_out.append((link, target, _LOOP))
        else:
            self._note_outside(link)
            self._read_below(link)

    def _note_outside(self, link: str) -> None:
        target = self._end(self._path(link))
        if not _within(target, self._real(self._root)) and os.path.exists(target):
            self.outside.append((link, target))

    def _end(self, path: str) -> str:
        """Where a link leads, through links to links. Each folder is resolved only once."""
        for _ in range(_MAX_LINKS):
            folder, name = os.path.split(path)
            path = os.path.join(self._real(folder), name)
            try:
                path = os.path.normpath(os.path.join(self._real(folder), os.readlink(path)))
            except OSError:  # not a link, or it does not exist
                break
        return path


def is_ignored(name: str) -> bool:
    """Whether a file or folder is hidden, or made by macOS or a file server beside the user's."""
    return name.startswith(".") or name in _SYSTEM_FOLDERS


def is_folder(entry: os.DirEntry) -> bool:
    """Whether an entry is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # links in a loop
        return False


def _within(path: str, folder: str) -> bool:
    """Whether a real path is `folder` or below it."""
    return path == folder or path.startswith(os.path.join(folder, ""))
