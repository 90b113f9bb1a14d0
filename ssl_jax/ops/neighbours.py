"""Neighbourhoods: nearest rows, cluster mates, AND's anchors, CoNR's contextual neighbours and boundaries."""

from functools import partial

import jax
import jax.numpy as jnp

from ssl_jax.ops.mesh import COLUMNS, REPLICATED, constrain, local_top_k
from ssl_jax.ops.vectors import dot, unit


def nearest(queries, keys, k: int, *, chunk: int = 1024):
    """The k keys with the largest inner product, for each query; memory bounded by chunk x N.

    Args:
        queries: [M, D].
        keys: [N, D], may be sharded over rows: only candidates travel.
        k: neighbours, at most N.
        chunk: queries scored at a time.

    Returns:
        similarity [M, k] falling, index [M, k] int32.

    Raises:
        ValueError: k larger than N.
    """
    if k > len(keys):
        raise ValueError(f"k={k} nearest neighbours of {len(keys)} rows")
    rows, chunk = len(queries), _bounded(chunk, len(queries), len(keys))
    blocks = jnp.pad(queries, ((0, -rows % chunk), (0, 0))).reshape(-1, chunk, queries.shape[1])
    similarity, index = jax.lax.map(lambda block: local_top_k(dot(block, keys), k), blocks)
    return similarity.reshape(-1, k)[:rows], index.reshape(-1, k)[:rows]


def _bounded(chunk, rows, columns):
    """At most `chunk` rows at a time, fewer where a table of so many columns would pass a gigabyte."""
    return max(1, min(chunk, rows, 2**28 // columns))


def cluster_mates(labels, index):
    """Which rows share a cluster with the rows `index` in at least one clustering (Local Aggregation, section 3.1).

    Args:
        labels: [H, N] int clusters of every row, one line a clustering.
        index: [B] rows.

    Returns:
        [B, N] bool; each row is its own mate.
    """
    own = labels[:, index]
    return jnp.any(own[:, :, None] == labels[:, None, :], axis=0)


def entropy(bank, *, temperature: float, chunk: int = 1024):
    """Entropy, in nats, of each row's similarity distribution over the whole bank (Huang et al. 2019, eq. 3).

    Args:
        bank: [N, D] unit rows, may be sharded over rows.
        temperature: of the softmax over similarities; a row's similarity with itself takes part.
        chunk: rows compared with the bank at a time; memory is bounded by chunk x N.

    Returns:
        [N], small where a row has a clear neighbourhood (or is far from everything).
    """
    return _per_block(bank, chunk, lambda similarity, rows: _entropy(similarity / temperature))


def discover_anchors(bank, *, count, k: int, temperature: float, chunk: int = 1024):
    """Anchors and their neighbourhoods (Huang et al. 2019, section 3.2).

    Args:
        bank: [N, D] unit rows, may be sharded over rows.
        count: anchors: the rows of lowest entropy; a number, or an array of none.
        k: neighbours of each row among all rows but itself, below N.
        temperature: of the entropy's softmax.
        chunk: rows compared with the bank at a time.

    Returns:
        is_anchor [N] bool, and neighbours [N, k] int32 of every row, nearest first, itself excluded.

    Raises:
        ValueError: k that leaves no other row, or a count beyond N.
    """
    if isinstance(count, int) and not 0 <= count <= len(bank):
        raise ValueError(f"{count} anchors of {len(bank)} rows")
    entropies, neighbours = entropy_and_neighbours(bank, k=k, temperature=temperature, chunk=chunk)
    return lowest(entropies, count), neighbours


def entropy_and_neighbours(bank, *, k: int, temperature: float, chunk: int = 1024):
    """`entropy` [N], and the k nearest other rows [N, k] of each row, from one pass over all pairs."""
    if not 1 <= k < len(bank):
        raise ValueError(f"k={k} neighbours of each of {len(bank)} rows, itself excluded")

    def block(similarity, rows):
        others = jnp.where(jnp.arange(len(bank))[None] == rows[:, None], -jnp.inf, similarity)
        return _entropy(similarity / temperature), local_top_k(others, k)[1]

    return _per_block(bank, chunk, block)


def lowest(values, count):
    """[N] bool: which are the `count` smallest of `values` [N]."""
    return jnp.argsort(jnp.argsort(values)) < count


def _per_block(bank, chunk, function):
    """`function(similarity [chunk, N], rows [chunk])` of all rows of the bank, chunk after chunk; results joined.

    Rows are fetched by number: each device scores them against its own part of the bank.
    """
    bank, rows = jnp.asarray(bank), len(bank)
    chunk = _bounded(chunk, rows, rows)
    numbers = jnp.minimum(jnp.arange(-(-rows // chunk) * chunk), rows - 1).reshape(-1, chunk)

    def block(own):
        queries = constrain(bank[own], REPLICATED)
        return function(constrain(dot(queries, bank), COLUMNS), own)

    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:rows], jax.lax.map(block, numbers))


def _entropy(logits):
    """Of softmax(logits), by rows: ln z - sum(e * d) / z with d = logit - maximum, e = exp(d), z = sum(e).

    Finite where probabilities underflow. Both sums in one reduction: on a CPU the exponentials are most of the work.
    """
    shifted = logits - jnp.max(logits, axis=1, keepdims=True)
    weight = jnp.exp(shifted)
    add = lambda a, b: (a[0] + b[0], a[1] + b[1])
    total, moment = jax.lax.reduce((weight, weight * shifted), (0.0, 0.0), add, (1,))
    return jnp.log(total) - moment / total


def reciprocal_adjacency(features, k1: int):
    """Who is among whose k1 nearest rows (CoNR, eq. 3): 1 both ways, 0.5 one way, 0 neither.

    Args:
        features: [B, D] unit rows.
        k1: neighbours, the row itself counted (it comes first), at most B.

    Returns:
        [B, B], symmetric.
    """
    adjacency = _membership(jax.lax.top_k(dot(features, features), k1)[1], len(features))
    return 0.5 * (adjacency + adjacency.T)


@partial(jax.jit, static_argnames=("k1", "k2", "alpha", "layers"))
def contextual_features(features, *, k1: int, k2: int, alpha: float = 2.0, layers: int = 2):
    """Rows that describe each example by its context: reciprocal neighbours, propagated (CoNR, eq. 3 to 6).

    Edges run to the k2 nearest rows, weighted by similarity to the power alpha. As released, where eq. 6 is silent: the
    row itself is one of its k2 neighbours, the adjacency is made symmetric again in every layer, and rows are brought
    to unit length after it. A negative similarity with an even alpha weighs as a positive one does.

    Args:
        features: [B, D] unit rows of the whole batch.
        k1: neighbours that the adjacency knows, the row itself counted.
        k2: neighbours that are propagated over, the row itself counted; at least 2 and at most k1.
        alpha: of the edge weights.
        layers: of the propagation.

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


def contextual_neighbours(features, k: int, *, k1: int, k2: int, alpha: float = 2.0, layers: int = 2):
    """The k rows nearest by `contextual_features`, [B, k] int32: the row itself, as a rule, and k - 1 others."""
    context = contextual_features(features, k1=k1, k2=k2, alpha=alpha, layers=layers)
    return jax.lax.top_k(dot(context, context), k)[1]


def _membership(index, columns):
    """[B, columns] of ones where `index` [B, k] points, else zeros."""
    rows = jnp.broadcast_to(jnp.arange(len(index))[:, None], index.shape)
    return jnp.zeros((len(index), columns)).at[rows, index].set(1.0)


def _power(similarity, alpha):
    """similarity ** alpha; whole powers as products, which negative similarities survive."""
    return similarity ** int(alpha) if float(alpha).is_integer() else jnp.maximum(similarity, 0.0) ** alpha


@jax.jit
def boundary_ratio(features, centroids, labels):
    """How near each row is to the boundary of its cluster: distance to the own centroid over the nearest other one.

    Small inside a cluster; above 1 where another centroid is nearer. Its order is that of CoNR's eq. 11.

    Args:
        features: [B, D] unit rows.
        centroids: [K, D], plain means, not unit length; K at least 2.
        labels: [B] clusters of the rows.
    """
    square = (
        jnp.sum(features**2, axis=1)[:, None] - 2.0 * dot(features, centroids) + jnp.sum(centroids**2, axis=1)[None]
    )
    distance = jnp.sqrt(jnp.maximum(square, 0.0))
    own = jnp.arange(len(centroids))[None] == labels[:, None]
    nearest_other = jnp.min(jnp.where(own, jnp.inf, distance), axis=1)
    return jnp.sum(jnp.where(own, distance, 0.0), axis=1) / jnp.maximum(nearest_other, 1e-12)


def inside(ratio, count, *, strict: bool = False):
    """[B] bool: the `count` rows with the smallest boundary ratios; `strict`, as released, leaves the last one out."""
    cut = jnp.sort(ratio)[jnp.maximum(count, 1) - 1]
    return ratio < cut if strict else ratio <= cut
