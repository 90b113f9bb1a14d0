"""Residual networks with torchvision's names, to and from the weights that PyTorch users share.

A file maps names to tensors ("layer1.0.conv1.weight", convolutions as [out, in, height, width]).
The files of SwAV's authors also hold the projection head and the prototypes
("module.projection_head.0.weight").
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from ssl_jax.models.weight_files import WeightsError

_BATCH_NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_COUNTER = "num_batches_tracked"  # features do not depend on it
_BEYOND = ("projection_head.", "prototypes.", "fc.")  # what follows the backbone
# The heads of SwAV's authors: our layers -> their places in torch's nn.Sequential, "" for a single
# layer outside one.
_HEADS = (
    {"linear1": "0", "bn1": "1", "linear2": "3"},
    {"linear1": "0", "linear2": "2"},
    {"linear1": ""},
)


def torch_name(path: tuple[str, ...]) -> str:
    """torchvision's name of an array of the backbone.

    Args:
        path: such as ("layer1_0", "conv1", "conv", "kernel").
    """
    *modules, leaf = path
    if modules[-1] == "conv":
        modules = modules[:-1]
        leaf = "weight"
    else:
        leaf = _BATCH_NORM[leaf]
    block = re.fullmatch(r"(layer\d)_(\d+)", modules[0])
    if block:
        modules = [*block.groups(), *modules[1:]]
    places = {"shortcut": ("downsample", "0"), "shortcut_bn": ("downsample", "1")}
    parts = [part for module in modules for part in places.get(module, (module,))]
    return ".".join([*parts, leaf])


def to_torch(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of a residual network with torchvision's names.

    Args:
        variables: {"params": ..., "batch_stats": ...} of a `ResNet`.

    Returns:
        name -> float32 array in torch's layout.
    """
    return {torch_name(path): _to_torch(x) for path, x in _leaves(variables)}


def from_torch(
    tensors: Mapping[str, Any], shapes: Mapping[str, Any], source: object = "the weights"
) -> dict[str, Any]:
    """Variables of a residual network from tensors with torchvision's names.

    Args:
        tensors: name -> array; a prefix "module." is ignored, and so is a classifier ("fc.").
        shapes: {"params": ..., "batch_stats": ...} of the network to fill, arrays or their shapes.
        source: the file, for messages.

    Raises:
        WeightsError: a tensor is missing, has another shape than the network's (names the first
            one and both shapes), or has no place in the network.
    """
    given = {name.removeprefix("module."): x for name, x in tensors.items()}
    arrays = {path: _take(given, torch_name(path), x, source) for path, x in _leaves(shapes)}
    used = {torch_name(path) for path in arrays}
    for name in given:
        if name not in used and not name.endswith(_COUNTER) and not name.startswith(_BEYOND):
            raise WeightsError(
                f"{source}: {name} has no place in this network, whose depth may differ"
            )
    return _rebuild(shapes, arrays)


def head_places(tensors: Mapping[str, Any], source: object = "the weights") -> dict[str, str]:
    """Maps our layers of a projection head to their places in `tensors`; {} without a head.

    Raises:
        WeightsError: the head's layers are not SwAV's.
    """
    layers = {
        name.rpartition(".")[0].partition(".")[2]
        for name in tensors
        if name.startswith("projection_head.")
    }
    if not layers:
        return {}
    for places in _HEADS:
        if layers == set(places.values()):
            return places
    raise WeightsError(
        f"{source}: projection_head has the layers {', '.join(sorted(layers))}; known are SwAV's: "
        "0, 1, 3 (linear, BatchNorm, linear), 0, 2 (linear, linear), or a single linear layer"
    )


def outputs(tensors: Mapping[str, Any], place: str, source: object = "the weights") -> int:
    """The number of outputs of a head's linear layer.

    Raises:
        WeightsError: the layer has no weight.
    """
    name = _head_name(place, "weight")
    if name not in tensors:
        raise WeightsError(f"{source} has no {name}")
    return len(tensors[name])


def has_bias(tensors: Mapping[str, Any], place: str) -> bool:
    """Whether a head's linear layer has a bias."""
    return _head_name(place, "bias") in tensors


def head_from_torch(
    tensors: Mapping[str, Any], shapes: Mapping[str, Any], source: object = "the weights"
) -> dict[str, Any]:
    """Variables of SwAV's projection head; see `from_torch`. `shapes` are those of the `Head`."""
    given = {name.removeprefix("module."): x for name, x in tensors.items()}
    places = head_places(tensors, source)
    arrays = {
        path: _take(given, _head_path(path, places), x, source) for path, x in _leaves(shapes)
    }
    return _rebuild(shapes, arrays)


def head_to_torch(
    variables: Mapping[str, Any], prototypes: np.ndarray | jax.Array | None = None
) -> dict[str, np.ndarray]:
    """The arrays of a projection head with the names of SwAV's authors.

    Args:
        variables: {"params": ..., "batch_stats": ...} of a `Head`.
        prototypes: [K, D], added if given.

    Raises:
        WeightsError: the head's layers are not SwAV's.
    """
    # From both collections, because some layers have no parameters.
    layers = {layer for part in ("params", "batch_stats") for layer in variables.get(part, {})}
    places = next((places for places in _HEADS if set(places) == layers), None)
    if places is None:
        raise WeightsError(
            f"a head of the layers {', '.join(sorted(layers))} has no names in SwAV's files"
        )
    arrays = {_head_path(path, places): _to_torch(x) for path, x in _leaves(variables)}
    if prototypes is not None:
        arrays["prototypes.weight"] = np.asarray(prototypes, np.float32)
    return arrays


def prototypes(
    tensors: Mapping[str, Any], dim: int, source: object = "the weights"
) -> dict[str, np.ndarray]:
    """The unit prototypes [K, dim] in a file of SwAV's authors, keyed by the name of their scores.

    "scores" are SwAV's and those of DeepCluster-v2's first clustering; "scores1", ... those of its
    further clusterings. Files hold prototypes as the optimiser left them; the method normalises
    them before every forward pass.

    Raises:
        WeightsError: prototypes have another dimension than `dim`.
    """
    by_number = {}
    for name in tensors:
        if match := re.fullmatch(r"prototypes\.(?:prototypes(\d+)\.)?weight", name):
            x = np.asarray(tensors[name], np.float32)
            if x.ndim != 2 or x.shape[1] != dim:
                raise WeightsError(
                    f"{source}: {name} has shape {x.shape}, this head needs [K, {dim}]"
                )
            length = np.linalg.norm(x, axis=1, keepdims=True)
            by_number[int(match[1] or 0)] = x / np.maximum(length, 1e-12)
    return {f"scores{i or ''}": by_number[i] for i in sorted(by_number)}


def _leaves(variables: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path without the collection's name, leaf) of every array."""
    for collection in ("params", "batch_stats"):
        for path, x in jax.tree_util.tree_leaves_with_path(variables.get(collection, {})):
            yield tuple(key.key for key in path), x


def _rebuild(
    shapes: Mapping[str, Any], arrays: Mapping[tuple[str, ...], np.ndarray]
) -> dict[str, Any]:
    """`arrays` by path, in trees like those of `shapes`."""

    def place(path, _):
        return arrays[tuple(key.key for key in path)]

    return {
        name: jax.tree_util.tree_map_with_path(place, shapes.get(name, {}))
        for name in ("params", "batch_stats")
    }


def _head_path(path: tuple[str, ...], places: Mapping[str, str]) -> str:
    """The name in SwAV's files of a head's array at, say, ("linear1", "linear", "kernel")."""
    layer, *_, leaf = path
    if not layer.startswith("linear"):
        leaf = _BATCH_NORM[leaf]
    elif leaf == "kernel":
        leaf = "weight"
    return _head_name(places[layer], leaf)


def _head_name(place: str, leaf: str) -> str:
    return ".".join(part for part in ("projection_head", place, leaf) if part)


def _to_torch(x: Any) -> np.ndarray:
    """One of our arrays in torch's layout."""
    x = np.asarray(x, np.float32)
    return x.transpose(3, 2, 0, 1) if x.ndim == 4 else x.T


def _take(given: Mapping[str, Any], name: str, like: Any, source: object) -> np.ndarray:
    """The tensor `name` in our layout; `like` is an array, or its shape, that it must match."""
    if name not in given:
        raise WeightsError(f"{source} has no {name}")
    x = np.asarray(given[name], np.float32)
    shape = tuple(getattr(like, "shape", like))
    ours = x.transpose(2, 3, 1, 0) if x.ndim == 4 else x.T
    if ours.shape != shape:
        needed = _to_torch(np.zeros(shape, np.float32)).shape
        raise WeightsError(f"{source}: {name} has shape {x.shape}, this network needs {needed}")
    return ours
