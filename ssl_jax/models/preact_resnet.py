"""Pre-activation residual networks (He et al. 2016b), as used to train Local Aggregation."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssl_jax.models.layers import BatchNorm, Conv
from ssl_jax.models.resnet import STAGES, check, convolutions


class PreActBlock(nn.Module):
    """BatchNorm and ReLU before each convolution; a projection reads the first activation."""

    width: int
    stride: int
    bottleneck: bool
    project: bool
    dtype: str = "float32"
    bn_groups: int = 1
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
            y = nn.relu(norm(name=f"bn{i}")(y, train=train))
            if i == 1 and self.project:
                x = conv(out, 1, self.stride, name="shortcut")(y)
            y = conv(features, kernel, stride, name=f"conv{i}")(y)
        return x + y


class PreActResNet(nn.Module):
    """Pre-activation ResNet-10, -18, -34 or -50.

    The stem has no BatchNorm or ReLU; both follow the last stage. As in the official TensorFlow
    model the first block of each stage projects its shortcut even if shapes agree (11,244,480
    parameters of a ResNet-18 with a linear head of 128). Padding is torch's, the same on both
    sides.

    Attributes: as in `resnet.ResNet`, without `zero_init_residual`.
    """

    depth: int = 18
    width: int = 64
    stem: str = "cifar"
    dtype: str = "float32"
    remat: bool = False
    bn_groups: int = 1
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
        features = {"stage1": x}
        if self.stem == "imagenet":
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        block_type = nn.remat(PreActBlock, static_argnums=(2,)) if self.remat else PreActBlock
        for stage, blocks in enumerate(STAGES[self.depth]):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                layer = block_type(
                    width=self.width * 2**stage,
                    stride=stride,
                    bottleneck=self.depth >= 50,
                    project=block == 0,
                    dtype=self.dtype,
                    bn_groups=self.bn_groups,
                    conv_init=self.conv_init,
                    bn_momentum=self.bn_momentum,
                    name=f"layer{stage + 1}_{block}",
                )
                x = layer(x, train)
            features[f"stage{stage + 2}"] = x
        norm = BatchNorm(momentum=1.0 - self.bn_momentum, groups=self.bn_groups, name="bn")
        x = nn.relu(norm(x, train=train))
        return features | {"stage5": x, "backbone": jnp.asarray(x, jnp.float32).mean((1, 2))}


Backbone = PreActResNet
