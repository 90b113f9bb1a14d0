"""The backbone of a detector: a ResNet of a weight file, as a network of torchvision's."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ssl_jax.models import weight_files
from ssl_jax.models.resnet import STAGES
from ssl_jax.models.torch_weights import from_torch
from ssl_jax.models.weight_names import backbone_of, network_in
from ssl_jax.settings.paths import user_path
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import counted, printable

if TYPE_CHECKING:
    import torch
    import torchvision

_COLOURS = 3
IMAGENET = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@dataclasses.dataclass(frozen=True, eq=False)
class Backbone:
    """A residual network and its weights.

    Attributes:
        tensors: by torchvision's names.
        depth, width: of the ResNet: 18 or 50, and channels of the first stage.
        mean, std: [3] statistics of the pixels in 0..1 that it was trained on.
        digest: the first digits of the file's SHA-256.
        notes: sentences on what was taken from the file, and what was not.
    """

    tensors: Mapping[str, np.ndarray]
    depth: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str
    notes: tuple[str, ...]

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of layer1 to layer4."""
        widening = 4 if self.depth >= 50 else 1
        return tuple(self.width * widening * 2**i for i in range(4))


def read(
    path: Path, mean: Sequence[float] = (), std: Sequence[float] = (), prefix: str | None = None
) -> Backbone:
    """The backbone of a weight file; of several networks in it, the one named `prefix`.

    Statistics that are not given are those that `ssl_jax.export` noted in the file, else
    ImageNet's.

    Raises:
        SettingError: no such file, or a network that cannot be the backbone of a detector.
    """
    path = user_path(path, "--backbone")
    shown = f"--backbone={printable(path)}"
    if path.is_dir():
        raise SettingError(
            f"{shown} is a folder; export a run first: python -m ssl_jax.export "
            f"--workdir={printable(path)} --out=encoder.safetensors"
        )
    if not path.is_file():
        raise SettingError(f"{shown}: no such file")
    try:
        tensors = weight_files.read(path)
        network = network_in(tensors, path, prefix, flag="--prefix")
        resnet = backbone_of(network.backbone, path)
        notes = weight_files.notes(path)
        _check_complete(network.backbone, resnet, path)
    except weight_files.WeightsError as error:
        raise SettingError(f"--backbone: {error}") from error
    channels = network.backbone["conv1.weight"].shape[1]
    if channels != _COLOURS:
        raise SettingError(
            f"{shown} takes pictures of {counted(channels, 'channel')}, and VOC's have 3"
        )
    if resnet.stem != "imagenet":
        raise SettingError(
            f"{shown} has the stem of CIFAR (3x3, stride 1), which would make maps as large as the "
            "pictures; train with --config.model.stem=imagenet"
        )
    if notes.get("range"):
        raise SettingError(f"{shown} was trained on more than 8 bits, and VOC's pictures have 8")
    given = {"mean": mean, "std": std}
    statistics = {name: tuple(x or notes.get(name, IMAGENET[name])) for name, x in given.items()}
    for name, values in statistics.items():
        numbers = all(type(x) in (int, float) and abs(x) < 1e6 for x in values)
        if len(values) != _COLOURS or not numbers or (name == "std" and min(values) <= 0):
            raise SettingError(f"--{name}={values}: give three numbers, such as {IMAGENET[name]}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return Backbone(
        tensors=network.backbone,
        depth=resnet.depth,
        width=resnet.width,
        mean=statistics["mean"],
        std=statistics["std"],
        digest=digest,
        notes=network.notes(),
    )


def _check_complete(tensors: Mapping[str, np.ndarray], resnet: Any, path: Path) -> None:
    """Checks that each array of the network is there and has its shape.

    Raises:
        WeightsError: one is missing, has another shape, or has no place.
    """
    import jax
    import jax.numpy as jnp

    channels = tensors["conv1.weight"].shape[1]
    shapes = jax.eval_shape(
        lambda key: resnet.init(key, jnp.zeros((1, 32, 32, channels)), train=False),
        jax.ShapeDtypeStruct((2,), jnp.uint32),
    )
    from_torch(tensors, shapes, path)


def body(backbone: Backbone, norm: str, frozen: int) -> "torchvision.models.ResNet":
    """The network in torchvision's form, without its classifier.

    Args:
        backbone: its weights.
        norm: "batch" or "frozen", see `protocol.Protocol`.
        frozen: how many parts are not trained, from the stem up.
    """
    import torch
    import torchvision
    from torchvision.models import resnet
    from torchvision.ops import FrozenBatchNorm2d

    norm_layer = FrozenBatchNorm2d if norm == "frozen" else torch.nn.BatchNorm2d
    block = resnet.Bottleneck if backbone.depth >= 50 else resnet.BasicBlock
    width = backbone.width
    network = torchvision.models.ResNet(block, [1, 1, 1, 1], norm_layer=norm_layer)
    network.inplanes = width
    network.conv1 = torch.nn.Conv2d(_COLOURS, width, 7, 2, 3, bias=False)
    network.bn1 = norm_layer(width)
    for i, count in enumerate(STAGES[backbone.depth]):
        layer = network._make_layer(block, width * 2**i, count, 1 if i == 0 else 2)
        setattr(network, f"layer{i + 1}", layer)
    del network.fc
    weights = {name: torch.from_numpy(np.array(x)) for name, x in backbone.tensors.items()}
    missing, unknown = network.load_state_dict(weights, strict=False)
    left = [name for name in missing if not name.endswith("num_batches_tracked")]
    if left or unknown:
        raise SettingError(f"--backbone: torchvision's ResNet has other names: {left + unknown}")
    for part in ("conv1 bn1", "layer1", "layer2", "layer3", "layer4")[:frozen]:
        for name in part.split():
            setattr(network, name, _fixed(getattr(network, name)))
    return network


def _fixed(module: "torch.nn.Module") -> "torch.nn.Module":
    """The module with weights that are not trained, and with the statistics that BatchNorm has."""
    import torch
    from torchvision.ops import FrozenBatchNorm2d

    if isinstance(module, torch.nn.BatchNorm2d):
        fixed = FrozenBatchNorm2d(module.num_features, eps=module.eps)
        fixed.load_state_dict(module.state_dict())
        return fixed
    for name, child in module.named_children():
        setattr(module, name, _fixed(child))
    return module.requires_grad_(False)
