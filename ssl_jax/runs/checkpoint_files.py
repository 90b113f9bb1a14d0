"""The files of a checkpoint: allowed paths, verification, and the shapes of its arrays."""

import contextlib
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from ssl_jax.interface import TrainState
from ssl_jax.runs import checksums
from ssl_jax.runs.run_folder import steps_in
from ssl_jax.runtime.sharding import same_but_padding
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

_FORBIDDEN = "[]*?\\"

Shape = tuple[int, ...]


def check_path(folder: Path | str, setting: str = "workdir") -> None:
    """Checks that orbax would find its own files below `folder`.

    It reads some characters as patterns, a backslash as a separator, and fails on bytes that are
    not UTF-8.

    Raises:
        SettingError: the path contains such a character.
    """
    path = str(Path(folder).absolute())
    bad = sorted({char for char in path if char in _FORBIDDEN or "\ud800" <= char <= "\udfff"})
    if bad:
        shown = " ".join(
            char if char in _FORBIDDEN else "bytes that are not UTF-8" for char in bad[:4]
        )
        raise SettingError(
            f"{setting}={printable(repr(str(folder)))}: the path of a run folder may not contain "
            f"{shown}, or its checkpoints would not be found again; choose another path"
        )


def set_aside(folder: Path) -> str:
    """Moves a run's latest checkpoint to `damaged/`, unless its checksums say that it is intact.

    Returns:
        what was done, as a sentence.

    Raises:
        SettingError: there is no earlier checkpoint to resume from, or the folder cannot be
            written.
    """
    checkpoints = Path(folder) / "checkpoints"
    *earlier, latest = steps_in(folder) or [None]
    if latest is None:
        raise SettingError(f"--checkpoint=previous: {folder} has no checkpoint yet; omit this flag")
    path = checkpoints / str(latest)
    if checksums.exist(path) and not checksums.damage(path):
        return f"checkpoint {latest} of {folder} is intact; nothing was set aside"
    if not earlier:
        raise SettingError(
            f"--checkpoint=previous: {folder} has no checkpoint before {latest}; "
            "choose another folder with --workdir"
        )
    damaged = Path(folder) / "damaged"
    try:
        damaged.mkdir(exist_ok=True)
        suffixes = ("", *(f"-{i}" for i in range(2, 1000)))
        names = (damaged / f"{latest}{suffix}" for suffix in suffixes)
        target = next(name for name in names if not name.exists())
        path.rename(target)
    except OSError as error:
        raise SettingError(f"{damaged} cannot be written ({error.strerror})") from error
    return f"checkpoint {latest} was set aside in {target}; resuming from step {earlier[-1]}"


def verify(folder: Path, damaged: Callable[[str], Exception]) -> None:
    """Raises `damaged(why)` if a checkpoint's files have changed; notes missing checksums."""
    if not checksums.exist(folder):
        print(
            f"note: {printable(folder)} has no checksums (an earlier version wrote it, or the run "
            "was killed while writing it); reading it unverified",
            file=sys.stderr,
        )
    elif why := checksums.damage(folder):
        raise damaged(why)


@contextlib.contextmanager
def reading(unusable: Callable[[str], Exception]) -> Iterator[None]:
    """Raises `unusable(why)` where orbax cannot read a checkpoint."""
    try:
        yield
    except Exception as error:  # orbax raises all kinds for missing and damaged files
        raise unusable(reason(error)) from error


def reason(error: Exception) -> str:
    """An error of orbax or tensorstore without its long tail."""
    return re.split(r" \[tensorstore_spec|\. See full|\n", str(error))[0]


def shapes_of(stored: Any) -> dict[str, Shape]:
    """The shapes of a checkpoint's arrays by their path."""
    leaves = jax.tree_util.tree_leaves_with_path(stored)
    return {path_of(path): tuple(x.shape) for path, x in leaves if hasattr(x, "shape")}


def first_other(
    stored: Mapping[str, Shape],
    shapes: TrainState,
    shardings: Any,
    parts: Collection[str] | None = None,
) -> tuple[str, Shape | None, Shape] | None:
    """The first array of `shapes` that is missing from `stored` or has another shape there.

    A bank may be padded differently where `shardings` lay it out over devices.

    Args:
        stored: shapes in the checkpoint, by path.
        shapes: the train state that is needed, as shapes.
        shardings: its layout, a tree like `shapes`.
        parts: compare only these top-level trees; None compares all.

    Returns:
        its path, shape in `stored` (None where missing) and needed shape; None if all fit.
    """
    return next(others(stored, shapes, shardings, parts), None)


def others(
    stored: Mapping[str, Shape],
    shapes: TrainState,
    shardings: Any,
    parts: Collection[str] | None = None,
) -> Iterator[tuple[str, Shape | None, Shape]]:
    """All arrays like `first_other`'s."""
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    for (path, leaf), sharding in zip(leaves, jax.tree.leaves(shardings)):
        name = path_of(path)
        if parts is None or name.split("/")[0] in parts:
            shape = stored.get(name)
            if shape is None or not same_but_padding(shape, leaf.shape, sharding):
                yield name, shape, tuple(leaf.shape)


def path_of(path: tuple[Any, ...]) -> str:
    """A key path of JAX as "params/network/conv/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
