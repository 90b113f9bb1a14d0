"""Where each array of the train state lives: derived once from shapes, used for init, step and restore."""

import dataclasses
import math
import os
import sys

import jax
import numpy as np
from jax.sharding import NamedSharding

from ssl_jax.ops.mesh import REPLICATED, ROWS, padding


def state_shardings(mesh, shapes):
    """A tree of shardings like `shapes` (the result of `jax.eval_shape`), a `TrainState`.

    Arrays lie as the method's state declares them (`interface.laid_out`); all others have a copy on every device.
    """
    declared = dataclasses.fields(shapes.method) if dataclasses.is_dataclass(shapes.method) else ()
    layouts = {field.name: field.metadata["layout"] for field in declared if "layout" in field.metadata}

    def place(path, _):
        owner, *field = jax.tree_util.keystr(path, simple=True, separator="/").split("/")[:2]
        spec = layouts.get(field[0], REPLICATED) if owner == "method" and field else REPLICATED
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(place, shapes)


def same_but_padding(stored, shape, place) -> bool:
    """Whether an array stored as `stored` is one of `shape`, laid out as `place`, but for another machine's padding."""
    spread = [i < len(place.spec) and place.spec[i] is not None for i in range(len(shape))]
    fits = lambda ours, theirs: theirs % 64 == 0 and theirs > ours - padding(place.mesh.size)
    return len(stored) == len(shape) and all(
        ours == theirs or (loose and fits(ours, theirs)) for ours, theirs, loose in zip(shape, stored, spread)
    )


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


def put(x, sharding):
    """`x`, the same on all hosts, laid out as `sharding`: each host sends to its own devices, and nothing to others."""
    return jax.make_array_from_callback(np.shape(x), sharding, lambda where: x[where])


def padded(count: int, sharding) -> int:
    """The next number of rows that divides by the devices."""
    return -(-count // sharding.mesh.size) * sharding.mesh.size


def own_rows(sharding, count: int) -> np.ndarray:
    """Which of `count` rows lie on the devices of this process, ascending; all, where there is no other.

    Rows that do not divide by the devices are followed by the last one, until they do.
    """
    every = np.minimum(np.arange(padded(count, sharding)), count - 1)
    places = sharding.addressable_devices_indices_map(every.shape).values()
    return np.concatenate([every[where] for where in sorted(places, key=lambda where: where[0].start or 0)])


def put_rows(images, rows, mesh):
    """`images[rows]` over the devices of `mesh`, padded as in `own_rows`; each host reads what its devices take."""
    sharding = batch_sharding(mesh)
    own = images[rows[own_rows(sharding, len(rows))]]
    shape = (padded(len(rows), sharding), *images.shape[1:])
    return jax.make_array_from_process_local_data(sharding, own, shape)


def batch_sharding(mesh):
    """Rows of a batch, spread over the devices."""
    return NamedSharding(mesh, ROWS)


def replicated(mesh):
    """One copy on every device."""
    return NamedSharding(mesh, REPLICATED)
