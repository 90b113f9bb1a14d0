"""Losses, one function per published equation: means over the global batch, constant targets."""

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ssl_jax.ops.mesh import COLUMNS, REPLICATED, constrain, local_top_k
from ssl_jax.ops.types import Numbers, Scalar
from ssl_jax.ops.vectors import dot, unit

_EPSILON = 1e-7  # of the released NCE and Local Aggregation


def swapped_prediction(
    scores: Float[Numbers, "V B K"],
    codes: Float[Numbers, "A B K"],
    *,
    assign: Sequence[int] = (0, 1),
    temperature: Scalar = 0.1,
) -> Float[Array, ""]:
    """SwAV's loss (eq. 2 and 6): every other view predicts the codes of each assignment view.

    Args:
        scores: [V, B, K] cosines of the embeddings with the prototypes.
        codes: [A, B, K] targets; no gradient flows into them.
        assign: the A views that `codes` were computed from.
        temperature: of the softmax over prototypes.

    Returns:
        scalar: mean over assignment views of the mean over the other views of the cross-entropy.
    """
    views, batch, _ = scores.shape
    log_p = jax.nn.log_softmax(jnp.asarray(scores, jnp.float32) / temperature)
    codes = jax.lax.stop_gradient(codes)
    cross_entropy = -jnp.einsum("abk,vbk->av", codes, log_p, precision="highest") / batch
    others = jnp.asarray(assign)[:, None] != jnp.arange(views)[None]
    return jnp.sum(cross_entropy * others) / (len(assign) * (views - 1))


def cross_entropy(
    logits: Float[Numbers, "B C"], labels: Int[Numbers, " B"], *, smoothing: Scalar = 0.0
) -> Float[Array, ""]:
    """Softmax cross-entropy of the labelled rows, with label smoothing (Szegedy et al. 2016, 7).

    Args:
        logits: [B, C].
        labels: [B] classes; rows of -1, unlabelled, are left out.
        smoothing: share of the target that is spread evenly over all classes.

    Returns:
        scalar: mean over the labelled rows, 0 if there are none.
    """
    log_p = jax.nn.log_softmax(jnp.asarray(logits, jnp.float32))
    labels = jnp.asarray(labels)
    classes = log_p.shape[1]
    targets = (1 - smoothing) * jax.nn.one_hot(labels, classes) + smoothing / classes
    labelled = labels >= 0
    each = jnp.where(labelled, -jnp.sum(targets * log_p, axis=1), 0.0)
    return jnp.sum(each) / jnp.maximum(jnp.sum(labelled), 1)


def instance_nll(
    features: Float[Numbers, "B D"],
    bank: Float[Numbers, "N D"],
    index: Int[Numbers, " B"],
    *,
    temperature: Scalar,
) -> Float[Array, ""]:
    """Instance Discrimination with the full non-parametric softmax (Wu et al. 2018, eq. 2 and 3).

    Args:
        features: [B, D] unit rows.
        bank: [N, D]; no gradient flows into it.
        index: [B] bank row of each feature's image.
        temperature: of the softmax over the bank.

    Returns:
        scalar: mean negative log probability of the image's row.
    """
    bank = jax.lax.stop_gradient(jnp.asarray(bank))
    # Replicated queries and column-sharded scores keep the gradient from gathering the bank.
    features = constrain(features, REPLICATED)
    logits = constrain(dot(features, bank) / temperature, COLUMNS)
    positive = jnp.sum(features * bank[index], axis=1) / temperature
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - positive)


def instance_nce(
    features: Float[Numbers, "B D"],
    bank: Float[Numbers, "N D"],
    index: Int[Numbers, " B"],
    noise_index: Int[Numbers, "B M"],
    *,
    temperature: Scalar,
    normaliser: Scalar,
) -> Float[Array, ""]:
    """Instance Discrimination by noise-contrastive estimation (Wu et al. 2018, eq. 4 to 7).

    With P = exp(cosine / temperature) / normaliser and c = M / N, each image costs -log(P / (P +
    c)) for its own row and -log(c / (P + c)) for each noise row. As in the released code, c + 1e-7
    replaces c in the denominators, the positive is the bank's row, and noise may hit that row.

    Args:
        features: [B, D] unit rows.
        bank: [N, D]; no gradient flows into it.
        index: [B] bank row of each feature's image.
        noise_index: [B, M] bank rows drawn uniformly, with replacement.
        temperature: of the similarities.
        normaliser: the constant Z (eq. 5), without gradient; see `estimated_normaliser`.

    Returns:
        scalar: mean over the batch of the sum over the image's and the noise rows.
    """
    ratio = noise_index.shape[1] / len(bank)
    positive, noise = _sampled(features, bank, index, noise_index)
    z = jax.lax.stop_gradient(jnp.asarray(normaliser, jnp.float32))
    p_positive = jnp.exp(positive / temperature) / z
    p_noise = jnp.exp(noise / temperature) / z
    log_positive = jnp.log(p_positive / (p_positive + ratio + _EPSILON))
    log_noise = jnp.log(ratio / (p_noise + ratio + _EPSILON))
    return -jnp.mean(log_positive + log_noise.sum(1))


def estimated_normaliser(
    features: Float[Numbers, "B D"],
    bank: Float[Numbers, "N D"],
    index: Int[Numbers, " B"],
    noise_index: Int[Numbers, "B M"],
    *,
    temperature: Scalar,
) -> Float[Array, ""]:
    """Z of `instance_nce`, as in the released code.

    N times the mean of exp(cosine / temperature) over the image's and the noise rows.
    """
    positive, noise = _sampled(features, bank, index, noise_index)
    table = jnp.concatenate([positive[:, None], noise], axis=1)
    return jax.lax.stop_gradient(jnp.mean(jnp.exp(table / temperature)) * len(bank))


def instance_sampled_nll(
    features: Float[Numbers, "B D"],
    bank: Float[Numbers, "N D"],
    index: Int[Numbers, " B"],
    noise_index: Int[Numbers, "B M"],
    *,
    temperature: Scalar,
) -> Float[Array, ""]:
    """Softmax over the image's row and M noise rows: the authors' later model, InfoNCE on the bank.

    Args as in `instance_nce`, without a normaliser.

    Returns:
        scalar: mean negative log probability of the image's row.
    """
    positive, noise = _sampled(features, bank, index, noise_index)
    logits = jnp.concatenate([positive[:, None], noise], axis=1) / temperature
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - logits[:, 0])


def _sampled(
    features: Float[Numbers, "B D"],
    bank: Float[Numbers, "N D"],
    index: Int[Numbers, " B"],
    noise_index: Int[Numbers, "B M"],
) -> tuple[Float[Array, " B"], Float[Array, "B M"]]:
    """Cosines [B] with the images' rows and [B, M] with the noise rows."""
    bank = jax.lax.stop_gradient(jnp.asarray(bank))
    noise = jnp.einsum("bd,bmd->bm", features, bank[noise_index], precision="highest")
    return jnp.sum(features * bank[index], axis=1), noise


def anchor_neighbourhood_nll(
    features: Float[Numbers, "B D"],
    bank: Float[Numbers, "N D"],
    index: Int[Numbers, " B"],
    neighbours: Int[Numbers, "B k"],
    is_anchor: Bool[Numbers, " B"],
    *,
    temperature: Scalar,
) -> Float[Array, ""]:
    """Anchor Neighbourhood Discovery's joint loss (Huang et al. 2019, eq. 7).

    An anchor costs minus the log of the summed probability of its own row and its neighbours' rows;
    any other image costs minus the log probability of its own row. Computed by log-sum-exp, so no
    probability underflows.

    Args:
        features: [B, D] unit rows.
        bank: [N, D]; no gradient flows into it.
        index: [B] bank row of each feature's image.
        neighbours: [B, k] bank rows other than the image's own; read for anchors only.
        is_anchor: [B] bool.
        temperature: of the softmax over the bank.

    Returns:
        scalar: one mean over the batch, anchors and others together.
    """
    bank = jax.lax.stop_gradient(jnp.asarray(bank))
    features = constrain(features, REPLICATED)
    total = jax.nn.logsumexp(constrain(dot(features, bank) / temperature, COLUMNS), axis=1)
    positive = jnp.sum(features * bank[index], axis=1, keepdims=True) / temperature
    near = jnp.einsum("bd,bkd->bk", features, bank[neighbours], precision="highest") / temperature
    near = jnp.where(is_anchor[:, None], near, -jnp.inf)
    return jnp.mean(total - jax.nn.logsumexp(jnp.concatenate([positive, near], axis=1), axis=1))


def local_aggregation(
    features: Float[Numbers, "B D"],
    bank: Float[Numbers, "N D"],
    close: Bool[Numbers, "B N"],
    *,
    background: int,
    temperature: Scalar,
) -> Float[Array, ""]:
    """Local Aggregation's loss (Zhuang et al. 2019, eq. 5 and 6): mean of -log(p + 1e-7).

    p is the probability of being recognised as a close neighbour, given recognition as a background
    neighbour. See `close_probability`.
    """
    probability, _ = close_probability(
        features, bank, close, background=background, temperature=temperature
    )
    return aggregation_nll(probability)


def aggregation_nll(probability: Float[Numbers, " B"]) -> Float[Array, ""]:
    """Mean of -log(p + 1e-7): a row with p = 0 costs 16.118 and has no gradient."""
    return -jnp.mean(jnp.log(probability + _EPSILON))


def close_probability(
    features: Float[Numbers, "B D"],
    bank: Float[Numbers, "N D"],
    close: Bool[Numbers, "B N"],
    *,
    background: int,
    temperature: Scalar,
) -> tuple[Float[Array, " B"], Int[Array, " B"]]:
    """Share of the background neighbours' probability that falls on close ones.

    The background neighbours of a feature are the `background` bank rows nearest to it (and rows
    that tie with the last of them); close rows count only if they are among these. The choice of
    rows is constant; the gradient flows through their similarities. Both sets are masks over the
    rows of the bank, so nothing gathers it.

    Args:
        features: [B, D] unit rows.
        bank: [N, D]; no gradient flows into it.
        close: [B, N] bool, as from `neighbours.cluster_mates`.
        background: number of background neighbours, at most N; 0 for all rows.
        temperature: of the similarities.

    Returns:
        p [B], and the number of close background neighbours [B].

    Raises:
        ValueError: background out of range.
    """
    if not 0 <= background <= len(bank):
        raise ValueError(
            f"background={background}: between 0 (all) and the {len(bank)} rows of the bank"
        )
    bank = jax.lax.stop_gradient(jnp.asarray(bank))
    features = constrain(features, REPLICATED)
    logits = constrain(dot(features, bank) / temperature, COLUMNS)
    fixed = jax.lax.stop_gradient(logits)
    if 0 < background < len(bank):
        # If only the last value is used, XLA sorts whole rows, eleven times slower; the barrier
        # prevents that.
        largest = jax.lax.optimization_barrier(local_top_k(fixed, background)[0])
        near = fixed >= largest[:, -1:]
        close = close & near
    else:
        near = True
    weight = jnp.where(near, jnp.exp(logits - jnp.max(fixed, axis=1, keepdims=True)), 0.0)
    probability = jnp.sum(jnp.where(close, weight, 0.0), axis=1) / jnp.sum(weight, axis=1)
    return probability, jnp.sum(close, axis=1)


def instance_nll_at_chance(rows: int | float, dim: int, *, temperature: float) -> float:
    """Expected `instance_nll` of an untrained network: ln N + ln E[exp(cosine / temperature)].

    The expectation is over unit vectors in random directions: 1.477 for 128 dimensions at 0.1, so
    11.21 for a bank of 50,000 rows. Computed by the series of the hypergeometric function 0F1(D /
    2; 1 / (2 temperature)^2).

    Args:
        rows: N; NaN gives NaN.
        dim: D.
        temperature: of the softmax.
    """
    term = 1.0
    total = 1.0
    n = 0
    while term > 1e-12 * total:
        term *= 0.25 / temperature**2 / ((n + 1) * (dim / 2 + n))
        total += term
        n += 1
    return math.log(rows) + math.log(total)


@runtime_checkable
class Positives(Protocol):
    """What the losses read of an `interface.PositiveSet`."""

    @property
    def rows(self) -> Array:
        """[B, P] rows of the targets."""
        ...

    @property
    def weight(self) -> Array:
        """[B, P]; 0 for no positive."""
        ...

    @property
    def counted(self) -> int | None:
        """Number of examples to divide by; None for those with positives."""
        ...


class _OwnRows(NamedTuple):
    """The `Positives` of examples that only have their own row."""

    rows: jax.Array
    weight: jax.Array
    counted: None = None


def _own_rows(keys: Float[Numbers, "B D"]) -> _OwnRows:
    return _OwnRows(jnp.arange(len(keys))[:, None], jnp.ones((len(keys), 1)))


def negative_cosine(
    prediction: Float[Numbers, "B D"], target: Float[Numbers, "B D"]
) -> Float[Array, ""]:
    """Minus the mean cosine of each prediction with its target (SimSiam, eq. 1).

    BYOL's eq. 2 is 2 + 2 times this.

    Args:
        prediction: [B, D], of any length.
        target: [B, D], of any length; a constant.

    Returns:
        scalar in -1..1; methods scale it.
    """
    return neighbour_cosine(prediction, target, _own_rows(target))


def neighbour_cosine(
    prediction: Float[Numbers, "B D"], targets: Float[Numbers, "M D"], positives: Positives
) -> Float[Array, ""]:
    """Group-aware concordance (CoNR, eq. 14): minus the mean cosine with the positives' targets.

    Args:
        prediction: [B, D], of any length.
        targets: [M, D], of any length; constants.
        positives: a `PositiveSet` into the rows of `targets`.

    Returns:
        scalar: the weighted mean over each example's positives, averaged over the examples that
            have any; with `positives.counted`, divided by that number instead.
    """
    targets = constrain(unit(jax.lax.stop_gradient(targets)), REPLICATED)
    mean = jnp.einsum(
        "bp,bpd->bd", _shares(positives), targets[positives.rows], precision="highest"
    )
    return -_mean_of_kept(jnp.sum(unit(prediction) * mean, axis=1), positives)


def info_nce(
    query: Float[Numbers, "B D"],
    key: Float[Numbers, "B D"],
    queue: Float[Numbers, "Q D"],
    *,
    temperature: Scalar,
) -> Float[Array, ""]:
    """MoCo's contrastive loss (He et al. 2020, eq. 1): the image's key against the queue's rows.

    Args:
        query: [B, D], of any length.
        key: [B, D], of any length; constants.
        queue: [Q, D] unit rows; constants.
        temperature: of the softmax.

    Returns:
        scalar, the mean over the batch.
    """
    return neighbour_info_nce(query, key, queue, _own_rows(key), temperature=temperature)


def neighbour_info_nce(
    query: Float[Numbers, "B D"],
    keys: Float[Numbers, "M D"],
    queue: Float[Numbers, "Q D"],
    positives: Positives,
    *,
    temperature: Scalar,
    denominator: str = "each",
) -> Float[Array, ""]:
    """`info_nce` with several positives (CoNR, eq. 17, which allows two readings).

    Args:
        query: [B, D], of any length.
        keys: [M, D], of any length; row i is the key of query i. Constants.
        queue: [Q, D] unit rows; constants.
        positives: a `PositiveSet` into the rows of `keys`.
        temperature: of the softmax.
        denominator: what each positive is normalised by, besides the queue: "each", itself; "own",
            the image's key.

    Returns:
        scalar: means as in `neighbour_cosine`.

    Raises:
        ValueError: an unknown denominator.
    """
    if denominator not in ("each", "own"):
        raise ValueError(f"denominator={denominator!r}: choose each or own")
    query = unit(query)
    keys = constrain(unit(jax.lax.stop_gradient(keys)), REPLICATED)
    near = jnp.einsum("bd,bpd->bp", query, keys[positives.rows], precision="highest") / temperature
    others = _queue_logsumexp(query, queue, temperature)[:, None]
    own = jnp.sum(query * keys[: len(query)], axis=1, keepdims=True) / temperature
    cost = jnp.logaddexp(near if denominator == "each" else own, others) - near
    return _mean_of_kept(jnp.sum(_shares(positives) * cost, axis=1), positives)


def _queue_logsumexp(
    query: Float[Array, "B D"], queue: Float[Numbers, "Q D"], temperature: Scalar
) -> Float[Array, " B"]:
    """Log of the queue's part of the denominator."""
    return jax.nn.logsumexp(dot(query, jax.lax.stop_gradient(queue)) / temperature, axis=1)


def _shares(positives: Positives) -> Float[Array, "B P"]:
    """Weights [B, P] that sum to one in each row, or are all zero."""
    weight = positives.weight
    return weight / jnp.maximum(jnp.sum(weight, axis=1, keepdims=True), _EPSILON)


def _mean_of_kept(values: Float[Array, " B"], positives: Positives) -> Float[Array, ""]:
    """Mean of `values` [B] over the examples that have positives; see `neighbour_cosine`."""
    kept = jnp.any(positives.weight > 0, axis=1)
    counted = jnp.sum(kept) if positives.counted is None else positives.counted
    return jnp.sum(jnp.where(kept, values, 0.0)) / jnp.maximum(counted, 1)
