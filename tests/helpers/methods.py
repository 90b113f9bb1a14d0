"""The unlike methods that the contract is proved on, at a size that compiles in seconds."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from plugins.methods.target import MovingTarget
from plugins.positives.same_sign import SameSign

from helpers import members
from ssl_jax import optim
from ssl_jax.data.augment import View
from ssl_jax.interface import Batch, LabelledBatch, RunFacts, TrainState
from ssl_jax.methods.anchor_neighbourhood import AnchorNeighbourhood
from ssl_jax.methods.byol import BYOL
from ssl_jax.methods.instance import InstanceDiscrimination
from ssl_jax.methods.local_aggregation import LocalAggregation
from ssl_jax.methods.moco import MoCo
from ssl_jax.methods.simsiam import SimSiam
from ssl_jax.methods.swav import SwAV
from ssl_jax.models.layers import BatchNorm, Conv, Head
from ssl_jax.models.network import Network
from ssl_jax.positives.boundary import Boundary
from ssl_jax.positives.contextual import Contextual
from ssl_jax.positives.instance import Instance
from ssl_jax.positives.neighbours import Neighbours
from ssl_jax.stages import Stage

EXAMPLES = 70
BATCH = 8
STEPS_PER_EPOCH = 8
IMAGES = np.random.default_rng(0).integers(0, 256, (EXAMPLES, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(EXAMPLES, dtype=np.int32) % 2  # those of `members.stage_of_method`


FACTS = RunFacts(
    examples=EXAMPLES,
    batch_size=BATCH,
    steps_per_epoch=STEPS_PER_EPOCH,
    total_steps=5 * STEPS_PER_EPOCH,
)
BOUNDARY = Boundary(clusters=4, restarts=2, iterations=5, facts=FACTS)
POSITIVES = {
    "positives": SameSign(FACTS),
    "neighbours": Neighbours(k=3, boundary=BOUNDARY),
    "context": Contextual(k=3, k1=4, k2=2, boundary=BOUNDARY),
}


BASES = (
    "swav",
    "instance",
    "instance by nce",
    "aggregation",
    "aggregation by neighbours",
    "anchors",
    "target",
    "byol",
    "byol as released",
    "simsiam",
    "moco",
)


class TinyBackbone(nn.Module):
    """One convolution with BatchNorm, pooled."""

    width: int = 8
    bn_groups: int = 1

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.relu(
            BatchNorm(groups=self.bn_groups, name="bn")(
                Conv(self.width, 3, 2, name="conv")(x), train=train
            )
        )
        return {"stage1": x, "backbone": x.mean((1, 2))}


def network(dim=6, groups=1):
    return Network(TinyBackbone(bn_groups=groups), Head(dim, (10,), bn_groups=groups))


def names() -> list[str]:
    """What the contract is tested on: methods and variants written out below, and all others.

    A method of the library that is not among them takes part through the default variant of its
    config.
    """
    written = [
        *BASES,
        *(f"{base} with {kind}" for base in ("byol", "simsiam", "moco") for kind in _kinds()),
    ]
    return [*written, "target with positives", *_others()]


def methods() -> list[str]:
    """One name of each method."""
    first = {}
    for name in (*BASES, *_others()):
        first.setdefault(type(stage(name).method), name)
    return list(first.values())


def _kinds():
    """Positives to try with the base methods: those of the library but the base's own."""
    classes = {type(kind): name for name, kind in POSITIVES.items()}
    return [
        classes.get(cls, name) for name, cls in members.positives().items() if name != "instance"
    ]


def _others():
    """Methods of the library that are not written out below, by the names of their files."""
    written = {type(stage(name).method) for name in BASES}
    return [name for name, cls in members.methods().items() if cls not in written]


def _positive(kind):
    if kind in POSITIVES or not kind:
        return POSITIVES.get(kind, Instance())
    cls = members.positives()[kind]
    run = dict(facts=FACTS, boundary=BOUNDARY)
    fields = {f.name for f in dataclasses.fields(cls)}
    return cls(**{k: v for k, v in (members.shrunk(cls) | run).items() if k in fields})


def stage(name, tx=None) -> Stage:
    """A stage of the method `name`, with two views of 8 pixels (SwAV: and two of 6)."""
    base, _, kind = name.partition(" with ")
    if base not in BASES:
        return members.stage_of_method(base, IMAGES, BATCH)
    positive = _positive(kind)
    run = dict(facts=FACTS)
    by_cluster = dict(background=30, clusters=7, clusterings=3)
    by_neighbours = dict(background=0, close="neighbours", close_neighbours=4)
    by_noise = dict(objective="nce", samples=20)
    view = View(size=8, count=2, jitter=0.0, grayscale=0.0)
    one = (dataclasses.replace(view, count=1),)
    views, method = {
        "swav": (
            (view, dataclasses.replace(view, size=6, scale=(0.2, 0.5))),
            SwAV(network(), prototypes=12, queue_length=16, queue_starts_epoch=0.25, **run),
        ),
        "instance": (one, InstanceDiscrimination(network(), **run)),
        "instance by nce": (one, InstanceDiscrimination(network(), **by_noise, **run)),
        "aggregation": (one, LocalAggregation(network(), **by_cluster, **run)),
        "aggregation by neighbours": (
            one,
            LocalAggregation(network(), **by_neighbours, **run),
        ),
        "anchors": (one, AnchorNeighbourhood(network(), rounds=4, neighbours=2, **run)),
        "byol": ((view,), BYOL(network(), positive, predictor=(10,), predictor_std=0.01, **run)),
        "byol as released": (
            (view,),
            BYOL(network(groups=2), positive, predictor=(10,), moves="before", shuffle=True, **run),
        ),
        "simsiam": ((view,), SimSiam(network(), positive, predictor=(10,))),
        "moco": ((view,), MoCo(network(groups=2), positive, queue_length=16)),
        "target": ((view,), MovingTarget(network(), positive, **run)),
    }[base]

    def schedule(step):
        return jnp.full((), 0.05)

    tx = tx or optim.build("sgd", schedule, weight_decay=1e-4)
    return Stage(10_000, method, tx, schedule, views, (0.5,) * 3, (0.25,) * 3)


def labels_for(stage) -> np.ndarray | None:
    """What a step gets beside the images: labels, if the method declares that it needs them."""
    return LABELS if stage.method.needs_labels else None


def batch_for(stage, views, index) -> Batch:
    """A batch as the step makes it for a method."""
    if stage.method.needs_labels:
        return LabelledBatch(views, index, jnp.asarray(LABELS)[index])
    return Batch(views, index)


def fresh_state(stage, key) -> TrainState:
    sizes = [v.size for v in stage.views for _ in range(v.count)]
    batch = Batch(tuple(jnp.zeros((1, s, s, 3)) for s in sizes), jnp.zeros(1, jnp.int32))
    params, batch_stats, method = stage.method.init(key, batch)
    positives = (stage.method.positives or Instance()).init(jax.random.fold_in(key, 1), EXAMPLES, 6)
    return TrainState(
        jnp.zeros((), jnp.int32), params, batch_stats, stage.tx.init(params), method, positives
    )
