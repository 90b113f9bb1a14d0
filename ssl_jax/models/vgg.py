"""VGG16 (Simonyan and Zisserman 2015) with BatchNorm."""

import flax.linen as nn

from ssl_jax.models.layers import ConvNorm, Hidden, check_plain
from ssl_jax.models.pooling import adaptive

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels and convolutions


class VGG(nn.Module):
    """Thirteen 3x3 convolutions in five stages, and two fully connected layers, each with BatchNorm and ReLU.

    As LA trained it, without dropout; unlike there, where only the last convolution of a stage has BatchNorm, all
    have it. The last map is averaged to the side that it has at the usual size (7, or 1 for CIFAR), so views of any
    size can be taken; at that size nothing changes.

    Attributes:
        width: channels of the first stage, 64 in the paper; the others scale with it.
        stem: "imagenet" (for 224 pixels) or "cifar" (for 32); they differ in the side of the last map alone.
        hidden: widths of the fully connected layers; () pools the last map instead.
        dtype, remat, bn_groups, conv_init, bn_momentum: as those of `alexnet.AlexNet`.
    """

    width: int = 64
    stem: str = "cifar"
    hidden: tuple[int, ...] = (4096, 4096)
    dtype: str = "float32"
    remat: bool = False
    bn_groups: int = 1
    conv_init: str = "torchvision"
    bn_momentum: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        check_plain(self)

    @nn.compact
    def __call__(self, x, *, train: bool) -> dict:
        """Features of images [B, H, W, C]: `stage1`..`stage5`, maps before their max pools; `backbone` [B, D]."""
        block_type = nn.remat(ConvNorm, static_argnums=(2,)) if self.remat else ConvNorm
        features = {}
        for i, (channels, count) in enumerate(STAGES, start=1):
            for j in range(count):
                width = max(1, channels * self.width // 64)
                settings = (width, 3, 1, 1, self.dtype, self.bn_groups, self.conv_init, self.bn_momentum)
                x = block_type(*settings, name=f"layer{i}_{j}")(x, train)
            features[f"stage{i}"] = x
            x = nn.max_pool(x, (2, 2), (2, 2), "SAME")  # of odd sides, and of one pixel, nothing is lost
        x = adaptive(x, 7 if self.stem == "imagenet" else 1, grow=True) if self.hidden else x
        return features | {"backbone": Hidden(self.hidden, self.bn_groups, self.bn_momentum, name="fc")(x, train=train)}


Backbone = VGG
