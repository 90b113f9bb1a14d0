"""SwAV and BYOL in PyTorch from lightly's modules and losses, assembled as in its examples."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from lightly.loss import NegativeCosineSimilarity, SwaVLoss
from lightly.models import modules
from lightly.models.utils import deactivate_requires_grad, update_momentum
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

STAGES = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


def resnet(depth: int, width: int, stem: str) -> tuple[nn.Sequential, int]:
    """torchvision's residual blocks at any width, with as many parameters as ours; its channels."""
    block = Bottleneck if depth >= 50 else BasicBlock
    kernel, stride = (3, 1) if stem == "cifar" else (7, 2)
    layers = [
        nn.Conv2d(3, width, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(True),
    ]
    if stem != "cifar":
        layers.append(nn.MaxPool2d(3, 2, 1))
    channels = width
    for stage, blocks in enumerate(STAGES[depth]):
        for i in range(blocks):
            planes = width * 2**stage
            stride = 2 if stage and not i else 1
            out = planes * block.expansion
            shortcut = None
            if stride != 1 or channels != out:
                shortcut = nn.Sequential(
                    nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
                )
            layers.append(block(channels, planes, stride, shortcut))
            channels = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), channels


class SwAV(nn.Module):
    """Network and loss, as in lightly's example; prototypes without bias, as published."""

    def __init__(self, recipe: Mapping[str, Any]) -> None:
        super().__init__()
        head = recipe["head"]
        method = recipe["method"]
        model = recipe["model"]
        self.backbone, channels = resnet(model["depth"], model["width"], model["stem"])
        self.head = modules.SwaVProjectionHead(channels, head["hidden"][0], head["dim"])
        self.prototypes = modules.SwaVPrototypes(head["dim"], method["prototypes"])
        for layer in self.prototypes.heads:
            layer.register_parameter("bias", None)
        self.criterion = SwaVLoss(
            method["temperature"], method["sinkhorn_iterations"], method["epsilon"]
        )

    def forward(self, views: list[torch.Tensor]) -> torch.Tensor:
        embedded = [
            nn.functional.normalize(self.head(self.backbone(view)), dim=1) for view in views
        ]
        scores = [self.prototypes(x) for x in embedded]
        return self.criterion(scores[:2], scores[2:]).sum()

    def before(self) -> None:
        """Normalises the prototypes; called before each step."""
        self.prototypes.normalize()


class BYOL(nn.Module):
    """Online and target network, assembled as in lightly's example."""

    def __init__(self, recipe: Mapping[str, Any]) -> None:
        super().__init__()
        head = recipe["head"]
        method = recipe["method"]
        model = recipe["model"]
        self.backbone, channels = resnet(model["depth"], model["width"], model["stem"])
        self.head = modules.BYOLProjectionHead(channels, head["hidden"][0], head["dim"])
        self.predictor = modules.BYOLPredictionHead(
            head["dim"], method["predictor"][0], head["dim"]
        )
        self.targets = copy.deepcopy(nn.ModuleList([self.backbone, self.head]))
        deactivate_requires_grad(self.targets)
        self.criterion = NegativeCosineSimilarity()
        self.momentum = method["momentum"]

    def forward(self, views: list[torch.Tensor]) -> torch.Tensor:
        predicted = [self.predictor(self.head(self.backbone(view))) for view in views]
        with torch.no_grad():
            backbone, head = self.targets
            targets = [head(backbone(view)) for view in views]
        return 0.5 * (
            self.criterion(predicted[0], targets[1]) + self.criterion(predicted[1], targets[0])
        )

    def before(self) -> None:
        """Moves the target network; called before each step."""
        for online, target in zip((self.backbone, self.head), self.targets):
            update_momentum(online, target, self.momentum)
