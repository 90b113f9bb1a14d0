"""Contact sheets: the images of one cluster on a page, or a page with a row per cluster."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ssl_jax.data.channels import shown
from ssl_jax.data.whole import as_seen
from ssl_jax.settings.text import printable

COLUMNS = 6  # of a sheet
ROWS = 4
SIDE = 112  # pixels of an image's longer side
SHARP = 48  # images with a longer side below this many pixels keep hard edges when enlarged
_MARGIN = 16  # pixels around a page
_GAP = 8  # pixels between images
_CAPTION = 18  # pixels of the line below an image
_NOTE = 20  # pixels of the line that says what the captions are
_TEXT = 190  # pixels of the text beside a row
_ENDS = 100  # characters of a longer caption that are looked at, from each end
_INK = (30, 30, 30)
_SOFT = (110, 110, 110)
_PAPER = (255, 255, 255)
_BLANK = (240, 240, 240)
_EDGE = (215, 215, 215)


def heading(cluster: int, name: str = "") -> str:
    """The title of a cluster, for any font: its name, if it has one, and its number."""
    return f"{printable(name)} (cluster {cluster})" if name else f"cluster {cluster}"


def sheet(
    pictures: Sequence[Any],
    captions: Sequence[str],
    title: str,
    subtitle: str = "",
    note: str = "",
) -> Image.Image:
    """A page of images in reading order.

    Args:
        pictures: [n, H, W, C] uint8, or a list of n arrays [H, W, C], n >= 1; or `WholePictures`,
            which get their true proportions back. Of more than three channels the first three are
            shown.
        captions: [n] a short text below each.
        title, subtitle: above them.
        note: below the subtitle: what the captions are.
    """
    columns = min(len(pictures), COLUMNS)
    rows = -(-len(pictures) // COLUMNS)
    top = _MARGIN + 44 + (_NOTE if note else 0)
    page = _page(COLUMNS if rows > 1 else max(columns, 3), rows, left=0, top=top)
    draw = ImageDraw.Draw(page)
    draw.text((_MARGIN, _MARGIN - 4), title, fill=_INK, font=ImageFont.load_default(size=18))
    draw.text((_MARGIN, _MARGIN + 19), subtitle, fill=_SOFT, font=ImageFont.load_default(size=13))
    draw.text((_MARGIN, _MARGIN + 39), note, fill=_SOFT, font=ImageFont.load_default(size=13))
    for i, (picture, caption) in enumerate(zip(pictures, captions)):
        _place(page, picture, caption, i % COLUMNS, i // COLUMNS, left=0, top=top)
    return page


def overview(
    rows: Iterable[tuple[str, Sequence[str], Sequence[Any], Sequence[str]]],
    note: str = "",
) -> Image.Image:
    """A page with one row for each of several groups of images.

    Args:
        rows: (title, lines, pictures, captions) of each row: title and lines stand on the left,
            beside the images; pictures and captions as in `sheet`.
        note: above the rows: what the captions are.
    """
    rows = list(rows)
    columns = max(len(pictures) for _, _, pictures, _ in rows)
    first = _MARGIN + (_NOTE if note else 0)
    page = _page(columns, len(rows), left=_TEXT, top=first)
    draw = ImageDraw.Draw(page)
    draw.text((_MARGIN, _MARGIN - 4), note, fill=_SOFT, font=ImageFont.load_default(size=13))
    for row, (title, lines, pictures, captions) in enumerate(rows):
        top = first + row * (SIDE + _CAPTION + _GAP)
        _row_title(draw, top, title)
        for i, line in enumerate(lines):
            text = _shortened(draw, line, _TEXT - _GAP)
            font = ImageFont.load_default(size=12)
            draw.text((_MARGIN, top + 30 + 18 * i), text, fill=_SOFT, font=font)
        for column, (picture, caption) in enumerate(zip(pictures, captions)):
            _place(page, picture, caption, column, row, left=_TEXT, top=first)
    return page


def _page(columns: int, rows: int, left: int, top: int) -> Image.Image:
    width = 2 * _MARGIN + left + columns * (SIDE + _GAP) - _GAP
    height = top + rows * (SIDE + _CAPTION + _GAP) + _MARGIN - _GAP
    return Image.new("RGB", (width, height), _PAPER)


def _place(
    page: Image.Image,
    picture: Any,
    caption: str,
    column: int,
    row: int,
    left: int,
    top: int,
) -> None:
    """Draws an image and its caption in a cell of the page."""
    x = _MARGIN + left + column * (SIDE + _GAP)
    y = top + row * (SIDE + _CAPTION + _GAP)
    draw = ImageDraw.Draw(page)
    draw.rectangle((x - 1, y - 1, x + SIDE, y + SIDE), fill=_BLANK, outline=_EDGE)
    image = fitted(picture, SIDE)
    page.paste(image, (x + (SIDE - image.width) // 2, y + (SIDE - image.height) // 2))
    font = ImageFont.load_default(size=12)
    caption = shortened_inside(draw, caption, SIDE)
    draw.text((x + SIDE / 2, y + SIDE + 2), caption, fill=_SOFT, font=font, anchor="ma")


def fitted(picture: Any, side: int) -> Image.Image:
    """The image with its longer side at `side` pixels; a very small one by an integer factor."""
    image = Image.fromarray(np.ascontiguousarray(shown(as_seen(picture))))
    longest = max(image.size)
    if longest < SHARP:
        factor = side // longest
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    width, height = (max(1, round(length * side / longest)) for length in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def retitled(page: Image.Image, title: str) -> Image.Image:
    """A page that `sheet` drew, with another title."""
    draw = ImageDraw.Draw(page)
    draw.rectangle((0, 0, page.width, _MARGIN + 17), fill=_PAPER)
    draw.text((_MARGIN, _MARGIN - 4), title, fill=_INK, font=ImageFont.load_default(size=18))
    return page


def retitled_rows(page: Image.Image, titles: Iterable[str]) -> Image.Image:
    """A page that `overview` drew with a note, with other titles of its rows."""
    draw = ImageDraw.Draw(page)
    for row, title in enumerate(titles):
        top = _MARGIN + _NOTE + row * (SIDE + _CAPTION + _GAP)
        draw.rectangle((0, top, _MARGIN + _TEXT - _GAP - 1, top + 29), fill=_PAPER)
        _row_title(draw, top, title)
    return page


def _row_title(draw: ImageDraw.ImageDraw, top: int, title: str) -> None:
    """Draws the title of a row of an overview, cut to the space beside the images."""
    font = ImageFont.load_default(size=16)
    draw.text((_MARGIN, top + 6), _shortened(draw, title, _TEXT, 16), fill=_INK, font=font)


def shortened_inside(draw: ImageDraw.ImageDraw, text: str, width: int) -> str:
    """`text` of a caption in at most so many pixels, "…" in place of its middle if need be.

    The similarity at its start and the number and ending of a file name at its end remain.
    """
    font = ImageFont.load_default(size=12)
    if len(text) > 2 * _ENDS:
        text = text[:_ENDS] + text[-_ENDS:]
    short = text
    kept = len(text)
    while kept > 2 and draw.textlength(short, font=font) > width:
        kept -= 1
        start = (kept + 1) // 2
        short = f"{text[:start]}…{text[len(text) - kept + start :]}"
    return short


def _shortened(draw: ImageDraw.ImageDraw, text: str, width: int, size: int = 12) -> str:
    """`text` of a font size cut to a width in pixels."""
    font = ImageFont.load_default(size=size)
    while len(text) > 1 and draw.textlength(text, font=font) > width - _MARGIN:
        text = text[:-2].rstrip() + "…"
    return text
