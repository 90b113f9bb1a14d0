"""What methods with two networks share: forward passes per view, and the moving-average target."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, PRNGKeyArray

from ssl_jax.interface import Batch, PositiveSet, TrainState
from ssl_jax.methods.common.features import of_network
from ssl_jax.models.network import Network
from ssl_jax.ops.collapse import spread
from ssl_jax.ops.types import Count, Numbers, Scalar
from ssl_jax.ops.vectors import unit


class TargetNetwork(struct.PyTreeNode):
    """The target (or key) network.

    `params` are a moving average of the online network's; `batch_stats` come from the target's
    forward passes.
    """

    params: Any
    batch_stats: Any


def project(
    network: Network,
    params: Any,
    batch_stats: Any,
    views: tuple[Float[Numbers, "B _ _ C"], ...],
    *,
    joint: bool = False,
    shuffle: PRNGKeyArray | None = None,
) -> tuple[Float[Array, "V B D"], Any]:
    """Projections of views in training mode; each view is its own BatchNorm batch unless `joint`.

    Args:
        network: the module that is applied.
        params: parameters of `network`.
        batch_stats: running statistics of `network`.
        views: V arrays [B, H, W, C]; running statistics are updated view by view, in this order.
        joint: put all views in one BatchNorm batch.
        shuffle: key for shuffling the rows before the network and restoring their order after it,
            so that with `bn_groups` a row and its positive usually get statistics of different
            images (MoCo's shuffled BatchNorm). None does not shuffle.

    Returns:
        [V, B, D], not normalised, and the new running statistics.
    """
    orders = None
    if shuffle is not None:
        keys = jax.random.split(shuffle, len(views))
        orders = [jax.random.permutation(key, len(view)) for key, view in zip(keys, views)]
        views = tuple(view[order] for view, order in zip(views, orders))
    z, updated = network.apply(
        {"params": params, "batch_stats": batch_stats},
        views,
        train=True,
        separate=not joint,
        mutable="batch_stats",
        method=Network.project,
    )
    if orders is not None:
        z = jnp.stack([rows[jnp.argsort(order)] for rows, order in zip(z, orders)])
    return z, updated["batch_stats"]


def predict(
    predictor: nn.Module,
    params: Any,
    batch_stats: Any,
    projections: Float[Array, "V B D"],
    *,
    joint: bool = False,
) -> tuple[Float[Array, "V B D"], Any]:
    """Predictions for projections, and the predictor's new running statistics; see `project`."""
    views, batch, dim = projections.shape
    rows = projections.swapaxes(0, 1).reshape(batch * views, dim)
    p, updated = predictor.apply(
        {"params": params, "batch_stats": batch_stats},
        rows,
        train=True if joint else views,
        mutable="batch_stats",
    )
    return p.reshape(batch, views, dim).swapaxes(0, 1), updated.get("batch_stats", batch_stats)


def follow(target: Any, online: Any, momentum: Scalar) -> Any:
    """The moving average momentum * target + (1 - momentum) * online, parameter by parameter."""
    return jax.tree.map(
        lambda t, o: momentum * t + (1.0 - momentum) * jax.lax.stop_gradient(o), target, online
    )


def momentum_at(
    step: Count, total: int, start: float, schedule: str = "cosine"
) -> Float[Array, ""]:
    """The target's momentum in a training step: half a cosine from `start` to 1 (BYOL).

    Args:
        step: counted from 1 as in ProPos; DeepMind's code counts from 0.
        total: steps of the run.
        start: momentum at step 0.
        schedule: "cosine", or "constant" to stay at `start`.
    """
    if schedule == "constant":
        return jnp.float32(start)
    remaining = (
        jnp.sin(0.5 * jnp.pi * (total - jnp.asarray(step, jnp.float32)) / max(total, 1)) ** 2
    )
    return 1.0 - (1.0 - start) * remaining


def features(
    network: Network,
    state: TrainState,
    target: TargetNetwork,
    images: Float[Numbers, "B H W C"],
    names: tuple[str, ...],
) -> dict[str, Float[Array, "B ..."]]:
    """Named features of clean images: `embedding` from the target, others from the online network.

    `query` is the online network's embedding.
    """
    chosen = {}
    if others := [name for name in names if name != "embedding"]:
        online = of_network(network, state.params["network"], state.batch_stats["network"], images)
        chosen = {name: online["embedding" if name == "query" else name] for name in others}
    if "embedding" in names:
        of_target = of_network(network, target.params, target.batch_stats, images)
        chosen["embedding"] = of_target["embedding"]
    return chosen


def metrics(
    positives: Any, pos_state: Any, chosen: PositiveSet, keys: Float[Array, "B D"]
) -> dict[str, Array]:
    """The keys' spread over the sphere, and the metrics of the positives."""
    return {"spread": spread(unit(keys)), **positives.metrics(pos_state, chosen)}


def two_views(name: str, batch: Batch) -> None:
    """Checks the number of views.

    Raises:
        ValueError: `batch` does not have two views per image.
    """
    if len(batch.views) != 2:
        raise ValueError(f"{name} takes two views of an image, not {len(batch.views)}")
