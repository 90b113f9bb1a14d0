"""What evaluators may compute of a split on demand, and its backbone to train a copy of."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from ssl_jax.data.augment import View, draw_views
from ssl_jax.inference.embed import draw, embed, ten_crops
from ssl_jax.interface import Backbone, Draw, Report, Split, TenCrops, no_progress
from ssl_jax.models.network import Network
from ssl_jax.ops.mesh import ROWS, constrain
from ssl_jax.runtime import processes
from ssl_jax.stages import Stage

_CHUNK = 64  # images whose ten crops are computed together


def on_demand(split: Split, stage: Stage, state: Any, images: Any) -> Split:
    """A split with all that `interface.Split` computes on demand.

    Args:
        split: features and labels.
        stage: method, size of the images and statistics.
        state: the train state of the method.
        images: of the split, perhaps followed by others.
    """
    return split._replace(
        draw=_draw(stage, state, images),
        ten_crops=_ten_crops(stage, state, images, len(split.labels)),
        backbone=_backbone(stage, state, images, len(split.labels)),
    )


def _draw(stage: Stage, state: Any, images: Any) -> Draw:
    """`Split.draw` for some images."""
    size = stage.views[0].size
    mesh = jax.sharding.get_mesh()

    def draw_features(key, rows, names, **crop):
        with jax.set_mesh(mesh):
            drawn = draw(
                stage.method,
                state,
                images[np.asarray(rows)],
                _on_all_hosts(key),
                _view(size, crop),
                tuple(names),
                mean=stage.mean,
                std=stage.std,
            )
            return processes.whole(drawn)

    return draw_features


def _view(size: int, crop: Mapping[str, Any]) -> View:
    """A view that only crops and flips."""
    return View(size=size, count=1, jitter=0.0, grayscale=0.0, **crop)


def _on_all_hosts(key: jax.Array) -> jax.Array:
    """A key that lies on this host's devices alone, for a computation on all of them."""
    return jax.random.wrap_key_data(np.asarray(jax.random.key_data(key)))


def _ten_crops(stage: Stage, state: Any, images: Any, count: int) -> TenCrops:
    """`Split.ten_crops` for the first `count` images."""
    size = stage.views[0].size
    mesh = jax.sharding.get_mesh()

    def block(index: np.ndarray, names: Sequence[str], crop: float) -> dict[str, Any]:
        with jax.set_mesh(mesh):
            named = ten_crops(
                stage.method,
                state,
                images[index],
                tuple(names),
                size=size,
                mean=stage.mean,
                std=stage.std,
                crop=crop,
            )
            return processes.whole(named)

    def blocks(names: Sequence[str], crop: float) -> Iterator[dict[str, Any]]:
        chunk = min(_CHUNK, count)
        for start in range(0, count, chunk):
            index = np.minimum(start + np.arange(chunk), count - 1)  # one shape for all blocks
            named = jax.block_until_ready(block(index, names, crop))
            yield {name: x[: count - start] for name, x in named.items()}

    return blocks


@dataclasses.dataclass(frozen=True)
class _Module:
    """A backbone as a function of its weights; equal modules are equal, so `jit` traces once."""

    module: nn.Module

    def __call__(self, params: Any, batch_stats: Any, views: jax.Array) -> tuple[jax.Array, Any]:
        """`Backbone.apply`."""
        features, updated = self.module.apply(
            {"params": params, "batch_stats": batch_stats},
            constrain(views, ROWS),
            train=True,
            mutable="batch_stats",
        )
        return features["backbone"], updated.get("batch_stats", batch_stats)

    def features(
        self, state: Mapping[str, Any], images: jax.Array, names: Sequence[str]
    ) -> dict[str, jax.Array]:
        """Features of clean images, in the role of a method for `embed`."""
        features: Any = self.module.apply(state, images, train=False)
        return {name: features[name] for name in names}


def _backbone(stage: Stage, state: Any, images: Any, count: int) -> Backbone | None:
    """`Split.backbone` for the first `count` images; None if the method has no `Network`."""
    network = getattr(stage.method, "network", None)
    if not isinstance(network, Network):
        return None
    module = network.backbone
    if hasattr(module, "bn_groups"):  # a batch of any size, normalised as a whole
        module = module.clone(bn_groups=1)
    function = _Module(module)
    statistics = state.batch_stats.get("network", state.batch_stats)
    size = stage.views[0].size
    mesh = jax.sharding.get_mesh()

    def views(key: jax.Array, rows: Any, **crop: Any) -> jax.Array:
        pictures = images[np.asarray(rows)]
        view = _view(size, crop)
        return _drawn()(_on_all_hosts(key), pictures, view, stage.mean, stage.std)

    def clean(params: Any, batch_stats: Any, report: Report = no_progress) -> Any:
        named = embed(
            function,
            {"params": params, "batch_stats": batch_stats},
            images if len(images) == count else images[:count],
            ("backbone",),
            size=size,
            mean=stage.mean,
            std=stage.std,
            crop=stage.crop,
            report=report,
        )
        return processes.whole(named["backbone"])

    return Backbone(
        params=state.params["network"]["backbone"],
        batch_stats=statistics.get("backbone", {}),
        apply=function,
        views=views,
        clean=clean,
        mesh=mesh,
    )


@cache
def _drawn() -> Callable[..., jax.Array]:
    """The jitted pass that draws one view of each image of a batch."""

    def crops(key, images, view, mean, std):
        (batch,) = draw_views(key, images, (view,), mean, std)
        return constrain(batch, ROWS)

    return jax.jit(crops, static_argnums=(2, 3, 4))
