"""A folder as PASCAL VOC's, of a few made-up pictures: rectangles of a class's colour on noise."""

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"cat": (220, 40, 40), "dog": (40, 60, 220), "train": (240, 220, 30)}
SHAPES = ((64, 96), (80, 64), (72, 72))


def _xml(name, height, width, objects):
    """An annotation; objects are (class, box from 1 with both ends, difficult)."""
    parts = [
        f"<annotation><filename>{name}.jpg</filename><size><width>{width}</width>"
        f"<height>{height}</height><depth>3</depth></size>"
    ]
    for label, box, difficult in objects:
        ends = "".join(
            f"<{side}>{value}</{side}>"
            for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box)
        )
        parts.append(
            f"<object><name>{label}</name><difficult>{int(difficult)}</difficult>"
            f"<bndbox>{ends}</bndbox></object>"
        )
    return "\n".join([*parts, "</annotation>"])


def write(year: Path, listed: str, pictures: dict) -> None:
    """Writes pictures, name -> (pixels [H, W, 3], objects), and the list of them."""
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (year / folder).mkdir(parents=True, exist_ok=True)
    for name, (pixels, objects) in pictures.items():
        Image.fromarray(pixels).save(year / "JPEGImages" / f"{name}.jpg", quality=95)
        text = _xml(name, *pixels.shape[:2], objects)
        (year / "Annotations" / f"{name}.xml").write_text(text)
    lines = "".join(f"{name}\n" for name in pictures)
    (year / "ImageSets" / "Main" / f"{listed}.txt").write_text(lines)


def rectangles(count: int, seed: int, first: int = 1) -> dict:
    """Pictures of one or two rectangles each; every fourth object is difficult."""
    rng = np.random.default_rng(seed)
    pictures = {}
    for i in range(count):
        height, width = SHAPES[i % len(SHAPES)]
        pixels = rng.integers(90, 160, (height, width, 3), dtype=np.uint8)
        objects = []
        for half in range(1 + i % 2):  # one in the left half, one in the right
            label = list(COLOURS)[(i + half) % len(COLOURS)]
            size = rng.integers(20, 30, 2)
            x = half * width // 2 + rng.integers(0, 3)
            y = rng.integers(0, height - 30)
            pixels[y : y + size[1], x : x + size[0]] = COLOURS[label]
            box = (x + 1, y + 1, x + size[0], y + size[1])
            objects.append((label, box, (2 * i + half) % 4 == 3))
        pictures[f"{first + i:06d}"] = (pixels, objects)
    return pictures


def made_voc(root: Path, train: int = 6, test: int = 4) -> Path:
    """The folder VOCdevkit, with VOC2007 and VOC2012."""
    write(root / "VOC2007", "trainval", rectangles(train, 0))
    write(root / "VOC2007", "test", rectangles(test, 1, first=1 + train))
    write(root / "VOC2012", "trainval", rectangles(train, 2))
    return root
