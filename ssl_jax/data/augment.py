"""Random views of images inside the jitted step, one key per image.

Each transform is torchvision's.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.data import whole
from ssl_jax.settings import ranges

_TRIES = 10  # crops that torchvision tries before its fallback
# Uniform numbers for one view: crop; flip, jitter, grey; the jitter's order, factors and hue shift;
# blur, sigma, solarise.
_PARTS = (2 * _TRIES + 2, 3, 8, 3)
_DRAWS = sum(_PARTS)
_TURNS = 3  # further numbers for one view: vertical flip; quarter turn, and which of the three
_GREY = (0.2989, 0.587, 0.114)

jax.tree_util.register_dataclass(
    whole.WholePictures, data_fields=["pixels", "sizes"], meta_fields=[]
)


@dataclasses.dataclass(frozen=True)
class View:
    """How `count` views are drawn. Transforms apply in field order, from `scale` on.

    Attributes:
        size: side of the square view, in pixels.
        count: views drawn this way.
        scale: range of the crop's area, as a share of the image's.
        ratio: range of the crop's aspect ratio, log-uniform.
        flip: probability of a horizontal flip, left to right.
        flip_vertical: probability of a vertical flip, top to bottom: for pictures without an
            upright, such as those of satellites and microscopes.
        quarter_turns: probability of a turn by 90, 180 or 270 degrees, equally likely; for the same
            pictures. At 0.75 all four orientations are equally likely.
        jitter: probability of a colour jitter: four transforms in random order.
        brightness: x of the brightness factor, drawn from [max(0, 1 - x), 1 + x].
        contrast: x of the contrast factor, drawn from [max(0, 1 - x), 1 + x].
        saturation: x of the saturation factor, drawn from [max(0, 1 - x), 1 + x].
        hue: x of the hue's shift, drawn from [-x, x], in turns of the colour circle; at most 0.5.
        grayscale: probability of a conversion to grey.
        blur: probability of a Gaussian blur.
        sigma: range of the blur's standard deviation, in pixels of the view.
        kernel: taps of the blur, odd; 0 covers three times the largest sigma on each side (13 taps
            for 2.0), about as far as Pillow's blur, which SwAV was trained with. (torchvision
            requires a number; 10 % of the size is common.)
        solarize: probability of solarisation, which inverts values of at least `threshold`.
        threshold: pixel value at which solarisation starts, in 0..1.
    """

    size: int
    count: int = 2
    scale: tuple[float, ...] = (0.08, 1.0)
    ratio: tuple[float, ...] = (3 / 4, 4 / 3)
    flip: float = 0.5
    flip_vertical: float = 0.0
    quarter_turns: float = 0.0
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    grayscale: float = 0.2
    blur: float = 0.0
    sigma: tuple[float, ...] = (0.1, 2.0)
    kernel: int = 0
    solarize: float = 0.0
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if self.size < 1 or self.count < 1:
            raise ValueError("size and count must be at least 1")
        ranges.count(1, 2**14, size=self.size)
        ranges.count(1, ranges.MANY, count=self.count)
        if not (len(self.scale) == 2 and 0 < self.scale[0] <= self.scale[1]):
            raise ValueError(f"scale={self.scale}: give (smallest, largest), both above 0")
        if not (len(self.ratio) == 2 and 0 < self.ratio[0] <= self.ratio[1]):
            raise ValueError(f"ratio={self.ratio}: give (smallest, largest), both above 0")
        ranges.between(0, 1, scale=self.scale)
        ranges.between(0.01, 100, ratio=self.ratio)
        ranges.positive(sigma=self.sigma)
        ranges.not_negative(
            brightness=self.brightness, contrast=self.contrast, saturation=self.saturation
        )
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"hue={self.hue}: between 0 and 0.5, half a turn")
        if not (len(self.sigma) == 2 and 0 < self.sigma[0] <= self.sigma[1]):
            raise ValueError(f"sigma={self.sigma}: give (smallest, largest), both above 0")
        if self.kernel and (self.kernel < 0 or self.kernel % 2 == 0):
            raise ValueError(f"kernel={self.kernel}: give an odd number of taps, or 0")
        ranges.count(0, 2**15, kernel=self.kernel)
        probabilities = ("flip", "flip_vertical", "quarter_turns", "jitter", "grayscale", "blur")
        for name in (*probabilities, "solarize", "threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: between 0 and 1")
        if self.blur and self.taps // 2 >= self.size:
            raise ValueError(
                f"a blur of {self.taps} taps does not fit views of {self.size} pixels; lower sigma"
            )

    @property
    def taps(self) -> int:
        """Taps of the blur, also where `kernel` is 0."""
        return self.kernel or 2 * math.ceil(3 * self.sigma[1]) + 1

    @property
    def turns(self) -> bool:
        """Whether views may be upside down or on their side."""
        return self.flip_vertical > 0 or self.quarter_turns > 0


def draw_views(
    key: jax.Array,
    images: Any,
    views: Sequence[View],
    mean: Sequence[float],
    std: Sequence[float],
) -> tuple[jax.Array, ...]:
    """Independent views of every image.

    Args:
        key: random key of the step; each view of each image gets its own key from it.
        images: [B, H, W, C] uint8, or `WholePictures`.
        views: settings of the views, in output order.
        mean, std: C channel statistics of pixels in 0..1.

    Returns:
        `count` float32 arrays [B, size, size, C] for each entry of `views`.
    """
    drawn = []
    for i, view in enumerate(views):
        keys = jax.random.split(jax.random.fold_in(key, i), (view.count, len(images)))
        draw = functools.partial(_draw_by_key, view)
        drawn.extend(normalise(jax.vmap(jax.vmap(draw), (0, None))(keys, images), mean, std))
    return tuple(drawn)


def _draw_by_key(view: View, key: jax.Array, image: Any) -> jax.Array:
    u = jax.random.uniform(key, (_DRAWS,))
    if view.turns:  # of a key of their own, so that all other numbers stay as they are
        turns_u = jax.random.uniform(jax.random.fold_in(key, 0), (_TURNS,))
        u = jnp.concatenate([u, turns_u])
    return draw_view(u, image, view)


def normalise(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Pixels [..., C] in 0..1, minus the channel means and divided by the standard deviations."""
    mean, std = (jnp.broadcast_to(jnp.asarray(s, images.dtype), images.shape) for s in (mean, std))
    return (images - mean) / std


def clean(
    images: Any, size: int, mean: Sequence[float], std: Sequence[float], crop: float = 0.0
) -> jax.Array:
    """Images as evaluations see them, without chance: resized to [B, size, size, C], normalised.

    Args:
        images: [B, H, W, C] uint8, or `WholePictures`.
        size: side of the result.
        mean, std: C channel statistics of pixels in 0..1.
        crop: side of the central square that is seen, as a share of the short side: 0.875 is
            torchvision's resize to 256 and central crop of 224. 0: all of the image, squeezed.
    """
    x = jnp.asarray(whole.pixels_of(images), jnp.float32) / 255.0
    height, width = x.shape[1:3]
    if crop:
        central = functools.partial(resized_square, size=size, crop=crop)
        x = jax.vmap(central)(whole.with_pixels(images, lambda _: x))
    elif (height, width) != (size, size):
        x = jax.vmap(lambda image: resized_crop(image, (0.0, 0.0, height, width), size))(x)
    return normalise(x, mean, std)


def resized_square(
    image: Any,
    *,
    size: int,
    crop: float,
    place: tuple[float, float] = (0.5, 0.5),
    flip: bool = False,
) -> jax.Array:
    """A square of an image [H, W, C], or of a whole picture, as [size, size, C].

    torchvision's `Resize(size / crop)`, and a crop of `size`, as one step. Where the first is a
    whole number of pixels, so are the resized length of the long side and the place of the crop.

    Args:
        image: [H, W, C], or one of `WholePictures`.
        size: side of the result.
        crop: side of the square, as a share of the image's short side.
        place: share of the free space that is above the square, and left of it: (0.5, 0.5) is the
            centre, (0, 1) the upper right corner.
        flip: mirror the square left to right.
    """
    height, width = whole.geometry(image)
    short = jnp.minimum(height, width)
    resized = size / crop
    in_whole_pixels = resized == round(resized)

    def span(length: jax.Array | int, share: float) -> tuple[jax.Array, jax.Array]:
        """Start and length of the crop along one side, in the image's own pixels."""
        target = jnp.asarray(resized * length / short, jnp.float32)
        if in_whole_pixels:
            target = jnp.floor(target)
        start = (target - size) * share
        if in_whole_pixels:
            start = jnp.round(start)
        return start * length / target, jnp.maximum(size * length / target, 1.0)

    top, crop_height = span(height, place[0])
    left, crop_width = span(width, place[1])
    return _resized(image, (top, left, crop_height, crop_width), size, flip)


def _resized(
    image: Any, box: Sequence[jax.Array | float], size: int, flip: jax.Array | bool = False
) -> jax.Array:
    """`resized_crop` of an image, or of a whole picture, by a box in its own pixels."""
    pixels = whole.pixels_of(image)
    height, width = whole.geometry(image)
    down = pixels.shape[0] / height
    across = pixels.shape[1] / width
    top, left, h, w = box
    return resized_crop(
        pixels, (top * down, left * across, h * down, w * across), size, flip=flip, partly=True
    )


def draw_view(u: jax.Array, image: Any, view: View) -> jax.Array:
    """One view [size, size, C] in 0..1 of an image [H, W, C] uint8.

    Args:
        u: [36] uniform numbers, the only source of randomness; [39] if `view.turns`.
        image: [H, W, C] uint8, or one of `WholePictures`, cropped in its own geometry.
        view: settings of the view.
    """
    crop, (flip, jitter, grey), colours, (blur, sigma, solar), turns = jnp.split(
        u, list(itertools.accumulate(_PARTS))
    )
    box = crop_box(crop, whole.geometry(image), view.scale, view.ratio)
    x = jnp.asarray(whole.pixels_of(image), jnp.float32) / 255.0
    flip = flip < view.flip
    if isinstance(image, whole.WholePictures):
        x = _resized(dataclasses.replace(image, pixels=x), box, view.size, flip)
    else:
        x = resized_crop(x, box, view.size, flip=flip)
    if view.turns:
        x = turned(turns, x, view.flip_vertical, view.quarter_turns)
    strengths = (view.brightness, view.contrast, view.saturation, view.hue)
    if view.jitter and any(strengths):
        x = jnp.where(jitter < view.jitter, colour_jitter(colours, x, *strengths), x)
    if view.grayscale and x.shape[-1] == 3:
        x = jnp.where(grey < view.grayscale, _grey(x), x)
    if view.blur:
        low, high = view.sigma
        x = gaussian_blur(
            x, jnp.where(blur < view.blur, low + (high - low) * sigma, 0.0), view.taps
        )
    if view.solarize:
        x = jnp.where((solar < view.solarize) & (x >= view.threshold), 1.0 - x, x)
    return x


def crop_box(
    u: jax.Array,
    shape: tuple[jax.Array | int, jax.Array | int],
    scale: Sequence[float],
    ratio: Sequence[float],
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """torchvision's random crop: (top, left, height, width) in whole pixels, as float32.

    Takes the first of ten draws of area and ratio that fits, else the largest central crop with a
    ratio in range.

    Args:
        u: [22] uniform numbers.
        shape: (H, W) of the image.
        scale: range of the crop's share of the area.
        ratio: range of its aspect ratio.
    """
    height, width = shape
    area_u, ratio_u, (top_u, left_u) = jnp.split(u, (_TRIES, 2 * _TRIES))
    area = height * width * (scale[0] + (scale[1] - scale[0]) * area_u)
    log_low = math.log(ratio[0])
    log_high = math.log(ratio[1])
    aspect = jnp.exp(log_low + (log_high - log_low) * ratio_u)
    w = jnp.round(jnp.sqrt(area * aspect))
    h = jnp.round(jnp.sqrt(area / aspect))
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = jnp.argmax(fits)
    fallback = _largest_crop(height, width, ratio)
    h = jnp.where(fits.any(), h[first], fallback[0])
    w = jnp.where(fits.any(), w[first], fallback[1])
    top = jnp.where(fits.any(), jnp.floor(top_u * (height - h + 1)), jnp.floor((height - h) / 2))
    left = jnp.where(fits.any(), jnp.floor(left_u * (width - w + 1)), jnp.floor((width - w) / 2))
    return top, left, h, w


def _largest_crop(
    height: jax.Array | int, width: jax.Array | int, ratio: Sequence[float]
) -> tuple[jax.Array | int, jax.Array | int]:
    """Height and width of the largest crop of an image with an aspect ratio in range."""
    xp = jnp if isinstance(height, jax.Array) else np
    shape = xp.clip(width / height, ratio[0], ratio[1])
    h = xp.minimum(height, xp.maximum(xp.round(width / shape), 1))
    w = xp.minimum(width, xp.maximum(xp.round(height * shape), 1))
    return h, w


def resized_crop(
    image: jax.Array,
    box: Sequence[jax.Array | float],
    size: int,
    *,
    flip: jax.Array | bool = False,
    partly: bool = False,
) -> jax.Array:
    """A crop of `image` [H, W, C], resized to [size, size, C] with antialiased bilinear weights.

    Two small matrix products; a flip only reverses the column weights.

    Args:
        image: [H, W, C] float32.
        box: (top, left, height, width) of the crop, in pixels.
        size: side of the result.
        flip: whether to mirror it left to right.
        partly: whether the box may begin and end within pixels, which then count by their overlap.
    """
    top, left, height, width = box
    rows = _resize_weights(top, height, image.shape[0], size, partly)
    columns = _resize_weights(left, width, image.shape[1], size, partly)
    columns = jnp.where(flip, columns[::-1], columns)
    image = jnp.einsum("yh,hwc->ywc", rows, image, precision="highest")
    return jnp.einsum("xw,ywc->yxc", columns, image, precision="highest")


def _resize_weights(
    start: jax.Array | float,
    length: jax.Array | float,
    source: int,
    size: int,
    partly: bool = False,
) -> jax.Array:
    """Weights [size, source] of a triangle filter over the pixels from start to start + length."""
    scale = length / size
    centre = start + (jnp.arange(size) + 0.5) * scale
    pixel = jnp.arange(source)
    distance = jnp.abs(pixel[None] + 0.5 - centre[:, None]) / jnp.maximum(scale, 1.0)
    if partly:
        overlap = jnp.minimum(pixel + 1, start + length) - jnp.maximum(pixel, start)
        inside = jnp.clip(overlap, 0.0, 1.0)
    else:
        inside = (pixel >= start) & (pixel < start + length)
    weights = jnp.maximum(1.0 - distance, 0.0) * inside[None]
    return weights / weights.sum(axis=1, keepdims=True)


def turned(u: jax.Array, image: jax.Array, flip_vertical: float, quarter_turns: float) -> jax.Array:
    """An image [S, S, C], perhaps upside down, and perhaps turned by a multiple of 90 degrees.

    Args:
        u: [3] uniform numbers: vertical flip; whether to turn; by which of the three angles.
        image: [S, S, C].
        flip_vertical: probability of a vertical flip, which comes first.
        quarter_turns: probability of a turn, counterclockwise.
    """
    flip, turn, angle = u
    image = jnp.where(flip < flip_vertical, image[::-1], image)
    quarters = jnp.where(turn < quarter_turns, 1 + jnp.floor(3 * angle), 0)
    for count in (1, 2, 3):
        image = jnp.where(quarters == count, jnp.rot90(image, count), image)
    return image


def gaussian_blur(image: jax.Array, sigma: jax.Array | float, taps: int) -> jax.Array:
    """torchvision's GaussianBlur of an image [S, S, C], with reflected borders.

    Two matrix products, like the crop: both accelerators and CPUs run them faster than many shifted
    sums whose weights differ per image.

    Args:
        image: [S, S, C].
        sigma: standard deviation in pixels; 0 returns the image unchanged.
        taps: weights per axis, odd; they sum to one.
    """
    weights = _blur_weights(image.shape[0], sigma, taps)
    image = jnp.einsum("yh,hwc->ywc", weights, image, precision="highest")
    return jnp.einsum("xw,ywc->yxc", weights, image, precision="highest")


def _blur_weights(size: int, sigma: jax.Array | float, taps: int) -> jax.Array:
    """Weights [size, size] of the blur along one axis.

    Row i sums over pixels i - taps // 2 .. i + taps // 2, reflected without repeating the edge.
    """
    i = jnp.arange(size)[:, None]
    j = jnp.arange(size)[None]
    sigma = jnp.maximum(sigma, 1e-3)  # far below a pixel: all weight in the centre

    def tap(offset: jax.Array) -> jax.Array:
        inside = jnp.abs(offset) <= taps // 2
        return jnp.where(inside, jnp.exp(-0.5 * (offset / sigma) ** 2), 0.0)

    near_edge = jnp.where(j > 0, tap(i + j), 0.0)
    far_edge = jnp.where(j < size - 1, tap(2 * (size - 1) - i - j), 0.0)
    mirrored = near_edge + far_edge
    return (tap(i - j) + mirrored) / tap(jnp.arange(-(taps // 2), taps // 2 + 1)).sum()


def colour_jitter(
    u: jax.Array,
    image: jax.Array,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
) -> jax.Array:
    """torchvision's ColorJitter of an image [H, W, C] in 0..1.

    Brightness, contrast and saturation each blend the image, with black, its mean grey and its grey
    version. There are three blend slots before the hue shift and three after it; unused slots blend
    by one. So any order costs six blends and one hue shift. Saturation and hue leave grey images
    unchanged.

    Args:
        u: [8] uniform numbers: order, three factors, hue shift.
        image: [H, W, C] in 0..1.
        brightness, contrast, saturation: factors are drawn from [max(0, 1 - x), 1 + x].
        hue: the shift is drawn from [-hue, hue], in turns.
    """
    order_u, factor_u, (hue_u,) = jnp.split(u, (4, 7))
    order = jnp.argsort(order_u)
    strength = jnp.asarray([brightness, contrast, saturation])
    low = jnp.maximum(1.0 - strength, 0.0)
    high = 1.0 + strength
    factor = low + (high - low) * factor_u
    turn = jnp.argmax(order == 3)
    colour = image.shape[-1] == 3

    def blend(x: jax.Array, slot: int, active: jax.Array) -> jax.Array:
        kind = order[slot]
        grey = _grey(x) if colour else x
        other = jnp.where(kind == 0, 0.0, jnp.where(kind == 1, grey.mean(), grey))
        f = jnp.where(active, factor[kind], 1.0)
        return jnp.clip(f * x + (1.0 - f) * other, 0.0, 1.0)

    for slot in (0, 1, 2):
        image = blend(image, slot, slot < turn)
    if colour and hue:
        image = shift_hue(image, hue * (2.0 * hue_u - 1.0))
    for slot in (1, 2, 3):
        image = blend(image, slot, slot > turn)
    return image


def shift_hue(image: jax.Array, shift: jax.Array | float) -> jax.Array:
    """`image` [H, W, 3] in 0..1 with its HSV hue shifted by `shift`, in turns."""
    r, g, b = image[..., 0], image[..., 1], image[..., 2]
    value = image.max(-1)
    chroma = image.max(-1) - image.min(-1)
    safe = jnp.where(chroma > 0, chroma, 1.0)
    # Compared with each other, as XLA may compute `value` twice and round it differently.
    sixth = jnp.where(
        (r >= g) & (r >= b),
        (g - b) / safe,
        jnp.where(g >= b, 2.0 + (b - r) / safe, 4.0 + (r - g) / safe),
    )
    sixth = sixth / 6.0 + shift
    # Each channel is value minus chroma times a trapezoid of the hue, shifted by thirds of a turn.
    k = jnp.stack([n + 6.0 * sixth for n in (5.0, 3.0, 1.0)], axis=-1) % 6.0
    return value[..., None] - chroma[..., None] * jnp.clip(jnp.minimum(k, 4.0 - k), 0.0, 1.0)


def _grey(image: jax.Array) -> jax.Array:
    """The luma of an image [H, W, 3], in all three channels."""
    luma = jnp.einsum("hwc,c->hw", image, jnp.asarray(_GREY))
    return jnp.broadcast_to(luma[..., None], image.shape)
