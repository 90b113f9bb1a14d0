"""config.json of an exported encoder in the form of timm and of Hugging Face's hub."""

from collections.abc import Sequence
from typing import Any

from ssl_jax.models.resnet import ResNet

_DEPTHS = (18, 34, 50)  # of timm's plain ResNets
_WIDTH = 64
_STRIDE = 32  # pixels of an image for one of the last map
_FEATURES = {18: 512, 34: 512, 50: 2048}


def why_not(backbone: ResNet, head: bool = False) -> str:
    """Why timm has no such network; empty if it has.

    Args:
        backbone: of the encoder.
        head: whether the file holds more than the backbone.
    """
    name = f"ResNet-{backbone.depth}"
    if head:
        return "timm's networks have no projection head; leave --head out"
    if backbone.depth not in _DEPTHS:
        return f"timm has no {name}"
    if backbone.stem != "imagenet":
        return f"timm's {name} has the ImageNet stem, this one that for CIFAR"
    if backbone.width != _WIDTH:
        return f"timm's {name} has width {_WIDTH}, this one {backbone.width}"
    return ""


def config(
    backbone: ResNet,
    *,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    crop: float = 0.0,
    fields: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What `timm.create_model("local-dir:FOLDER")` reads; see `why_not`.

    Args:
        backbone: of the encoder.
        size: side in pixels of its images.
        mean, std: statistics of each channel.
        crop: side of the central square that it sees, as a share of the short side; 0: all of the
            image, squeezed into a square, which timm calls "squash".
        fields: more entries of the pretrained_cfg.
    """
    channels = len(mean)
    content: dict[str, Any] = dict(
        architecture=f"resnet{backbone.depth}",
        num_classes=0,
        num_features=_FEATURES[backbone.depth],
        global_pool="avg",
    )
    if channels != 3:
        content["model_args"] = dict(in_chans=channels)
    pixels = -(-size // _STRIDE)
    content["pretrained_cfg"] = dict(
        custom_load=False,
        input_size=[channels, size, size],
        fixed_input_size=False,
        interpolation="bilinear",
        crop_pct=crop or 1.0,
        crop_mode="center" if crop else "squash",
        mean=list(mean),
        std=list(std),
        num_classes=0,
        pool_size=[pixels, pixels],
        first_conv="conv1",
        classifier="fc",
        **(fields or {}),
    )
    return content
