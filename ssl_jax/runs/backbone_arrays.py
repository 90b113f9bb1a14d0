"""Which arrays of a train state are a backbone's: of the network that trains, and of targets."""

from collections.abc import Mapping
from typing import Any

import jax

from ssl_jax.runs.checkpoint_files import path_of

_MARK = "/backbone/"
_STATISTICS = ("mean", "var")


def is_backbone(name: str) -> bool:
    """Whether the array at a path such as "method/target/params/backbone/bn1/scale" is one."""
    return _MARK in name


def place(name: str) -> tuple[str, str]:
    """(collection, path within the backbone) of a backbone's array, the same for all networks."""
    inside = name.split(_MARK, 1)[1]
    collection = "batch_stats" if inside.rpartition("/")[2] in _STATISTICS else "params"
    return collection, inside


def online(names: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """The arrays of the network that trains, by `place`: their paths in a train state."""
    chosen = {}
    for name in names:
        if is_backbone(name) and name.split("/")[0] in ("params", "batch_stats"):
            chosen[place(name)] = name
    return chosen


def paths(state: Any) -> dict[str, Any]:
    """The arrays of a train state, or their shapes, by path."""
    return {path_of(path): x for path, x in jax.tree_util.tree_leaves_with_path(state)}
