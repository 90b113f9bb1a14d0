"""Residual networks (He et al. 2016) with ImageNet and CIFAR stems, as torchvision numbers them."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax.models.layers import BatchNorm, Conv, check_common

STAGES = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


def convolutions(width: int, stride: int, bottleneck: bool) -> tuple[tuple[int, int, int], ...]:
    """(channels, kernel, stride) of each convolution of a block.

    Two 3x3; or, as a bottleneck, 1x1, 3x3 with the stride (v1.5), 1x1.
    """
    if bottleneck:
        return (width, 1, 1), (width, 3, stride), (4 * width, 1, 1)
    return (width, 3, stride), (width, 3, 1)


class Block(nn.Module):
    """A residual block: `convolutions`, each with BatchNorm, and a shortcut."""

    width: int
    stride: int
    bottleneck: bool
    dtype: str = "float32"
    bn_groups: int = 1
    zero_init: bool = False
    conv_init: str = "torchvision"
    bn_momentum: float = 0.1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool | int) -> jax.Array:
        conv = partial(Conv, dtype=self.dtype, conv_init=self.conv_init)
        norm = partial(BatchNorm, momentum=1.0 - self.bn_momentum, groups=self.bn_groups)
        layers = convolutions(self.width, self.stride, self.bottleneck)
        out = layers[-1][0]
        y = x
        for i, (features, kernel, stride) in enumerate(layers, start=1):
            y = conv(features, kernel, stride, name=f"conv{i}")(y)
            last = i == len(layers)
            y = norm(zero=self.zero_init and last, name=f"bn{i}")(y, train=train)
            y = y if last else nn.relu(y)
        if x.shape[-1] != out or self.stride != 1:
            x = conv(out, 1, self.stride, name="shortcut")(x)
            x = norm(name="shortcut_bn")(x, train=train)
        return nn.relu(x + y)


def check(backbone: nn.Module) -> None:
    """Checks the settings of a residual network.

    Raises:
        ValueError: a setting is out of range.
    """
    if backbone.depth not in STAGES:
        raise ValueError(f"depth={backbone.depth}: choose one of {sorted(STAGES)}")
    check_common(backbone)


class ResNet(nn.Module):
    """ResNet-10, -18, -34 or -50; `width` scales every stage (128 is w2 of a ResNet-50, 256 w4).

    Attributes:
        depth: number of layers: 10 (one block per stage, for tests and small images), 18, 34 or 50.
        width: channels of the first stage, 64 in the papers.
        stem: first layers: "imagenet" (7x7 stride 2, max pool) or "cifar" (3x3 stride 1, no pool).
        dtype: type of activations and products, "float32" or "bfloat16"; parameters, BatchNorm
            and pooling are float32.
        remat: keep only the input of each block and recompute the block in the backward pass.
        bn_groups: parts of the batch with separate BatchNorm statistics.
        zero_init_residual: start the scale of each block's last BatchNorm at zero, so that blocks
            start as the identity.
        conv_init: initialisation of convolutions: "torchvision", "torch" or "tensorflow"; see
            `layers.CONV_INITS`.
        bn_momentum: share of each batch in the running statistics, torch's `momentum`.
    """

    depth: int = 18
    width: int = 64
    stem: str = "cifar"
    dtype: str = "float32"
    remat: bool = False
    bn_groups: int = 1
    zero_init_residual: bool = False
    conv_init: str = "torchvision"
    bn_momentum: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        check(self)

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool | int) -> dict[str, jax.Array]:
        """Features of images [B, H, W, C]: `stage1`..`stage5` maps and pooled `backbone` [B, C]."""
        kernel, stride = (3, 1) if self.stem == "cifar" else (7, 2)
        x = Conv(self.width, kernel, stride, self.dtype, conv_init=self.conv_init, name="conv1")(x)
        norm = BatchNorm(momentum=1.0 - self.bn_momentum, groups=self.bn_groups, name="bn1")
        x = nn.relu(norm(x, train=train))
        features = {"stage1": x}
        if self.stem == "imagenet":
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        block_type = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        for stage, blocks in enumerate(STAGES[self.depth]):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                layer = block_type(
                    width=self.width * 2**stage,
                    stride=stride,
                    bottleneck=self.depth >= 50,
                    dtype=self.dtype,
                    bn_groups=self.bn_groups,
                    zero_init=self.zero_init_residual,
                    conv_init=self.conv_init,
                    bn_momentum=self.bn_momentum,
                    name=f"layer{stage + 1}_{block}",
                )
                x = layer(x, train)
            features[f"stage{stage + 2}"] = x
        return features | {"backbone": jnp.asarray(x, jnp.float32).mean((1, 2))}


Backbone = ResNet
