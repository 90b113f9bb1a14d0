"""The device mesh. The only module that names a mesh axis.

Everything else is written for the global array and says, at most, `constrain(x, ROWS)`. Without an
active mesh (`jax.set_mesh`) every function here does nothing special, so one device and a pod run
the same lines.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

AXIS = "data"
REPLICATED = PartitionSpec()
ROWS = PartitionSpec(AXIS)
COLUMNS = PartitionSpec(None, AXIS)


def make_mesh(devices=None) -> Mesh:
    """A one-dimensional mesh over `devices` (default: all), with automatic sharding."""
    return Mesh(np.array(jax.devices() if devices is None else devices), (AXIS,))


def active_devices() -> int:
    """Number of devices of the active mesh, 1 where there is none."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.shape[AXIS]


def padded_rows(rows: int) -> int:
    """Rows that a sharded table of `rows` is stored with: a multiple of `padding` for the active mesh."""
    multiple = padding(active_devices())
    return -(-rows // multiple) * multiple


def padding(devices: int) -> int:
    """What the rows of sharded tables are a multiple of: the devices, and 64, so that few machines differ in them."""
    return math.lcm(64, devices)


def constrain(x, spec: PartitionSpec):
    """`x`, laid out over the active mesh as `spec` says; inside `jit` also where its rows do not divide evenly."""
    return x if active_devices() == 1 else jax.lax.with_sharding_constraint(x, spec)


def over_rows(function, rows, *others):
    """`function(rows, *others)` where each device works on its own `rows` [N, ...]; `others` are whole on all.

    The results must have one entry a row; where N does not divide, rows are padded with zeros meanwhile.
    """
    devices = active_devices()
    if devices == 1:
        return function(rows, *others)
    count = len(rows)
    specs = (ROWS, *(REPLICATED for _ in others))
    found = jax.shard_map(function, in_specs=specs, out_specs=ROWS, check_vma=False)(_divisible(rows, devices), *others)
    return jax.tree.map(lambda x: x[:count], found)


def sum_over_rows(function, rows):
    """The sum over the devices of `function(rows)`, a tree of arrays [N, ...] of which each has its own rows.

    Where N does not divide, rows of zeros are added, which must add nothing to the result.
    """
    devices = active_devices()
    if devices == 1:
        return function(rows)
    rows = jax.tree.map(lambda x: _divisible(x, devices), rows)
    total = lambda rows: jax.lax.psum(function(rows), AXIS)
    return jax.shard_map(total, in_specs=(ROWS,), out_specs=REPLICATED, check_vma=False)(rows)


def _divisible(x, devices):
    """`x` [N, ...] with rows of zeros after it, so that each device has as many."""
    return jnp.pad(x, ((0, -len(x) % devices),) + ((0, 0),) * (x.ndim - 1))


def local_top_k(scores, k: int):
    """`jax.lax.top_k` along the last axis of `scores` [M, N], without gathering the scores.

    Each device takes the top k of its own columns; only those candidates travel.

    Returns:
        values [M, k] and their column numbers [M, k], largest first.
    """
    devices = active_devices()
    if devices == 1:
        return jax.lax.top_k(scores, k)
    padding = -scores.shape[1] % devices
    scores = jnp.pad(scores, ((0, 0), (0, padding)), constant_values=-jnp.inf)
    width = scores.shape[1] // devices

    def merge(columns):
        values, index = jax.lax.top_k(columns, min(k, width))
        index = index + jax.lax.axis_index(AXIS) * width
        values, index = (jax.lax.all_gather(a, AXIS, axis=1, tiled=True) for a in (values, index))
        values, best = jax.lax.top_k(values, k)
        return values, jnp.take_along_axis(index, best, axis=1)

    return jax.shard_map(merge, in_specs=COLUMNS, out_specs=(REPLICATED, REPLICATED), check_vma=False)(scores)
