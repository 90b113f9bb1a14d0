"""AlexNet (Krizhevsky et al. 2012) with BatchNorm, as unsupervised learning has used it."""

import flax.linen as nn
import jax

from ssl_jax.models.layers import ConvNorm, Hidden, check_plain
from ssl_jax.models.pooling import adaptive

# (channels, kernel, stride, padding, followed by a max pool) of each convolution.
LAYERS = {
    "imagenet": (
        (96, 11, 4, 2, True),
        (256, 5, 1, 2, True),
        (384, 3, 1, 1, False),
        (384, 3, 1, 1, False),
    ),
    "narrow": (
        (64, 11, 4, 0, True),
        (192, 5, 1, 2, True),
        (384, 3, 1, 1, False),
        (384, 3, 1, 1, False),
    ),
    "cifar": (
        (96, 5, 1, 2, True),
        (256, 5, 1, 2, True),
        (384, 3, 1, 1, False),
        (384, 3, 1, 1, False),
    ),
}
LAST = (256, 3, 1, 1, True)
SIDE = {"imagenet": 6, "narrow": 5, "cifar": 4}  # of the last map, at the usual size of images


class AlexNet(nn.Module):
    """Five convolutions and two fully connected layers, each with BatchNorm and ReLU.

    There is no local response normalisation. The ImageNet form has DeepCluster's convolutions,
    whose channels are those of the tables that pool each map to about 9,000 numbers (AND's, too),
    and LA's fully connected layers: BatchNorm in place of dropout. LA's convolutions are the narrow
    form: 64, 192, 384, 384 and 256 channels, the first without padding. The papers do not describe
    a form for CIFAR: ours keeps the channels, its first convolution is 5x5 with stride 1, and its
    pools are padded: 32 pixels become 16, 8 and 4.

    The last map is averaged to its side at the usual image size (6, 5 or 4), so views may have any
    size; at the usual size nothing changes.

    Attributes:
        width: scales the channels of every convolution by width / 64; 64 for the published ones.
        stem: first layers: "imagenet" or "narrow" (for 224 pixels), or "cifar" (for 32).
        hidden: widths of the fully connected layers; () pools the last map instead.
        dtype: type of the convolutions' activations and products, "float32" or "bfloat16".
        remat: keep only the input of each convolution and recompute it in the backward pass.
        bn_groups: parts of the batch with separate BatchNorm statistics.
        conv_init, bn_momentum: as in `resnet.ResNet`.
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
        check_plain(self, stems=tuple(LAYERS))

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool | int) -> dict[str, jax.Array]:
        """Features of images [B, H, W, C].

        Returns:
            `stage1`..`stage5`, maps after ReLU and before a pool; `backbone` [B, D].
        """
        pad = 1 if self.stem == "cifar" else 0
        block_type = nn.remat(ConvNorm, static_argnums=(2,)) if self.remat else ConvNorm
        features = {}
        layers = (*LAYERS[self.stem], LAST)
        for i, (channels, kernel, stride, padding, pool) in enumerate(layers, start=1):
            block = block_type(
                features=max(1, channels * self.width // 64),
                kernel=kernel,
                stride=stride,
                pad=padding,
                dtype=self.dtype,
                bn_groups=self.bn_groups,
                conv_init=self.conv_init,
                bn_momentum=self.bn_momentum,
                name=f"layer{i}",
            )
            x = block(x, train)
            features[f"stage{i}"] = x
            if pool:
                x = nn.max_pool(x, (3, 3), (2, 2), ((pad, pad), (pad, pad)))
        if self.hidden:
            x = adaptive(x, SIDE[self.stem], grow=True)
        fc = Hidden(self.hidden, self.bn_groups, self.bn_momentum, name="fc")
        return features | {"backbone": fc(x, train=train)}


Backbone = AlexNet
