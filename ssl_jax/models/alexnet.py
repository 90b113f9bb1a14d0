"""AlexNet (Krizhevsky et al. 2012) with BatchNorm, as unsupervised learning has used it."""

import flax.linen as nn

from ssl_jax.models.layers import ConvNorm, Hidden, check_plain
from ssl_jax.models.pooling import adaptive

# Channels, kernel, stride and padding of each convolution, and whether a max pool follows it.
LAYERS = {
    "imagenet": ((96, 11, 4, 2, True), (256, 5, 1, 2, True), (384, 3, 1, 1, False), (384, 3, 1, 1, False)),
    "narrow": ((64, 11, 4, 0, True), (192, 5, 1, 2, True), (384, 3, 1, 1, False), (384, 3, 1, 1, False)),
    "cifar": ((96, 5, 1, 2, True), (256, 5, 1, 2, True), (384, 3, 1, 1, False), (384, 3, 1, 1, False)),
}
LAST = (256, 3, 1, 1, True)
SIDE = {"imagenet": 6, "narrow": 5, "cifar": 4}  # of the last map, at the usual size of images


class AlexNet(nn.Module):
    """Five convolutions and two fully connected layers, each with BatchNorm and ReLU; no local response normalisation.

    The ImageNet form has DeepCluster's convolutions, whose channels are those of the tables that pool each map to about
    9,000 numbers (AND's, too), and LA's fully connected layers: BatchNorm in place of dropout. LA's own convolutions
    are the narrow form: 64, 192, 384, 384 and 256 channels, the first without padding. For CIFAR the papers give no
    description: ours keeps the channels, its first convolution is 5x5 with stride 1, and its pools are padded: 32
    pixels become 16, 8 and 4.

    The last map is averaged to the side that it has at the usual size (6, 5 or 4), so views of any size can
    be taken; at that size nothing changes.

    Attributes:
        width: 64 for the published channels; others scale every convolution by width / 64.
        stem: "imagenet" or "narrow" (for 224 pixels), or "cifar" (for 32).
        hidden: widths of the fully connected layers; () pools the last map instead.
        dtype: of activations and products of the convolutions, "float32" or "bfloat16".
        remat: keep only the input of each convolution and compute it again in the backward pass.
        bn_groups: parts of the batch with BatchNorm statistics of their own.
        conv_init, bn_momentum: as those of `resnet.ResNet`.
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
    def __call__(self, x, *, train: bool) -> dict:
        """Features of images [B, H, W, C]: `stage1`..`stage5`, maps after ReLU, before a pool; `backbone` [B, D]."""
        pad = 1 if self.stem == "cifar" else 0
        block_type = nn.remat(ConvNorm, static_argnums=(2,)) if self.remat else ConvNorm
        features = {}
        for i, (channels, kernel, stride, padding, pool) in enumerate((*LAYERS[self.stem], LAST), start=1):
            width = max(1, channels * self.width // 64)
            settings = (width, kernel, stride, padding, self.dtype, self.bn_groups, self.conv_init, self.bn_momentum)
            x = block_type(*settings, name=f"layer{i}")(x, train)
            features[f"stage{i}"] = x
            if pool:
                x = nn.max_pool(x, (3, 3), (2, 2), ((pad, pad), (pad, pad)))
        x = adaptive(x, SIDE[self.stem], grow=True) if self.hidden else x
        return features | {"backbone": Hidden(self.hidden, self.bn_groups, self.bn_momentum, name="fc")(x, train=train)}


Backbone = AlexNet
