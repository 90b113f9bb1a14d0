"""The pictures and boxes of PASCAL VOC, from the official folders.

VOCdevkit/VOC2007/Annotations/000001.xml
VOCdevkit/VOC2007/ImageSets/Main/trainval.txt, test.txt
VOCdevkit/VOC2007/JPEGImages/000001.jpg
VOCdevkit/VOC2012/...                            (trainval alone)
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
TRAIN = {
    "voc07": (("VOC2007", "trainval"),),
    "voc07+12": (("VOC2007", "trainval"), ("VOC2012", "trainval")),
}
TEST = (("VOC2007", "test"),)


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
    """A picture and its objects.

    Attributes:
        path: of the JPEG.
        width, height: of the picture in pixels.
        boxes: [N, 4] float32, x1, y1, x2, y2 in pixels from the upper left corner, (0, 0); a box
            covers x2 - x1 times y2 - y1 pixels.
        labels: [N] int64, places in `CLASSES`.
        difficult: [N] bool, objects that scores leave out.
        cut: how many boxes reached beyond the picture, and were cut at its border.
    """

    path: Path
    width: int
    height: int
    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray
    cut: int = 0


def read(root: Path, sets: Sequence[tuple[str, str]]) -> tuple[Picture, ...]:
    """The pictures of some sets, in the order of their lists.

    The headers of all pictures are read, too, so that a damaged folder is an error before any
    training.

    Args:
        root: the folder VOCdevkit.
        sets: (year's folder, name of the list), such as ("VOC2007", "trainval").

    Raises:
        SettingError: a folder, list, picture or annotation is missing or cannot be used.
    """
    if not root.is_dir():
        raise SettingError(f"--voc={printable(root)}: no such folder")
    for year, _ in sets:
        if not (root / year).is_dir():
            raise SettingError(f"--voc={printable(root)} has no folder {year}{_advice(root, year)}")
    return tuple(
        _picture(root / year, name) for year, listed in sets for name in _names(root / year, listed)
    )


def _advice(root: Path, year: str) -> str:
    """Where the year's folder may be instead."""
    for folder in (root / "VOCdevkit", root.parent):
        if (folder / year).is_dir():
            return f"; give --voc={printable(folder)}"
    return "; give the folder VOCdevkit, which holds VOC2007 and VOC2012"


def _names(year: Path, listed: str) -> list[str]:
    """The names of pictures in a list."""
    path = year / "ImageSets" / "Main" / f"{listed}.txt"
    names = [line.split()[0] for line in _text(path).splitlines() if line.strip()]
    if not names:
        raise SettingError(f"{path} lists no pictures")
    return names


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise SettingError(f"{printable(path)}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingError(f"{printable(path)} is not text in UTF-8") from error


def _picture(year: Path, name: str) -> Picture:
    """A picture of a list, with the objects of its annotation."""
    from PIL import Image

    path = year / "JPEGImages" / f"{name}.jpg"
    try:
        with Image.open(path) as image:
            width, height = image.size
    except OSError as error:
        reason = error.strerror or "not a picture"
        raise SettingError(f"{printable(path)}: {reason}") from error
    annotation = year / "Annotations" / f"{name}.xml"
    try:
        root = ElementTree.fromstring(_text(annotation))
    except ElementTree.ParseError as error:
        raise SettingError(f"{printable(annotation)} is not XML ({error})") from error
    objects = root.findall("object")
    boxes = [_box(item, annotation, width, height) for item in objects]
    return Picture(
        path=path,
        width=width,
        height=height,
        boxes=np.asarray([box for box, _ in boxes], np.float32).reshape(-1, 4),
        labels=np.asarray([_label(item, annotation) for item in objects], np.int64),
        difficult=np.asarray([_is_difficult(item, annotation) for item in objects], bool),
        cut=sum(was_cut for _, was_cut in boxes),
    )


def _label(item: ElementTree.Element, annotation: Path) -> int:
    name = (item.findtext("name") or "").strip()
    if name not in CLASSES:
        raise SettingError(
            f"{annotation}: an object is called {printable(name)!r}; VOC has the classes "
            f"{', '.join(CLASSES)}"
        )
    return CLASSES.index(name)


def _is_difficult(item: ElementTree.Element, annotation: Path) -> bool:
    text = (item.findtext("difficult") or "0").strip()
    if text not in ("0", "1"):
        raise SettingError(f"{annotation}: difficult is {printable(text)!r}; give 0 or 1")
    return text == "1"


def _box(
    item: ElementTree.Element, annotation: Path, width: int, height: int
) -> tuple[tuple[float, float, float, float], bool]:
    """An object's box, and whether it was cut at the picture's border.

    VOC counts pixels from 1, and both ends belong to a box.
    """
    values = []
    for side in ("xmin", "ymin", "xmax", "ymax"):
        text = (item.findtext(f"bndbox/{side}") or "").strip()
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise SettingError(f"{annotation}: {side} of an object is {printable(text)!r}")
        values.append(value)
    x1, y1, x2, y2 = values[0] - 1, values[1] - 1, values[2], values[3]
    inside = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
    if not (inside[0] < inside[2] and inside[1] < inside[3]):
        numbers = ", ".join(f"{value:g}" for value in values)
        raise SettingError(
            f"{annotation}: the box {numbers} (xmin, ymin, xmax, ymax, from 1) is empty or outside "
            f"the picture of {width}x{height} pixels"
        )
    return inside, inside != (x1, y1, x2, y2)
