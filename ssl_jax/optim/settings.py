"""Settings of the optimiser: the sections `optim`, `optim.schedule` and `optim.groups.NAME`."""

import dataclasses
from typing import Any

from ssl_jax.optim.optimizers import Directions, Group
from ssl_jax.settings import ranges


@dataclasses.dataclass(frozen=True)
class ScheduleSettings:
    """The learning-rate schedule; see `optim.schedules`. Each reads only the settings it has.

    Attributes:
        name: the schedule: "constant", "warmup_cosine", "line_cosine" or "drops".
        warmup_epochs: epochs of the warm-up.
        cosine_epochs: epochs of the cosine of "line_cosine"; 0 for the rest of the run.
        start: rate at the start of the warm-up.
        final: rate at the end of the cosine.
        at_epochs: epochs at which "drops" multiplies the rate by `factor`.
        factor: factor by which "drops" multiplies the rate.
        repeats: number of times the run goes through the schedule (the rounds of
            anchor_neighbourhood).
    """

    name: str = "warmup_cosine"
    warmup_epochs: float = 0.0
    cosine_epochs: float = 0.0
    start: float = 0.0
    final: float = 0.0
    at_epochs: tuple[float, ...] = ()
    factor: float = 0.1
    repeats: int = 1

    def __post_init__(self) -> None:
        ranges.not_negative(start=self.start, final=self.final, factor=self.factor)
        ranges.between(
            0,
            ranges.EPOCHS,
            warmup_epochs=self.warmup_epochs,
            cosine_epochs=self.cosine_epochs,
            at_epochs=self.at_epochs,
        )
        ranges.at_most(ranges.MANY, at_epochs=self.at_epochs)


@dataclasses.dataclass(frozen=True)
class OptimSettings(Directions):
    """The optimiser; each reads only the settings it has, and those of `Directions`.

    Attributes:
        name: the optimiser: "larc", "lars", "sgd" or "adam".
        learning_rate: peak learning rate.
        base_batch_size: batch size that the rates are given for; they scale linearly from there. 0
            uses them as given.
        weight_decay: weight decay, coupled, as in torch.optim.
        schedule: the section `optim.schedule`.
    """

    name: str = "sgd"
    learning_rate: float = 0.03
    base_batch_size: int = 0
    weight_decay: float = 0.0
    schedule: ScheduleSettings = ScheduleSettings()

    def __post_init__(self) -> None:
        super().__post_init__()
        ranges.not_negative(learning_rate=self.learning_rate, weight_decay=self.weight_decay)
        if self.base_batch_size < 0:
            message = f"base_batch_size={self.base_batch_size}: at least 0 (0: rates as given)"
            raise ValueError(message)
        ranges.count(0, base_batch_size=self.base_batch_size)

    @property
    def directions(self) -> dict[str, Any]:
        """The settings of the directions, by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(Directions)}

    def rate_scale(self, batch_size: int) -> float:
        """The factor on all rates: linear in the batch size if `base_batch_size` is set."""
        return batch_size / self.base_batch_size if self.base_batch_size else 1.0


@dataclasses.dataclass(frozen=True)
class GroupSettings:
    """A group of parameters with different rules; the first group, by name, that matches applies.

    Attributes:
        pattern: regular expression, searched in paths such as "network/backbone/conv1/conv/kernel".
        name: optimiser to use instead of `optim.name`.
        factor: factor of the group's learning rate.
        fixed_rate: keep the peak learning rate instead of the schedule.
        weight_decay: weight decay of the group; -1 for `optim.weight_decay`.
        frozen_epochs: epochs before the group's parameters start to move.
    """

    pattern: str
    name: str = ""
    factor: float = 1.0
    fixed_rate: bool = False
    weight_decay: float = -1.0
    frozen_epochs: float = 0.0

    def __post_init__(self) -> None:
        Group(self.pattern)  # refuses what is not a regular expression
        ranges.not_negative(factor=self.factor)
        ranges.between(0, ranges.EPOCHS, frozen_epochs=self.frozen_epochs)
        if self.weight_decay != -1 and not 0 <= self.weight_decay <= ranges.FLOAT32:
            raise ValueError(
                f"weight_decay={self.weight_decay}: at least 0, or -1 for optim.weight_decay"
            )
