"""What methods with a memory bank share: instance losses to choose from, and the batch's update of the bank."""

import math

import jax

from ssl_jax.ops import losses
from ssl_jax.settings import ranges

OBJECTIVES = ("softmax", "nce", "sampled")


def check(objective: str, samples: int, *, temperature, momentum, normaliser, others=()) -> None:
    """Raises ValueError for settings of `instance_loss` and of the bank that no data make valid.

    `others`: more objectives.
    """
    if objective not in (*others, *OBJECTIVES):
        raise ValueError(f"objective={objective!r}: choose one of {', '.join((*others, *OBJECTIVES))}")
    ranges.positive(temperature=temperature)
    ranges.below_one(momentum=momentum)
    if normaliser < 0:
        raise ValueError(f"normaliser={normaliser}: above 0, or 0 to estimate it on the first batch")
    ranges.not_negative(normaliser=normaliser)
    ranges.count(0, samples=samples)


def check_samples(objective: str, samples: int, examples: int) -> None:
    """Raises ValueError where an objective draws more noise rows than the bank has `examples`."""
    if objective in ("nce", "sampled") and not 1 <= samples <= examples:
        raise ValueError(f"samples={samples}: between 1 and the {examples} training images")


def instance_loss(objective, features, bank, index, key, *, temperature, samples, normaliser):
    """Instance Discrimination's loss in one of its three forms.

    Args:
        objective: "softmax" over all rows of the bank; "nce", noise-contrastive estimation; "sampled", the softmax over
            the own row and the noise rows.
        features: [B, D] unit rows.
        bank: [N, D].
        index: [B] the features' own rows.
        key: of the noise, drawn uniformly and with replacement, the own row not excluded (as released).
        temperature: of the similarities.
        samples: M noise rows an image.
        normaliser: Z of "nce"; 0 where it is still to be estimated, on this batch.

    Returns:
        scalar loss, and the normaliser to keep.
    """
    if objective == "softmax":
        return losses.instance_nll(features, bank, index, temperature=temperature), normaliser
    noise = jax.random.randint(key, (len(index), samples), 0, len(bank))
    if objective == "sampled":
        return losses.instance_sampled_nll(features, bank, index, noise, temperature=temperature), normaliser
    estimate = lambda: losses.estimated_normaliser(features, bank, index, noise, temperature=temperature)
    normaliser = jax.lax.cond(normaliser > 0, lambda: normaliser, estimate)
    loss = losses.instance_nce(features, bank, index, noise, temperature=temperature, normaliser=normaliser)
    return loss, normaliser


def at_chance(objective, examples, dim, *, temperature, samples) -> float:
    """The expected loss of an untrained network; NaN for "nce", whose value depends on the normaliser."""
    rows = {"softmax": examples, "sampled": samples + 1, "nce": math.nan}[objective]
    return losses.instance_nll_at_chance(rows, dim, temperature=temperature)
