"""How close the views of photographs come to those of the papers, recipe by recipe.

    python experiments/crops.py [--write] [--images a.jpg b.jpg] [--crops 100]

torchvision cuts a crop out of the original picture and resizes it; we cut it out of a stored
square. For each recipe and view, on pictures of 375x500 (height x width), ImageNet's typical size,
and of their own size, prints

    enlarged     share of crops that have fewer pixels than the view: cut out of the original, out
                 of the whole picture as stored at the recipe's `data.size`, and out of the central
                 square as it was stored before (`data.keep=centre`)
    difference   grey levels (0..255) between our view, without colours, and torchvision's result
                 (Pillow's crop and bilinear resize of the original): mean over all crops, and the
                 crop with the largest mean; of whole pictures and of central squares, whose crops
                 are drawn inside the square

`--write` puts the table into docs/data.md. Without `--images` the photographs are `china.jpg` and
`flower.jpg` of scikit-learn.
"""

import argparse
import dataclasses
import functools
import runpy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from ssl_jax.data import decode
from ssl_jax.data.augment import View, crop_box, draw_view
from ssl_jax.settings.automatic import ImageFacts, resolved
from ssl_jax.settings.whole_config import completed
from ssl_jax.stages import named_views

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "data.md"
BEGIN = "<!-- crops: python experiments/crops.py --write -->"
END = "<!-- end of crops -->"
# Name, config, variant, and side of the central square that was stored before.
RECIPES = (
    ("SwAV, ImageNet", "swav", "imagenet", 256),
    ("BYOL, ImageNet", "byol", "imagenet", 256),
    ("MoCo v2, ImageNet", "moco", "imagenet", 256),
    ("CoNR, ImageNet-10", "conr", "imagenet10", 96),
    ("CoNR, ImageNet-Dogs", "conr", "imagenet_dogs", 256),
    ("SwAV, `:folder`", "swav", "folder", 128),
)
TYPICAL = (375, 500)  # height and width
BOXES = 10_000  # crops drawn for the shares
NUMBERS = 36  # uniform numbers of a view, of which the crop takes the first 22
PLAIN = dict(flip=0.0, jitter=0.0, grayscale=0.0, blur=0.0, solarize=0.0)


@dataclasses.dataclass(frozen=True)
class Case:
    """The views of a recipe that have one size.

    Attributes:
        recipe: its name in the table.
        side: `data.size`.
        before: side of the central square that was stored before.
        view: how the crops are drawn; without flips and colours.
    """

    recipe: str
    side: int
    before: int
    view: View


def cases() -> Iterator[Case]:
    """Every recipe with each of its views, those of one size and scale once."""
    for name, config, variant, before in RECIPES:
        make = runpy.run_path(str(ROOT / "configs" / f"{config}.py"))["get_config"]
        settings = completed(make(variant))
        side = settings["data"]["size"]
        settings, _ = resolved(settings, ImageFacts(count=10_000, classes=10, side=side))
        views = [dataclasses.replace(v, **PLAIN) for v in named_views(settings["augment"]).values()]
        alone = {(view.size, view.scale): view for view in views}
        for view in alone.values():
            yield Case(name, side, before, view)


def boxes(uniform: jax.Array, shape: tuple[int, int], view: View) -> np.ndarray:
    """Crops [N, 4] (top, left, height, width) of a picture of `shape`, from numbers [N, 36]."""
    draw = functools.partial(crop_box, shape=shape, scale=view.scale, ratio=view.ratio)
    return np.stack(jax.vmap(draw)(uniform[:, :22]), axis=1)


def enlarged(crops: np.ndarray, size: int, kept: tuple[float, float] = (1.0, 1.0)) -> float:
    """Share of crops that have fewer pixels than the view.

    Args:
        crops: [N, 4].
        size: side of the view.
        kept: pixels that are stored of each pixel of a column and of a row; at most 1.
    """
    sides = crops[:, 2:] * np.minimum(kept, 1.0)
    return float((sides.prod(axis=1) < size**2).mean())


@functools.partial(jax.jit, static_argnums=0)
def drawn(view: View, uniform: jax.Array, image: Any) -> jax.Array:
    """Views [N, size, size, 3] in 0..1 of one image, from numbers [N, 36]."""
    return jax.vmap(lambda numbers: draw_view(numbers, image, view))(uniform)


def differences(
    photograph: Image.Image, case: Case, uniform: jax.Array
) -> tuple[np.ndarray, np.ndarray]:
    """Mean absolute difference of each crop [N] from torchvision's, in grey levels.

    Returns:
        of crops out of the whole picture, and out of the central square stored before.
    """
    width, height = photograph.size
    stored = decode.square(photograph, case.side, keep="whole")
    if not (stored.sizes == stored.sizes[0]).all():
        crops = boxes(uniform, (height, width), case.view)
        views = drawn(case.view, uniform, jax.tree.map(jnp.asarray, stored))
    else:
        crops = boxes(uniform, stored.shape[:2], case.view) * (height / case.side)
        views = drawn(case.view, uniform, jnp.asarray(stored.pixels))
    now = [_difference(photograph, *pair) for pair in zip(crops, np.asarray(views))]
    square = decode.square(photograph, case.before, keep="centre")
    short = min(width, height)
    crops = boxes(uniform, (case.before, case.before), case.view) * (short / case.before)
    crops[:, :2] += (height - short) / 2, (width - short) / 2
    views = np.asarray(drawn(case.view, uniform, jnp.asarray(square)))
    before = [_difference(photograph, *pair) for pair in zip(crops, views)]
    return np.array(now), np.array(before)


def _difference(photograph: Image.Image, crop: np.ndarray, view: np.ndarray) -> float:
    """Between a view [size, size, 3] in 0..1 and torchvision's of the same crop."""
    top, left, height, width = map(float, crop)
    size = (len(view), len(view))
    if (crop == np.round(crop)).all():
        part = photograph.crop((left, top, left + width, top + height))
        theirs = part.resize(size, Image.Resampling.BILINEAR)
    else:  # of squares that were stored at another scale
        box = (left, top, min(left + width, photograph.width), min(top + height, photograph.height))
        theirs = photograph.resize(size, Image.Resampling.BILINEAR, box=box)
    return float(np.abs(255 * view - np.asarray(theirs, np.float32)).mean())


def rows(photographs: Sequence[Image.Image], kind: str, count: int) -> Iterator[str]:
    """Rows of the table, one for each view of each recipe.

    Args:
        photographs: all of one size.
        kind: what they are, for the first column.
        count: crops of each that are compared.
    """
    width, height = photographs[0].size
    for case in cases():
        size = case.view.size
        numbers = jax.random.uniform(jax.random.key(0), (BOXES, NUMBERS))
        crops = boxes(numbers, (height, width), case.view)
        squares = boxes(numbers, (case.before, case.before), case.view)
        kept = (case.side / height, case.side / width)
        shares = [
            enlarged(crops, size),
            enlarged(crops, size, kept),
            enlarged(squares, size, (min(height, width) / case.before,) * 2),
        ]
        both = [differences(photograph, case, numbers[:count]) for photograph in photographs]
        now, before = (np.concatenate(values) for values in zip(*both))
        cells = [
            kind,
            case.recipe,
            f"{size}",
            *(f"{share:.0%}".replace("%", " %") for share in shares),
            f"{now.mean():.1f}, {now.max():.1f}",
            f"{before.mean():.1f}, {before.max():.1f}",
        ]
        yield f"| {' | '.join(cells)} |"


def table(photographs: Sequence[Image.Image], count: int) -> Iterator[str]:
    """Lines of the whole table."""
    yield (
        "| pictures | recipe | view | enlarged: from the original | from `data.size` | before | "
        "difference: mean, worst | before |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    height, width = TYPICAL
    typical = [
        p.resize((width, height) if p.width >= p.height else (height, width), Image.BICUBIC)
        for p in photographs
    ]
    for group in (typical, photographs):
        for shape in sorted({p.size for p in group}):
            alike = [p for p in group if p.size == shape]
            yield from rows(alike, f"{shape[1]}x{shape[0]}", count)


def photographs_of(paths: Sequence[str]) -> list[Image.Image]:
    """The pictures to crop, in colour and upright."""
    if not paths:
        from sklearn.datasets import load_sample_image

        arrays = [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
        return [Image.fromarray(array) for array in arrays]
    pictures = []
    for path in paths:
        pixels = decode.decode(decode.contents(path))
        pictures.append(Image.fromarray(pixels))
    return pictures


def write(lines: Sequence[str]) -> None:
    """Replaces the table in docs/data.md."""
    text = PAGE.read_text("utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"error: {PAGE} has no place for the table, between {BEGIN} and {END}")
    PAGE.write_text("\n".join([before + BEGIN, *lines, END]) + after, "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", nargs="*", default=[], help="photographs of your own")
    parser.add_argument("--crops", type=int, default=100, help="crops of each that are compared")
    parser.add_argument("--write", action="store_true", help="put the table into docs/data.md")
    args = parser.parse_args()
    lines = list(table(photographs_of(args.images), args.crops))
    print("\n".join(lines))
    if args.write:
        write(lines)


if __name__ == "__main__":
    main()
