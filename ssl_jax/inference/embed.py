"""From images to features, in chunks, without views or gradients."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.data.augment import clean, draw_views
from ssl_jax.interface import no_progress
from ssl_jax.models.pooling import flat
from ssl_jax.ops.mesh import REPLICATED, ROWS, constrain
from ssl_jax.runtime.compilation import convolution_options
from ssl_jax.runtime.sharding import put_rows


def embed(method, state, images, names, *, size, mean, std, chunk: int = 512, report=no_progress):
    """Named features [N, D] of clean images, in their order, with running statistics; maps pooled (`pooling.flat`).

    Args:
        method: gives the features.
        state: a `TrainState`.
        images: [N, H, W, C] uint8, on the device; or on the host, of which each device's rows are read for it alone.
        names: features wanted; one pass serves all.
        size: side, in pixels, that the images are brought to: that of the largest view trained on.
        mean, std: channel statistics.
        chunk: images a pass; a few more where the devices do not divide it.
        report: takes a progress line before each pass.
    """
    rows, mesh = len(images), jax.sharding.get_mesh()
    devices = 1 if mesh.empty else mesh.size
    chunk = -(-min(chunk, rows) // devices) * devices
    spread = devices > 1 and not isinstance(images, jax.Array)
    take = partial(_chunk(), method, state, names=names, size=size, mean=mean, std=std)
    parts = []
    for start in range(0, rows, chunk):
        report(f"features of {start:,} of {rows:,} images")
        index = np.minimum(start + np.arange(chunk), rows - 1)
        parts.append(take(put_rows(images, index, mesh) if spread else images[index]))
        # One pass ahead is enough; many in flight can deadlock several virtual CPU devices.
        jax.block_until_ready(parts[-2:-1])
    return {name: jnp.concatenate([p.pop(name) for p in parts])[:rows] for name in names}


def draw(method, state, images, key, view, names, *, mean, std) -> dict:
    """Named features [B, D] of one view, drawn as `view` says, of each image [B, H, W, C]; else as `embed`."""
    return _drawn()(method, state, images, key, view, names=names, mean=mean, std=std)


@cache
def _drawn():
    """The jitted pass over the views of one batch."""

    def features(method, state, images, key, view, *, names, mean, std):
        (batch,) = draw_views(key, images, (view,), mean, std)
        found = method.features(state, constrain(batch, ROWS), names)
        return {name: constrain(flat(x), REPLICATED) for name, x in found.items()}

    named = ("names", "mean", "std")
    return jax.jit(features, static_argnums=(0, 4), static_argnames=named, compiler_options=convolution_options())


@cache
def _chunk():
    """The jitted pass over one chunk; not made at import, since its options depend on the backend."""

    def features(method, state, images, *, names, size, mean, std):
        batch = constrain(clean(images, size, mean, std), ROWS)
        return {name: constrain(flat(x), REPLICATED) for name, x in method.features(state, batch, names).items()}

    named = ("names", "size", "mean", "std")
    return jax.jit(features, static_argnums=0, static_argnames=named, compiler_options=convolution_options())
