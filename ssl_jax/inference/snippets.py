"""What the command `export` says: lines of Python that load the file."""

from ssl_jax.models.resnet import STAGES


def images(size: int, channels: int, mean, std) -> str:
    """A sentence on the images that an encoder takes."""
    mean, std = ("(" + ", ".join(f"{v:g}" for v in values) + ")" for values in (mean, std))
    kind = f"{size}x{size} pixels and {channels} channel" + "s" * (channels > 1)
    return f"it takes images of {kind} in 0..1, normalised with mean {mean} and std {std}"


def here(out, channels: int) -> list[str]:
    """Python lines that give an encoder of the file."""
    return [
        "import ssl_jax",
        f"encoder = ssl_jax.load_encoder({str(out)!r})",
        f"features = encoder(images)  # uint8 [N, H, W, {channels}] of any size",
    ]


def torchvision(out, backbone, channels: int, head: bool = False) -> list[str]:
    """Python lines that give torchvision's model with the weights of the file.

    Args:
        out: the file.
        backbone: a `ResNet`; torchvision builds those of width 64 with ImageNet's stem, others are widened or narrowed.
        channels: of an image.
        head: whether the file holds more than the backbone.
    """
    block, blocks = "Bottleneck" if backbone.depth >= 50 else "BasicBlock", list(STAGES[backbone.depth])
    lines = [
        "import safetensors.torch, torch, torchvision",
        f"block = torchvision.models.resnet.{block}",
        f"model = torchvision.models.ResNet(block, {blocks})",
    ]
    if backbone.depth in (18, 34, 50) and backbone.width == 64:
        lines[1:] = [f"model = torchvision.models.resnet{backbone.depth}()"]
    if backbone.width != 64:
        lines += [
            f"model.inplanes, model.bn1 = {backbone.width}, torch.nn.BatchNorm2d({backbone.width})",
            f"for i, count in enumerate({blocks}):",
            f"    layer = model._make_layer(block, {backbone.width} * 2**i, count, 1 + (i > 0))",
            '    setattr(model, f"layer{i + 1}", layer)',
        ]
    kernel, stride = (3, 1) if backbone.stem == "cifar" else (7, 2)
    if (backbone.width, channels, kernel) != (64, 3, 7):
        settings = f"{channels}, {backbone.width}, {kernel}, {stride}, {kernel // 2}, bias=False"
        lines.append(f"model.conv1 = torch.nn.Conv2d({settings})")
    if backbone.stem == "cifar":
        lines.append("model.maxpool = torch.nn.Identity()")
    loading = "weights"
    if head:
        loading = '{k: x for k, x in weights.items() if not k.startswith(("projection_head.", "prototypes."))}'
    return [
        *lines,
        "model.fc = torch.nn.Identity()",
        f"weights = safetensors.torch.load_file({str(out)!r})",
        f"model.load_state_dict({loading})",
        f"features = model.eval()(images)  # float32 [N, {channels}, H, W], normalised as above",
    ]
