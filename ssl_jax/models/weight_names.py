"""Finds a residual network among the tensors of a file, whatever library named them.

Libraries put a network into others ("module.encoder_q.", "backbone.", "student."), number its
layers in an `nn.Sequential`, or name them as Hugging Face does. The ends of the names and the
shapes tell which tensors are a network's; everything else is a head, a queue, or another network.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ssl_jax.models.resnet import STAGES, ResNet
from ssl_jax.models.weight_files import WeightsError
from ssl_jax.settings.text import counted, printable

_LEAF = r"(?:weight|bias|running_mean|running_var)"
_UNIT = r"(?:conv[123]|bn[123]|(?:downsample|shortcut)\.[01])"
_TORCHVISION = re.compile(
    rf"(?P<prefix>(?:.*?\.)??)(?P<name>layer[1-4]\.\d+\.{_UNIT}\.{_LEAF}|(?:conv1|bn1)\.{_LEAF})"
)
_NUMBERED = re.compile(
    rf"(?P<prefix>(?:.*?\.)??)(?P<number>\d+)\.(?P<name>(?:\d+\.{_UNIT}\.)?{_LEAF})"
)
_HUGGING_FACE = re.compile(
    r"(?P<prefix>(?:.*?\.)??)(?:embedder\.embedder|encoder\.stages\.(?P<stage>\d+)\.layers\."
    r"(?P<block>\d+)\.(?:layer\.(?P<layer>\d+)|(?P<shortcut>shortcut)))"
    rf"\.(?P<kind>convolution|normalization)\.(?P<leaf>{_LEAF})"
)
_NEEDED = ("conv1.weight", "bn1.weight", *(f"layer{i}.0.conv1.weight" for i in (1, 2, 3, 4)))
_COUNTER = "num_batches_tracked"
_SHOWN = 4  # names in a message
_HEADS = ("projection_head.", "prototypes.")


@dataclasses.dataclass(frozen=True)
class NetworkTensors:
    """The tensors of one residual network in a file.

    Attributes:
        prefix: what stands before its names in the file ("module.encoder_q.").
        backbone: by torchvision's names.
        head: SwAV's projection head and prototypes, by their authors' names.
        others: names of the file's other tensors.
    """

    prefix: str
    backbone: Mapping[str, Any]
    head: Mapping[str, Any]
    others: tuple[str, ...]

    def notes(self) -> tuple[str, ...]:
        """Sentences on what was taken and what was not; empty for a plain file."""
        notes = []
        if self.prefix:
            notes.append(printable(f"weights: those named {self.prefix}*"))
        if self.others:
            notes.append(f"weights: left out {_listed(self.others)}")
        return tuple(notes)


def network_in(
    tensors: Mapping[str, Any],
    source: object = "the weights",
    prefix: str | None = None,
    flag: str = "prefix",
) -> NetworkTensors:
    """The residual network among the tensors of a file.

    Args:
        tensors: name -> array.
        source: the file, for messages.
        prefix: of the network's names, if the file holds several; a network without a prefix needs
            none.
        flag: what gives the prefix, for messages.

    Raises:
        WeightsError: no network, several without a `prefix`, or none with this one.
    """
    candidates = networks_in(tensors)
    if not candidates:
        raise WeightsError(
            f"{source} has no conv1.weight and layer1 to layer4 of a ResNet, whatever stands "
            "before; give weights with torchvision's, timm's or Hugging Face's names; it has "
            f"{_listed(list(tensors))}"
        )
    names = ", ".join(printable(name) or "'' (none)" for name in candidates)
    if prefix is None:
        if len(candidates) > 1 and "" not in candidates:
            raise WeightsError(
                f"{source} has {len(candidates)} networks, named {names}; choose one, such as "
                f"{flag}={printable(next(iter(candidates)))}"
            )
        prefix = "" if "" in candidates else next(iter(candidates))
    elif prefix not in candidates and f"{prefix}." in candidates:
        prefix = f"{prefix}."
    if prefix not in candidates:
        raise WeightsError(
            f"{source} has no network at {flag}={printable(prefix)}; choose one of: {names}"
        )
    return _with_rest(tensors, prefix, candidates[prefix])


def networks_in(tensors: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The complete residual networks by prefix: torchvision's names -> names in the file."""
    by_prefix: dict[str, dict[str, str]] = {}
    for group in (_torchvision(tensors), _numbered(tensors), _hugging_face(tensors)):
        for prefix, names in group.items():
            if prefix not in by_prefix and all(name in names for name in _NEEDED):
                by_prefix[prefix] = names
    return by_prefix


def backbone_of(tensors: Mapping[str, Any], source: object) -> ResNet:
    """The residual network whose weights are `tensors`, named as in torchvision.

    Args:
        tensors: weights by name.
        source: their file, for messages.

    Raises:
        WeightsError: no known network has these tensors.
    """
    if "conv1.weight" not in tensors:
        raise WeightsError(
            f"{source} has no conv1.weight; give the weights of a ResNet by torchvision's names"
        )
    shape = tensors["conv1.weight"].shape
    if len(shape) != 4:
        raise WeightsError(
            f"{source}: conv1.weight has shape {tuple(shape)}; a ResNet's has four dimensions"
        )
    width, _, kernel, _ = shape
    blocks = tuple(
        len({name.split(".")[1] for name in tensors if name.startswith(f"layer{stage}.")})
        for stage in (1, 2, 3, 4)
    )
    has_bottlenecks = "layer1.0.conv3.weight" in tensors
    for depth, stages in STAGES.items():
        if stages == blocks and has_bottlenecks == (depth >= 50):
            return ResNet(depth=depth, width=width, stem="cifar" if kernel == 3 else "imagenet")
    raise WeightsError(
        f"{source} has {blocks} blocks in its stages; known are "
        f"ResNet-{', -'.join(map(str, STAGES))}"
    )


def _with_rest(tensors: Mapping[str, Any], prefix: str, names: Mapping[str, str]) -> NetworkTensors:
    """A network with its head, and the names of what belongs to neither."""
    taken = set(names.values())
    backbone = {name: tensors[place] for name, place in names.items()}
    head = {}
    others = []
    for place, x in tensors.items():
        name = place.removeprefix(prefix)
        if place in taken or place.endswith(_COUNTER):
            continue
        if place.startswith(prefix) and name.startswith(_HEADS):
            head[name] = x
        elif place.startswith(prefix) and re.match(r"(layer\d+|conv1|bn1)\.", name):
            backbone[name] = x  # of a network of another kind: refused when it finds no place
        else:
            others.append(place)
    return NetworkTensors(prefix, backbone, head, tuple(others))


def _torchvision(tensors: Iterable[str]) -> dict[str, dict[str, str]]:
    """Names by prefix, of networks that are named as in torchvision and timm."""
    by_prefix: dict[str, dict[str, str]] = {}
    for place in tensors:
        if match := _TORCHVISION.fullmatch(place):
            name = match["name"].replace(".shortcut.", ".downsample.")
            by_prefix.setdefault(match["prefix"], {})[name] = place
    return by_prefix


def _numbered(tensors: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Names by prefix, of networks whose layers are numbered: 0 a convolution, 1 its BatchNorm."""
    entries: dict[str, dict[int, dict[str, str]]] = {}
    for place in tensors:
        if match := _NUMBERED.fullmatch(place):
            of_prefix = entries.setdefault(match["prefix"], {})
            of_prefix.setdefault(int(match["number"]), {})[match["name"]] = place
    by_prefix = {}
    for prefix, layers in entries.items():
        numbers = sorted(layers)
        stages = [i for i in numbers if any("." in name for name in layers[i])]
        stem = [i for i in numbers if stages and i < stages[0]]
        if len(stages) != 4 or len(stem) != 2:
            continue
        parts = dict(zip(stem, ("conv1", "bn1")))
        parts |= {number: f"layer{i}" for i, number in enumerate(stages, start=1)}
        by_prefix[prefix] = {
            f"{part}.{name}".replace(".shortcut.", ".downsample."): place
            for number, part in parts.items()
            for name, place in layers[number].items()
        }
    return by_prefix


def _hugging_face(tensors: Iterable[str]) -> dict[str, dict[str, str]]:
    """Names by prefix, of networks that are named as in Hugging Face's transformers."""
    by_prefix: dict[str, dict[str, str]] = {}
    for place in tensors:
        match = _HUGGING_FACE.fullmatch(place)
        if not match:
            continue
        is_conv = match["kind"] == "convolution"
        if match["stage"] is None:
            unit = "conv1" if is_conv else "bn1"
        else:
            unit = f"layer{int(match['stage']) + 1}.{match['block']}."
            if match["shortcut"]:
                unit += "downsample.0" if is_conv else "downsample.1"
            else:
                unit += f"{'conv' if is_conv else 'bn'}{int(match['layer']) + 1}"
        by_prefix.setdefault(match["prefix"], {})[f"{unit}.{match['leaf']}"] = place
    return by_prefix


def _listed(names: Iterable[str]) -> str:
    """The first parts of some names, and their number."""
    names = list(names)
    tops = list(dict.fromkeys(_top(name) for name in names))
    shown = ", ".join(printable(top)[:60] for top in tops[:_SHOWN])
    more = ", ..." if len(tops) > _SHOWN else ""
    return f"{counted(len(names), 'tensor')} ({shown}{more})"


def _top(name: str) -> str:
    """What a message says for a tensor: the first two parts of its name at most."""
    parts = name.split(".")
    return name if len(parts) < 3 else f"{parts[0]}.{parts[1]}.*"
