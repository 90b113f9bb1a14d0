"""Faster R-CNN (Ren et al. 2015) of torchvision's parts, on a given backbone."""

from collections import OrderedDict
from typing import TYPE_CHECKING

from detection_parts.backbone import Backbone, body
from detection_parts.protocol import Protocol
from detection_parts.voc import CLASSES

if TYPE_CHECKING:
    import torch
    import torchvision

_STRIDE = 16  # of layer3
_RATIOS = (0.5, 1.0, 2.0)
_OUTPUTS = len(CLASSES) + 1  # and the background, 0


def detector(backbone: Backbone, protocol: Protocol) -> "torchvision.models.detection.FasterRCNN":
    """Faster R-CNN with new heads, in training mode.

    It takes pictures [3, H, W] in 0..1 of any sizes, resizes them as `protocol` says, and
    normalises them by the backbone's statistics.

    "c4": proposals from layer3 (stride 16); layer4 on 14x14 values of each region (its borders not
    rounded, as in Detectron2's ROIAlignV2), with one more BatchNorm behind it if BatchNorm is
    trained, as in MoCo's Detectron2 model; 12,000 proposals before their suppression in training
    and 6,000 in testing, 2,000 and 1,000 after it. "fpn": torchvision's own model.
    """
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.rpn import AnchorGenerator

    network = body(backbone, protocol.norm, protocol.frozen)
    shared = dict(
        min_size=protocol.sizes,
        max_size=protocol.longest,
        image_mean=list(backbone.mean),
        image_std=list(backbone.std),
    )
    if protocol.neck == "fpn":
        model = FasterRCNN(_pyramid(network, backbone), _OUTPUTS, **shared)
        _set_strides(model.roi_heads.box_roi_pool)
        return model
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor

    sizes = (32, 64, 128, 256, 512)
    return FasterRCNN(
        _stages(network, backbone.channels[2]),
        rpn_anchor_generator=AnchorGenerator((sizes,), (_RATIOS,)),
        rpn_pre_nms_top_n_train=12_000,
        rpn_pre_nms_top_n_test=6_000,
        box_roi_pool=_regions(),
        box_head=_region_head(network.layer4, backbone.channels[3], protocol.norm),
        box_predictor=FastRCNNPredictor(backbone.channels[3], _OUTPUTS),
        **shared,
    )


def _stages(network: "torchvision.models.ResNet", channels: int) -> "torch.nn.Module":
    """The stem and layer1 to layer3, as FasterRCNN takes a backbone with one map."""
    import torch

    names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3")
    stages = torch.nn.Sequential(OrderedDict((name, getattr(network, name)) for name in names))
    stages.out_channels = channels
    return stages


def _regions() -> "torch.nn.Module":
    """The values of each region in layer3's maps: [B, C, H, W] and R boxes -> [R, C, 14, 14]."""
    from torchvision.ops import MultiScaleRoIAlign, roi_align

    class Regions(MultiScaleRoIAlign):  # which FasterRCNN insists on
        """Takes the stride as it is; its base class guesses it from the first batch."""

        def forward(self, x, boxes, image_shapes):
            return roi_align(x["0"], boxes, self.output_size, 1 / _STRIDE, aligned=True)

    return Regions(["0"], output_size=14, sampling_ratio=-1)


def _set_strides(pool: "torch.nn.Module") -> None:
    """Lets torchvision's pooling learn its strides from maps that are exactly 4, 8, ... of them.

    Otherwise it guesses them from the first batch, and wrongly if pictures are small: then a
    resumed training would go another way.
    """
    import torch

    side = 256
    maps = {str(i): torch.zeros(1, 1, side // 2 ** (i + 2), side // 2 ** (i + 2)) for i in range(4)}
    pool(maps, [torch.tensor([[0.0, 0.0, 8.0, 8.0]])], [(side, side)])


def _region_head(layer: "torch.nn.Module", channels: int, norm: str) -> "torch.nn.Module":
    """layer4 and the mean over each region: [R, C, 14, 14] -> [R, channels]."""
    import torch

    parts = [layer]
    if norm == "batch":
        parts.append(torch.nn.BatchNorm2d(channels))
    return torch.nn.Sequential(*parts, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())


def _pyramid(network: "torchvision.models.ResNet", backbone: Backbone) -> "torch.nn.Module":
    """All stages with a feature pyramid of 256 channels."""
    from torchvision.models.detection.backbone_utils import BackboneWithFPN

    layers = {f"layer{i + 1}": str(i) for i in range(4)}
    return BackboneWithFPN(network, layers, list(backbone.channels), 256)
