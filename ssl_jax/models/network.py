"""The network that every method trains: a backbone, and a head that makes unit embeddings."""

from collections.abc import Sequence
from itertools import groupby

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax.ops.vectors import unit


class Network(nn.Module):
    """Backbone and projection head.

    Attributes:
        backbone: module from images to a dict of features with the key `backbone`.
        head: module from pooled features [B, C] to [B, D].
    """

    backbone: nn.Module
    head: nn.Module

    def __call__(
        self, views: Sequence[jax.Array], *, train: bool, separate: bool = False
    ) -> jax.Array:
        """Unit embeddings [V, B, D] of V views; see `project`."""
        return unit(self.project(views, train=train, separate=separate))

    def project(
        self, views: Sequence[jax.Array], *, train: bool, separate: bool = False
    ) -> jax.Array:
        """The head's output for V views, in the order given, not normalised.

        Adjacent views of one size go through the backbone together, so BatchNorm sees one batch per
        resolution and updates its running statistics once for each; the head sees all views at
        once. Rows are stacked image by image, so a batch that is sharded over devices is not moved.

        Args:
            views: V arrays [B, H, W, C].
            train: training mode.
            separate: make each view its own BatchNorm batch, in backbone and head.

        Returns:
            [V, B, D].
        """
        pooled = []
        for _, group in groupby(views, key=jnp.shape):
            group = jnp.stack(list(group), axis=1)
            batch, count, *image = group.shape
            batches = count if train and separate else train
            features = self.backbone(group.reshape(batch * count, *image), train=batches)[
                "backbone"
            ]
            pooled.append(features.reshape(batch, count, -1))
        pooled = jnp.concatenate(pooled, axis=1)
        batch, count, channels = pooled.shape
        batches = count if train and separate else train
        embedding = self.head(pooled.reshape(batch * count, channels), train=batches)
        return embedding.reshape(batch, count, -1).swapaxes(0, 1)

    def backbone_features(self, images: jax.Array, *, train: bool) -> dict[str, jax.Array]:
        """All features of the backbone for images [B, H, W, C], without the head."""
        return self.backbone(images, train=train)

    def features(self, images: jax.Array) -> dict[str, jax.Array]:
        """All named features of clean images [B, H, W, C], with running statistics."""
        features = self.backbone(images, train=False)
        return features | {"embedding": unit(self.head(features["backbone"], train=False))}
