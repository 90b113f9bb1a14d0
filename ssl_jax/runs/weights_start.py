"""A run that begins with the backbone of a weight file; everything else begins at random."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding

from ssl_jax.build import Plan
from ssl_jax.interface import TrainState
from ssl_jax.models import torch_weights, weight_files
from ssl_jax.models.resnet import ResNet
from ssl_jax.models.weight_files import WeightsError
from ssl_jax.models.weight_names import backbone_of, network_in
from ssl_jax.runs import backbone_arrays
from ssl_jax.runs.checkpoint_files import path_of
from ssl_jax.runtime.sharding import put
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

_SUFFIXES = (".safetensors", ".pth", ".pt", ".tar", ".bin", ".ckpt")
_STEM = "conv1.weight"


@dataclasses.dataclass(frozen=True)
class WeightsStart:
    """The backbone of a weight file to start from.

    Attributes:
        arrays: by (collection, path within the backbone), see `backbone_arrays.place`.
        notes: sentences for the user.
        first_step: the step that this run begins at.
    """

    arrays: dict[tuple[str, str], np.ndarray]
    notes: tuple[str, ...]
    first_step: int = 0

    def load_into(self, state: TrainState, shardings: Any, everywhere: Sharding) -> TrainState:
        """The fresh `state` with the backbones of all its networks, targets included, replaced."""

        def taken(path: Any, x: jax.Array, sharding: Any) -> jax.Array:
            name = path_of(path)
            if not backbone_arrays.is_backbone(name) or name.startswith("opt_state"):
                return x
            return put(self.arrays[backbone_arrays.place(name)], sharding)

        return jax.tree_util.tree_map_with_path(taken, state, shardings)


def is_weight_file(path: Path) -> bool:
    """Whether `init_from` means a weight file rather than a run folder."""
    return path.is_file() or (path.suffix in _SUFFIXES and not path.is_dir())


def of_file(plan: Plan, path: Path) -> WeightsStart:
    """The start from a file with the weights of a residual network.

    Colour filters become grey ones by summing their three channels, grey ones become colour filters
    by sharing each weight equally among the channels.

    Raises:
        SettingError: the file cannot be read, or an array does not fit this run's backbone; names
            the first one and both shapes.
    """
    source = f"init_from={str(path)!r}"
    backbone = plan.stages[-1].method.network.backbone
    if type(backbone) is not ResNet:
        raise SettingError(
            f"{source}: weight files start a ResNet, not "
            f"model.name={plan.record['model']['name']!r}; set model.name=resnet, or give a run"
        )
    tensors: dict[str, Any] = {}
    try:
        network = network_in(
            weight_files.read(path),
            source,
            plan.settings.init_prefix or None,
            flag="--config.init_prefix",
        )
        tensors |= network.backbone
        channels = plan.dataset.train.images.shape[-1]
        note = _with_channels(tensors, channels)
        variables = torch_weights.from_torch(tensors, _backbone_shapes(plan), source)
    except WeightsError as error:
        raise SettingError(_explained(error, tensors, backbone, path)) from error
    arrays = {}
    for collection, tree in variables.items():
        for inside, x in backbone_arrays.paths(tree).items():
            arrays[collection, inside] = np.asarray(x)
    notes = [*network.notes()]
    if note:
        notes.append(note)
    if network.head:
        notes.append("weights: the head of the file is left out; heads begin at random")
    return WeightsStart(arrays, tuple(notes))


def _backbone_shapes(plan: Plan) -> dict[str, Any]:
    """The shapes of the backbone of the network that trains, as `from_torch` takes them."""
    stats = plan.shapes.batch_stats
    stats = stats.get("network", stats)
    return {
        "params": plan.shapes.params["network"]["backbone"],
        "batch_stats": stats["backbone"],
    }


def _with_channels(tensors: dict[str, Any], channels: int) -> str:
    """Gives the stem as many channels as the images, if these are grey or colour; says so."""
    stem = np.asarray(tensors[_STEM], np.float32)
    if stem.ndim != 4 or {stem.shape[1], channels} != {1, 3}:
        return ""
    if channels == 1:
        tensors[_STEM] = stem.sum(axis=1, keepdims=True)
        return "weights: colour filters of the first layer are summed to grey ones"
    tensors[_STEM] = np.repeat(stem / 3, 3, axis=1)
    return "weights: grey filters of the first layer are shared among three channels"


def _explained(error: WeightsError, tensors: dict[str, Any], backbone: ResNet, path: Path) -> str:
    """The error, with the settings of a backbone that the file fits, if it is another ResNet."""
    message = str(error)
    try:
        theirs = backbone_of(tensors, path)
    except WeightsError:
        return message
    settings = [
        f"--config.model.{name}={getattr(theirs, name)}"
        for name in ("depth", "width", "stem")
        if getattr(theirs, name) != getattr(backbone, name)
    ]
    return printable(f"{message}; the file fits {' '.join(settings)}") if settings else message
