"""Features of images, computed in chunks, without views or gradients."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.data import ten_crop
from ssl_jax.data.augment import View, clean, draw_views
from ssl_jax.data.whole import pixels_of
from ssl_jax.interface import no_progress
from ssl_jax.models.pooling import flat
from ssl_jax.ops.mesh import REPLICATED, ROWS, constrain
from ssl_jax.runtime.compilation import convolution_options
from ssl_jax.runtime.sharding import put_rows


def embed(
    method: Any,
    state: Any,
    images: Any,
    names: Sequence[str],
    *,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    crop: float = 0.0,
    chunk: int = 512,
    report: Callable[[str], Any] = no_progress,
) -> dict[str, jax.Array]:
    """Named features [N, D] of clean images in evaluation mode, in order; maps are pooled.

    Args:
        method: computes the features.
        state: its `TrainState`.
        images: [N, H, W, C] uint8, or `WholePictures`, on the device or on the host; from the
            host each device reads only its own rows.
        names: features to compute; one pass yields all.
        size: side in pixels that images are resized to, that of the largest training view.
        mean, std: channel statistics.
        crop: side of the central square that is seen, as a share of the short side; 0: all of an
            image, see `augment.clean`.
        chunk: images per pass, rounded up to a multiple of the number of devices.
        report: takes a progress line before each pass.
    """
    count = len(images)
    given = dict(size=size, mean=mean, std=std, crop=crop, chunk=chunk, report=report)
    parts = list(chunks(method, state, images, names, **given))
    return {name: jnp.concatenate([part.pop(name) for part in parts])[:count] for name in names}


def chunks(
    method: Any,
    state: Any,
    images: Any,
    names: Sequence[str],
    *,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    crop: float = 0.0,
    chunk: int = 512,
    report: Callable[[str], Any] = no_progress,
) -> Iterator[dict[str, jax.Array]]:
    """Yields what `embed` puts together: named features [chunk, D] of one pass after the other.

    The last pass repeats the last image, so that all have the same shape.
    """
    count = len(images)
    mesh = jax.sharding.get_mesh()
    devices = 1 if mesh.empty else mesh.size
    chunk = -(-min(chunk, count) // devices) * devices
    from_host = devices > 1 and not isinstance(pixels_of(images), jax.Array)
    compute = _clean_features()
    before = None
    for start in range(0, count, chunk):
        report(f"features of {start:,} of {count:,} images")
        index = np.minimum(start + np.arange(chunk), count - 1)
        batch = put_rows(images, index, mesh) if from_host else images[index]
        part = compute(method, state, batch, names=names, size=size, mean=mean, std=std, crop=crop)
        # One pass ahead is enough; many in flight can deadlock several virtual CPU devices.
        jax.block_until_ready(before)
        before = tuple(part.values())
        yield part


def draw(
    method: Any,
    state: Any,
    images: Any,
    key: jax.Array,
    view: View,
    names: Sequence[str],
    *,
    mean: Sequence[float],
    std: Sequence[float],
) -> dict[str, jax.Array]:
    """Named features [B, D] of a random `view` of each image [B, H, W, C]; see `embed`.

    Views are drawn from all of an image; those of whole pictures in their true proportions.
    """
    return _view_features()(method, state, images, key, view, names=names, mean=mean, std=std)


def ten_crops(
    method: Any,
    state: Any,
    images: Any,
    names: Sequence[str],
    *,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    crop: float,
) -> dict[str, jax.Array]:
    """Named features [B, 10, D] of ten crops of each image [B, H, W, C]; see `embed`.

    `crop` is the side of a crop, as a share of the short side of an image.
    """
    compute = _ten_crop_features()
    return compute(method, state, images, names=names, size=size, mean=mean, std=std, crop=crop)


@cache
def _ten_crop_features() -> Callable[..., dict[str, jax.Array]]:
    """The jitted pass over the ten crops of one block; see `_clean_features`."""

    def features(method, state, images, *, names, size, mean, std, crop):
        crops = ten_crop.ten_crops(images, size, mean, std, crop)
        flat_crops = crops.reshape(-1, *crops.shape[2:])
        named = _flat_features(method, state, flat_crops, names)
        return {name: x.reshape(len(images), ten_crop.COUNT, -1) for name, x in named.items()}

    return jax.jit(
        features,
        static_argnums=0,
        static_argnames=("names", "size", "mean", "std", "crop"),
        compiler_options=convolution_options(),
    )


@cache
def _view_features() -> Callable[..., dict[str, jax.Array]]:
    """The jitted pass over the views of one batch; created on first use, like `_clean_features`."""

    def features(method, state, images, key, view, *, names, mean, std):
        (batch,) = draw_views(key, images, (view,), mean, std)
        return _flat_features(method, state, batch, names)

    return jax.jit(
        features,
        static_argnums=(0, 4),
        static_argnames=("names", "mean", "std"),
        compiler_options=convolution_options(),
    )


@cache
def _clean_features() -> Callable[..., dict[str, jax.Array]]:
    """The jitted pass over one chunk; created on first use, since its options need the backend."""

    def features(method, state, images, *, names, size, mean, std, crop):
        return _flat_features(method, state, clean(images, size, mean, std, crop), names)

    return jax.jit(
        features,
        static_argnums=0,
        static_argnames=("names", "size", "mean", "std", "crop"),
        compiler_options=convolution_options(),
    )


def _flat_features(
    method: Any, state: Any, batch: jax.Array, names: Sequence[str]
) -> dict[str, jax.Array]:
    features = method.features(state, constrain(batch, ROWS), names)
    return {name: constrain(flat(x), REPLICATED) for name, x in features.items()}
