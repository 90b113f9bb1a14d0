"""Contact sheets: the pictures of a cluster on one page, and of many clusters a row each."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

COLUMNS, ROWS = 6, 4  # of a sheet
SIDE, SHARP = 112, 48  # pixels: side of a picture on a page; smaller ones below this keep hard edges
_MARGIN, _GAP, _CAPTION, _TEXT = 16, 8, 18, 190  # pixels: around, between, a line below a picture, beside a row
_INK, _SOFT, _PAPER, _BLANK, _EDGE = (((v,) * 3) for v in (30, 110, 255, 240, 215))


def sheet(pictures, captions, title: str, subtitle: str = "") -> Image.Image:
    """A page of pictures in reading order.

    Args:
        pictures: [n, H, W, C] uint8 or as many arrays, at least one; C is 1 or 3.
        captions: [n] a short text below each.
        title, subtitle: above them.
    """
    across, down = min(len(pictures), COLUMNS), -(-len(pictures) // COLUMNS)
    top = _MARGIN + 44
    page = _page(COLUMNS if down > 1 else max(across, 3), down, left=0, top=top)
    draw = ImageDraw.Draw(page)
    draw.text((_MARGIN, _MARGIN - 4), title, fill=_INK, font=ImageFont.load_default(size=18))
    draw.text((_MARGIN, _MARGIN + 19), subtitle, fill=_SOFT, font=ImageFont.load_default(size=13))
    for i, (picture, caption) in enumerate(zip(pictures, captions)):
        _place(page, picture, caption, i % COLUMNS, i // COLUMNS, left=0, top=top)
    return page


def overview(rows) -> Image.Image:
    """A page with a row for each of several groups of pictures.

    Args:
        rows: (title, lines, pictures, captions) of each: texts on the left, then its pictures as in `sheet`.
    """
    rows = list(rows)
    page = _page(max(len(pictures) for _, _, pictures, _ in rows), len(rows), left=_TEXT, top=_MARGIN)
    draw, step = ImageDraw.Draw(page), SIDE + _CAPTION + _GAP
    for number, (title, lines, pictures, captions) in enumerate(rows):
        top = _MARGIN + number * step
        draw.text((_MARGIN, top + 6), title, fill=_INK, font=ImageFont.load_default(size=16))
        for i, line in enumerate(lines):
            text = _shortened(draw, line, _TEXT - _GAP)
            draw.text((_MARGIN, top + 30 + 18 * i), text, fill=_SOFT, font=ImageFont.load_default(size=12))
        for column, (picture, caption) in enumerate(zip(pictures, captions)):
            _place(page, picture, caption, column, number, left=_TEXT, top=_MARGIN)
    return page


def _page(across, down, left, top):
    width = 2 * _MARGIN + left + across * (SIDE + _GAP) - _GAP
    return Image.new("RGB", (width, top + down * (SIDE + _CAPTION + _GAP) + _MARGIN - _GAP), _PAPER)


def _place(page, picture, caption, column, row, left, top):
    x, y = _MARGIN + left + column * (SIDE + _GAP), top + row * (SIDE + _CAPTION + _GAP)
    draw, small = ImageDraw.Draw(page), _fitted(picture)
    draw.rectangle((x - 1, y - 1, x + SIDE, y + SIDE), fill=_BLANK, outline=_EDGE)
    page.paste(small, (x + (SIDE - small.width) // 2, y + (SIDE - small.height) // 2))
    font = ImageFont.load_default(size=12)
    draw.text((x + SIDE / 2, y + SIDE + 2), caption, fill=_SOFT, font=font, anchor="ma")


def _fitted(picture):
    """The picture with its longer side at SIDE; very small ones enlarged by whole numbers, with hard edges."""
    picture = np.asarray(picture)
    image = Image.fromarray(np.repeat(picture, 3 // picture.shape[-1], axis=-1))
    longest = max(image.size)
    if longest < SHARP:
        factor = SIDE // longest
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    size = (max(1, round(length * SIDE / longest)) for length in image.size)
    return image.resize(tuple(size), Image.Resampling.LANCZOS)


def _shortened(draw, text, width):
    font = ImageFont.load_default(size=12)
    while len(text) > 1 and draw.textlength(text, font=font) > width - _MARGIN:
        text = text[:-2].rstrip() + "…"
    return text
