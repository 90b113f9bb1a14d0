"""Neighbourhoods: nearest rows, cluster mates, AND's anchors, CoNR's context and boundaries."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ssl_jax.ops.mesh import COLUMNS, REPLICATED, constrain, local_top_k
from ssl_jax.ops.types import Count, Numbers, Scalar
from ssl_jax.ops.vectors import dot, unit

Result = TypeVar("Result")


def nearest(
    queries: Float[Numbers, "M D"], keys: Float[Numbers, "N D"], k: int, *, chunk: int = 1024
) -> tuple[Float[Array, "M k"], Int[Array, "M k"]]:
    """The k keys with the largest inner product for each query; memory bounded by chunk x N.

    Args:
        queries: [M, D].
        keys: [N, D], may be sharded over rows: only candidates travel.
        k: neighbours, at most N.
        chunk: queries scored at a time.

    Returns:
        similarity [M, k], largest first, and index [M, k] int32.

    Raises:
        ValueError: k larger than N.
    """
    if k > len(keys):
        raise ValueError(f"k={k} nearest neighbours of {len(keys)} rows")
    count = len(queries)
    chunk = _bounded(chunk, count, len(keys))
    blocks = jnp.pad(queries, ((0, -count % chunk), (0, 0))).reshape(-1, chunk, queries.shape[1])
    similarity, index = jax.lax.map(lambda block: local_top_k(dot(block, keys), k), blocks)
    return similarity.reshape(-1, k)[:count], index.reshape(-1, k)[:count]


def _bounded(chunk: int, rows: int, columns: int) -> int:
    """`chunk`, at most `rows`, lowered where a table [chunk, columns] would exceed a gigabyte."""
    return max(1, min(chunk, rows, 2**28 // columns))


def cluster_mates(labels: Int[Numbers, "H N"], index: Int[Numbers, " B"]) -> Bool[Array, "B N"]:
    """Rows that share a cluster with the rows `index` in at least one clustering.

    Local Aggregation (Zhuang et al. 2019), section 3.1.

    Args:
        labels: [H, N] cluster of each row in each clustering.
        index: [B] rows.

    Returns:
        [B, N] bool; each row is its own mate.
    """
    batch_labels = labels[:, index]
    return jnp.any(batch_labels[:, :, None] == labels[:, None, :], axis=0)


def entropy(
    bank: Float[Numbers, "N D"], *, temperature: Scalar, chunk: int = 1024
) -> Float[Array, " N"]:
    """Entropy, in nats, of each row's similarity distribution over the whole bank.

    Anchor Neighbourhood Discovery (Huang et al. 2019), eq. 3.

    Args:
        bank: [N, D] unit rows, may be sharded over rows.
        temperature: of the softmax over similarities, a row's similarity with itself included.
        chunk: rows compared with the bank at a time; memory is bounded by chunk x N.

    Returns:
        [N], small where a row has a clear neighbourhood (or is far from everything).
    """
    return _per_block(bank, chunk, lambda similarity, rows: _entropy(similarity / temperature))


def discover_anchors(
    bank: Float[Numbers, "N D"], *, count: Count, k: int, temperature: Scalar, chunk: int = 1024
) -> tuple[Bool[Array, " N"], Int[Array, "N k"]]:
    """Anchors and their neighbourhoods (Huang et al. 2019, section 3.2).

    Args:
        bank: [N, D] unit rows, may be sharded over rows.
        count: number of anchors, the rows of lowest entropy; an int or a scalar array.
        k: neighbours of each row among all others, below N.
        temperature: of the entropy's softmax.
        chunk: rows compared with the bank at a time.

    Returns:
        is_anchor [N] bool, and neighbours [N, k] int32 of every row, nearest first, itself
        excluded.

    Raises:
        ValueError: k not in 1..N-1, or a count beyond N.
    """
    if isinstance(count, int) and not 0 <= count <= len(bank):
        raise ValueError(f"{count} anchors of {len(bank)} rows")
    entropies, neighbours = entropy_and_neighbours(bank, k=k, temperature=temperature, chunk=chunk)
    return lowest(entropies, count), neighbours


def entropy_and_neighbours(
    bank: Float[Numbers, "N D"], *, k: int, temperature: Scalar, chunk: int = 1024
) -> tuple[Float[Array, " N"], Int[Array, "N k"]]:
    """`entropy` [N] and the k nearest other rows [N, k] of each row, in one pass over all pairs."""
    if not 1 <= k < len(bank):
        raise ValueError(f"k={k} neighbours of each of {len(bank)} rows, itself excluded")

    def block(
        similarity: Float[Array, "chunk N"], rows: Int[Array, " chunk"]
    ) -> tuple[Float[Array, " chunk"], Int[Array, "chunk k"]]:
        others = jnp.where(jnp.arange(len(bank))[None] == rows[:, None], -jnp.inf, similarity)
        return _entropy(similarity / temperature), local_top_k(others, k)[1]

    return _per_block(bank, chunk, block)


def lowest(values: Float[Numbers, " N"], count: Count) -> Bool[Array, " N"]:
    """[N] bool: marks the `count` smallest of `values` [N]."""
    return jnp.argsort(jnp.argsort(values)) < count


def _per_block(
    bank: Float[Numbers, "N D"], chunk: int, function: Callable[[Array, Array], Result]
) -> Result:
    """`function(similarity [chunk, N], rows [chunk])` for all rows of the bank, results joined.

    Queries are gathered by row number, so each device scores them against its shard of the bank.
    """
    bank = jnp.asarray(bank)
    count = len(bank)
    chunk = _bounded(chunk, count, count)
    numbers = jnp.minimum(jnp.arange(-(-count // chunk) * chunk), count - 1).reshape(-1, chunk)

    def block(rows: Int[Array, " chunk"]) -> Result:
        queries = constrain(bank[rows], REPLICATED)
        return function(constrain(dot(queries, bank), COLUMNS), rows)

    blocks = jax.lax.map(block, numbers)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], blocks)


def _entropy(logits: Float[Array, "B N"]) -> Float[Array, " B"]:
    """Entropy of softmax(logits) for each row.

    ln z - sum(e * d) / z with d = logit - maximum, e = exp(d), z = sum(e), finite where
    probabilities underflow. One reduction computes both sums: on a CPU the exponentials dominate.
    """
    shifted = logits - jnp.max(logits, axis=1, keepdims=True)
    weight = jnp.exp(shifted)

    def add(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
        return a[0] + b[0], a[1] + b[1]

    total, moment = jax.lax.reduce((weight, weight * shifted), (0.0, 0.0), add, (1,))
    return jnp.log(total) - moment / total


def reciprocal_adjacency(features: Float[Numbers, "B D"], k1: int) -> Float[Array, "B B"]:
    """Mutual membership in the k1 nearest rows (CoNR, eq. 3): 1 both ways, 0.5 one way, 0 neither.

    Args:
        features: [B, D] unit rows.
        k1: neighbours, including the row itself (which comes first), at most B.

    Returns:
        [B, B], symmetric.
    """
    adjacency = _membership(jax.lax.top_k(dot(features, features), k1)[1], len(features))
    return 0.5 * (adjacency + adjacency.T)


@partial(jax.jit, static_argnames=("k1", "k2", "alpha", "layers"))
def contextual_features(
    features: Float[Numbers, "B D"], *, k1: int, k2: int, alpha: float | int = 2.0, layers: int = 2
) -> Float[Array, "B B"]:
    """Each example described by its context: reciprocal neighbours, propagated (CoNR, eq. 3 to 6).

    Edges run to the k2 nearest rows, weighted by similarity to the power alpha. Eq. 6 leaves open
    what follows the released code: the row itself is one of its k2 neighbours; each layer makes the
    adjacency symmetric again and ends with unit rows. With an even alpha a negative similarity
    weighs as much as a positive one.

    Args:
        features: [B, D] unit rows of the whole batch.
        k1: neighbours in the adjacency, including the row itself.
        k2: neighbours to propagate over, including the row itself; at least 2 and at most k1.
        alpha: exponent of the edge weights.
        layers: rounds of propagation.

    Returns:
        [B, B] unit rows.

    Raises:
        ValueError: k1 or k2 out of range.
    """
    if not 2 <= k2 <= k1 <= len(features):
        raise ValueError(f"k2={k2} and k1={k1}: 2 <= k2 <= k1 <= {len(features)} rows")
    similarity, rank = jax.lax.top_k(dot(features, features), k1)
    context = _membership(rank, len(features))
    rows = jnp.broadcast_to(jnp.arange(len(features))[:, None], (len(features), k2))
    edges = jnp.zeros_like(context).at[rows, rank[:, :k2]].set(_power(similarity[:, :k2], alpha))
    for _ in range(layers):
        context = unit(dot(edges, context + context.T))  # symmetric, so a product with its rows
    return context


def contextual_neighbours(
    features: Float[Numbers, "B D"],
    k: int,
    *,
    k1: int,
    k2: int,
    alpha: float | int = 2.0,
    layers: int = 2,
) -> Int[Array, "B k"]:
    """The k rows nearest by `contextual_features`: [B, k] int32, usually the row itself first."""
    context = contextual_features(features, k1=k1, k2=k2, alpha=alpha, layers=layers)
    return jax.lax.top_k(dot(context, context), k)[1]


def _membership(index: Int[Array, "B k"], columns: int) -> Float[Array, "B N"]:
    """[B, columns] with ones in the columns that `index` [B, k] names, else zeros."""
    rows = jnp.broadcast_to(jnp.arange(len(index))[:, None], index.shape)
    return jnp.zeros((len(index), columns)).at[rows, index].set(1.0)


def _power(similarity: Float[Array, "..."], alpha: float | int) -> Float[Array, "..."]:
    """similarity ** alpha; integer powers as products, which allow negative similarities."""
    if float(alpha).is_integer():
        return similarity ** int(alpha)
    return jnp.maximum(similarity, 0.0) ** alpha


@jax.jit
def boundary_ratio(
    features: Float[Numbers, "B D"], centroids: Float[Numbers, "K D"], labels: Int[Numbers, " B"]
) -> Float[Array, " B"]:
    """Closeness of each row to the boundary of its cluster.

    Distance to the row's centroid over the distance to the nearest other one: small inside a
    cluster, above 1 where another centroid is nearer. Orders rows as CoNR's eq. 11 does.

    Args:
        features: [B, D] unit rows.
        centroids: [K, D], plain means, not unit length; K at least 2.
        labels: [B] clusters of the rows.
    """
    square = (
        jnp.sum(features**2, axis=1)[:, None]
        - 2.0 * dot(features, centroids)
        + jnp.sum(centroids**2, axis=1)[None]
    )
    distance = jnp.sqrt(jnp.maximum(square, 0.0))
    in_cluster = jnp.arange(len(centroids))[None] == labels[:, None]
    to_centroid = jnp.sum(jnp.where(in_cluster, distance, 0.0), axis=1)
    nearest_other = jnp.min(jnp.where(in_cluster, jnp.inf, distance), axis=1)
    return to_centroid / jnp.maximum(nearest_other, 1e-12)


def inside(ratio: Float[Numbers, " B"], count: Count, *, strict: bool = False) -> Bool[Array, " B"]:
    """[B] bool: the `count` rows with the smallest boundary ratios.

    `strict` drops the last of them, as the released code does.
    """
    ratio = jnp.asarray(ratio)
    cut = jnp.sort(ratio)[jnp.maximum(count, 1) - 1]
    return ratio < cut if strict else ratio <= cut
