"""What methods with two networks share: one forward pass a view, and the target network that follows the online one."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from ssl_jax.methods.common.features import of_network
from ssl_jax.models.network import Network
from ssl_jax.ops.collapse import spread
from ssl_jax.ops.vectors import unit


class TargetNetwork(struct.PyTreeNode):
    """The target (or key) network: a moving average of the online parameters, running statistics of its own."""

    params: Any
    batch_stats: Any


def project(network, params, batch_stats, views, *, joint=False, shuffle=None):
    """The projections of views in training mode, each view a BatchNorm batch of its own unless `joint`.

    Args:
        network: a `Network`.
        params, batch_stats: the network's own.
        views: tuple of V arrays [B, H, W, C]; running statistics move view by view, in this order.
        joint: all views in one BatchNorm batch.
        shuffle: a key: rows are shuffled before the network and put back after it, so that with `bn_groups` a row
            and its positive as a rule have statistics of different images (MoCo's shuffled BatchNorm).

    Returns:
        [V, B, D], of any length, and the new running statistics.
    """
    if shuffle is not None:
        keys = jax.random.split(shuffle, len(views))
        orders = [jax.random.permutation(key, len(view)) for key, view in zip(keys, views)]
        views = tuple(view[order] for view, order in zip(views, orders))
    settings = dict(train=True, separate=not joint, mutable="batch_stats", method=Network.project)
    z, updated = network.apply({"params": params, "batch_stats": batch_stats}, views, **settings)
    if shuffle is not None:
        z = jnp.stack([one[jnp.argsort(order)] for one, order in zip(z, orders)])
    return z, updated["batch_stats"]


def predict(predictor, params, batch_stats, projections, *, joint=False):
    """The predictor's outputs [V, B, D] of projections [V, B, D], and its new running statistics."""
    views, batch, dim = projections.shape
    rows = projections.swapaxes(0, 1).reshape(batch * views, dim)
    variables = {"params": params, "batch_stats": batch_stats}
    p, updated = predictor.apply(variables, rows, train=True if joint else views, mutable="batch_stats")
    return p.reshape(batch, views, dim).swapaxes(0, 1), updated.get("batch_stats", batch_stats)


def follow(target, online, momentum):
    """The moving average: momentum * target + (1 - momentum) * online, for each parameter."""
    return jax.tree.map(lambda t, o: momentum * t + (1.0 - momentum) * jax.lax.stop_gradient(o), target, online)


def momentum_at(step, total, start, schedule="cosine"):
    """The target's momentum in training step `step` of `total`: from `start` to 1 by half a cosine (BYOL).

    Steps count from 1, as in ProPos; in DeepMind's code from 0.
    """
    if schedule == "constant":
        return jnp.float32(start)
    remaining = jnp.sin(0.5 * jnp.pi * (total - jnp.asarray(step, jnp.float32)) / max(total, 1)) ** 2
    return 1.0 - (1.0 - start) * remaining


def features(network, state, target, images, names):
    """Named features of clean images: `embedding` of the target network, all others of the online network.

    `query` is the online network's embedding.
    """
    found = {}
    if others := [name for name in names if name != "embedding"]:
        online = of_network(network, state.params["network"], state.batch_stats["network"], images)
        found = {name: online["embedding" if name == "query" else name] for name in others}
    if "embedding" in names:
        found["embedding"] = of_network(network, target.params, target.batch_stats, images)["embedding"]
    return found


def metrics(positives, pos_state, chosen, keys):
    """Spread of the keys over the sphere, and what the positives tell of themselves."""
    return {"spread": spread(unit(keys)), **positives.metrics(pos_state, chosen)}


def two_views(name, batch):
    """Raises ValueError unless `batch` has two views of an image."""
    if len(batch.views) != 2:
        raise ValueError(f"{name} takes two views of an image, not {len(batch.views)}")
