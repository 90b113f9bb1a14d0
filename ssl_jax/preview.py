"""Draws the augmentations of a config.

    python -m ssl_jax.preview --config=configs/swav.py:cifar10

Says what is read, and writes a PNG grid with one row per image: the stored image, then its views.
Whole pictures, which are stored as squares, are drawn in their true proportions. Small views are
drawn small; everything is enlarged by an integer factor until the largest view is easy to see.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from PIL import Image, ImageDraw, ImageFont

from ssl_jax.build import completed, fitted, load_data
from ssl_jax.data import channels as channels_of
from ssl_jax.data.augment import View, draw_views
from ssl_jax.data.whole import WholePictures, as_seen
from ssl_jax.runs import data_record
from ssl_jax.runtime import command
from ssl_jax.settings import command_line
from ssl_jax.settings.paths import check_writable, user_path
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable
from ssl_jax.stages import views_of

OUT = flags.DEFINE_string("out", "preview.png", "PNG file to write.")
IMAGES = flags.DEFINE_integer(
    "images", 8, "Number of images (rows), spread evenly over the training set.", lower_bound=1
)

# All in pixels.
_MIN_SIDE = 96  # of the largest view
_GAP = 4  # between cells
_TOP = 18  # height of the headings


def grid(images: Any, views: tuple[View, ...], key: jax.Array, names: Sequence[str]) -> np.ndarray:
    """The picture, uint8 [height, width, 3].

    Args:
        images: [n, H, W, C] uint8, or `WholePictures`, drawn in their true proportions; of more
            than three bands, the first three are drawn.
        views: settings of the views, largest first.
        key: random key of the views.
        names: a heading for each view.
    """
    channels = images.shape[-1]
    drawn = jax.jit(draw_views, static_argnums=(2, 3, 4))(
        key, images, views, (0.0,) * channels, (1.0,) * channels
    )
    pixels = [np.asarray(np.clip(v, 0, 1) * 255 + 0.5, np.uint8) for v in drawn]
    factor = max(1, -(-_MIN_SIDE // views[0].size))
    stored = [as_seen(images[row]) for row in range(len(images))]
    columns = [[_enlarged(cell, factor) for cell in column] for column in (stored, *pixels)]
    height = max(cell.shape[0] for column in columns for cell in column) + _GAP
    widths = [max(cell.shape[1] for cell in column) + _GAP for column in columns]
    heading = f"stored {images.shape[1]}"
    if isinstance(images, WholePictures):
        heading += ", whole"  # perhaps wider than all pictures: upright strips
        widths[0] = max(widths[0], math.ceil(_font().getlength(heading)) + 2 * _GAP)
    canvas = np.full((_TOP + len(images) * height, sum(widths) + _GAP, 3), 255, np.uint8)
    lefts = _GAP + np.cumsum([0, *widths[:-1]])
    for left, column in zip(lefts, columns):
        for row, cell in enumerate(column):
            top = _TOP + row * height
            canvas[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    return _headed(canvas, lefts, [heading, *names])


def _enlarged(image: np.ndarray, factor: int) -> np.ndarray:
    """An image [H, W, C] in colour, each pixel a square of `factor` pixels."""
    return channels_of.shown(image.repeat(factor, 0).repeat(factor, 1))


def _headed(canvas: np.ndarray, lefts: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """The canvas with a heading at the top of each column."""
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    for left, name in zip(lefts, names):
        draw.text((int(left), 2), name, fill=(0, 0, 0), font=_font())
    return np.asarray(picture)


def _font() -> Any:
    return ImageFont.load_default(size=12)


def main() -> None:
    out = user_path(OUT.value, "--out")
    if out.suffix.lower() != ".png" or not out.absolute().parent.is_dir():
        raise SettingError(f"--out={out}: give a .png file in an existing folder")
    check_writable(out, "--out")
    config = completed(command_line.CONFIG.value)
    dataset = load_data(config, trains=True)
    print(data_record.sentence(dataset, config["data"]["limit"]), flush=True)
    config, notes = fitted(config, dataset)
    for note in (*dataset.notes, *notes):
        print(printable(note), flush=True)
    views = views_of(config["augment"])
    images = dataset.train.images
    rows = np.linspace(0, len(images) - 1, min(IMAGES.value, len(images)), dtype=int)
    names = [f"view {v.size}" for v in views for _ in range(v.count)]
    picture = grid(images[rows], views, jax.random.key(config["seed"]), names)
    try:
        Image.fromarray(picture).save(out)
    except OSError as error:
        raise SettingError(f"--out={out} cannot be written ({error.strerror})") from error
    print(f"wrote {out}: {len(rows)} images of {config['data']['name']}, {len(names)} views each")


if __name__ == "__main__":
    command.start(main)
