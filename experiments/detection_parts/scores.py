"""Average precision of detections: COCO's, through pycocotools, and PASCAL VOC's of 2007.

Difficult objects are left out, as VOC asks: not finding one costs nothing, and a detection whose
object is a difficult one counts neither as right nor as wrong, however many such there are. For
COCO's average this is `iscrowd`, but with the ordinary overlap (intersection over union; for a
crowd COCO divides by the detection's area alone, which would forgive small boxes inside).

COCO's average takes precision at 101 recalls, VOC's of 2007 at 11. Published numbers of VOC07's
test images are mostly the latter, which Detectron2 uses for all three. Boxes are x1, y1, x2, y2
and cover x2 - x1 times y2 - y1 pixels, which are VOC's own areas (see `voc`).
"""

import contextlib
import dataclasses
import io
from collections.abc import Mapping, Sequence

import numpy as np
from detection_parts.voc import CLASSES, Picture

THRESHOLDS = np.linspace(0.5, 0.95, 10)
_MOST = 100  # detections of a picture that count, the best, as in COCO


@dataclasses.dataclass(frozen=True, eq=False)
class Detections:
    """What was detected in a picture.

    Attributes:
        boxes: [D, 4] x1, y1, x2, y2 in pixels.
        labels: [D] places in `voc.CLASSES`.
        scores: [D], higher is surer.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray


def scores(
    pictures: Sequence[Picture], detections: Sequence[Detections]
) -> tuple[dict[str, float], dict[str, float]]:
    """All averages, and COCO's AP50 of each class, as fractions.

    Args:
        pictures: the test pictures.
        detections: of each picture.

    Returns:
        Means over the classes that have objects: "AP50", "AP" (mean over overlaps of 0.5 to 0.95)
        and "AP75" as COCO averages, "voc/AP50", ... as VOC of 2007 does; and "AP50" by class.
    """
    coco = coco_precision(pictures, detections)
    voc = voc_precision(pictures, detections)
    numbers = _means(coco) | {f"voc/{name}": value for name, value in _means(voc).items()}
    return numbers, {name: float(values[0]) for name, values in coco.items()}


def _means(by_class: Mapping[str, np.ndarray]) -> dict[str, float]:
    """AP50, AP and AP75 from the averages [10] of each class at each of `THRESHOLDS`."""
    if not by_class:
        return dict.fromkeys(("AP50", "AP", "AP75"), 0.0)
    means = np.mean(list(by_class.values()), axis=0)
    return {"AP50": float(means[0]), "AP": float(means.mean()), "AP75": float(means[5])}


def coco_precision(
    pictures: Sequence[Picture], detections: Sequence[Detections]
) -> dict[str, np.ndarray]:
    """COCO's average precision [10] by class, at each of `THRESHOLDS`; classes with objects only.

    pycocotools computes it: precision, made monotone, at 101 recalls.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    class WithoutCrowds(COCOeval):
        """Objects to leave out have the ordinary overlap."""

        def computeIoU(self, imgId, catId):  # noqa: N802, N803, the base class's names
            objects = self._gts[imgId, catId]
            crowds = [item["iscrowd"] for item in objects]
            for item in objects:
                item["iscrowd"] = 0
            overlaps = super().computeIoU(imgId, catId)
            for item, crowd in zip(objects, crowds, strict=True):
                item["iscrowd"] = crowd
            return overlaps

    images = [
        dict(id=i, width=picture.width, height=picture.height)
        for i, picture in enumerate(pictures, start=1)
    ]
    objects = []
    for i, picture in enumerate(pictures, start=1):
        for box, label, left_out in zip(picture.boxes, picture.labels, picture.difficult):
            # A number of 0 would read as "not matched".
            item = _item(i, box, label) | dict(id=len(objects) + 1, iscrowd=int(left_out))
            objects.append(item)
    results = [
        _item(i, box, label) | dict(score=float(score))
        for i, found in enumerate(detections, start=1)
        for box, label, score in zip(found.boxes, found.labels, found.scores)
    ]
    categories = [dict(id=i, name=name) for i, name in enumerate(CLASSES, start=1)]
    dataset = COCO()
    dataset.dataset = dict(info={}, images=images, annotations=objects, categories=categories)
    with contextlib.redirect_stdout(io.StringIO()):  # it reports its progress
        dataset.createIndex()
        if results:
            given = dataset.loadRes(results)
        else:  # loadRes takes no empty list
            given = COCO()
            given.dataset = dict(dataset.dataset, annotations=[])
            given.createIndex()
        evaluation = WithoutCrowds(dataset, given, "bbox")
        evaluation.params.iouThrs = THRESHOLDS
        evaluation.params.maxDets = [_MOST]
        evaluation.params.areaRng = [[0, 1e10]]
        evaluation.params.areaRngLbl = ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 0, 0]  # [10, 101, classes]
    return {
        name: precision[:, :, i].mean(axis=1)
        for i, name in enumerate(CLASSES)
        if (precision[:, :, i] > -1).all()
    }


def _item(image: int, box: np.ndarray, label: int) -> dict:
    """An object or detection as pycocotools has it."""
    x1, y1, x2, y2 = map(float, box)
    width, height = x2 - x1, y2 - y1
    return dict(
        image_id=image,
        category_id=int(label) + 1,
        bbox=[x1, y1, width, height],
        area=width * height,
    )


def voc_precision(
    pictures: Sequence[Picture], detections: Sequence[Detections]
) -> dict[str, np.ndarray]:
    """VOC's average precision of 2007 [10] by class, at each of `THRESHOLDS`.

    Precision is averaged over the recalls 0, 0.1, ..., 1, at each the highest at this recall or
    more. The detection with the highest score takes the object that it overlaps most; a second one
    of the same object is wrong.
    """
    return {
        name: np.array([_eleven_points(*matches) for matches in _matches(pictures, detections, i)])
        for i, name in enumerate(CLASSES)
        if any((picture.labels[~picture.difficult] == i).any() for picture in pictures)
    }


def _matches(
    pictures: Sequence[Picture], detections: Sequence[Detections], label: int
) -> list[tuple[np.ndarray, int]]:
    """At each threshold, whether each detection is right, the surest first, and the objects."""
    ranked = []
    for i, found in enumerate(detections):
        of_class = found.labels == label
        ranked += [(-s, i, tuple(b)) for s, b in zip(found.scores[of_class], found.boxes[of_class])]
    ranked.sort(key=lambda item: item[0])
    kept = [picture.labels == label for picture in pictures]
    boxes = [picture.boxes[keep] for picture, keep in zip(pictures, kept)]
    difficult = [picture.difficult[keep] for picture, keep in zip(pictures, kept)]
    best = [_nearest(np.asarray(box), boxes[i]) for _, i, box in ranked]
    total = sum(int((~left_out).sum()) for left_out in difficult)
    outcomes = []
    for threshold in THRESHOLDS:
        taken = set()
        right = []
        for (_, i, _), (place, overlap) in zip(ranked, best, strict=True):
            if overlap <= threshold:  # "exceeds", where COCO takes equal as enough
                right.append(False)
            elif not difficult[i][place]:
                right.append((i, place) not in taken)
                taken.add((i, place))
        outcomes.append((np.asarray(right, bool), total))
    return outcomes


def _nearest(box: np.ndarray, boxes: np.ndarray) -> tuple[int, float]:
    """The place of the box [4] among `boxes` [N, 4] that overlaps most, and the overlap."""
    if not len(boxes):
        return -1, 0.0
    low = np.maximum(box[:2], boxes[:, :2])
    high = np.minimum(box[2:], boxes[:, 2:])
    shared = (high - low).clip(0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    overlaps = shared / (areas + (box[2:] - box[:2]).prod() - shared)
    return int(overlaps.argmax()), float(overlaps.max())


def _eleven_points(right: np.ndarray, objects: int) -> float:
    """The mean of the best precisions at recalls of 0, 0.1, ..., 1."""
    hits = right.cumsum()
    precision = hits / np.arange(1, len(right) + 1)
    recall = hits / objects
    points = np.arange(11) / 10  # 3 / 10, which a recall of 0.3 equals, is not 0.1 + 0.1 + 0.1
    return float(np.mean([precision[recall >= point].max(initial=0.0) for point in points]))
