"""Residual networks (He et al. 2016) with ImageNet and CIFAR stems, as torchvision numbers them."""

import flax.linen as nn
import jax.numpy as jnp

from ssl_jax.models.layers import BatchNorm, Conv

STAGES = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


class Block(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3, 1x1 with the stride in the 3x3 (v1.5), and a shortcut."""

    width: int
    stride: int
    bottleneck: bool

    @nn.compact
    def __call__(self, x, *, train: bool):
        out = self.width * (4 if self.bottleneck else 1)
        if self.bottleneck:
            layers = ((self.width, 1, 1), (self.width, 3, self.stride), (out, 1, 1))
        else:
            layers = ((out, 3, self.stride), (out, 3, 1))
        y = x
        for i, (features, kernel, stride) in enumerate(layers, start=1):
            y = Conv(features, kernel, stride, name=f"conv{i}")(y)
            y = BatchNorm(name=f"bn{i}")(y, train=train)
            y = nn.relu(y) if i < len(layers) else y
        if x.shape[-1] != out or self.stride != 1:
            x = Conv(out, 1, self.stride, name="shortcut")(x)
            x = BatchNorm(name="shortcut_bn")(x, train=train)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """ResNet-10, -18, -34 or -50; `width` multiplies every stage (128 is w2 of a ResNet-50).

    Attributes:
        depth: 10 (one block a stage, for tests and small images), 18, 34 or 50.
        width: channels of the first stage, 64 in the papers.
        stem: "imagenet" (7x7 stride 2, max pool) or "cifar" (3x3 stride 1, no pool).
    """

    depth: int = 18
    width: int = 64
    stem: str = "imagenet"

    def __post_init__(self):
        super().__post_init__()
        if self.depth not in STAGES:
            raise ValueError(f"depth={self.depth}: choose one of {sorted(STAGES)}")
        if self.width < 1:
            raise ValueError(f"width={self.width}: at least 1")
        if self.stem not in ("imagenet", "cifar"):
            raise ValueError(f"stem={self.stem!r}: choose imagenet or cifar")

    @nn.compact
    def __call__(self, x, *, train: bool) -> dict:
        """Features of images [B, H, W, C]: `stage1`..`stage5` maps and pooled `backbone` [B, C]."""
        if self.stem == "cifar":
            x = Conv(self.width, 3, 1, name="conv1")(x)
        else:
            x = Conv(self.width, 7, 2, name="conv1")(x)
        x = nn.relu(BatchNorm(name="bn1")(x, train=train))
        features = {"stage1": x}
        if self.stem == "imagenet":
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for stage, blocks in enumerate(STAGES[self.depth]):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                name = f"layer{stage + 1}_{block}"
                x = Block(self.width * 2**stage, stride, self.depth >= 50, name=name)(x, train=train)
            features[f"stage{stage + 2}"] = x
        return features | {"backbone": jnp.asarray(x, jnp.float32).mean((1, 2))}


Backbone = ResNet
