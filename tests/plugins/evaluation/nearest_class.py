"""A toy evaluator in one file, as a user would add it."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from ssl_jax import interface
from ssl_jax.interface import RunFacts, no_progress


@dataclasses.dataclass(frozen=True)
class NearestClass(interface.Evaluator):
    """Share of test images whose nearest class mean, by dot product, is their class's."""

    feature: str = "embedding"
    facts: RunFacts = RunFacts()

    @property
    def needs(self):
        return (self.feature,)

    def run(self, splits, state, report=no_progress):
        train = splits["train"]
        test = splits["test"]
        features = np.asarray(train.features[self.feature])
        labels = np.asarray(train.labels)
        classes = range(self.facts.classes)
        means = np.stack([features[labels == c].mean(0) for c in classes])
        report("means of classes")
        predicted = jnp.argmax(np.asarray(test.features[self.feature]) @ means.T, axis=1)
        yield "top1", float((predicted == test.labels).mean())


Evaluator = NearestClass
