"""How a detector is trained: what the papers did, as far as is known."""

import dataclasses
from collections.abc import Sequence

from ssl_jax.settings.resolve import SettingError


def _choose(setting: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise SettingError(f"--{setting}={value}: choose one of: {', '.join(known)}")


def _text(values: Sequence[int]) -> str:
    return ",".join(map(str, values))


@dataclasses.dataclass(frozen=True)
class Protocol:
    """The settings of a training.

    Attributes:
        neck: "c4" (proposals from layer3, and layer4 on each region) or "fpn" (a feature pyramid of
            all stages).
        norm: "batch" (BatchNorm over the batch, trained) or "frozen" (its statistics and scales are
            those of the file).
        frozen: how many parts of the backbone are not trained, of the stem, layer1 and so on.
        sizes: lengths of the short side in pixels: one is drawn for each picture in training, the
            last is used in testing.
        longest: largest length of the long side in pixels.
        iterations: steps of the optimiser.
        batch: pictures in a step.
        rate: learning rate, after the warm-up.
        drops: iterations from which the rate is a tenth of that before.
        warmup: iterations in which the rate grows linearly from a thousandth of `rate`.
        decay: weight decay of all weights that are trained.
    """

    neck: str
    norm: str
    frozen: int
    sizes: tuple[int, ...]
    longest: int
    iterations: int
    batch: int
    rate: float
    drops: tuple[int, ...]
    warmup: int
    decay: float

    def __post_init__(self) -> None:
        _choose("neck", self.neck, ("c4", "fpn"))
        _choose("norm", self.norm, ("batch", "frozen"))
        if not 0 <= self.frozen <= 5:
            raise SettingError(f"--frozen={self.frozen}: give 0 to 5 parts of the backbone")
        if not self.sizes or min(self.sizes) < 32 or self.longest < max(self.sizes):
            raise SettingError(
                f"--sizes={_text(self.sizes)} --longest={self.longest}: give short sides of at "
                "least 32 pixels, and a long side that is not shorter"
            )
        if min(self.iterations, self.batch) < 1 or min(self.warmup, *self.drops, 0) < 0:
            raise SettingError("--iterations and --batch are at least 1, --warmup and --drops 0")
        if not 0 < self.rate < float("inf") or not 0 <= self.decay < float("inf"):
            raise SettingError(f"--rate={self.rate} --decay={self.decay}: give positive numbers")

    def rate_at(self, iteration: int) -> float:
        """The learning rate of an iteration, counted from 0."""
        rate = self.rate * 0.1 ** sum(iteration >= drop for drop in self.drops)
        if iteration >= self.warmup:
            return rate
        share = iteration / self.warmup
        return rate * (0.001 * (1 - share) + share)


# SwAV, as in MoCo's configuration of Detectron2, which it follows.
VOC0712 = Protocol(
    neck="c4",
    norm="batch",
    frozen=0,
    sizes=tuple(range(480, 801, 32)),
    longest=1333,
    iterations=24_000,
    batch=16,
    rate=0.02,
    drops=(18_000, 22_000),
    warmup=100,
    decay=1e-4,
)
# LA, as in Instance Discrimination, which it follows, with the schedule of Faster R-CNN's own code.
VOC07 = Protocol(
    neck="c4",
    norm="frozen",
    frozen=3,
    sizes=(600,),
    longest=1000,
    iterations=70_000,
    batch=1,
    rate=0.001,
    drops=(50_000,),
    warmup=0,
    decay=5e-4,
)
PROTOCOLS = {"voc07": VOC07, "voc07+12": VOC0712}
