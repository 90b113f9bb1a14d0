"""A checkpoint's files: where they may lie, whether they are as they were written, the arrays that they hold."""

import contextlib
import re
import sys
from pathlib import Path

import jax

from ssl_jax.runs import checksums
from ssl_jax.runs.run_folder import steps_in
from ssl_jax.runtime.sharding import same_but_padding
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

_UNFIT = "[]*?\\"


def check_path(folder, setting: str = "workdir") -> None:
    """Raises SettingError for a path by which orbax would not find its own files.

    It takes some characters for patterns and a backslash for a separator, and knows no bytes that are not UTF-8.
    """
    path = str(Path(folder).absolute())
    found = sorted({char for char in path if char in _UNFIT or "\ud800" <= char <= "\udfff"})
    if found:
        named = " ".join(char if char in _UNFIT else "bytes that are not UTF-8" for char in found[:4])
        raise SettingError(
            f"{setting}={printable(repr(str(folder)))}: no part of a run folder's path may have {named} in its name, "
            "since checkpoints there are not found again; choose another name"
        )


def set_aside(folder) -> str:
    """Moves the latest checkpoint of a run out of the way, unless its checksums say that it is sound.

    Returns:
        what was done, as a sentence.

    Raises:
        SettingError: there is no earlier one to go on from, or the folder cannot be written.
    """
    path = Path(folder) / "checkpoints"
    *earlier, latest = steps_in(folder) or [None]
    if latest is None:
        raise SettingError(f"--checkpoint=previous: {folder} has no checkpoint yet; leave it out")
    if checksums.exist(path / str(latest)) and not checksums.damage(path / str(latest)):
        return f"checkpoint {latest} of {folder} is sound, so nothing is set aside"
    if not earlier:
        raise SettingError(
            f"--checkpoint=previous: {folder} has no checkpoint before {latest}; name another folder with --workdir"
        )
    place = Path(folder) / "damaged"
    try:
        place.mkdir(exist_ok=True)
        names = (place / f"{latest}{suffix}" for suffix in ("", *(f"-{i}" for i in range(2, 1000))))
        target = next(name for name in names if not name.exists())
        (path / str(latest)).rename(target)
    except OSError as error:
        raise SettingError(f"{place} cannot be written ({error.strerror})") from error
    return f"checkpoint {latest} is set aside in {target}; going on from {earlier[-1]}"


def verify(folder: Path, damaged):
    """Raises `damaged(why)` where a checkpoint's files are not as they were written; says where nobody can know."""
    if not checksums.exist(folder):
        print(
            f"note: {printable(folder)} has no checksums, as checkpoints of earlier versions and those of a run that "
            "was killed as it wrote them; it is read unchecked",
            file=sys.stderr,
        )
    elif why := checksums.damage(folder):
        raise damaged(why)


@contextlib.contextmanager
def reading(unusable):
    """Raises `unusable(why)` where orbax cannot read a checkpoint."""
    try:
        yield
    except Exception as error:  # orbax raises all kinds for missing and damaged files
        raise unusable(reason(error)) from error


def reason(error) -> str:
    return re.split(r" \[tensorstore_spec|\. See full|\n", str(error))[0]


def shapes_of(stored) -> dict[str, tuple[int, ...]]:
    """The shapes of a checkpoint's arrays by their path."""
    leaves = jax.tree_util.tree_leaves_with_path(stored)
    return {path_of(p): tuple(x.shape) for p, x in leaves if hasattr(x, "shape")}


def first_other(stored, shapes, shardings, parts=None):
    """(path, shape in `stored` or None, shape needed) of the first array of `shapes` that is another there, or None.

    Only in the trees `parts`, if given. In the layout of `shardings` the padding of a bank may be another.
    """
    for (path, leaf), place in zip(jax.tree_util.tree_leaves_with_path(shapes), jax.tree.leaves(shardings)):
        name = path_of(path)
        if parts is None or name.split("/")[0] in parts:
            shape = stored.get(name)
            if shape is None or not same_but_padding(shape, leaf.shape, place):
                return name, shape, tuple(leaf.shape)
    return None


def path_of(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
