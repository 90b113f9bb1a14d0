"""Encoders to take elsewhere: from a run folder or a weight file to features, and from a run to a weight file."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.build import build, fresh_state
from ssl_jax.inference.embed import embed
from ssl_jax.models import torch_weights, weight_files
from ssl_jax.models.layers import Head
from ssl_jax.models.network import Network
from ssl_jax.models.resnet import STAGES, ResNet
from ssl_jax.models.weight_files import WeightsError
from ssl_jax.ops.mesh import make_mesh
from ssl_jax.ops.vectors import dot
from ssl_jax.runs.restore import Run, open_run
from ssl_jax.settings.paths import check_writable, user_path
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

_LARGEST = 10_000  # pixels of a side that a file's notes may ask for
IMAGENET = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@dataclasses.dataclass(frozen=True, eq=False)
class Encoder:
    """Calling it turns images into features.

    Attributes:
        names: of the features: "backbone" always; "embedding" and "scores" where there are a head and prototypes;
            "query" where there are two networks;
            "scores1", "scores2" of further sets of prototypes (DeepCluster-v2).
        size: side in pixels that images are brought to.
        channels: of an image.
        mean, std: of each channel, of pixels in 0..1.
        method, state: what computes them: a method and its train state, or `Pretrained` and its weights.
    """

    names: tuple[str, ...]
    size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    method: Any
    state: Any

    @property
    def prototypes(self):
        """[K, D], the rows that "scores" are cosines with; None where there are none."""
        if "scores" not in self.names:
            return None
        return self.state["prototypes"]["scores"] if isinstance(self.state, dict) else self.state.params["prototypes"]

    @property
    def clustered(self) -> str:
        """The feature that clusters are made of."""
        return "embedding" if "embedding" in self.names else "backbone"

    def __call__(self, images, name: str = "backbone"):
        """The feature `name` [N, D] of images [N, H, W, C] uint8, of any size.

        Raises:
            ValueError: no such feature, or no such images.
        """
        images = images if hasattr(images, "ndim") else np.asarray(images)
        usable = images.ndim == 4 and images.dtype == np.uint8 and images.shape[-1] == self.channels
        if not usable or not len(images):
            raise ValueError(
                f"images of shape {images.shape}, {images.dtype}: give uint8 [N, H, W, {self.channels}], N >= 1"
            )
        if name not in self.names:
            raise ValueError(f"no feature {name!r}; choose one of: {', '.join(self.names)}")
        with jax.set_mesh(make_mesh()):
            settings = dict(size=self.size, mean=self.mean, std=self.std)
            return embed(self.method, self.state, images, (name,), **settings)[name]


def load_encoder(path, *, checkpoint="latest", **given) -> Encoder:
    """The trained encoder of a run folder, or of a file of torchvision's names.

        encoder = ssl_jax.load_encoder("runs/swav")
        features = encoder(images)

    Args:
        path: a run folder; or a `.safetensors`, `.pth` or `.tar` file with the weights of a ResNet-10, -18, -34 or -50,
            with SwAV's projection head and prototypes or without.
        checkpoint: of a run: "latest", "best" or a step.
        given: `size`, `mean` and `std` for files that do not say what their images were like; ImageNet's otherwise.

    Raises:
        SettingError: no run folder or checkpoint there.
        WeightsError: a file that cannot be used.
    """
    path = user_path(path, "path")
    if path.is_dir():
        if given:
            raise SettingError(f"{path} is a run folder, which knows {', '.join(given)} itself")
        mesh = make_mesh()
        with jax.set_mesh(mesh):
            return of_run(open_run(path, mesh, checkpoint))
    return of_file(path, **given)


def untrained(config) -> Encoder:
    """The encoder at random weights that a run of `config` without `init_from` begins with, to compare it with.

    Raises:
        SettingError: something in the config or the data cannot be used.
    """
    plan = build(config)
    return of_run(Run(Path(), plan, fresh_state(plan, jax.random.key(plan.settings.seed)), 0))


def of_run(run: Run) -> Encoder:
    """The encoder of an opened run."""
    stage, channels = run.plan.stages[-1], run.plan.dataset.train.images.shape[-1]
    size = stage.views[0].size
    image = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    found = [n for n in ("backbone", "embedding", "query", "scores") if _has(stage.method, run.state, image, n)]
    return Encoder(tuple(found), size, channels, stage.mean, stage.std, stage.method, run.state)


def _has(method, state, image, name):
    try:
        return len(jax.eval_shape(lambda s, x: method.features(s, x, (name,)), state, image)[name].shape) == 2
    except KeyError:
        return False


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A network with given weights, as evaluators and `embed` see a method; its state is {"params", "batch_stats"}."""

    network: Network

    def features(self, state, images, names):
        """Features of clean images."""
        variables = {name: state[name] for name in ("params", "batch_stats")}
        if "head" not in state["params"]:
            found = self.network.backbone.apply(
                {name: x["backbone"] for name, x in variables.items()}, images, train=False
            )
        else:
            found = self.network.apply(variables, images, method=Network.features)
        for name, rows in state.get("prototypes", {}).items():
            found[name] = dot(found["embedding"], rows)
        return {name: found[name] for name in names}


def of_file(path, *, size: int = 0, mean=(), std=()) -> Encoder:
    """The encoder of a weight file; see `load_encoder`."""
    tensors = weight_files.read(path)
    tensors = {name.removeprefix("module."): x for name, x in tensors.items()}
    backbone = backbone_of(tensors, path)
    said = {k: v for k, v in dict(size=size, mean=tuple(mean), std=tuple(std)).items() if v}
    noted = {k: v for k, v in weight_files.notes(path).items() if k not in said}
    _check_notes(noted, path)
    said = dict(size=32 if backbone.stem == "cifar" else 224, **IMAGENET) | noted | said
    channels = tensors["conv1.weight"].shape[1]
    if {len(said["mean"]), len(said["std"])} != {channels}:
        raise WeightsError(f"{path} is for images of {channels} channels; give mean and std of {channels} numbers each")
    shapes = jax.eval_shape(
        lambda key: backbone.init(key, jnp.zeros((1, 32, 32, channels)), train=False), jax.random.key(0)
    )
    own = torch_weights.from_torch(tensors, shapes, path)
    state, names = {name: {"backbone": x} for name, x in own.items()}, ["backbone"]
    head = head_of(tensors, path)
    if head:
        pooled = jnp.zeros((1, backbone.width * (32 if backbone.depth >= 50 else 8)))
        shapes = jax.eval_shape(lambda key: head.init(key, pooled, train=False), jax.random.key(0))
        for name, x in torch_weights.head_from_torch(tensors, shapes, path).items():
            state[name]["head"] = x
        state["prototypes"] = torch_weights.prototypes(tensors, head.dim, path)
        names += ["embedding", *state["prototypes"]]
    network = Pretrained(Network(backbone, head or Head(1)))
    values = (said["size"], channels, tuple(said["mean"]), tuple(said["std"]))
    return Encoder(tuple(names), *values, network, jax.device_put(state))


def _check_notes(noted, path) -> None:
    """Refuses what a file's notes say of `size`, `mean` and `std` where no images are like that."""
    lists = {name: noted[name] for name in ("mean", "std") if name in noted}
    usable = {name: isinstance(value, list) and all(map(_is_number, value)) for name, value in lists.items()}
    if usable.get("std"):
        usable["std"] = all(value > 0 for value in noted["std"])
    if "size" in noted:
        usable["size"] = type(noted["size"]) is int and 0 < noted["size"] <= _LARGEST
    if wrong := next((name for name, right in usable.items() if not right), None):
        shown = printable(repr(noted[wrong]))[:80]
        raise WeightsError(f"{path} notes {wrong}={shown} of its images; give {wrong} yourself, or export it anew")


def _is_number(value) -> bool:
    """Whether a value from JSON is a number that channel statistics can have; NaN is not."""
    return type(value) in (int, float) and abs(value) < 1e6


def backbone_of(tensors, source) -> ResNet:
    """The residual network that tensors by torchvision's names are of.

    Raises:
        WeightsError: they are of none that is known.
    """
    if "conv1.weight" not in tensors:
        raise WeightsError(f"{source} has no conv1.weight; give the weights of a ResNet by torchvision's names")
    if len(shape := tensors["conv1.weight"].shape) != 4:
        raise WeightsError(f"{source}: conv1.weight has shape {tuple(shape)}; a ResNet's has four dimensions")
    width, _, kernel, _ = shape
    count = lambda stage: len({n.split(".")[1] for n in tensors if n.startswith(f"layer{stage}.")})
    blocks, bottleneck = tuple(map(count, (1, 2, 3, 4))), "layer1.0.conv3.weight" in tensors
    for depth, known in STAGES.items():
        if known == blocks and bottleneck == (depth >= 50):
            return ResNet(depth=depth, width=width, stem="cifar" if kernel == 3 else "imagenet")
    raise WeightsError(f"{source} has {blocks} blocks in its stages; known are ResNet-{', -'.join(map(str, STAGES))}")


def head_of(tensors, source) -> Head | None:
    """The projection head that tensors by the names of SwAV's authors are of; None without one.

    Raises:
        WeightsError: a head of other layers.
    """
    places = torch_weights.head_places(tensors, source)
    if not places:
        return None
    linear = [place for name, place in places.items() if "linear" in name]
    *hidden, dim = (torch_weights.outputs(tensors, place, source) for place in linear)
    biased = [torch_weights.has_bias(tensors, place) for place in linear]
    return Head(dim, tuple(hidden), batch_norm="bn1" in places, bias=biased[0], output_bias=biased[-1])


def writable(out: Path, overwrite: bool) -> None:
    """Raises SettingError where the file cannot be written or may not be replaced."""
    if out.suffix != ".safetensors" or not out.absolute().parent.is_dir():
        raise SettingError(f"--out={out}: give a file that ends in .safetensors, in a folder that exists")
    if out.exists() and not (overwrite and out.is_file()):
        raise SettingError(f"--out={out} is there already; --overwrite replaces a file, or give another name")
    check_writable(out, "--out")


def export(run: Run, path, *, head: bool = False) -> dict[str, np.ndarray]:
    """Writes the run's backbone as a `.safetensors` file by torchvision's names, and returns the tensors.

    The file's notes say the images' size and channel statistics, which `load_encoder` reads.

    Args:
        run: an opened run.
        path: the file; one that is there is replaced.
        head: also the projection head, and prototypes where there are any, by the names of SwAV's authors. torchvision
            knows none of these.

    Raises:
        SettingError: the backbone is no residual network of torchvision's kind, or the head none of SwAV's.
    """
    stage = run.plan.stages[-1]
    if type(stage.method.network.backbone) is not ResNet:
        raise SettingError(
            f"model.name={run.plan.record['model']['name']!r} has no names in torchvision; only resnet does"
        )
    params, stats = run.state.params["network"], run.state.batch_stats
    stats = stats.get("network", stats)
    tensors = torch_weights.to_torch(dict(params=params["backbone"], batch_stats=stats["backbone"]))
    if head:
        own = dict(params=params["head"], batch_stats=stats.get("head", {}))
        try:
            tensors |= torch_weights.head_to_torch(own, run.state.params.get("prototypes"))
        except WeightsError as error:
            raise SettingError(f"--head: {error}") from error
    notes = dict(size=stage.views[0].size, mean=list(stage.mean), std=list(stage.std))
    try:
        weight_files.write(path, tensors, notes=json.dumps(notes))
    except OSError as error:
        raise SettingError(f"--out={path} cannot be written ({error.strerror or error})") from error
    return tensors
