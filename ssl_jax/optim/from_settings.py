"""Builds the schedule and the optimiser from `config.optim`, with epochs converted to steps."""

from collections.abc import Mapping

import optax

from ssl_jax.optim import optimizers, schedules
from ssl_jax.optim.schedules import Schedule
from ssl_jax.optim.settings import GroupSettings, OptimSettings
from ssl_jax.settings import ranges
from ssl_jax.settings.resolve import SettingError


def schedule_of(
    settings: OptimSettings, *, epochs: int, steps_per_epoch: int, batch_size: int
) -> Schedule:
    """The learning rate of each step.

    Raises:
        SettingError: an unknown schedule, or one that does not fit the length of the run.
    """
    repeats = settings.schedule.repeats
    if repeats < 1 or epochs % repeats:
        raise SettingError(f"optim.schedule.repeats={repeats} does not divide epochs={epochs}")
    epochs = epochs // repeats
    once = _once(settings, epochs, steps_per_epoch, settings.rate_scale(batch_size))
    return schedules.repeated(once, epochs * steps_per_epoch) if repeats > 1 else once


def optimiser_of(
    settings: OptimSettings,
    groups: Mapping[str, GroupSettings],
    schedule: Schedule,
    *,
    steps_per_epoch: int,
    batch_size: int,
) -> optax.GradientTransformation:
    """The optimiser, with parameter groups by name.

    Raises:
        SettingError: an unknown optimiser, or a pattern that is not a regular expression.
    """
    try:
        return optimizers.build(
            settings.name,
            schedule,
            weight_decay=settings.weight_decay,
            groups=tuple(_group(group, steps_per_epoch) for group in groups.values()),
            peak=settings.learning_rate * settings.rate_scale(batch_size),
            **settings.directions,
        )
    except ValueError as error:
        raise SettingError(f"optim: {error}") from error


def _group(group: GroupSettings, steps_per_epoch: int) -> optimizers.Group:
    return optimizers.Group(
        pattern=group.pattern,
        name=group.name,
        factor=group.factor,
        fixed_rate=group.fixed_rate,
        weight_decay=group.weight_decay,
        frozen_steps=_steps(group.frozen_epochs, steps_per_epoch),
    )


def _once(settings: OptimSettings, epochs: int, steps_per_epoch: int, scale: float) -> Schedule:
    """The schedule without repeats, with all rates multiplied by `scale`."""
    schedule = settings.schedule
    rate = scale * settings.learning_rate
    final = scale * schedule.final
    total = epochs * steps_per_epoch
    warmup_steps = round(schedule.warmup_epochs * steps_per_epoch)
    if schedule.name == "warmup_cosine":
        if schedule.warmup_epochs > epochs:
            raise SettingError(
                f"optim.schedule.warmup_epochs={schedule.warmup_epochs}: within the run's epochs, "
                f"{epochs}; a shorter run needs a shorter warm-up"
            )
        start = scale * schedule.start
        return schedules.warmup_cosine(
            rate, total, warmup_steps=warmup_steps, start=start, final=final
        )
    if schedule.name == "line_cosine":
        if schedule.warmup_epochs > epochs:
            raise SettingError(
                f"optim.schedule.warmup_epochs={schedule.warmup_epochs}, "
                f"cosine_epochs={schedule.cosine_epochs}: the first within the run's epochs, the "
                "second at least 0"
            )
        cosine_steps = round(schedule.cosine_epochs * steps_per_epoch)
        return schedules.line_cosine(
            rate, total, warmup_steps=warmup_steps, cosine_steps=cosine_steps, final=final
        )
    if schedule.name == "drops":
        at_steps = tuple(_steps(epoch, steps_per_epoch) for epoch in schedule.at_epochs)
        return schedules.drops(rate, total, at_steps=at_steps, factor=schedule.factor)
    if schedule.name == "constant":
        return schedules.constant(rate, total)
    raise SettingError(
        f"optim.schedule.name={schedule.name!r} is not known; choose one of: constant, drops, "
        "line_cosine, warmup_cosine"
    )


def _steps(epochs: float, steps_per_epoch: int) -> int:
    """Epochs in steps, capped at the 32-bit step counter, which no run reaches."""
    return min(round(epochs * steps_per_epoch), ranges.INT32)
