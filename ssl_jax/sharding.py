"""Where each array of the train state lives: derived once from shapes, used for init, step and restore."""

import math
import os
import sys

import jax
from jax.sharding import NamedSharding

from ssl_jax.ops.mesh import COLUMNS, REPLICATED, ROWS

# The first rule whose beginning matches the path of an array decides; the rest is replicated.
RULES = (
    ("method/bank", ROWS),
    ("method/neighbours", ROWS),
    ("method/is_anchor", ROWS),
    ("method/labels", COLUMNS),
)


def state_shardings(mesh, shapes):
    """A tree of shardings like `shapes` (the result of `jax.eval_shape`)."""

    def place(path, _):
        path = jax.tree_util.keystr(path, simple=True, separator="/")
        spec = next((spec for start, spec in RULES if path.startswith(start)), REPLICATED)
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(place, shapes)


def bytes_per_device(mesh, shapes) -> dict[str, int]:
    """Bytes that each array of the train state takes on one device, by its path ("method/bank")."""
    places = jax.tree.leaves(state_shardings(mesh, shapes))
    own = lambda x, place: math.prod(place.shard_shape(x.shape)) * x.dtype.itemsize
    paths = jax.tree_util.tree_leaves_with_path(shapes)
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
    return {name(path): own(x, place) for (path, x), place in zip(paths, places)}


def device_memory() -> int:
    """Bytes of one device; on a CPU its share of the machine's memory."""
    if stats := jax.local_devices()[0].memory_stats():
        return stats.get("bytes_limit", sys.maxsize)
    if not hasattr(os, "sysconf"):
        return sys.maxsize
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // jax.local_device_count()


def batch_sharding(mesh):
    """Rows of a batch, spread over the devices."""
    return NamedSharding(mesh, ROWS)


def replicated(mesh):
    """One copy on every device."""
    return NamedSharding(mesh, REPLICATED)
