"""VGG16 (Simonyan and Zisserman 2015) with BatchNorm."""

import flax.linen as nn
import jax

from ssl_jax.models.layers import ConvNorm, Hidden, check_plain
from ssl_jax.models.pooling import adaptive

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels and convolutions


class VGG(nn.Module):
    """Thirteen 3x3 convolutions in five stages and two fully connected layers.

    Each has BatchNorm and ReLU, and there is no dropout, as LA trained it; but LA has BatchNorm
    only after the last convolution of a stage. The last map is averaged to its side at the usual
    image size (7, or 1 for CIFAR), so views may have any size; at the usual size nothing changes.

    Attributes:
        width: channels of the first stage, 64 in the paper; the others scale with it.
        stem: size of the images: "imagenet" (for 224 pixels) or "cifar" (for 32); they differ only
            in the side of the last map.
        hidden: widths of the fully connected layers; () pools the last map instead.
        dtype, remat, bn_groups, conv_init, bn_momentum: as in `alexnet.AlexNet`.
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
    def __call__(self, x: jax.Array, *, train: bool | int) -> dict[str, jax.Array]:
        """Features of images [B, H, W, C].

        Returns:
            `stage1`..`stage5`, maps before their max pools; `backbone` [B, D].
        """
        block_type = nn.remat(ConvNorm, static_argnums=(2,)) if self.remat else ConvNorm
        features = {}
        for i, (channels, count) in enumerate(STAGES, start=1):
            for j in range(count):
                block = block_type(
                    features=max(1, channels * self.width // 64),
                    kernel=3,
                    stride=1,
                    pad=1,
                    dtype=self.dtype,
                    bn_groups=self.bn_groups,
                    conv_init=self.conv_init,
                    bn_momentum=self.bn_momentum,
                    name=f"layer{i}_{j}",
                )
                x = block(x, train)
            features[f"stage{i}"] = x
            # Padded, so that odd sides and single pixels lose nothing.
            x = nn.max_pool(x, (2, 2), (2, 2), "SAME")
        if self.hidden:
            x = adaptive(x, 7 if self.stem == "imagenet" else 1, grow=True)
        fc = Hidden(self.hidden, self.bn_groups, self.bn_momentum, name="fc")
        return features | {"backbone": fc(x, train=train)}


Backbone = VGG
