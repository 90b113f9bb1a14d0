"""The network that every method trains: a backbone, a head on its pooled features, unit embeddings."""

from itertools import groupby

import flax.linen as nn
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

    def __call__(self, views, *, train: bool, separate: bool = False):
        """Unit embeddings [V, B, D] of V views; see `project`."""
        return unit(self.project(views, train=train, separate=separate))

    def project(self, views, *, train: bool, separate: bool = False):
        """The head's output [V, B, D] for V views, each [B, H, W, C], in the order given, as long as it comes.

        With `separate` each view is a BatchNorm batch of its own, in backbone and head. Otherwise:

        Neighbouring views of one size go through the backbone together, so BatchNorm sees one batch
        per resolution and its running statistics move once for each; the head sees all views at once.
        Rows are stacked image by image, which leaves a batch that is sharded over devices in place.
        """
        pooled = []
        for _, group in groupby(views, key=jnp.shape):
            group = jnp.stack(list(group), axis=1)
            batch, count, *image = group.shape
            own = count if train and separate else train
            features = self.backbone(group.reshape(batch * count, *image), train=own)["backbone"]
            pooled.append(features.reshape(batch, count, -1))
        pooled = jnp.concatenate(pooled, axis=1)
        batch, count, channels = pooled.shape
        own = count if train and separate else train
        embedding = self.head(pooled.reshape(batch * count, channels), train=own)
        return embedding.reshape(batch, count, -1).swapaxes(0, 1)

    def features(self, images) -> dict:
        """Every named feature of clean images [B, H, W, C], with running statistics."""
        features = self.backbone(images, train=False)
        return features | {"embedding": unit(self.head(features["backbone"], train=False))}
