"""Where a folder keeps its training and test images, by the names of its subfolders."""

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ssl_jax.data import formats, splits
from ssl_jax.data.formats import ending
from ssl_jax.data.source import Source
from ssl_jax.data.walk import is_folder, is_ignored
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

_TRAIN = splits.NAMES[splits.TRAIN]
_TEST = splits.NAMES[splits.VALIDATION] + splits.NAMES[splits.TEST]  # the first full one is read
_UNLABELLED = splits.NAMES[splits.WITHOUT_LABELS]


@dataclasses.dataclass(frozen=True)
class Layout:
    """The parts of a folder `root`, as subfolders with the case they have on disk.

    Attributes:
        train: the folder with the training images; "" is `root` itself.
        test: the folder with the test images; None if there is none.
        empty: folders that would be read before `test` if they had images.
        unlabelled: folders beside `train` whose images have no labels.
        unread: folders beside `train` that are not read.
        left_out: files beside `train`, which are not read, by their ending.
    """

    train: str = ""
    test: str | None = None
    empty: tuple[str, ...] = ()
    unlabelled: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    left_out: Counter[str] = dataclasses.field(default_factory=Counter)

    @property
    def tops(self) -> list[str]:
        """The folders to read."""
        return [self.train, *([self.test] if self.test else []), *self.unlabelled]


def layout_of(source: Source, root: Path) -> Layout:
    """The layout of the folder `root`.

    Raises:
        SettingError: several folders could have the training or test images; or none could have the
            training images, though others have the names of test splits; or a folder that cannot be
            read.
    """
    folders, files = _contents(root)
    train = _first(source, folders, (_TRAIN,))
    test, empty = _test_folder(source, folders, root) if train else (None, ())
    unlabelled = [name for name in folders if is_unlabelled(name)]
    others = [name for name in folders if name.lower() not in (*_TRAIN, *_TEST, *_UNLABELLED)]
    if not train:
        tests = [name for name in folders if name.lower() in _TEST]
        if source.labelled and len(tests) > 1 and not others:
            raise SettingError(
                f"data.dir={printable(source.dir)} has {_listed(tests)} but no train/; rename the "
                "folder with the training images to train, or set data.labels=none to train on all"
            )
        return Layout()
    if others and not test and not _contents(root / train)[0]:
        return Layout()  # a class called "train"
    return Layout(
        train=train,
        test=test,
        empty=empty,
        unlabelled=tuple(unlabelled),
        unread=tuple(name for name in folders if name not in (train, test, *empty, *unlabelled)),
        left_out=Counter(ending(name) for name in files),
    )


def is_unlabelled(name: str) -> bool:
    """Whether a class folder holds images without labels, by its name."""
    return name.lower() in _UNLABELLED


def class_of(name: str, top: str) -> str:
    """The class folder of the file `name` below `top`; "" if it is in none."""
    parts = name.split(os.sep)[1 if top else 0 :]
    return parts[0] if len(parts) > 1 else ""


def check_single(source: Source, names: Sequence[str]) -> None:
    """Checks that the only class folder has images of its own; then it is no class but a container.

    Args:
        source: the settings.
        names: of the images, as paths below `data.dir`.

    Raises:
        SettingError: the images are in several subfolders of it, which might be the classes.
    """
    folders = {os.path.dirname(name) for name in names}
    common = os.path.commonpath(folders)
    if common not in folders:
        below = sorted({name[len(common) + 1 :].split(os.sep)[0] for name in folders})
        path = printable(Path(source.dir, common))
        raise SettingError(
            f"all images of data.dir={printable(source.dir)} are in {_listed(below)} of {path}; "
            f"give data.dir={path} to read these as classes or splits, or set data.labels=none to "
            "train without labels"
        )


def check_no_splits(source: Source, layout: Layout, classes: Sequence[str]) -> list[str]:
    """Checks that class folders are no splits with longer names, such as seg_train and seg_test.

    Args:
        source: the settings.
        layout: the parts of the folder.
        classes: names of the class folders.

    Returns:
        sentences on classes with the name of a test split.

    Raises:
        SettingError: all have the word of a split in their name, some of training, some of tests.
    """
    kinds = [_split_words(name) for name in classes]
    if all(kinds) and _TRAIN[0] in set.union(*kinds) and _TEST[0] in set.union(*kinds):
        raise SettingError(
            f"the folders {_listed(classes)} of {printable(Path(source.dir, layout.train))} are "
            "splits by their names, not classes; call the one with the training images train and "
            "the one with the test images test, and put the class folders directly into these"
        )
    tests = [name for name in classes if name.strip().lower() in _TEST]
    return [
        printable(f"{os.path.join(layout.train, name)}/ is read as a class, in spite of its name")
        for name in tests
    ]


def _split_words(name: str) -> set[str]:
    """The kinds of splits, `_TRAIN[0]` and `_TEST[0]`, whose words a name has."""
    words = {word.removesuffix("set") for word in re.split("[^a-z]+", name.lower())}
    return {names[0] for names in (_TRAIN, _TEST) if words & set(names)}


def layout_notes(layout: Layout) -> tuple[str, ...]:
    """Sentences on folders that are not read."""
    notes = ()
    if layout.empty:
        have = "has" if len(layout.empty) == 1 else "have"
        notes = (printable(f"{_listed(layout.empty)} {have} no images, so {layout.test}/ is read"),)
    if not layout.unread:
        return notes
    others = [layout.test, *layout.unlabelled] if layout.test else layout.unlabelled
    read = _listed([layout.train, *others])
    are = "is" if len(layout.unread) == 1 else "are"
    return (*notes, printable(f"{_listed(layout.unread)} {are} not read, only {read}"))


def _test_folder(
    source: Source, folders: Sequence[str], root: Path
) -> tuple[str | None, tuple[str, ...]]:
    """The first folder of a test split that has an image, and those before it, which have none.

    Without any image it is the first of them.
    """
    present = [name for name in _TEST if any(folder.lower() == name for folder in folders)]
    empty = []
    for name in present:
        folder = _first(source, folders, [(name,)])
        if folder and (len(present) == 1 or _has_image(root / folder)):
            return folder, tuple(empty)
        empty.append(folder)
    return (empty[0], ()) if empty else (None, ())


def _has_image(path: Path) -> bool:
    """Whether a picture is somewhere below a folder; reading ends at the first.

    Raises:
        SettingError: a folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise SettingError(
            f"{printable(error.filename)} cannot be read ({error.strerror})"
        ) from error

    suffixes = formats.suffixes()
    visited = set()
    for place, folders, files in os.walk(path, onerror=fail, followlinks=True):
        if any(not is_ignored(name) and name.lower().endswith(suffixes) for name in files):
            return True
        real = os.path.realpath(place)
        again = real in visited  # links may loop
        visited.add(real)
        folders[:] = [] if again else [name for name in folders if not is_ignored(name)]
    return False


def _first(source: Source, folders: Sequence[str], choices: Sequence[Sequence[str]]) -> str | None:
    """The folder with one of the names of the first choice that exists."""
    for names in choices:
        matches = [folder for folder in folders if folder.lower() in names]
        if len(matches) > 1:
            raise SettingError(
                f"data.dir={printable(source.dir)} has {_listed(matches)}, which mean the same "
                "split; rename or remove all but one"
            )
        if matches:
            return matches[0]
    return None


def _listed(folders: Sequence[str]) -> str:
    """Folders as in "train/, val/ and 7 more"."""
    names = [printable(f"{name}/") for name in folders]
    if len(names) > 4:
        return f"{', '.join(names[:3])} and {len(names) - 3:,} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _contents(path: Path) -> tuple[list[str], list[str]]:
    """Names of the folders in a folder and of its other entries, sorted, without hidden ones."""
    try:
        with os.scandir(path) as entries:
            visible = [(e.name, is_folder(e)) for e in entries if not is_ignored(e.name)]
    except OSError as error:
        raise SettingError(f"{printable(path)} cannot be read ({error.strerror})") from error
    folders = sorted(name for name, is_dir in visible if is_dir)
    return folders, sorted(name for name, is_dir in visible if not is_dir)
