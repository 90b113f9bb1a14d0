"""Learning-rate schedules: pure functions of the step, evaluated inside the jitted step."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

Step = int | jax.Array
Schedule = Callable[[Step], jax.Array]
"""step -> rate (float32)."""


def warmup_cosine(
    base: float, steps: int, *, warmup_steps: int = 0, start: float = 0.0, final: float = 0.0
) -> Schedule:
    """SwAV's schedule: linear from `start` to `base`, then half a cosine to just above `final`.

    Both ends of the warm-up are included, so two steps in a row have the base rate: the last of the
    warm-up and the first of the cosine.

    Args:
        base: the peak rate.
        steps: total number of steps, warm-up included.
        warmup_steps: length of the warm-up; 0 for none.
        start: rate of the first warm-up step.
        final: the rate that the cosine would reach at `steps`.

    Returns:
        schedule: step -> rate (float32).
    """

    def schedule(step: Step) -> jax.Array:
        line = start + (base - start) * step / max(warmup_steps - 1, 1)
        # (1 + cos(pi p)) / 2 as the squared sine of the rest, exact where the cosine nears -1.
        remaining = (steps - jnp.asarray(step, jnp.float32)) / max(steps - warmup_steps, 1)
        cosine = final + (base - final) * jnp.sin(0.5 * jnp.pi * remaining) ** 2
        return jnp.where(step < warmup_steps, line, cosine).astype(jnp.float32)

    return schedule


def line_cosine(
    base: float, steps: int, *, warmup_steps: int = 0, cosine_steps: int = 0, final: float = 0.0
) -> Schedule:
    """ProPos's schedule: linear from zero to `base` at the last warm-up step, then a cosine.

    BYOL's is the same, but one step later in DeepMind's code: its first rate is zero.

    Args:
        base: the peak rate.
        steps: total number of steps, warm-up included.
        warmup_steps: length of the warm-up.
        cosine_steps: from the end of the warm-up to `final`; 0 for the rest of the run. ProPos (and
            CoNR) use the length of the whole run, so the run ends before the cosine does.
        final: the rate that the cosine reaches.

    Returns:
        schedule: step -> rate (float32); the first rate is base / warmup_steps.
    """
    length = float(cosine_steps or max(steps - warmup_steps, 1))  # may exceed int32

    def schedule(step: Step) -> jax.Array:
        number = jnp.asarray(step, jnp.float32) + 1.0
        remaining = jnp.clip(1.0 - (number - warmup_steps) / length, 0.0, 1.0)
        cosine = final + (base - final) * jnp.sin(0.5 * jnp.pi * remaining) ** 2
        line = base * number / max(warmup_steps, 1)
        return jnp.where(number <= warmup_steps, line, cosine).astype(jnp.float32)

    return schedule


def constant(base: float, steps: int) -> Schedule:
    """The base rate throughout; `steps` is ignored."""
    return lambda step: jnp.full((), base, jnp.float32)


def repeated(schedule: Schedule, steps: int) -> Schedule:
    """`schedule`, restarted every `steps` steps."""
    return lambda step: schedule(step % steps)


def drops(
    base: float, steps: int, *, at_steps: Sequence[int] = (), factor: float = 0.1
) -> Schedule:
    """The base rate, multiplied by `factor` from each of `at_steps` on; `steps` is ignored."""

    def schedule(step: Step) -> jax.Array:
        count = jnp.sum(jnp.asarray(step) >= jnp.asarray(at_steps), dtype=jnp.float32)
        return base * factor**count

    return schedule
