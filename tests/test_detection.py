"""Detection on PASCAL VOC: its folders, the scores and the settings; none needs PyTorch."""

import dataclasses
import hashlib
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from helpers.made_voc import made_voc, rectangles, write
from helpers.weights import random_tensors

from ssl_jax.models import weight_files
from ssl_jax.models.resnet import ResNet
from ssl_jax.settings.resolve import SettingError

EXPERIMENTS = Path(__file__).parent.parent / "experiments"


@pytest.fixture
def load(monkeypatch):
    """Imports a module of experiments/."""
    monkeypatch.syspath_prepend(EXPERIMENTS)
    return importlib.import_module


@pytest.fixture
def voc(load):
    return load("detection_parts.voc")


@pytest.fixture
def scoring(load):
    return load("detection_parts.scores")


@pytest.fixture
def script(load):
    return load("detection")


@pytest.fixture
def folder(tmp_path):
    return made_voc(tmp_path / "VOCdevkit")


def test_pictures_and_boxes_are_those_of_the_folder(voc, folder):
    pictures = voc.read(folder, voc.TRAIN["voc07+12"])
    assert [p.path.parent.parent.name for p in pictures] == ["VOC2007"] * 6 + ["VOC2012"] * 6
    for picture, (pixels, objects) in zip(pictures, rectangles(6, 0).values()):
        assert (picture.height, picture.width) == pixels.shape[:2]
        assert [voc.CLASSES[label] for label in picture.labels] == [o[0] for o in objects]
        assert picture.difficult.tolist() == [o[2] for o in objects]
        assert picture.cut == 0
        for (x1, y1, x2, y2), (_, ends, _) in zip(picture.boxes.astype(int), objects):
            # From 1 with both ends, to from 0 without the last: as many pixels.
            assert (x1 + 1, y1 + 1, x2, y2) == tuple(ends)
            inside = pixels[y1:y2, x1:x2].reshape(-1, 3)
            assert len(np.unique(inside, axis=0)) == 1  # the whole rectangle, and nothing else
    assert len(voc.read(folder, voc.TRAIN["voc07"])) == 6
    assert [p.path.stem for p in voc.read(folder, voc.TEST)] == [f"{i:06d}" for i in range(7, 11)]


def test_parts_fractions_and_boxes_over_the_border(voc, folder):
    """VOC2012 has parts of persons with boxes of their own, and fractions."""
    write(folder / "VOC2007", "trainval", rectangles(1, 0))
    path = folder / "VOC2007" / "Annotations" / "000001.xml"
    path.write_text(
        "<annotation><object><name>person</name><bndbox><xmax>45.5</xmax><xmin>11.25</xmin>"
        "<ymax>300</ymax><ymin>3</ymin></bndbox><part><name>head</name><bndbox><xmin>1</xmin>"
        "<ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part></object></annotation>"
    )
    (picture,) = voc.read(folder, voc.TRAIN["voc07"])
    np.testing.assert_array_equal(picture.boxes, [[10.25, 2, 45.5, 64]])
    assert (picture.labels.tolist(), picture.difficult.tolist()) == ([14], [False])
    assert picture.cut == 1


OBJECT = (
    "<annotation><object><name>{name}</name><difficult>{difficult}</difficult><bndbox>"
    "<xmin>{xmin}</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"
)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(name="zebra"), r"000001\.xml: an object is called 'zebra'; VOC has the classes aero"),
        (dict(difficult="2"), r"000001\.xml: difficult is '2'; give 0 or 1"),
        (dict(xmin="a"), r"000001\.xml: xmin of an object is 'a'"),
        (dict(xmin="nan"), r"000001\.xml: xmin of an object is 'nan'"),
        (
            dict(xmin="10"),
            r"the box 10, 1, 9, 9 \(xmin, ymin, xmax, ymax, from 1\) is empty or out",
        ),
    ],
)
def test_annotations_that_are_not_vocs(voc, folder, fields, message):
    text = OBJECT.format(**(dict(name="cat", difficult=0, xmin=1) | fields))
    (folder / "VOC2007" / "Annotations" / "000001.xml").write_text(text)
    with pytest.raises(SettingError, match=message) as caught:
        voc.read(folder, voc.TRAIN["voc07"])
    assert "\n" not in str(caught.value)


def test_folders_that_are_not_vocs(voc, folder, tmp_path):
    def message(root=folder):
        with pytest.raises(SettingError) as caught:
            voc.read(root, voc.TRAIN["voc07+12"])
        return str(caught.value)

    assert message(tmp_path / "none") == f"--voc={tmp_path}/none: no such folder"
    assert message(tmp_path) == f"--voc={tmp_path} has no folder VOC2007; give --voc={folder}"
    assert message(folder / "VOC2007").endswith(
        f"VOC2007 has no folder VOC2007; give --voc={folder}"
    )
    year = folder / "VOC2012"
    (year / "JPEGImages" / "000003.jpg").write_bytes(b"no picture")
    assert message() == f"{year}/JPEGImages/000003.jpg: not a picture"
    (year / "Annotations" / "000002.xml").write_text("<annotation>")
    assert message().startswith(f"{year}/Annotations/000002.xml is not XML (no element found")
    (year / "JPEGImages" / "000001.jpg").unlink()
    assert message() == f"{year}/JPEGImages/000001.jpg: No such file or directory"
    (year / "ImageSets" / "Main" / "trainval.txt").write_text("\n")
    assert message() == f"{year}/ImageSets/Main/trainval.txt lists no pictures"
    (year / "ImageSets" / "Main" / "trainval.txt").unlink()
    assert message() == f"{year}/ImageSets/Main/trainval.txt: No such file or directory"


@pytest.fixture
def weights(tmp_path):
    """Writes a ResNet's weights as `ssl_jax.export` does."""

    def write_weights(notes="{}", channels=3, without=(), **settings):
        tensors = random_tensors(ResNet(**settings), channels)
        kept = {name: x for name, x in tensors.items() if name not in without}
        weight_files.write(tmp_path / "a.safetensors", kept, notes=notes)
        return tmp_path / "a.safetensors"

    return write_weights


@pytest.mark.parametrize("depth", [18, 50])
def test_backbones_of_files(load, weights, depth):
    read = load("detection_parts.backbone").read
    path = weights('{"mean": [0.1, 0.2, 0.3], "size": 64}', depth=depth, width=4, stem="imagenet")
    backbone = read(path)
    assert (backbone.depth, backbone.width, backbone.mean) == (depth, 4, (0.1, 0.2, 0.3))
    assert backbone.std == (0.229, 0.224, 0.225)  # ImageNet's
    assert backbone.channels == ((4, 8, 16, 32) if depth == 18 else (16, 32, 64, 128))
    assert backbone.digest == hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    assert read(path, std=(0.5, 0.5, 0.5)).std == (0.5,) * 3


def test_backbones_that_do_not_fit(load, weights, tmp_path):
    read = load("detection_parts.backbone").read

    def message(path, **given):
        with pytest.raises(SettingError) as caught:
            read(path, **given)
        assert "\n" not in str(caught.value)
        return str(caught.value).replace(f"{tmp_path}/", "")

    assert message(tmp_path / "none.pth") == "--backbone=none.pth: no such file"
    assert message(tmp_path).endswith("--out=encoder.safetensors")
    tiny = dict(depth=18, width=4, stem="imagenet")
    path = weights(depth=18, width=4, stem="cifar")
    assert message(path).startswith(
        "--backbone=a.safetensors has the stem of CIFAR (3x3, stride 1)"
    )
    path = weights(channels=1, **tiny)
    assert message(path) == (
        "--backbone=a.safetensors takes pictures of 1 channel, and VOC's have 3"
    )
    path = weights(without=("layer3.1.bn2.running_var",), **tiny)
    assert message(path) == "--backbone: a.safetensors has no layer3.1.bn2.running_var"
    path = weights('{"range": [0, 4095]}', **tiny)
    assert "was trained on more than 8 bits" in message(path)
    assert message(weights('{"mean": [1]}', **tiny)).startswith("--mean=(1,): give three numbers")
    assert message(weights(**tiny), std=(0, 1, 1)).startswith("--std=(0, 1, 1): give three numbers")
    weight_files.write(tmp_path / "vgg.safetensors", {"features.0.weight": np.zeros((2, 2), "f")})
    assert message(tmp_path / "vgg.safetensors").startswith(
        "--backbone: vgg.safetensors has no conv1.weight and layer1 to layer4 of a ResNet"
    )
    (tmp_path / "b.safetensors").write_text("{}")
    assert "b.safetensors is not a weight file that can be read" in message(
        tmp_path / "b.safetensors"
    )


def picture(voc, boxes, labels, difficult=None):
    count = len(boxes)
    return voc.Picture(
        path=None,
        width=200,
        height=200,
        boxes=np.asarray(boxes, np.float32).reshape(-1, 4),
        labels=np.asarray(labels, np.int64),
        difficult=np.asarray(difficult or [False] * count, bool),
    )


def detections(scoring, boxes, labels, scores):
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    return scoring.Detections(boxes, np.asarray(labels, np.int64), np.asarray(scores, np.float64))


def by_hand(voc, scoring):
    """Two cats and a dog; overlaps of 0.8 (a cat), 0.6 (the dog) and one box on nothing."""
    pictures = [
        picture(voc, [[0, 0, 10, 10], [50, 50, 60, 60]], [7, 7]),
        picture(voc, [[0, 0, 10, 10]], [11]),
    ]
    found = [
        detections(
            scoring,
            [[100, 100, 110, 110], [0, 0, 10, 8], [50, 50, 60, 60]],
            [7] * 3,
            [0.9, 0.8, 0.7],
        ),
        detections(scoring, [[0, 0, 10, 6]], [11], [0.9]),
    ]
    return pictures, found


def test_vocs_average_by_hand(voc, scoring):
    """Cats: wrong, right, right: the best precision at every recall is 2/3; above 0.8 one of three,
    of recall 1/2, so six of eleven points have 1/3. Dog: right below 0.6."""
    averages = scoring.voc_precision(*by_hand(voc, scoring))
    assert list(averages) == ["cat", "dog"]
    np.testing.assert_allclose(averages["cat"][:6], 2 / 3)
    np.testing.assert_allclose(averages["cat"][7:], 6 / 11 / 3)
    np.testing.assert_allclose(averages["dog"][:2], 1)
    np.testing.assert_allclose(averages["dog"][3:], 0)


def test_vocs_difficult_objects_and_second_detections(voc, scoring):
    """A detection of a difficult object counts for nothing; a second one of another is wrong."""
    pictures = [picture(voc, [[0, 0, 10, 10], [50, 50, 60, 60]], [7, 7], [True, False])]
    boxes = [[0, 0, 10, 9], [0, 0, 10, 10], [50, 50, 60, 60], [50, 50, 60, 60]]
    found = [detections(scoring, boxes, [7] * 4, [0.9, 0.8, 0.7, 0.6])]
    averages = scoring.voc_precision(pictures, found)["cat"]
    np.testing.assert_allclose(averages, [1] * 9 + [0.5])  # beyond 0.9 the first is just wrong
    wrong_first = [detections(scoring, boxes, [7] * 4, [0.9, 0.8, 0.6, 0.7])]
    wrong_first[0].boxes[3] = [50, 50, 60, 54]  # overlap 0.4: wrong, and before the right one
    averages = scoring.voc_precision(pictures, wrong_first)["cat"]
    np.testing.assert_allclose(averages[:9], 0.5)


def loops(pictures, found, label, threshold):
    """COCO's average precision of a class at an overlap, in plain loops."""
    rows = []
    total = 0
    for i, (truth, detected) in enumerate(zip(pictures, found)):
        objects = [
            (box, hard)
            for box, of, hard in zip(truth.boxes, truth.labels, truth.difficult)
            if of == label
        ]
        total += sum(not hard for _, hard in objects)
        taken = set()
        best = sorted(range(len(detected.scores)), key=lambda k: -detected.scores[k])
        for k in [k for k in best if detected.labels[k] == label]:
            choice, highest = None, threshold
            for hard_ones in (False, True):  # a difficult object only if no other fits
                for j, (box, hard) in enumerate(objects):
                    if hard != hard_ones or (j in taken and not hard):
                        continue
                    x = max(
                        0, min(box[2], detected.boxes[k][2]) - max(box[0], detected.boxes[k][0])
                    )
                    y = max(
                        0, min(box[3], detected.boxes[k][3]) - max(box[1], detected.boxes[k][1])
                    )
                    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, detected.boxes[k])]
                    overlap = x * y / (sum(areas) - x * y)
                    if overlap >= highest:
                        choice, highest = j, overlap
                if choice is not None:
                    break
            if choice is None:
                rows.append((-detected.scores[k], i, False))
            elif not objects[choice][1]:
                taken.add(choice)
                rows.append((-detected.scores[k], i, True))
    rows.sort(key=lambda row: row[0])
    hits, precisions, recalls = 0, [], []
    for n, (_, _, right) in enumerate(rows, start=1):
        hits += right
        precisions.append(hits / n)
        recalls.append(hits / total)
    points = []
    for point in np.linspace(0, 1, 101):
        points.append(max([p for p, r in zip(precisions, recalls) if r >= point], default=0.0))
    return np.mean(points)


def random_case(voc, scoring, rng):
    """Eight pictures with objects of three classes, some difficult, and jittered detections."""
    pictures, found = [], []
    for _ in range(8):
        count = rng.integers(1, 6)
        low = rng.uniform(0, 100, (count, 2))
        boxes = np.concatenate([low, low + rng.uniform(20, 60, (count, 2))], axis=1)
        pictures.append(
            picture(voc, boxes, rng.integers(0, 3, count), list(rng.random(count) < 0.3))
        )
        places = rng.integers(0, count, 12)
        jittered = pictures[-1].boxes[places] + rng.normal(0, 4, (12, 4))
        labels = np.where(rng.random(12) < 0.8, pictures[-1].labels[places], rng.integers(0, 3, 12))
        found.append(detections(scoring, jittered, labels, rng.random(12)))
    return pictures, found


@pytest.fixture
def coco(scoring):
    pytest.importorskip("pycocotools", reason="needs pycocotools: pip install pycocotools")
    return scoring.coco_precision


@pytest.mark.parametrize("seed", range(4))
def test_cocos_average_is_that_of_plain_loops(voc, scoring, coco, seed):
    pictures, found = random_case(voc, scoring, np.random.default_rng(seed))
    averages = coco(pictures, found)
    assert 0.1 < averages["aeroplane"][0] < 0.99
    for label, name in enumerate(voc.CLASSES[:3]):
        if name in averages:
            plain = [loops(pictures, found, label, t) for t in scoring.THRESHOLDS]
            np.testing.assert_allclose(averages[name], plain, atol=1e-9)


def test_cocos_average_by_hand(voc, scoring, coco):
    """As VOC's above, but 51 of 101 recalls are at most 1/2, and an overlap of 0.8 reaches 0.8."""
    pictures, found = by_hand(voc, scoring)
    averages = coco(pictures, found)
    np.testing.assert_allclose(averages["cat"][:7], 2 / 3)
    np.testing.assert_allclose(averages["cat"][7:], 51 / 101 / 3)
    np.testing.assert_allclose(averages["dog"], [1, 1, 1] + [0] * 7)
    numbers, by_class = scoring.scores(pictures, found)
    assert by_class == pytest.approx({"cat": 2 / 3, "dog": 1})
    assert numbers["AP50"] == pytest.approx((2 / 3 + 1) / 2)
    assert numbers["AP75"] == pytest.approx(2 / 3 / 2)
    cat = (7 * 2 / 3 + 3 * 51 / 101 / 3) / 10
    assert numbers["AP"] == pytest.approx((cat + 0.3) / 2)
    assert numbers["voc/AP75"] == pytest.approx(2 / 3 / 2)


def test_cocos_average_leaves_out_difficult_objects_at_their_overlap(voc, scoring, coco):
    """Two detections of a difficult cat count for nothing; a small box inside it is wrong."""
    pictures = [picture(voc, [[0, 0, 40, 40], [50, 50, 60, 60]], [7, 7], [True, False])]
    boxes = [[0, 0, 40, 39], [0, 0, 39, 40], [50, 50, 60, 60]]
    found = [detections(scoring, boxes, [7] * 3, [0.9, 0.8, 0.7])]
    np.testing.assert_allclose(coco(pictures, found)["cat"], 1)
    found = [detections(scoring, [*boxes, [0, 0, 8, 8]], [7] * 4, [0.9, 0.8, 0.7, 0.95])]
    np.testing.assert_allclose(coco(pictures, found)["cat"], 0.5)


def test_no_detections_and_no_objects(voc, scoring, coco):
    pictures = [picture(voc, [[0, 0, 10, 10], [0, 0, 10, 10]], [7, 3], [False, True])]
    nothing = [detections(scoring, [], [], [])]
    numbers, by_class = scoring.scores(pictures, nothing)
    assert by_class == {"cat": 0}  # the boat is difficult
    assert set(numbers.values()) == {0.0}
    numbers, by_class = scoring.scores([picture(voc, [], [])], nothing)
    assert (set(numbers.values()), by_class) == ({0.0}, {})


def test_papers_settings_and_what_follows_from_others(script):
    paper = script.protocol_of("voc07+12", {})
    assert (paper.iterations, paper.drops, paper.batch, paper.rate, paper.norm) == (
        24_000,
        (18_000, 22_000),
        16,
        0.02,
        "batch",
    )
    half = script.protocol_of("voc07+12", dict(batch=8, rate=None))
    assert (half.iterations, half.drops, half.rate, half.warmup) == (
        48_000,
        (36_000, 44_000),
        0.01,
        200,
    )
    short = script.protocol_of("voc07", dict(iterations=70, rate=0.5))
    assert (short.drops, short.rate, short.batch) == ((50,), 0.5, 1)
    rates = [paper.rate_at(i) for i in (0, 50, 100, 17_999, 18_000, 22_000)]
    np.testing.assert_allclose(rates, [2e-5, 0.01001, 0.02, 0.02, 0.002, 0.0002])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(neck="c5"), "--neck=c5: choose one of: c4, fpn"),
        (dict(norm="sync"), "--norm=sync: choose one of: batch, frozen"),
        (dict(frozen=6), "--frozen=6: give 0 to 5 parts of the backbone"),
        (dict(sizes=(600, 16)), "--sizes=600,16 --longest=1000: give short sides of at least 32"),
        (dict(longest=500), "--sizes=600 --longest=500: give short sides of at least 32"),
        (dict(iterations=0), "--iterations and --batch are at least 1"),
        (dict(batch=0), "--iterations and --batch are at least 1"),
        (dict(rate=float("nan")), "--rate=nan --decay=0.0005: give positive numbers"),
    ],
)
def test_settings_that_cannot_be(script, given, message):
    with pytest.raises(SettingError, match=message):
        script.protocol_of("voc07", given)


def test_the_order_is_resumed(load):
    """Every picture once in a round, and the same from any iteration."""
    order = load("detection_parts.pictures").Order
    whole = list(order(5, 2, 0, range(10)))
    assert [i for keys in whole for i, _ in keys] == [i for i in range(10) for _ in range(2)]
    places = [place for keys in whole for _, place in keys]
    assert [sorted(places[5 * i : 5 * i + 5]) for i in range(4)] == [list(range(5))] * 4
    assert places[:5] != places[5:10]
    assert list(order(5, 2, 0, range(7, 10))) == whole[7:]
    assert list(order(5, 2, 1, range(10))) != whole


def test_rows_and_commands(load, script, capsys):
    rows = load("published").DETECTORS
    for name, row in rows.items():
        args = script.parse(["--backbone=a.safetensors", "--voc=V", f"--row={name}"])
        assert args.train == row.train
    assert script.parse(["--backbone=a", "--voc=V", "--sizes=480,512"]).sizes == (480, 512)
    with pytest.raises(SystemExit):
        script.parse(["--backbone=a", "--voc=V", "--row=swav-voc07+12", "--train=voc07"])
    assert "--row=swav-voc07+12 was trained on voc07+12" in capsys.readouterr().err


def test_other_settings_need_another_folder(load, tmp_path):
    record = load("detection_parts.record")
    record.check_settings(tmp_path / "a", dict(rate=0.1, sizes=(1, 2)))
    record.check_settings(tmp_path / "a", dict(rate=0.1, sizes=(1, 2)))
    with pytest.raises(SettingError, match=r"other settings \(rate=0.1, not 0.2\); give another"):
        record.check_settings(tmp_path / "a", dict(rate=0.2, sizes=(1, 2)))
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match=r"--workdir=.*file/a cannot be written \(Not a dir"):
        record.check_settings(tmp_path / "file" / "a", {})
    assert record.finished(tmp_path / "a") is None
    for _ in range(2):
        record.record(tmp_path / "a", tmp_path / "results.jsonl", {"row": "x"})
    assert record.read(tmp_path / "results.jsonl") == [record.finished(tmp_path / "a")]


def test_the_table_has_detectors_and_how_they_differ(load):
    reproduce = load("reproduce")
    plain = json.loads(json.dumps(dataclasses.asdict(load("detection").protocol_of("voc07", {}))))
    shared = dict(numbers={"AP50": 0.5, "voc/AP50": 0.25}, device="G", commit="abc")
    records = [
        dict(shared, row="local_aggregation-voc07", protocol=plain),
        dict(shared, row="local_aggregation-voc07", protocol=plain | {"neck": "fpn"}),
        dict(shared, row="", protocol=plain),
    ]
    lines = reproduce.detector_lines(records)
    assert len(lines) == len(load("published").DETECTORS)
    (measured,) = [line for line in lines if "| `local_aggregation-voc07` |" in line]
    numbers = "AP50 50.0, voc/AP50 25.0"
    assert measured.endswith(f"| {numbers}; G, abc; {numbers} (`neck=fpn`); G, abc |")
    assert sum("not yet measured" in line for line in lines) == len(lines) - 1
    page = (EXPERIMENTS.parent / "docs" / "results.md").read_text("utf-8")
    assert all(line.rsplit("|", 2)[0] in page for line in reproduce.detector_lines([]))
