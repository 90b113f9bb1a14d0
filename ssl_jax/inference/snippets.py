"""Python code, printed by the command `export`, that loads the exported file."""

from collections.abc import Sequence
from pathlib import Path

from ssl_jax.models.resnet import STAGES, ResNet
from ssl_jax.settings.text import counted


def images(
    size: int,
    channels: int,
    mean: Sequence[float],
    std: Sequence[float],
    limits: Sequence[float] = (),
    crop: float = 0.0,
) -> str:
    """A sentence on the images that an encoder takes.

    Args:
        size: side in pixels.
        channels: of an image.
        mean, std: statistics of each channel.
        limits: the values that become 0 and 1, for images of more than 8 bits.
        crop: side of the central square that is seen, as a share of the short side; 0: all.
    """
    kind = f"{size}x{size} pixels and {counted(channels, 'channel')} in 0..1"
    if limits:
        kind += f" (values of {limits[0]:g} and below are 0, of {limits[1]:g} and above 1)"
    seen = f"; it sees the central square of {crop:g} of an image's short side" if crop else ""
    statistics = f"mean {_listed(mean)} and std {_listed(std)}"
    return f"it takes images of {kind}, normalised with {statistics}{seen}"


def _listed(values: Sequence[float]) -> str:
    """The values as a tuple in Python, with six digits."""
    items = [f"{value:g}" for value in values]
    return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"


def here(out: Path | str, channels: int, limits: Sequence[float] = ()) -> list[str]:
    """Lines of Python that load the file with ssl_jax; arguments as in `images`."""
    kinds = "uint8"
    if limits:
        kinds = f"uint8, or values where {limits[0]:g} is black and {limits[1]:g} white,"
    return [
        "import ssl_jax",
        f"encoder = ssl_jax.load_encoder({str(out)!r})",
        f"features = encoder(images)  # {kinds} [N, H, W, {channels}] of any size",
    ]


def timm(folder: Path | str) -> list[str]:
    """Lines of Python that load the folder of an exported encoder with timm; see `timm_config`."""
    return [
        "import PIL.Image, timm",
        f"model = timm.create_model({f'local-dir:{folder}'!r}, pretrained=True).eval()",
        "prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model))",
        "features = model(prepare(PIL.Image.open('picture.jpg'))[None])",
    ]


def torchvision(
    out: Path | str,
    backbone: ResNet,
    *,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    crop: float = 0.0,
    head: bool = False,
) -> list[str]:
    """Lines of Python that build torchvision's model with the weights of the file.

    They also prepare images of any size as `load_encoder` does.

    Args:
        out: the file.
        backbone: torchvision has ResNets of width 64 with the ImageNet stem; the lines modify it
            for other widths and stems.
        size, mean, std, crop: as in `images`; the statistics are of each channel of an image.
        head: whether the file holds more than the backbone.
    """
    channels = len(mean)
    resize = [f"T.Resize(({size}, {size}), antialias=True)"]
    if crop:
        resize = [f"T.Resize({round(size / crop)}, antialias=True)", f"T.CenterCrop({size})"]
    normalise = f"T.Normalize({_listed(mean)}, {_listed(std)})"
    loading = "weights"
    if head:
        loading = (
            "{k: x for k, x in weights.items() "
            'if not k.startswith(("projection_head.", "prototypes."))}'
        )
    return [
        "import safetensors.torch, torch, torchvision",
        *_model(backbone),
        *_stem(backbone, channels),
        "model.fc = torch.nn.Identity()",
        f"weights = safetensors.torch.load_file({str(out)!r})",
        f"model.load_state_dict({loading})",
        "T = torchvision.transforms",
        f"prepare = T.Compose([{', '.join([*resize, normalise])}])",
        f"features = model.eval()(prepare(images))  # float32 [N, {channels}, H, W] in 0..1",
    ]


def _model(backbone: ResNet) -> list[str]:
    """Lines that make torchvision's ResNet of the backbone's depth and width."""
    block = "Bottleneck" if backbone.depth >= 50 else "BasicBlock"
    blocks = list(STAGES[backbone.depth])
    width = backbone.width
    if backbone.depth in (18, 34, 50) and width == 64:
        return [f"model = torchvision.models.resnet{backbone.depth}()"]
    lines = [
        f"block = torchvision.models.resnet.{block}",
        f"model = torchvision.models.ResNet(block, {blocks})",
    ]
    if width != 64:
        lines += [
            f"model.inplanes = {width}",
            f"model.bn1 = torch.nn.BatchNorm2d({width})",
            f"for i, count in enumerate({blocks}):",
            f"    layer = model._make_layer(block, {width} * 2**i, count, 1 + (i > 0))",
            '    setattr(model, f"layer{i + 1}", layer)',
        ]
    return lines


def _stem(backbone: ResNet, channels: int) -> list[str]:
    """Lines that replace torchvision's stem where the backbone's differs."""
    lines = []
    kernel = 3 if backbone.stem == "cifar" else 7
    stride = 1 if backbone.stem == "cifar" else 2
    if (backbone.width, channels, kernel) != (64, 3, 7):
        settings = f"{channels}, {backbone.width}, {kernel}, {stride}, {kernel // 2}, bias=False"
        lines.append(f"model.conv1 = torch.nn.Conv2d({settings})")
    if backbone.stem == "cifar":
        lines.append("model.maxpool = torch.nn.Identity()")
    return lines
