"""Learning-rate schedules: pure functions of the step, evaluated inside the jitted step."""

import jax.numpy as jnp


def warmup_cosine(base, steps, *, warmup_steps=0, start=0.0, final=0.0):
    """SwAV's schedule: a line from `start` to `base`, then half a cosine to just above `final`.

    Both ends of the warm-up are included, so the base rate occurs twice in a row: at the last warm-up
    step and at the first of the cosine.

    Args:
        base: the peak rate.
        steps: total number of steps, warm-up included.
        warmup_steps: steps of the line; 0 for none.
        start: rate of the first warm-up step.
        final: the rate that the cosine would reach at `steps`.

    Returns:
        schedule: step -> rate (float32).
    """

    def schedule(step):
        line = start + (base - start) * step / max(warmup_steps - 1, 1)
        # (1 + cos(pi p)) / 2 as a squared sine of what remains: exact where the cosine nears -1.
        remaining = (steps - jnp.asarray(step, jnp.float32)) / max(steps - warmup_steps, 1)
        cosine = final + (base - final) * jnp.sin(0.5 * jnp.pi * remaining) ** 2
        return jnp.where(step < warmup_steps, line, cosine).astype(jnp.float32)

    return schedule


def line_cosine(base, steps, *, warmup_steps=0, cosine_steps=0, final=0.0):
    """ProPos's schedule: a line from zero that reaches `base` with the last warm-up step, then a cosine.

    BYOL's is the same, in DeepMind's code one step later: its first step's rate is zero.

    Args:
        base: the peak rate.
        steps: total number of steps, warm-up included.
        warmup_steps: of the line.
        cosine_steps: from the end of the warm-up to `final`; 0: until the run ends. ProPos (and CoNR) count all epochs
            of the run here, so that the run ends before the cosine does.
        final: the rate that the cosine reaches.

    Returns:
        schedule: step -> rate (float32); the first step's is base / warmup_steps.
    """
    length = float(cosine_steps or max(steps - warmup_steps, 1))  # may exceed a whole number of 32 bits

    def schedule(step):
        number = jnp.asarray(step, jnp.float32) + 1.0
        remaining = jnp.clip(1.0 - (number - warmup_steps) / length, 0.0, 1.0)
        cosine = final + (base - final) * jnp.sin(0.5 * jnp.pi * remaining) ** 2
        return jnp.where(number <= warmup_steps, base * number / max(warmup_steps, 1), cosine).astype(jnp.float32)

    return schedule


def constant(base, steps):
    """The base rate throughout; `steps` is ignored."""
    return lambda step: jnp.full((), base, jnp.float32)


def repeated(schedule, steps):
    """`schedule` over `steps` steps, again and again; past a multiple of `steps` it begins anew."""
    return lambda step: schedule(step % steps)


def drops(base, steps, *, at_steps=(), factor=0.1):
    """The base rate, multiplied by `factor` from each of `at_steps` on; `steps` is ignored."""
    return lambda step: base * factor ** jnp.sum(jnp.asarray(step) >= jnp.asarray(at_steps), dtype=jnp.float32)
