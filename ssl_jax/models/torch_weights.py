"""Residual networks by torchvision's names: to and from the tensors that PyTorch users share.

A file holds tensors by name ("layer1.0.conv1.weight", convolutions as [out, in, height, width]). Files of SwAV's
authors hold the projection head and the prototypes, too ("module.projection_head.0.weight").
"""

import re

import jax
import numpy as np

from ssl_jax.models.weight_files import WeightsError

_BATCH_NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_DROPPED = ("num_batches_tracked", "fc.weight", "fc.bias")  # nothing that features depend on
# The heads of SwAV's authors: our layers -> their places in torch's nn.Sequential ("": the layer alone).
_HEADS = (
    {"linear1": "0", "bn1": "1", "linear2": "3"},
    {"linear1": "0", "linear2": "2"},
    {"linear1": ""},
)


def torch_name(path: tuple[str, ...]) -> str:
    """torchvision's name of the backbone's array at `path`, such as ("layer1_0", "conv1", "conv", "kernel")."""
    *modules, leaf = path
    if modules[-1] == "conv":
        modules, leaf = modules[:-1], "weight"
    else:
        leaf = _BATCH_NORM[leaf]
    block = re.fullmatch(r"(layer\d)_(\d+)", modules[0])
    modules = [*block.groups(), *modules[1:]] if block else modules
    places = {"shortcut": ("downsample", "0"), "shortcut_bn": ("downsample", "1")}
    return ".".join([part for m in modules for part in places.get(m, (m,))] + [leaf])


def to_torch(variables) -> dict[str, np.ndarray]:
    """The arrays of a residual network by torchvision's names.

    Args:
        variables: {"params": ..., "batch_stats": ...} of a `ResNet`.

    Returns:
        name -> float32 array in torch's layout.
    """
    return {torch_name(path): _there(x) for path, x in _leaves(variables)}


def from_torch(tensors, shapes, source="the weights"):
    """Variables of a residual network from tensors by torchvision's names.

    Args:
        tensors: name -> array; a prefix "module." is ignored, a classifier ("fc.") left out.
        shapes: {"params": ..., "batch_stats": ...} of the network that they are for, arrays or their shapes.
        source: the file, for messages.

    Raises:
        WeightsError: a tensor is missing, or of another shape (the first that differs, both shapes).
    """
    given = {name.removeprefix("module."): x for name, x in tensors.items()}
    found = {path: _take(given, torch_name(path), x, source) for path, x in _leaves(shapes)}
    known = {torch_name(path) for path in found}
    heads = ("projection_head.", "prototypes.", *_DROPPED)
    for name in given:
        if name not in known and not name.endswith(_DROPPED) and not name.startswith(heads):
            raise WeightsError(f"{source}: {name} has no place in this network; its depth may be another one")
    return _rebuild(shapes, found)


def head_places(tensors, source="the weights") -> dict[str, str]:
    """Our layers of the projection head in `tensors` and their places there; {} where there is none.

    Raises:
        WeightsError: a head of other layers than SwAV's.
    """
    found = {name.rpartition(".")[0].partition(".")[2] for name in tensors if name.startswith("projection_head.")}
    if not found:
        return {}
    for places in _HEADS:
        if found == set(places.values()):
            return places
    raise WeightsError(
        f"{source}: projection_head has the layers {', '.join(sorted(found))}; known are SwAV's: 0, 1, 3 (linear, "
        "BatchNorm, linear), 0, 2 (linear, linear), or a single linear layer"
    )


def outputs(tensors, place: str, source="the weights") -> int:
    """The outputs of a head's linear layer.

    Raises:
        WeightsError: it has no weight.
    """
    name = _head_name(place, "weight")
    if name not in tensors:
        raise WeightsError(f"{source} has no {name}")
    return len(tensors[name])


def has_bias(tensors, place: str) -> bool:
    """Whether a head's linear layer has one."""
    return _head_name(place, "bias") in tensors


def head_from_torch(tensors, shapes, source="the weights"):
    """Variables of SwAV's projection head, as `from_torch`; `shapes` are those of the `Head` they are for."""
    given, places = {name.removeprefix("module."): x for name, x in tensors.items()}, head_places(tensors, source)
    return _rebuild(shapes, {path: _take(given, _head_path(path, places), x, source) for path, x in _leaves(shapes)})


def head_to_torch(variables, prototypes=None) -> dict[str, np.ndarray]:
    """The arrays of a projection head, and `prototypes` [K, D], by the names of SwAV's authors.

    Raises:
        WeightsError: a head of other layers than SwAV's.
    """
    layers = {layer for part in ("params", "batch_stats") for layer in variables.get(part, {})}  # some learn nothing
    places = next((places for places in _HEADS if set(places) == layers), None)
    if places is None:
        raise WeightsError(f"a head of the layers {', '.join(sorted(layers))} has no names in SwAV's files")
    found = {_head_path(path, places): _there(x) for path, x in _leaves(variables)}
    return found | ({} if prototypes is None else {"prototypes.weight": np.asarray(prototypes, np.float32)})


def prototypes(tensors, dim: int, source="the weights") -> dict[str, np.ndarray]:
    """The prototypes [K, dim] in a file of SwAV's authors by the name of their scores, at unit length.

    "scores" those of SwAV, and of DeepCluster-v2's first clustering; "scores1", ... those of its others. Files hold
    them as the optimiser left them; the method brings them to unit length before every forward pass.

    Raises:
        WeightsError: of another dimension.
    """
    found = {}
    for name in tensors:
        if match := re.fullmatch(r"prototypes\.(?:prototypes(\d+)\.)?weight", name):
            x, number = np.asarray(tensors[name], np.float32), int(match[1] or 0)
            if x.ndim != 2 or x.shape[1] != dim:
                raise WeightsError(f"{source}: {name} has shape {x.shape}, this head needs [K, {dim}]")
            found[number] = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return {f"scores{i or ''}": found[i] for i in sorted(found)}


def _leaves(variables):
    """(path without the collection's name, leaf) of every array."""
    for collection in ("params", "batch_stats"):
        for path, x in jax.tree_util.tree_leaves_with_path(variables.get(collection, {})):
            yield tuple(key.key for key in path), x


def _rebuild(shapes, found):
    place = lambda path, _: found[tuple(key.key for key in path)]
    return {name: jax.tree_util.tree_map_with_path(place, shapes.get(name, {})) for name in ("params", "batch_stats")}


def _head_path(path, places):
    """The name in SwAV's files of the head's array at `path`, such as ("linear1", "linear", "kernel")."""
    layer, *_, leaf = path
    leaf = {"kernel": "weight"}.get(leaf, leaf) if layer.startswith("linear") else _BATCH_NORM[leaf]
    return _head_name(places[layer], leaf)


def _head_name(place, leaf):
    return ".".join(part for part in ("projection_head", place, leaf) if part)


def _there(x):
    """An array of ours in torch's layout."""
    x = np.asarray(x, np.float32)
    return x.transpose(3, 2, 0, 1) if x.ndim == 4 else x.T


def _take(given, name, like, source):
    """The tensor `name` in our layout, of the shape of `like`."""
    if name not in given:
        raise WeightsError(f"{source} has no {name}")
    x, shape = np.asarray(given[name], np.float32), tuple(getattr(like, "shape", like))
    ours = x.transpose(2, 3, 1, 0) if x.ndim == 4 else x.T
    if ours.shape != shape:
        theirs = _there(np.zeros(shape, np.float32)).shape
        raise WeightsError(f"{source}: {name} has shape {x.shape}, this network needs {theirs}")
    return ours
