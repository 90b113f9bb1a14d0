"""From images to features, in chunks, without views or gradients."""

from functools import partial

import jax
import jax.numpy as jnp

from ssl_jax.data.augment import clean
from ssl_jax.ops.mesh import REPLICATED, ROWS, constrain


def embed(method, state, images, names, *, size, mean, std, chunk: int = 512) -> dict:
    """Named features [N, ...] of clean images, in their order, with running statistics.

    Args:
        method: gives the features.
        state: a `TrainState`.
        images: [N, H, W, C] uint8, resident on the device.
        names: features wanted; one pass serves all.
        size: side, in pixels, that the images are brought to: that of the largest view trained on.
        mean, std: channel statistics.
        chunk: images a pass.
    """
    rows = len(images)
    chunk = min(chunk, rows)
    take = partial(_chunk, method, state, images, names=names, rows=chunk, size=size, mean=mean, std=std)
    parts = []
    for start in range(0, rows, chunk):
        parts.append(take(start=start))
        # One pass ahead is enough; many in flight can deadlock several virtual CPU devices.
        jax.block_until_ready(parts[-2:-1])
    return {name: jnp.concatenate([p[name] for p in parts])[:rows] for name in names}


@partial(jax.jit, static_argnums=0, static_argnames=("names", "rows", "size", "mean", "std"))
def _chunk(method, state, images, *, start, names, rows, size, mean, std):
    index = jnp.minimum(start + jnp.arange(rows), len(images) - 1)
    batch = constrain(clean(images[index], size, mean, std), ROWS)
    return {name: constrain(x, REPLICATED) for name, x in method.features(state, batch, names).items()}
