"""SwAV and BYOL in PyTorch of lightly's modules and losses, put together as its examples do."""

import copy

import torch
from lightly.loss import NegativeCosineSimilarity, SwaVLoss
from lightly.models import modules
from lightly.models.utils import deactivate_requires_grad, update_momentum
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

STAGES = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


def resnet(depth, width, stem):
    """torchvision's residual blocks at any width; ours has as many parameters."""
    block = Bottleneck if depth >= 50 else BasicBlock
    kernel, stride = (3, 1) if stem == "cifar" else (7, 2)
    layers = [nn.Conv2d(3, width, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(width), nn.ReLU(True)]
    layers += [nn.MaxPool2d(3, 2, 1)] * (stem != "cifar")
    channels = width
    for stage, blocks in enumerate(STAGES[depth]):
        for i in range(blocks):
            planes, stride = width * 2**stage, 2 if stage and not i else 1
            out, shortcut = planes * block.expansion, None
            if stride != 1 or channels != out:
                shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
            layers.append(block(channels, planes, stride, shortcut))
            channels = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), channels


class SwAV(nn.Module):
    """Network and loss, put together as lightly's example does; prototypes without bias, as published."""

    def __init__(self, recipe):
        super().__init__()
        head, method, model = recipe["head"], recipe["method"], recipe["model"]
        self.backbone, channels = resnet(model["depth"], model["width"], model["stem"])
        self.head = modules.SwaVProjectionHead(channels, head["hidden"][0], head["dim"])
        self.prototypes = modules.SwaVPrototypes(head["dim"], method["prototypes"])
        for layer in self.prototypes.heads:
            layer.register_parameter("bias", None)
        self.criterion = SwaVLoss(method["temperature"], method["sinkhorn_iterations"], method["epsilon"])

    def forward(self, views):
        embedded = [nn.functional.normalize(self.head(self.backbone(view)), dim=1) for view in views]
        scores = [self.prototypes(x) for x in embedded]
        return self.criterion(scores[:2], scores[2:]).sum()

    def before(self):
        self.prototypes.normalize()


class BYOL(nn.Module):
    """Online and target network, put together as lightly's example does."""

    def __init__(self, recipe):
        super().__init__()
        head, method, model = recipe["head"], recipe["method"], recipe["model"]
        self.backbone, channels = resnet(model["depth"], model["width"], model["stem"])
        self.head = modules.BYOLProjectionHead(channels, head["hidden"][0], head["dim"])
        self.predictor = modules.BYOLPredictionHead(head["dim"], method["predictor"][0], head["dim"])
        self.targets = copy.deepcopy(nn.ModuleList([self.backbone, self.head]))
        deactivate_requires_grad(self.targets)
        self.criterion, self.momentum = NegativeCosineSimilarity(), method["momentum"]

    def forward(self, views):
        predicted = [self.predictor(self.head(self.backbone(view))) for view in views]
        with torch.no_grad():
            backbone, head = self.targets
            wanted = [head(backbone(view)) for view in views]
        return 0.5 * (self.criterion(predicted[0], wanted[1]) + self.criterion(predicted[1], wanted[0]))

    def before(self):
        for online, target in zip((self.backbone, self.head), self.targets):
            update_momentum(online, target, self.momentum)
