"""Linear SVMs of one class against the rest, and average precision, beside scikit-learn's."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve
from sklearn.model_selection import GridSearchCV
from sklearn.svm import LinearSVC

from ssl_jax.evaluation import precision
from ssl_jax.evaluation.svm import SVM
from ssl_jax.interface import RunFacts, Split

RNG = np.random.default_rng(0)
COSTS = (0.01, 0.1, 1.0, 10.0)
CLASSES = 3


@pytest.mark.parametrize(
    ("shown", "area", "eleven"),
    [
        # precisions 1, 1/2, 2/3, 1/2 at recalls 1/2, 1/2, 1, 1
        ([1, 0, 1, 0], 0.5 * 1 + 0.5 * 2 / 3, (6 * 1 + 5 * 2 / 3) / 11),
        # the precision 2/3 at recall 1 counts for recall 1/2, too
        ([0, 1, 1, 0], 2 / 3, 2 / 3),
        ([1, 1, 0, 0], 1.0, 1.0),
        ([0, 0, 0, 1], 0.25, 0.25),
        # 3 of 10: recall 0.3 has the precision of the third image, not of a later one
        (
            [1, 1, 1, 0] + [1] * 7,
            0.3 + 0.7 * 10 / 11,
            (4 + 7 * 10 / 11) / 11,
        ),
    ],
)
def test_average_precision_by_hand(shown, area, eleven):
    scores = -np.arange(len(shown), dtype=float)
    order = RNG.permutation(len(shown))
    shown = np.array(shown, bool)
    assert precision.area(scores[order], shown[order]) == pytest.approx(area)
    assert precision.eleven_points(scores[order], shown[order]) == pytest.approx(eleven)


def test_average_precision_is_scikit_learns_where_precision_only_falls():
    shown = np.zeros(40, bool)
    shown[[0, 1, 3, 7, 15, 31]] = True
    scores = RNG.normal(size=40)
    scores[::-1].sort()
    assert precision.area(scores, shown) == pytest.approx(average_precision_score(shown, scores))


def test_interpolation_of_scikit_learns_curve():
    for _ in range(20):
        scores = RNG.normal(size=50)
        shown = RNG.random(50) < 0.3
        precisions, recalls, _ = precision_recall_curve(shown, scores)
        precisions = precisions[:-1]  # without the point of recall 0 that scikit-learn adds
        area = 0.0
        for high, low in zip(recalls[:-1], recalls[1:]):  # recalls fall, to 0
            area += (high - low) * precisions[recalls[:-1] >= high - 1e-12].max()
        assert precision.area(scores, shown) == pytest.approx(area)
        assert precision.area(scores, shown) >= average_precision_score(shown, scores) - 1e-12
        levels = [precisions[recalls[:-1] >= level / 10 - 1e-12].max() for level in range(11)]
        assert precision.eleven_points(scores, shown) == pytest.approx(np.mean(levels))


def test_a_class_that_nothing_shows_has_no_average_precision():
    with pytest.raises(ValueError, match="no image shows the class"):
        precision.area(np.ones(3), np.zeros(3, bool))


def split(count, seed):
    """Features around a direction for each class; an image shows one class or two."""
    rng = np.random.default_rng(seed)
    shown = rng.random((count, CLASSES)) < 0.4
    x = shown @ np.eye(CLASSES, 8) + 0.5 * rng.normal(size=(count, 8)) + 1.0
    targets = np.where(shown, 1, -1).astype(np.int8)
    targets[rng.random(targets.shape) < 0.1] = 0
    return Split({"backbone": np.float32(3 * x)}, np.full(count, -1), targets=targets)


def reference(train, test, c, ignored, dual):
    """Test AP of a class by scikit-learn alone: grid search over the costs, three folds."""
    x, test_x = (
        rows / (np.linalg.norm(rows, axis=1)[:, None] + 1e-5)
        for rows in (np.float64(train.features["backbone"]), np.float64(test.features["backbone"]))
    )
    targets = train.targets[:, c].copy()
    if ignored == "negative":
        targets[(targets == 0) & (train.targets != 0).any(1)] = -1  # others show nothing at all
    machine = LinearSVC(class_weight={1: 2, -1: 1}, dual=dual, max_iter=20_000, random_state=0)
    search = GridSearchCV(machine, {"C": COSTS}, cv=3, scoring="average_precision")
    search.fit(x[targets != 0], targets[targets != 0])
    counted = test.targets[:, c] != 0
    scores = search.decision_function(test_x[counted])
    shown = test.targets[counted, c] == 1
    return precision.area(scores, shown), precision.eleven_points(scores, shown)


@pytest.mark.parametrize("ignored", ["left_out", "negative"])
def test_machines_are_scikit_learns(ignored):
    splits = dict(train=split(120, 0), test=split(80, 1))
    facts = RunFacts(classes=CLASSES, class_names=("a", "b", "c"))
    svm = SVM(costs=COSTS, ignored=ignored, facts=facts)
    scores = dict(svm.run(splits, None))
    expected = [reference(*splits.values(), c, ignored, dual=False) for c in range(CLASSES)]
    assert [scores[f"ap_{name}"] for name in "abc"] == pytest.approx([x for x, _ in expected])
    assert scores["map"] == pytest.approx(np.mean([x for x, _ in expected]))
    assert scores["map_11point"] == pytest.approx(np.mean([x for _, x in expected]))
    assert 0.5 < scores["map"] < 1
    released = [reference(*splits.values(), c, ignored, dual=True)[0] for c in range(CLASSES)]
    assert scores["map"] == pytest.approx(np.mean(released), abs=2e-3)  # the dual problem's


def test_difficult_images_make_a_difference():
    splits = dict(train=split(120, 0), test=split(80, 1))
    kept = dict(splits, test=splits["test"]._replace(targets=np.abs(splits["test"].targets)))
    kept["test"].targets[splits["test"].targets == -1] = -1
    svm = SVM(costs=(1.0,), facts=RunFacts(classes=CLASSES))
    plain = dict(svm.run(splits, None))
    assert dict(svm.run(kept, None)) == plain
    difficult = splits["test"].targets == 0
    kept["test"].targets[difficult] = -1
    assert dict(svm.run(kept, None)) != plain


def test_data_with_a_label_per_image_are_scored_class_by_class():
    labels = np.arange(90) % CLASSES
    rng = np.random.default_rng(0)
    x = np.float32(np.eye(CLASSES, 5)[labels] + 0.4 * rng.normal(size=(90, 5)))
    unlabelled = np.where(np.arange(90) % 9 == 0, -1, labels)
    targets = np.where(labels[:, None] == np.arange(CLASSES), 1, -1)
    targets[unlabelled < 0] = 0
    svm = SVM(costs=COSTS, facts=RunFacts(classes=CLASSES))
    by_label = dict.fromkeys(("train", "test"), Split({"backbone": x}, unlabelled))
    by_targets = dict.fromkeys(
        ("train", "test"), Split({"backbone": x}, np.full(90, -1), targets=targets)
    )
    assert dict(svm.run(by_label, None)) == dict(svm.run(by_targets, None))
    negative = SVM(costs=COSTS, ignored="negative", facts=svm.facts)
    assert dict(negative.run(by_label, None)) == dict(svm.run(by_label, None))


def test_classes_that_no_test_image_shows_are_left_out():
    splits = dict(train=split(120, 0), test=split(80, 1))
    splits["test"].targets[:, 1] = -1
    scores = dict(SVM(costs=(1.0,), facts=RunFacts(classes=CLASSES)).run(splits, None))
    assert set(scores) == {"map", "map_11point", "ap_0", "ap_2"}
    assert scores["map"] == pytest.approx((scores["ap_0"] + scores["ap_2"]) / 2)


def test_too_few_images_of_a_class_are_named():
    splits = dict(train=split(60, 0), test=split(30, 1))
    splits["train"].targets[:, 2] = -1
    splits["train"].targets[:2, 2] = 1
    facts = RunFacts(classes=CLASSES, class_names=("a", "b", "cow"))
    with pytest.raises(ValueError, match="folds=3: only 2 training images with 'cow'; give more"):
        dict(SVM(facts=facts).run(splits, None))
    assert "ap_cow" in dict(SVM(costs=(1.0,), facts=facts).run(splits, None))
    nothing = splits["test"]._replace(targets=-np.ones((30, CLASSES), np.int8))
    with pytest.raises(ValueError, match="no test image shows any class"):
        dict(SVM(facts=facts).run(dict(splits, test=nothing), None))


@pytest.mark.parametrize(
    "settings",
    [
        dict(costs=()),
        dict(costs=(0.0,)),
        dict(folds=1),
        dict(ignored="positive"),
        dict(positive_weight=-1.0),
        dict(tolerance=0.0),
        dict(iterations=0),
    ],
)
def test_settings_out_of_range(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        SVM(**settings)
