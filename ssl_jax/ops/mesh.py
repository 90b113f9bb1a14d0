"""The device mesh. The only module that names a mesh axis.

All other code is written for the global array and at most calls `constrain(x, ROWS)`. Without an
active mesh (`jax.set_mesh`) the functions here add nothing, so one device and a pod run the same
lines.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, Shaped

from ssl_jax.ops.types import Numbers

AXIS = "data"
REPLICATED = PartitionSpec()
ROWS = PartitionSpec(AXIS)
COLUMNS = PartitionSpec(None, AXIS)

AnyArray = TypeVar("AnyArray", bound=jax.Array | np.ndarray)
Result = TypeVar("Result")
Devices = Sequence[jax.Device] | np.ndarray  # pyright: ignore[reportInvalidTypeForm]


def make_mesh(devices: Devices | None = None) -> Mesh:
    """A one-dimensional mesh over `devices` (default: all), with automatic sharding."""
    return Mesh(np.array(jax.devices() if devices is None else devices), (AXIS,))


def active_devices() -> int:
    """Number of devices in the active mesh; 1 without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.shape[AXIS]


def padded_rows(rows: int) -> int:
    """Stored size of a sharded table of `rows`: rounded up to `padding` of the active mesh."""
    multiple = padding(active_devices())
    return -(-rows // multiple) * multiple


def padding(devices: int) -> int:
    """The multiple that sharded tables are padded to.

    A multiple of 64 as well as of the devices, so that most machines agree on the size.
    """
    return math.lcm(64, devices)


def constrain(x: AnyArray, spec: PartitionSpec) -> AnyArray:
    """`x`, laid out over the active mesh by `spec`; inside `jit` rows need not divide evenly."""
    return x if active_devices() == 1 else jax.lax.with_sharding_constraint(x, spec)


def over_rows(
    function: Callable[..., Result], rows: Shaped[Array, "N ..."], *others: Shaped[Array, "..."]
) -> Result:
    """`function(rows, *others)`, each device computing its shard of `rows` [N, ...].

    Args:
        function: returns arrays with one entry per row.
        rows: [N, ...]; padded with zeros meanwhile where N does not divide.
        *others: whole on every device.
    """
    devices = active_devices()
    if devices == 1:
        return function(rows, *others)
    count = len(rows)
    specs = (ROWS, *(REPLICATED for _ in others))
    sharded = jax.shard_map(function, in_specs=specs, out_specs=ROWS, check_vma=False)
    padded = sharded(_pad_rows(rows, devices), *others)
    return jax.tree.map(lambda x: x[:count], padded)


def sum_over_rows(function: Callable[[Any], Result], rows: Any) -> Result:
    """Sum over the devices of `function(rows)`, each device computing its shard.

    Args:
        function: takes a tree like `rows`; zero rows must add nothing to its result.
        rows: tree of arrays [N, ...]; padded with zeros where N does not divide.
    """
    devices = active_devices()
    if devices == 1:
        return function(rows)
    rows = jax.tree.map(lambda x: _pad_rows(x, devices), rows)

    def total(shard: Any) -> Result:
        return jax.lax.psum(function(shard), AXIS)

    return jax.shard_map(total, in_specs=(ROWS,), out_specs=REPLICATED, check_vma=False)(rows)


def _pad_rows(x: Shaped[Array, "N ..."], devices: int) -> Shaped[Array, "M ..."]:
    """`x` [N, ...] with rows of zeros appended, so that `devices` divides their number."""
    return jnp.pad(x, ((0, -len(x) % devices),) + ((0, 0),) * (x.ndim - 1))


def local_top_k(
    scores: Float[Numbers, "M N"], k: int
) -> tuple[Float[Array, "M k"], Int[Array, "M k"]]:
    """`jax.lax.top_k` along the last axis of `scores` [M, N], without gathering the scores.

    Each device takes the top k of its own columns; only these candidates travel.

    Returns:
        values [M, k] and their column numbers [M, k], largest first.
    """
    devices = active_devices()
    if devices == 1:
        values, index = jax.lax.top_k(scores, k)
        return values, index
    padding = -scores.shape[1] % devices
    scores = jnp.pad(scores, ((0, 0), (0, padding)), constant_values=-jnp.inf)
    width = scores.shape[1] // devices

    def merge(columns: Float[Array, "M W"]) -> tuple[Float[Array, "M k"], Int[Array, "M k"]]:
        values, index = jax.lax.top_k(columns, min(k, width))
        index = index + jax.lax.axis_index(AXIS) * width
        values, index = (jax.lax.all_gather(a, AXIS, axis=1, tiled=True) for a in (values, index))
        values, best = jax.lax.top_k(values, k)
        return values, jnp.take_along_axis(index, best, axis=1)

    return jax.shard_map(
        merge, in_specs=COLUMNS, out_specs=(REPLICATED, REPLICATED), check_vma=False
    )(scores)
