"""Supervised training: a linear classifier on the backbone, the yardstick of the other methods."""

import dataclasses
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, PRNGKeyArray

from ssl_jax import interface
from ssl_jax.interface import Aux, Batch, LabelledBatch, RunFacts, TrainState
from ssl_jax.models.layers import Linear
from ssl_jax.models.network import Network
from ssl_jax.ops.collapse import spread
from ssl_jax.ops.losses import cross_entropy
from ssl_jax.ops.types import Numbers
from ssl_jax.ops.vectors import unit
from ssl_jax.settings import ranges


@dataclasses.dataclass(frozen=True)
class Supervised(interface.Method):
    """Softmax cross-entropy of a linear classifier on the pooled features of the backbone.

    The only method here that is trained on labels; it says so with `needs_labels`. Unlabelled
    images are left out of the loss, though BatchNorm sees them. The projection head of the network
    is not used. The `embedding` is the backbone's feature at unit length.

    Attributes:
        network: set by `train.build`; only its backbone is trained.
        label_smoothing: share of the target that is spread evenly over all classes (Szegedy et al.
            2016, section 7); 0 for plain cross-entropy.
    """

    needs_labels: ClassVar[bool] = True
    network: Network
    label_smoothing: float = 0.0
    facts: RunFacts = RunFacts()

    def __post_init__(self):
        ranges.below_one(label_smoothing=self.label_smoothing)

    @property
    def _classifier(self) -> nn.Module:
        return Linear(max(self.facts.classes, 1))

    def init(self, key: PRNGKeyArray, batch: Batch) -> tuple[dict[str, Any], Any, tuple[()]]:
        """Backbone and classifier."""
        if len(batch.views) != 1:
            raise ValueError(f"supervised takes one view of an image, not {len(batch.views)}")
        network_key, classifier_key = jax.random.split(key)
        variables = self.network.init(
            network_key, batch.views[0], train=False, method=Network.backbone_features
        )
        pooled = jax.eval_shape(
            lambda: self._features(variables["params"], variables["batch_stats"], batch.views[0])
        )["backbone"]
        classifier = self._classifier.init(classifier_key, jnp.zeros(pooled.shape, pooled.dtype))
        params = {"network": variables["params"], "classifier": classifier["params"]}
        return params, variables["batch_stats"], ()

    def loss(
        self, state: TrainState, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], Aux]:
        """Cross-entropy of the labelled images; `accuracy` is the share of them that it names."""
        assert isinstance(batch, LabelledBatch)
        variables = {"params": state.params["network"], "batch_stats": state.batch_stats}
        features, updated = self.network.apply(
            variables,
            batch.views[0],
            train=True,
            mutable="batch_stats",
            method=Network.backbone_features,
        )
        logits = self._logits(state.params, features["backbone"])
        loss = cross_entropy(logits, batch.labels, smoothing=self.label_smoothing)
        labelled = batch.labels >= 0
        right = labelled & (logits.argmax(axis=1) == batch.labels)
        metrics = {
            "accuracy": jnp.sum(right) / jnp.maximum(jnp.sum(labelled), 1),
            "spread": spread(unit(jax.lax.stop_gradient(features["backbone"]))),
        }
        if self.facts.labelled < self.facts.examples:
            metrics["labelled"] = jnp.mean(labelled)
        return loss, Aux(updated["batch_stats"], (), metrics)

    def post_step(self, state: TrainState, aux: Aux, batch: Batch) -> TrainState:
        """Returns `state` unchanged: only the optimiser moves parameters."""
        return state

    def features(
        self, state: TrainState, images: Float[Numbers, "B H W C"], names: tuple[str, ...]
    ) -> dict[str, Float[Array, "B ..."]]:
        """The backbone's features, `embedding`, and `logits` [B, C] of the classes."""
        available = dict(self._features(state.params["network"], state.batch_stats, images))
        available["embedding"] = unit(available["backbone"])
        available["logits"] = self._logits(state.params, available["backbone"])
        return {name: available[name] for name in names}

    def _features(
        self, params: Any, batch_stats: Any, images: Float[Numbers, "B H W C"]
    ) -> dict[str, Float[Array, "B ..."]]:
        """The backbone's features in evaluation mode."""
        features = self.network.apply(
            {"params": params, "batch_stats": batch_stats},
            images,
            train=False,
            method=Network.backbone_features,
        )
        return cast(dict[str, Array], features)

    def _logits(self, params: Any, pooled: Float[Array, "B D"]) -> Float[Array, "B C"]:
        logits = self._classifier.apply({"params": params["classifier"]}, pooled)
        return cast(Array, logits)


Method = Supervised
