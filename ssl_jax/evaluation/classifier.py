"""Accuracy of the method's own classifier, for methods that are trained on labels."""

import dataclasses
from collections.abc import Iterator, Mapping

import jax.numpy as jnp

from ssl_jax import interface
from ssl_jax.evaluation import metrics
from ssl_jax.interface import Report, Split, TrainState, no_progress


@dataclasses.dataclass(frozen=True)
class Classifier(interface.Evaluator):
    """Top-1 of the arg max over `logits`, for the labelled test images.

    The logits are those of the method `supervised`, whose classifier is trained with the backbone;
    nothing is fitted here.
    """

    @property
    def needs(self) -> tuple[str, ...]:
        return ("logits",)

    def run(
        self,
        splits: Mapping[str, Split],
        state: TrainState | None,
        report: Report = no_progress,
    ) -> Iterator[tuple[str, float]]:
        labels = jnp.asarray(splits["test"].labels)
        logits = jnp.asarray(splits["test"].features["logits"])
        yield "top1", metrics.accuracy(labels, jnp.argmax(logits, axis=1))


Evaluator = Classifier
