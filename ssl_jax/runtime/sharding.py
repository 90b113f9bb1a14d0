"""Where each array of the train state is placed: derived once, used by init, step and restore."""

import dataclasses
import math
import os
import sys
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from ssl_jax.interface import TrainState
from ssl_jax.ops.mesh import REPLICATED, ROWS, padding


def state_shardings(mesh: Mesh, shapes: TrainState) -> Any:
    """A tree of shardings like `shapes`, the result of `jax.eval_shape`.

    The method's state declares the layout of its arrays (`interface.laid_out`); all others are
    replicated.
    """
    fields = dataclasses.fields(shapes.method) if dataclasses.is_dataclass(shapes.method) else ()
    layouts = {
        field.name: field.metadata["layout"] for field in fields if "layout" in field.metadata
    }

    def place(path: tuple[Any, ...], _: Any) -> NamedSharding:
        owner, *field = _name(path).split("/")[:2]
        spec = layouts.get(field[0], REPLICATED) if owner == "method" and field else REPLICATED
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(place, shapes)


def same_but_padding(stored: tuple[int, ...], shape: tuple[int, ...], place: NamedSharding) -> bool:
    """Whether shape `stored` is `shape` up to another machine's padding of the sharded axes.

    Args:
        stored: shape in a checkpoint.
        shape: shape on this machine.
        place: layout on this machine.
    """
    if len(stored) != len(shape):
        return False
    for axis, (needed, size) in enumerate(zip(shape, stored)):
        is_sharded = axis < len(place.spec) and place.spec[axis] is not None
        padded_elsewhere = size % 64 == 0 and size > needed - padding(place.mesh.size)
        if size != needed and not (is_sharded and padded_elsewhere):
            return False
    return True


def bytes_per_device(mesh: Mesh, shapes: TrainState) -> dict[str, int]:
    """Bytes that each array of the train state takes on one device, by its path ("method/bank")."""
    places = jax.tree.leaves(state_shardings(mesh, shapes))
    sizes = {}
    for (path, x), place in zip(jax.tree_util.tree_leaves_with_path(shapes), places):
        sizes[_name(path)] = math.prod(place.shard_shape(x.shape)) * x.dtype.itemsize
    return sizes


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def device_memory() -> int:
    """Bytes of memory of one device; on a CPU its share of the machine's."""
    if stats := jax.local_devices()[0].memory_stats():
        return stats.get("bytes_limit", sys.maxsize)
    if not hasattr(os, "sysconf"):
        return sys.maxsize
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // jax.local_device_count()


def put(x: Any, sharding: NamedSharding) -> jax.Array:
    """`x`, the same on all hosts, laid out as `sharding`; no data travels between hosts."""
    return jax.make_array_from_callback(np.shape(x), sharding, lambda where: x[where])


def put_all(tree: Any, sharding: NamedSharding) -> Any:
    """`put` for each array of a tree."""
    return jax.tree.map(lambda x: put(x, sharding), tree)


def from_local(tree: Any, sharding: NamedSharding, count: int) -> Any:
    """Arrays of `count` rows in all, of which each host gives those of its own devices."""
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, x, (count, *x.shape[1:])), tree
    )


def padded(count: int, sharding: NamedSharding) -> int:
    """`count` rounded up to a multiple of the devices."""
    return -(-count // sharding.mesh.size) * sharding.mesh.size


def own_rows(sharding: NamedSharding, count: int) -> np.ndarray:
    """Which of `count` rows lie on the devices of this process, ascending.

    The last row is repeated until the rows divide by the devices.
    """
    rows = np.minimum(np.arange(padded(count, sharding)), count - 1)
    slices = sharding.addressable_devices_indices_map(rows.shape).values()
    ordered = sorted(slices, key=lambda where: where[0].start or 0)
    return np.concatenate([rows[where] for where in ordered])


def put_rows(images: Any, rows: np.ndarray, mesh: Mesh) -> Any:
    """`images[rows]` sharded over `mesh`, padded as in `own_rows`.

    Each host reads only the rows of its own devices.
    """
    sharding = batch_sharding(mesh)
    local = images[rows[own_rows(sharding, len(rows))]]
    return from_local(local, sharding, padded(len(rows), sharding))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch, sharded over the devices."""
    return NamedSharding(mesh, ROWS)


def replicated(mesh: Mesh) -> NamedSharding:
    """One copy on every device."""
    return NamedSharding(mesh, REPLICATED)
