"""Trained encoders: loaded from a run folder or a weight file, and exported to a weight file."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ssl_jax.build import build, fresh_state
from ssl_jax.data.channels import COLOUR, GREY
from ssl_jax.inference.embed import embed
from ssl_jax.inference.hand_made import Reading
from ssl_jax.inference.inputs import Takes, as_images
from ssl_jax.models import torch_weights, weight_files
from ssl_jax.models.layers import Head
from ssl_jax.models.network import Network
from ssl_jax.models.resnet import ResNet
from ssl_jax.models.weight_files import WeightsError
from ssl_jax.models.weight_names import backbone_of, network_in
from ssl_jax.ops.mesh import make_mesh
from ssl_jax.ops.types import Numbers
from ssl_jax.ops.vectors import dot
from ssl_jax.runs.restore import Run, open_run
from ssl_jax.settings.paths import check_writable, user_path
from ssl_jax.settings.ranges import FLOAT32
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import counted, printable

_LARGEST = 10_000  # maximum image side in pixels that the notes of a file may ask for
_SHOWN = 8  # features that an encoder shows of itself
IMAGENET = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@dataclasses.dataclass(frozen=True, eq=False)
class Encoder:
    """Computes features; call it with images.

    Attributes:
        names: available features: "backbone" always; "embedding" and "scores" with a head and
            prototypes; "query" with two networks; "scores1", "scores2" with further sets of
            prototypes (DeepCluster-v2); "logits" with a classifier.
        size: side in pixels that images are resized to.
        channels: channels of an image.
        mean, std: statistics of each channel, for pixels in 0..1.
        method, state: a method and its train state, or `Pretrained` and its weights.
        range: the values that were black and white in training, for encoders of images with more
            than 8 bits; else empty.
        crop: side of the central square that the encoder sees, as a share of an image's short side;
            0: all of the image, squeezed into a square.
        notes: sentences on what was taken from a weight file, and what was not.
        reading: how pictures and files of pictures are read; None: whole, in squares that are as
            large as `size` and `crop` need.
    """

    names: tuple[str, ...]
    size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    method: Any
    state: Any
    range: tuple[float, ...] = ()
    crop: float = 0.0
    notes: tuple[str, ...] = ()
    reading: Reading | None = None

    def __repr__(self) -> str:
        """One line without the weights: method or backbone, shape of the images, and features."""
        method = self.method
        parts = [] if isinstance(method, Pretrained) else [type(method).__name__]
        backbone = getattr(getattr(method, "network", None), "backbone", None)
        if backbone is not None:
            parts.append(type(backbone).__name__)
        images = f"images [N, {self.size}, {self.size}, {self.channels}]"
        names = list(self.names[:_SHOWN])
        if len(self.names) > _SHOWN:
            names.append(f"and {len(self.names) - _SHOWN} more")
        return f"Encoder({', '.join([*parts, images])}, features: {', '.join(names)})"

    @property
    def prototypes(self) -> Float[Numbers, "K D"] | None:
        """[K, D] prototypes, whose cosines with the embedding are the "scores"; None without."""
        if "scores" not in self.names:
            return None
        if isinstance(self.state, dict):
            return self.state["prototypes"]["scores"]
        return self.state.params["prototypes"]

    @property
    def clustered(self) -> str:
        """The feature that is clustered: "embedding" if available, else "backbone"."""
        return "embedding" if "embedding" in self.names else "backbone"

    @property
    def view(self) -> dict[str, Any]:
        """What it sees of an image: `size`, `mean`, `std` and `crop`, as `embed` takes them."""
        return dict(size=self.size, mean=self.mean, std=self.std, crop=self.crop)

    @property
    def takes(self) -> Takes:
        """What it takes: channels, range, and how pictures are read."""
        reading = self.reading
        if reading is None:
            side = round(self.size / self.crop) if self.crop else self.size
            bands = self.channels if self.channels not in (GREY, COLOUR) else 0
            reading = Reading(side, bands)
        return Takes(self.channels, self.range, reading)

    def __call__(
        self, images: Any, name: str = "backbone", *, unit: bool = False
    ) -> Float[Array, "N ..."]:
        """The feature `name` [N, D] of images. What is seen of them is what scores see, see `crop`.

        | images | read as |
        | --- | --- |
        | uint8 [N, H, W, C] | arrays of a data set; also a memory map, on a device, a tensor |
        | uint8 [N, H, W] | grey images |
        | floats of 0..1, with `unit=True` | the same, rounded to 8 bits |
        | other numbers, with a `range` | the same, scaled as in training |
        | the images of a data set | whole pictures, streamed ones |
        | a path, or paths | files of a folder: EXIF, transparency, bands and 16 bits as there |
        | a picture of Pillow's, or several | the same, of any mode and size |
        | a list of arrays [H, W] or [H, W, C] | the same, of any sizes |

        Pictures of the last three forms may be mixed. Each is squeezed whole into a square
        (`reading`), as `assign` does with a folder. One exception: large JPEGs are decoded at a
        smaller scale unless they are loaded already, which changes features a little. Grey and
        colour take each other's place: colour becomes grey as by ITU-R 601, grey three equal
        channels.

        Args:
            images: in one of these forms.
            name: of the feature.
            unit: whether they are floats of 0..1, 0 black and 1 white.

        Raises:
            ValueError: unknown feature; or images of another form, or of one that could mean two
                things, such as [H, W, 3] and [3, H, W].
        """
        if name not in self.names:
            raise ValueError(f"no feature {name!r}; choose one of: {', '.join(self.names)}")
        images = as_images(images, dataclasses.replace(self.takes, unit=unit))
        with jax.set_mesh(make_mesh()):
            features = embed(
                self.method,
                self.state,
                images,
                (name,),
                **self.view,
            )
            return features[name]


def load_encoder(path: str | Path, *, checkpoint: str | int = "latest", **given: Any) -> Encoder:
    """Loads a trained encoder from a run folder, or from a weight file with torchvision's names.

        encoder = ssl_jax.load_encoder("runs/swav")
        features = encoder(images)

    Args:
        path: a run folder; or a `.safetensors`, `.pth`, `.bin` or `.tar` file with the weights of a
            ResNet-10, -18, -34 or -50, with or without SwAV's projection head and prototypes; see
            `weight_names` for the names that it may have.
        checkpoint: for a run: "latest", "best" or a step.
        given: `size`, `mean` and `std` of the images, for files that do not record them; default
            ImageNet's; the `range` of images with more than 8 bits; the `crop` that the encoder
            sees, see `Encoder`; and the `prefix` of the network's names, for files with several
            ("module.encoder_q.").

    Raises:
        SettingError: not a run folder, or no such checkpoint.
        WeightsError: the file cannot be used.
    """
    path = user_path(path, "path")
    if path.is_dir():
        if given:
            raise SettingError(
                f"{path} is a run folder, which records {', '.join(given)}; leave them out"
            )
        mesh = make_mesh()
        with jax.set_mesh(mesh):
            return of_run(open_run(path, mesh, checkpoint))
    return of_file(path, **given)


def untrained(config: Any) -> Encoder:
    """The untrained encoder, for comparison: the initial weights of a run without `init_from`.

    Args:
        config: as a config file makes it, or plain dicts.

    Raises:
        SettingError: the config or the data cannot be used.
    """
    plan = build(config)
    state = fresh_state(plan, jax.random.key(plan.settings.seed))
    return of_run(Run(Path(), plan, state, 0))


def of_run(run: Run) -> Encoder:
    """The encoder of an opened run."""
    stage = run.plan.stages[-1]
    size = stage.views[0].size
    channels = run.plan.dataset.train.images.shape[-1]
    source = run.plan.source
    bands = source.bands or (channels if channels not in (GREY, COLOUR) else 0)
    image = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    names = [
        name
        for name in ("backbone", "embedding", "query", "scores", "scores1", "scores2", "logits")
        if _has_feature(stage.method, run.state, image, name)
    ]
    return Encoder(
        names=tuple(names),
        size=size,
        channels=channels,
        mean=stage.mean,
        std=stage.std,
        method=stage.method,
        state=run.state,
        range=run.plan.dataset.range,
        crop=stage.crop,
        reading=Reading(source.size, bands, source.keep),
    )


def _has_feature(method: Any, state: Any, image: jax.ShapeDtypeStruct, name: str) -> bool:
    """Whether a method has the feature `name`, as vectors rather than maps."""

    def feature(state, images):
        return method.features(state, images, (name,))[name]

    try:
        return jax.eval_shape(feature, state, image).ndim == 2
    except KeyError:
        return False


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A network with fixed weights, in the role of a method for evaluators and `embed`.

    Its state is a dict with "params", "batch_stats" and, if there are any, "prototypes".
    """

    network: Network

    def features(
        self, state: Mapping[str, Any], images: jax.Array, names: Sequence[str]
    ) -> dict[str, jax.Array]:
        """Features of clean images."""
        variables = {name: state[name] for name in ("params", "batch_stats")}
        features: Any  # what `apply` returns here is a dict
        if "head" in state["params"]:
            features = self.network.apply(variables, images, method=Network.features)
        else:
            variables = {name: x["backbone"] for name, x in variables.items()}
            features = self.network.backbone.apply(variables, images, train=False)
        for name, prototypes in state.get("prototypes", {}).items():
            features[name] = dot(features["embedding"], prototypes)
        return {name: features[name] for name in names}


def of_file(
    path: str | Path,
    *,
    size: int = 0,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    range: Sequence[float] = (),
    crop: Any = None,
    prefix: str | None = None,
    prefix_flag: str = "prefix",
) -> Encoder:
    """The encoder of a weight file; see `load_encoder`. Messages call `prefix` `prefix_flag`."""
    network = network_in(weight_files.read(path), path, prefix, flag=prefix_flag)
    tensors = {**network.backbone, **network.head}
    backbone = backbone_of(tensors, path)
    given: dict[str, Any] = dict(size=size, mean=tuple(mean), std=tuple(std))
    given["range"] = list(map(float, range))
    given = {name: value for name, value in given.items() if value}
    if crop is not None:
        given["crop"] = crop
    notes = {name: x for name, x in weight_files.notes(path).items() if name not in given}
    _check_notes(notes, path)
    reading = (
        None if given.keys() & {"size", "crop"} else _reading(notes.pop("reading", None), path)
    )
    if "range" in given and not _is_range(given["range"]):
        raise WeightsError(f"range={range}: give (darkest, brightest), the first smaller")
    if "crop" in given and not _is_share(crop):
        raise WeightsError(f"crop={crop!r}: give a number from 0 to 1")
    image: dict[str, Any] = dict(size=32 if backbone.stem == "cifar" else 224, range=(), crop=0)
    image |= IMAGENET | notes | given
    channels = tensors["conv1.weight"].shape[1]
    if {len(image["mean"]), len(image["std"])} != {channels}:
        raise WeightsError(
            f"{path} is for images of {counted(channels, 'channel')}; give mean and std of "
            f"{counted(channels, 'number')} each"
        )
    state, head = _weights(tensors, backbone, channels, path)
    names = ["backbone"]
    if head:
        names += ["embedding", *state["prototypes"]]
    return Encoder(
        names=tuple(names),
        size=image["size"],
        channels=channels,
        mean=tuple(image["mean"]),
        std=tuple(image["std"]),
        method=Pretrained(Network(backbone, head or Head(1))),
        state=jax.device_put(state),
        range=tuple(map(float, image["range"])),
        crop=float(image["crop"]),
        notes=network.notes(),
        reading=reading,
    )


def _weights(
    tensors: Mapping[str, np.ndarray], backbone: ResNet, channels: int, path: str | Path
) -> tuple[dict[str, Any], Head | None]:
    """The state of `Pretrained` from the tensors of a file, and the head, if there is one."""
    image = jnp.zeros((1, 32, 32, channels))
    shapes = jax.eval_shape(lambda key: backbone.init(key, image, train=False), jax.random.key(0))
    variables = torch_weights.from_torch(tensors, shapes, path)
    state = {name: {"backbone": x} for name, x in variables.items()}
    head = head_of(tensors, path)
    if head:
        pooled = jnp.zeros((1, backbone.width * (32 if backbone.depth >= 50 else 8)))
        shapes = jax.eval_shape(lambda key: head.init(key, pooled, train=False), jax.random.key(0))
        for name, x in torch_weights.head_from_torch(tensors, shapes, path).items():
            state[name]["head"] = x
        state["prototypes"] = torch_weights.prototypes(tensors, head.dim, path)
    return state, head


def _reading(note: Any, path: str | Path) -> Reading | None:
    """How pictures are read, by the notes of a file; None if these do not say.

    Raises:
        WeightsError: no pictures can be read so.
    """
    if note is None:
        return None
    if isinstance(note, dict) and note.keys() == {"side", "bands", "keep"}:
        counts = [note["side"], note["bands"]]
        whole = all(type(count) is int and 0 <= count <= _LARGEST for count in counts)
        if whole and note["side"] and note["keep"] in ("whole", "centre"):
            return Reading(**note)
    value = printable(repr(note))[:80]
    raise WeightsError(f"{path} notes reading={value} of its pictures; export the file again")


def _check_notes(notes: Mapping[str, Any], path: str | Path) -> None:
    """Checks `size`, `mean`, `std`, `range` and `crop` of images in the notes of a file.

    Raises:
        WeightsError: no images can have them.
    """
    valid = {}
    for name in ("mean", "std"):
        if name in notes:
            valid[name] = isinstance(notes[name], list) and all(map(_is_number, notes[name]))
    if valid.get("std"):
        valid["std"] = all(value > 0 for value in notes["std"])
    if "size" in notes:
        valid["size"] = type(notes["size"]) is int and 0 < notes["size"] <= _LARGEST
    if "range" in notes:
        valid["range"] = _is_range(notes["range"])
    if "crop" in notes:
        valid["crop"] = _is_share(notes["crop"])
    for name in valid:
        if not valid[name]:
            value = printable(repr(notes[name]))[:80]
            raise WeightsError(
                f"{path} notes {name}={value} of its images; give {name} yourself, or export the "
                "file again"
            )


def _is_number(value: Any) -> bool:
    """Whether a value from JSON is a plausible channel statistic; NaN is not."""
    return type(value) in (int, float) and abs(value) < 1e6


def _is_share(value: Any) -> bool:
    """Whether a value can be the crop of an encoder; NaN cannot."""
    return type(value) in (int, float) and 0 <= value <= 1


def _is_range(value: Any) -> bool:
    """Whether a list can be the range of images; NaN cannot."""
    if not isinstance(value, list) or [type(x) in (int, float) for x in value] != [True, True]:
        return False
    return -FLOAT32 <= value[0] < value[1] <= FLOAT32


def head_of(tensors: Mapping[str, np.ndarray], source: str | Path) -> Head | None:
    """The projection head in `tensors`, named as by SwAV's authors; None if there is none.

    Args:
        tensors: weights by name.
        source: their file, for messages.

    Raises:
        WeightsError: a head with other layers.
    """
    places = torch_weights.head_places(tensors, source)
    if not places:
        return None
    linear = [place for name, place in places.items() if "linear" in name]
    *hidden, dim = (torch_weights.outputs(tensors, place, source) for place in linear)
    biased = [torch_weights.has_bias(tensors, place) for place in linear]
    return Head(
        dim, tuple(hidden), batch_norm="bn1" in places, bias=biased[0], output_bias=biased[-1]
    )


def writable(out: Path, overwrite: bool) -> None:
    """Checks that the file can be written.

    Raises:
        SettingError: it cannot, or it exists and may not be replaced.
    """
    if out.suffix != ".safetensors" or not out.absolute().parent.is_dir():
        raise SettingError(
            f"--out={out}: give a file that ends in .safetensors, in a folder that exists"
        )
    if out.exists() and not (overwrite and out.is_file()):
        raise SettingError(
            f"--out={out} already exists; --overwrite replaces a file, or give another name"
        )
    check_writable(out, "--out")


def export(run: Run, path: str | Path, *, head: bool = False) -> dict[str, np.ndarray]:
    """Writes the run's backbone to a `.safetensors` file under torchvision's names.

    The notes of the file record size, channel statistics, range and crop of the images, and how
    pictures are read, for `load_encoder`.

    Args:
        run: an opened run.
        path: the file; replaced if it exists.
        head: include the projection head and any prototypes under the names of SwAV's authors;
            torchvision does not have these.

    Returns:
        the tensors by name.

    Raises:
        SettingError: the backbone is not a ResNet as in torchvision, or the head not as in SwAV.
    """
    stage = run.plan.stages[-1]
    method: Any = stage.method
    if type(method.network.backbone) is not ResNet:
        raise SettingError(
            f"model.name={run.plan.record['model']['name']!r} has no names in torchvision; only "
            "resnet does"
        )
    params = run.state.params["network"]
    stats = run.state.batch_stats.get("network", run.state.batch_stats)
    tensors = torch_weights.to_torch(dict(params=params["backbone"], batch_stats=stats["backbone"]))
    if head and "head" not in params:
        name = run.plan.record["method"]["name"]
        raise SettingError(f"--head: method.name={name!r} has no projection head; leave it out")
    if head:
        variables = dict(params=params["head"], batch_stats=stats.get("head", {}))
        try:
            tensors |= torch_weights.head_to_torch(variables, run.state.params.get("prototypes"))
        except WeightsError as error:
            raise SettingError(f"--head: {error}") from error
    notes: dict[str, Any] = dict(size=stage.views[0].size)
    notes |= dict(mean=list(stage.mean), std=list(stage.std))
    if run.plan.dataset.range:
        notes["range"] = list(run.plan.dataset.range)
    if stage.crop:
        notes["crop"] = stage.crop
    encoder = of_run(run)
    if encoder.reading != dataclasses.replace(encoder, reading=None).takes.reading:
        notes["reading"] = dataclasses.asdict(encoder.takes.reading)
    try:
        weight_files.write(path, tensors, notes=json.dumps(notes))
    except OSError as error:
        raise SettingError(f"--out={path} cannot be written ({error.strerror or error})") from error
    return tensors
