"""Whole pictures of any shape as squares of one size, each with its true height and width.

Without JAX, as worker processes that decode pictures need none.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import numpy as np
from PIL import Image

LONGEST = 4  # times the short side: longer pictures keep their central part


@dataclasses.dataclass(frozen=True, eq=False)
class WholePictures:
    """N pictures [N, S, S, C], each squeezed into a square, and what it takes to undo that.

    Indexed like an array, by rows: `pictures[rows]` are `WholePictures`, `pictures[row]` is one of
    them, of pixels [S, S, C] and size [2]. A pytree (registered in data/augment.py), so that it
    goes to devices and through `jit` and `vmap`. Deliberately no array: whoever reads the pixels
    must also mind the sizes.

    Attributes:
        pixels: uint8 [N, S, S, C]: a numpy array, a memory map, or on a device.
        sizes: float32 [N, 2]: true height and width in pixels. Those of a square picture are S, as
            its crops need no other geometry. Of pictures over `LONGEST` times as long as wide, the
            pixels show the middle alone; `geometry` minds that.
    """

    pixels: Any
    sizes: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return self.pixels.shape

    @property
    def ndim(self) -> int:
        return len(self.pixels.shape)

    @property
    def dtype(self) -> Any:
        return self.pixels.dtype

    @property
    def nbytes(self) -> int:
        return self.pixels.nbytes + self.sizes.nbytes

    @property
    def all_square(self) -> bool:
        """Whether no picture needs its true size, as all are square."""
        return bool((self.sizes[:, 0] == self.sizes[:, 1]).all())

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, rows: Any) -> "WholePictures":
        return WholePictures(self.pixels[rows], self.sizes[rows])

    def __iter__(self) -> Iterator["WholePictures"]:  # rows beyond the last are no error in JAX
        return (self[row] for row in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NoReturn:
        raise TypeError(
            "pictures of several shapes are no array; pictures[0].as_seen() is the first to look "
            "at, pictures.pixels are their squeezed squares"
        )

    def as_seen(self) -> np.ndarray:
        """One picture to look at, as an array; for those who cannot import the function below."""
        return as_seen(self)


def pixels_of(images: Any) -> Any:
    """The pixels [..., H, W, C] of images, or squares [..., S, S, C] if they are whole pictures."""
    return images.pixels if isinstance(images, WholePictures) else images


def with_pixels(images: Any, function: Callable[[Any], Any]) -> Any:
    """`function` of the pixels of images, whose true sizes stay as they are."""
    if isinstance(images, WholePictures):
        return dataclasses.replace(images, pixels=function(images.pixels))
    return function(images)


def geometry(image: Any) -> tuple[Any, Any]:
    """Height and width of what one image [H, W, C] shows, in the pixels of its file."""
    if not isinstance(image, WholePictures):
        height, width = image.shape[:2]
        return height, width
    height = image.sizes[0]
    width = image.sizes[1]
    minimum = np.minimum
    if not isinstance(image.sizes, np.ndarray):
        import jax.numpy as jnp

        minimum = jnp.minimum
    return minimum(height, LONGEST * width), minimum(width, LONGEST * height)


def note_on_cut(sizes: np.ndarray, of: str = "") -> tuple[str, ...]:
    """A sentence on pictures of which only the middle is kept, if there are any.

    Args:
        sizes: [N, 2] true heights and widths.
        of: what the N pictures are, if they are not all ("2,000 images looked at").
    """
    count = int((sizes.max(axis=1) > LONGEST * sizes.min(axis=1)).sum())
    if not count:
        return ()
    have = "1 image" if count == 1 else f"{count:,} images"
    if of:
        have = f"{count:,} of {of}"
    return (
        f"{have} {'is' if count == 1 else 'are'} over {LONGEST} times as long as wide; only the "
        "middle is kept",
    )


def kept_part(width: int, height: int) -> tuple[float, float, float, float]:
    """The box (left, top, right, bottom) of a picture that is kept: all of it, or its middle.

    The long side is cut to `LONGEST` times the short one.
    """
    right = min(width, LONGEST * height)
    bottom = min(height, LONGEST * width)
    left = (width - right) / 2
    top = (height - bottom) / 2
    return left, top, left + right, top + bottom


def as_seen(image: Any) -> np.ndarray:
    """One image uint8 [H, W, C] to look at: a whole picture gets its true proportions back.

    Its longer side becomes S pixels, that of the square. Other images are returned as they are.
    """
    if not isinstance(image, WholePictures):
        return np.asarray(image)
    pixels = np.asarray(image.pixels)
    height, width = geometry(image)
    if height == width:
        return pixels
    side = len(pixels)
    shrink = side / max(height, width)
    shape = (max(round(width * shrink), 1), max(round(height * shrink), 1))
    bands = []
    for i in range(pixels.shape[-1]):
        band = Image.fromarray(np.ascontiguousarray(pixels[..., i]))
        bands.append(np.asarray(band.resize(shape, Image.Resampling.BICUBIC)))
    return np.stack(bands, axis=-1)
