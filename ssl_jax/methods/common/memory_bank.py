"""What methods with a memory bank share: the checks of their settings, and instance losses."""

import math

import jax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ssl_jax.ops import losses
from ssl_jax.ops.types import Numbers, Scalar
from ssl_jax.settings import ranges

OBJECTIVES = ("softmax", "nce", "sampled")


def check(
    objective: str,
    samples: int,
    *,
    temperature: float,
    momentum: float,
    normaliser: float,
    others: tuple[str, ...] = (),
) -> None:
    """Checks the settings of `instance_loss` and of the bank that do not depend on the data.

    Args:
        objective: one of `OBJECTIVES` or `others`.
        samples: noise rows per image.
        temperature: of the similarities.
        momentum: share of the old row that stays in the bank.
        normaliser: Z of "nce".
        others: further objectives of the method.

    Raises:
        ValueError: a setting is out of range.
    """
    objectives = (*others, *OBJECTIVES)
    if objective not in objectives:
        raise ValueError(f"objective={objective!r}: choose one of {', '.join(objectives)}")
    ranges.positive(temperature=temperature)
    ranges.below_one(momentum=momentum)
    if normaliser < 0:
        raise ValueError(
            f"normaliser={normaliser}: above 0, or 0 to estimate it on the first batch"
        )
    ranges.not_negative(normaliser=normaliser)
    ranges.count(0, samples=samples)


def check_samples(objective: str, samples: int, examples: int) -> None:
    """Checks the number of noise rows against the bank.

    Raises:
        ValueError: the objective draws no noise rows, or more than the bank has `examples`.
    """
    if objective in ("nce", "sampled") and not 1 <= samples <= examples:
        raise ValueError(f"samples={samples}: between 1 and the {examples} training images")


def instance_loss(
    objective: str,
    features: Float[Array, "B D"],
    bank: Float[Array, "N D"],
    index: Int[Numbers, " B"],
    key: PRNGKeyArray,
    *,
    temperature: float,
    samples: int,
    normaliser: Scalar | None,
) -> tuple[Float[Array, ""], Scalar | None]:
    """Instance Discrimination's loss in one of its three forms.

    Args:
        objective: "softmax" over all rows of the bank; "nce", noise-contrastive estimation;
            "sampled", the softmax over the image's row and noise rows.
        features: [B, D] unit rows.
        bank: [N, D].
        index: [B] each feature's row of the bank.
        key: of the noise, which is drawn uniformly with replacement and may hit the image's row
            (as released).
        temperature: of the similarities.
        samples: M noise rows per image.
        normaliser: Z of "nce"; 0 estimates it on this batch. Unused otherwise, may be None.

    Returns:
        scalar loss, and the normaliser to keep.
    """
    if objective == "softmax":
        loss = losses.instance_nll(features, bank, index, temperature=temperature)
        return loss, normaliser
    noise = jax.random.randint(key, (len(index), samples), 0, len(bank))
    if objective == "sampled":
        loss = losses.instance_sampled_nll(features, bank, index, noise, temperature=temperature)
        return loss, normaliser

    def estimate():
        return losses.estimated_normaliser(features, bank, index, noise, temperature=temperature)

    assert normaliser is not None
    given = normaliser
    z = jax.lax.cond(given > 0, lambda: given, estimate)
    loss = losses.instance_nce(features, bank, index, noise, temperature=temperature, normaliser=z)
    return loss, z


def at_chance(
    objective: str, examples: int, dim: int, *, temperature: float, samples: int
) -> float:
    """Expected loss of an untrained network; NaN for "nce", where it depends on the normaliser."""
    if objective == "nce":
        return math.nan
    rows = examples if objective == "softmax" else samples + 1
    return losses.instance_nll_at_chance(rows, dim, temperature=temperature)
