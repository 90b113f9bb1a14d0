"""A linear backbone on made-up rows, as `Split.backbone` offers one; numpy can follow its steps."""

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.interface import Backbone, no_progress
from ssl_jax.ops.mesh import make_mesh

SHAPE = (2, 2, 3)  # of the "images"
WIDTH = 12


def apply(params, batch_stats, views):
    """Features [B, D], and a running mean of the pixels."""
    rows = views.reshape(-1, WIDTH)
    mean = 0.9 * batch_stats["mean"] + 0.1 * rows.mean(0)
    return rows @ params["kernel"], {"mean": mean}


def backbone(rows, dim=4, drawn=None, seed=0):
    """The backbone on `rows` [n, 12], whose "crops" are the rows themselves.

    Args:
        rows: one for each image.
        dim: D.
        drawn: a list that gets the rows of each batch.
        seed: of the kernel.
    """
    images = np.asarray(rows, np.float32).reshape(-1, *SHAPE)
    kernel = np.random.default_rng(seed).normal(size=(WIDTH, dim)) / np.sqrt(WIDTH)

    def views(key, rows, **crops):
        assert set(crops) == {"scale", "ratio", "flip"}
        if drawn is not None:
            drawn.append(np.asarray(rows))
        return jnp.asarray(images[np.asarray(rows)])

    def clean(params, batch_stats, report=no_progress):
        return images.reshape(-1, WIDTH) @ np.asarray(params["kernel"])

    params = {"kernel": jnp.asarray(kernel, jnp.float32)}
    mesh = make_mesh(jax.devices()[:1])
    return Backbone(params, {"mean": jnp.zeros(WIDTH)}, apply, views, clean, mesh)
