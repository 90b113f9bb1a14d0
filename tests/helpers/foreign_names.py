"""The weights of a ResNet by the names that libraries give them in their files."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.models import torch_weights
from ssl_jax.models.resnet import ResNet


def random_weights(network: ResNet, channels: int = 3) -> dict[str, np.ndarray]:
    """Random weights of a small network by torchvision's names."""
    shapes = jax.eval_shape(
        lambda key: network.init(key, jnp.zeros((1, 32, 32, channels)), train=False),
        jax.random.key(0),
    )
    rng = np.random.default_rng(0)
    weights = {}
    empty = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)
    for name, x in torch_weights.to_torch(empty).items():
        noise = rng.standard_normal(x.shape).astype(np.float32)
        if x.ndim == 4:
            weights[name] = noise / np.sqrt(np.prod(x.shape[1:]))
        else:
            weights[name] = 1 + 0.1 * noise if "var" in name or "weight" in name else 0.1 * noise
    return weights


def hugging_face(name: str) -> str:
    leaf = name.rpartition(".")[2]
    if match := re.fullmatch(rf"(conv|bn)1\.{leaf}", name):
        return f"resnet.embedder.embedder.{KINDS[match[1]]}.{leaf}"
    stage, block, unit, number = re.match(
        r"layer(\d)\.(\d+)\.(conv|bn|downsample)\.?(\d)", name
    ).groups()
    place = f"resnet.encoder.stages.{int(stage) - 1}.layers.{block}"
    if unit == "downsample":
        return f"{place}.shortcut.{('convolution', 'normalization')[int(number)]}.{leaf}"
    return f"{place}.layer.{int(number) - 1}.{KINDS[unit]}.{leaf}"


def numbered(prefix: str, first_stage: int, shortcut: str = "downsample"):
    """Names in an `nn.Sequential` of a network's children."""

    def renamed(name: str) -> str:
        top, rest = name.split(".", 1)
        numbers = {"conv1": 0, "bn1": 1} | {f"layer{i}": first_stage + i - 1 for i in range(1, 5)}
        return f"{prefix}{numbers[top]}.{rest}".replace(".downsample.", f".{shortcut}.")

    return renamed


def after(prefix: str):
    def renamed(name: str) -> str:
        return prefix + name

    return renamed


KINDS = {"conv": "convolution", "bn": "normalization"}
MLP = ("fc.0.weight", "fc.2.weight")
# library -> (how it names, names of other tensors in its files)
LIBRARIES = {
    "torchvision": (after(""), ("fc.weight", "fc.bias")),
    "timm": (after("model."), ("model.fc.weight",)),
    "moco": (after("module.encoder_q."), ("module.queue", *(f"module.encoder_q.{x}" for x in MLP))),
    "swav": (after("module."), ("module.other.weight",)),
    "lightning": (after("student."), ("student_head.0.weight",)),
    "solo-learn": (after("backbone."), ("projector.0.weight", "classifier.weight")),
    "lightly": (numbered("backbone.", 4), ("projection_head.layers.0.weight",)),
    "lightly's ResNetGenerator": (numbered("backbone.", 2, "shortcut"), ()),
    "mmselfsup": (after("encoder_q.0."), ("encoder_q.1.mlp.0.weight", "queue")),
    "vissl": (after("base_model.model.trunk._feature_blocks."), ("heads.0.clf.weight",)),
    "hugging face": (hugging_face, ("classifier.1.weight",)),
    "byol": (after("online_network.encoder."), ("predictor.0.weight",)),
    "dino": (after("teacher.module.backbone."), ("teacher.module.head.mlp.0.weight",)),
}


def as_in(library: str, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`weights` as a file of the library has them, with some other tensors."""
    renamed, others = LIBRARIES[library]
    tensors = {renamed(name): x for name, x in weights.items()}
    counter = renamed("bn1.weight").removesuffix("weight") + "num_batches_tracked"
    tensors[counter] = np.zeros(1, np.float32)
    return tensors | {name: np.ones((2, 3), np.float32) for name in others}
