"""The losses, one function per published equation. Means over the global batch; targets are constants."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ssl_jax.ops.mesh import COLUMNS, REPLICATED, constrain, local_top_k
from ssl_jax.ops.vectors import dot, unit

_EPSILON = 1e-7  # of the released NCE and Local Aggregation


def swapped_prediction(scores, codes, *, assign=(0, 1), temperature: float = 0.1):
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


def instance_nll(features, bank, index, *, temperature: float):
    """Instance Discrimination with the full non-parametric softmax (Wu et al. 2018, eq. 2 and 3).

    Args:
        features: [B, D] unit rows.
        bank: [N, D]; no gradient flows into it.
        index: [B] the bank row that is each feature's own.
        temperature: of the softmax over the bank.

    Returns:
        scalar: mean negative log probability of the own row.
    """
    bank = jax.lax.stop_gradient(jnp.asarray(bank))
    # Replicated queries and column-sharded scores keep the gradient from gathering the bank.
    features = constrain(features, REPLICATED)
    logits = constrain(dot(features, bank) / temperature, COLUMNS)
    own = jnp.sum(features * bank[index], axis=1) / temperature
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - own)


def instance_nce(features, bank, index, noise_index, *, temperature: float, normaliser):
    """Instance Discrimination by noise-contrastive estimation (Wu et al. 2018, eq. 4 to 7).

    With P = exp(cosine / temperature) / normaliser and c = M / N, each image costs -log(P / (P + c)) of its own row and
    -log(c / (P + c)) of each noise row. As released, 1e-7 stands beside c, the positive is the bank's row, and noise
    may hit the own row.

    Args:
        features: [B, D] unit rows.
        bank: [N, D]; no gradient flows into it.
        index: [B] the bank row that is each feature's own.
        noise_index: [B, M] rows drawn uniformly, with replacement.
        temperature: of the similarities.
        normaliser: the constant Z (eq. 5), without gradient; `estimated_normaliser` gives it.

    Returns:
        scalar: mean over the batch of the sum over own and noise rows.
    """
    ratio = noise_index.shape[1] / len(bank)
    own, noise = _sampled(features, bank, index, noise_index)
    z = jax.lax.stop_gradient(jnp.asarray(normaliser, jnp.float32))
    p_own, p_noise = jnp.exp(own / temperature) / z, jnp.exp(noise / temperature) / z
    positive = jnp.log(p_own / (p_own + ratio + _EPSILON))
    negative = jnp.log(ratio / (p_noise + ratio + _EPSILON))
    return -jnp.mean(positive + negative.sum(1))


def estimated_normaliser(features, bank, index, noise_index, *, temperature: float):
    """Z of `instance_nce`, as released: N times the mean of exp(cosine / temperature) over own and noise rows."""
    own, noise = _sampled(features, bank, index, noise_index)
    table = jnp.concatenate([own[:, None], noise], axis=1)
    return jax.lax.stop_gradient(jnp.mean(jnp.exp(table / temperature)) * len(bank))


def instance_sampled_nll(features, bank, index, noise_index, *, temperature: float):
    """The softmax over the own row and M noise rows (the authors' later model; InfoNCE on the bank).

    Args as in `instance_nce`, without a normaliser.

    Returns:
        scalar: mean negative log probability of the own row.
    """
    own, noise = _sampled(features, bank, index, noise_index)
    logits = jnp.concatenate([own[:, None], noise], axis=1) / temperature
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - logits[:, 0])


def _sampled(features, bank, index, noise_index):
    """Cosines [B] with the own rows and [B, M] with the noise rows."""
    bank = jax.lax.stop_gradient(jnp.asarray(bank))
    noise = jnp.einsum("bd,bmd->bm", features, bank[noise_index], precision="highest")
    return jnp.sum(features * bank[index], axis=1), noise


def anchor_neighbourhood_nll(features, bank, index, neighbours, is_anchor, *, temperature: float):
    """Anchor Neighbourhood Discovery's joint loss (Huang et al. 2019, eq. 7).

    An anchor costs minus the log of the summed probability of its own row and its neighbours' rows, any other image
    minus the log probability of its own row. By log-sum-exp, so no probability underflows.

    Args:
        features: [B, D] unit rows.
        bank: [N, D]; no gradient flows into it.
        index: [B] the bank row that is each feature's own.
        neighbours: [B, k] bank rows, the own one not among them; read for anchors only.
        is_anchor: [B] bool.
        temperature: of the softmax over the bank.

    Returns:
        scalar: one mean over the batch, anchors and others together.
    """
    bank = jax.lax.stop_gradient(jnp.asarray(bank))
    features = constrain(features, REPLICATED)
    every = jax.nn.logsumexp(constrain(dot(features, bank) / temperature, COLUMNS), axis=1)
    own = jnp.sum(features * bank[index], axis=1, keepdims=True) / temperature
    near = jnp.einsum("bd,bkd->bk", features, bank[neighbours], precision="highest") / temperature
    near = jnp.where(is_anchor[:, None], near, -jnp.inf)
    return jnp.mean(every - jax.nn.logsumexp(jnp.concatenate([own, near], axis=1), axis=1))


def local_aggregation(features, bank, close, *, background: int, temperature: float):
    """Local Aggregation's loss (Zhuang et al. 2019, eq. 5 and 6): -log(p + 1e-7), the mean over the batch.

    p is the probability of being recognised as a close neighbour, given that it is as a background neighbour. See
    `close_probability`.
    """
    return aggregation_nll(close_probability(features, bank, close, background=background, temperature=temperature)[0])


def aggregation_nll(probability):
    """Mean of -log(p + 1e-7): a row with p = 0 costs 16.118 and has no gradient."""
    return -jnp.mean(jnp.log(probability + _EPSILON))


def close_probability(features, bank, close, *, background: int, temperature: float):
    """Share of the background neighbours' probability that falls on close ones.

    The background neighbours of a feature are the `background` bank rows nearest to it (and rows that tie with the
    last of them); close ones count only if they are among these. Which rows these are is a constant; the gradient
    flows through their similarities. Nothing of the bank is gathered: the sets are masks over its rows.

    Args:
        features: [B, D] unit rows.
        bank: [N, D]; no gradient flows into it.
        close: [B, N] bool, as `neighbours.cluster_mates` gives it.
        background: background neighbours, at most N; 0 for all rows.
        temperature: of the similarities.

    Returns:
        p [B], and the number of close background neighbours [B].
    """
    if not 0 <= background <= len(bank):
        raise ValueError(f"background={background}: between 0 (all) and the {len(bank)} rows of the bank")
    bank = jax.lax.stop_gradient(jnp.asarray(bank))
    features = constrain(features, REPLICATED)
    logits = constrain(dot(features, bank) / temperature, COLUMNS)
    fixed = jax.lax.stop_gradient(logits)
    if 0 < background < len(bank):
        # Where only the last value is used XLA sorts whole rows, eleven times slower; the barrier keeps it from that.
        largest = jax.lax.optimization_barrier(local_top_k(fixed, background)[0])
        near = fixed >= largest[:, -1:]
        close = close & near
    else:
        near = True
    weight = jnp.where(near, jnp.exp(logits - jnp.max(fixed, axis=1, keepdims=True)), 0.0)
    probability = jnp.sum(jnp.where(close, weight, 0.0), axis=1) / jnp.sum(weight, axis=1)
    return probability, jnp.sum(close, axis=1)


def instance_nll_at_chance(rows: int, dim: int, *, temperature: float) -> float:
    """What `instance_nll` expects before anything is learnt: ln N + ln E[exp(cosine / temperature)].

    The expectation is over unit vectors in random directions: 1.477 for 128 dimensions at 0.1, so 11.21 for a bank of
    50,000 rows. By the series of the hypergeometric function 0F1(D / 2; 1 / (2 temperature)^2).
    """
    term, total, n = 1.0, 1.0, 0
    while term > 1e-12 * total:
        term *= 0.25 / temperature**2 / ((n + 1) * (dim / 2 + n))
        total, n = total + term, n + 1
    return math.log(rows) + math.log(total)


def negative_cosine(prediction, target):
    """Minus the mean cosine of each prediction with its target (SimSiam, eq. 1; BYOL's eq. 2 is 2 + 2 times it).

    Args:
        prediction: [B, D], of any length.
        target: [B, D]; a constant.

    Returns:
        scalar in -1..1; methods scale it.
    """
    return neighbour_cosine(prediction, target, _Own.of(target))


class _Own(NamedTuple):
    """A `PositiveSet` of each row alone."""

    rows: jax.Array
    weight: jax.Array
    counted: None = None

    @classmethod
    def of(cls, keys):
        return cls(jnp.arange(len(keys))[:, None], jnp.ones((len(keys), 1)))


def neighbour_cosine(prediction, targets, positives):
    """Group-aware concordance (CoNR, eq. 14): minus the mean cosine of predictions with their positives' targets.

    Args:
        prediction: [B, D], of any length.
        targets: [M, D]; constants.
        positives: a `PositiveSet` into the rows of `targets`.

    Returns:
        scalar: the mean over the examples that have positives, or over `positives.counted` examples where that is
        given, of the weighted mean over the positives.
    """
    targets = constrain(unit(jax.lax.stop_gradient(targets)), REPLICATED)
    mean = jnp.einsum("bp,bpd->bd", _shares(positives), targets[positives.rows], precision="highest")
    return -_mean_of_kept(jnp.sum(unit(prediction) * mean, axis=1), positives)


def info_nce(query, key, queue, *, temperature: float):
    """The contrastive loss of MoCo (He et al. 2020, eq. 1): the own key among the rows of a queue.

    Args:
        query: [B, D], of any length.
        key: [B, D]; constants.
        queue: [Q, D] unit rows; constants.
        temperature: of the softmax.

    Returns:
        scalar, the mean over the batch.
    """
    return neighbour_info_nce(query, key, queue, _Own.of(key), temperature=temperature)


def neighbour_info_nce(query, keys, queue, positives, *, temperature: float, denominator="each"):
    """`info_nce` with several positives (CoNR, eq. 17, which can be read in two ways).

    Args:
        query: [B, D], of any length.
        keys: [M, D], the own key of row i at row i; constants.
        queue: [Q, D] unit rows; constants.
        positives: a `PositiveSet` into the rows of `keys`.
        temperature: of the softmax.
        denominator: "each": every positive stands against itself and the queue; "own": against the own key and the
            queue.

    Returns:
        scalar: means as in `neighbour_cosine`.
    """
    if denominator not in ("each", "own"):
        raise ValueError(f"denominator={denominator!r}: choose each or own")
    query, keys = unit(query), constrain(unit(jax.lax.stop_gradient(keys)), REPLICATED)
    near = jnp.einsum("bd,bpd->bp", query, keys[positives.rows], precision="highest") / temperature
    others = _against(query, queue, temperature)[:, None]
    own = jnp.sum(query * keys[: len(query)], axis=1, keepdims=True) / temperature
    cost = jnp.logaddexp(near if denominator == "each" else own, others) - near
    return _mean_of_kept(jnp.sum(_shares(positives) * cost, axis=1), positives)


def _against(query, queue, temperature):
    """[B]: log of the queue's part of the denominator."""
    return jax.nn.logsumexp(dot(query, jax.lax.stop_gradient(queue)) / temperature, axis=1)


def _shares(positives):
    """Weights [B, P] that sum to one, or are all zero."""
    weight = positives.weight
    return weight / jnp.maximum(jnp.sum(weight, axis=1, keepdims=True), _EPSILON)


def _mean_of_kept(values, positives):
    kept = jnp.any(positives.weight > 0, axis=1)
    counted = jnp.sum(kept) if positives.counted is None else positives.counted
    return jnp.sum(jnp.where(kept, values, 0.0)) / jnp.maximum(counted, 1)
