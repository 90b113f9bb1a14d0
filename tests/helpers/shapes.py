"""Picture files of several shapes, each of one dark colour, and where they lie on a page."""

import numpy as np
from PIL import Image

# Height and width of a file, and those of what is shown of it when its square is 64 pixels.
SHOWN = {
    (40, 400): (16, 64),  # the middle: over 4:1
    (300, 30): (64, 16),
    (25, 100): (16, 64),
    (48, 36): (64, 48),
    (40, 80): (32, 64),
    (50, 50): (64, 64),
}
SIDE = 64


def write(folder):
    """Writes `a.png`, `b.png`, ... of the shapes of SHOWN, in order."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, (height, width) in enumerate(SHOWN):
        pixels = np.full((height, width, 3), (20 + 20 * i, 10, 100), np.uint8)
        Image.fromarray(pixels).save(folder / f"{chr(97 + i)}.png")


def box(page):
    """(top, left, height, width) of the dark pixels of a page [H, W, 3]."""
    dark = page[..., 1] < 120
    rows = np.flatnonzero(dark.any(1))
    columns = np.flatnonzero(dark.any(0))
    assert dark[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    return rows[0], columns[0], rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
