"""The files below a folder, links included, with every real folder read once."""

import functools
import os

_AGAIN, _LOOP = "which is read already", "which contains the link"


class Walk:
    """Files below `root/top` whose names end in one of `suffixes`; hidden files and folders are not read.

    Real folders come first, then those that links lead to, in the order of the links' paths. A link is left out if the
    folder that it leads to is read already, or contains the link or `root/top`, so that it would be read in a loop.
    Ordinary files are listed without a look at each: only folders and links are.

    Args:
        root: a folder.
        top: a folder in it, or "" for `root` itself.
        suffixes: endings in lower case.

    Attributes:
        files: their paths below `root`, sorted.
        left_out: (path below `root`, path of the folder that it leads to, why), sorted.
        outside: (path below `root`, where it leads) of links that lead out of `root` and are followed, sorted.

    Raises:
        OSError: a folder cannot be read.
    """

    def __init__(self, root, top: str, suffixes: tuple[str, ...]):
        self.files, self.left_out, self.outside = [], [], []
        self._root, self._suffixes = os.fspath(root), suffixes
        self._real = functools.lru_cache(os.path.realpath)
        self._read = {}  # (device, inode) of each folder that is read: its path below the root
        self._links = []  # to folders, still to be followed
        self._start = self._real(self._path(top))
        if top and os.path.islink(self._path(top)):
            self._note_outside(top)
        self._read_below(top)
        while self._links:
            links, self._links = sorted(self._links), []
            for link in links:
                self._follow(link)
        for found in (self.files, self.left_out, self.outside):
            found.sort()

    def _path(self, place):
        return os.path.join(self._root, place) if place else self._root

    def _read_below(self, place):
        """Reads a folder and all real folders below it."""
        waiting = [place]
        while waiting:
            place = waiting.pop()
            known = self._read.setdefault(self._identity(place), place)
            if known == place:
                waiting += self._list(place)
            else:
                self.left_out.append((place, self._path(known), _AGAIN))

    def _identity(self, place):
        status = os.stat(self._path(place))
        return status.st_dev, status.st_ino

    def _list(self, place) -> list[str]:
        """Takes note of a folder's files and links, and gives its folders."""
        folders, prefix = [], f"{place}{os.sep}" if place else ""
        with os.scandir(self._path(place)) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith("."):
                    continue
                if is_folder(entry):
                    (self._links if entry.is_symlink() else folders).append(prefix + name)
                elif name.lower().endswith(self._suffixes):
                    self.files.append(prefix + name)
                    if entry.is_symlink():
                        self._note_outside(prefix + name)
        return folders

    def _follow(self, link):
        """Reads the folder that a link leads to, unless it is read already or a loop would arise."""
        target = self._real(self._path(link))
        known = self._read.get(self._identity(link))
        if known is not None:
            self.left_out.append((link, self._path(known), _AGAIN))
        elif any(_within(place, target) for place in (self._start, self._real(os.path.dirname(self._path(link))))):
            self.left_out.append((link, target, _LOOP))
        else:
            self._note_outside(link)
            self._read_below(link)

    def _note_outside(self, link):
        target = self._end(self._path(link))
        if not _within(target, self._real(self._root)):
            self.outside.append((link, target))

    def _end(self, path):
        """Where a link leads; links to links are followed, and a folder is resolved once for all links into it."""
        for _ in range(40):  # the kernel follows no more
            folder, name = os.path.split(path)
            path = os.path.join(self._real(folder), name)
            try:
                path = os.path.normpath(os.path.join(self._real(folder), os.readlink(path)))
            except OSError:  # no link any more, or nothing is there
                break
        return path


def is_folder(entry: os.DirEntry) -> bool:
    """Whether an entry is a folder or leads to one; a link in a loop does not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _within(path, folder) -> bool:
    """Whether a real path is that of `folder` or lies below it."""
    return path == folder or path.startswith(os.path.join(folder, ""))
