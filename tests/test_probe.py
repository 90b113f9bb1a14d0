"""The linear probe against scikit-learn, its choices and shares; SwAV's augmented protocol."""

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from ssl_jax.data import datasets
from ssl_jax.evaluation import regression
from ssl_jax.evaluation.augmented import Augmented
from ssl_jax.evaluation.probe import Probe, stratified
from ssl_jax.interface import RunFacts, Split


@pytest.fixture(scope="module")
def digits():
    """Splits with pixels in 0..1 as the feature `backbone`."""
    data = datasets.load("digits")

    def flat(part):
        return part.images.reshape(len(part), -1) / np.float32(255)

    return {
        n: Split({"backbone": flat(p)}, p.labels)
        for n, p in (("train", data.train), ("test", data.test))
    }


@pytest.fixture
def small():
    """Three overlapping classes of five numbers."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 5))

    def split(rows):
        labels = np.arange(rows, dtype=np.int32) % 3
        return Split({"backbone": np.float32(centres[labels] + rng.normal(size=(rows, 5)))}, labels)

    return dict(train=split(90), test=split(60))


def quick(**settings):
    grid = dict(rates=(0.03, 0.1), decays=(1e-3, 1e-1), shares=(1.0,), steps=60)
    return Probe(**grid | dict(facts=RunFacts(classes=3)) | settings)


def test_cells_of_the_grid_are_logistic_regressions(digits):
    x = digits["train"].features["backbone"]
    labels = digits["train"].labels
    data = regression.standardised(x, labels)
    rows = np.arange(0, len(x), 3)
    decays = (1e-3, 1e-2)
    weights = regression.fit(
        data, rows, (0.1, 0.1), decays, classes=10, steps=1000, batch_size=len(rows), seed=0
    )
    accuracy, error = regression.evaluate(weights, data, np.arange(1, len(x), 3), chunk=100)
    standard = (x - x.mean(0)) / (x.std(0) + 1e-6)
    for cell, decay in enumerate(decays):
        theirs = LogisticRegression(C=1 / (decay * len(rows)), max_iter=1000).fit(
            standard[rows], labels[rows]
        )
        assert accuracy[cell] == pytest.approx(
            theirs.score(standard[1::3], labels[1::3]), abs=0.005
        )
        assert error[cell] == pytest.approx(
            log_loss(labels[1::3], theirs.predict_proba(standard[1::3])), rel=0.02
        )


@pytest.mark.slow
def test_within_half_a_point_of_scikit_learn(digits):
    (x, labels), (test, expected) = (
        (digits[n].features["backbone"], digits[n].labels) for n in ("train", "test")
    )
    theirs = LogisticRegression(max_iter=1000).fit(x, labels).score(test, expected)
    settings = dict(rates=(0.1,), decays=(1e-3, 1e-2), shares=(1.0,), steps=400)
    probe = Probe(**settings, facts=RunFacts(classes=10))
    ours = dict(probe.run(digits, None))
    assert abs(ours["top1"] - theirs) <= 0.005
    assert ours["held_out"] > 0.94


def test_cells_do_not_see_each_other(small):
    data = regression.standardised(small["train"].features["backbone"], small["train"].labels)
    settings = dict(classes=3, steps=130, batch_size=32, seed=3)

    def fit(rates, decays):
        return regression.fit(data, np.arange(80), rates, decays, **settings)

    together = fit((0.01, 0.1, 1e4), (0.0, 0.1, 0.0))
    alone = fit((0.1,), (0.1,))
    np.testing.assert_allclose(together.kernel[:, 1], alone.kernel[:, 0], atol=1e-5)
    np.testing.assert_allclose(together.bias[1], alone.bias[0], atol=1e-5)


def test_epochs_see_every_row_once():
    batches = regression._batches(np.arange(10, 20), 7, 4, np.random.default_rng(0))
    assert batches.shape == (7, 4)
    assert sorted(batches.ravel()[:10]) == sorted(batches.ravel()[10:20]) == list(range(10, 20))
    whole = regression._batches(np.arange(3), 2, 4, np.random.default_rng(0))
    assert (whole == [[0, 1, 2]] * 2).all()


def test_the_choice_does_not_see_the_test_split(small):
    found = dict(quick().run(small, None))
    assert list(found) == ["top1", "held_out", "rate", "decay"]
    other = small["test"]._replace(labels=(small["test"].labels + 1) % 3)
    changed = dict(quick().run(small | dict(test=other), None))
    assert changed["top1"] < found["top1"]
    assert {k: v for k, v in changed.items() if k != "top1"} == {
        k: v for k, v in found.items() if k != "top1"
    }


def test_a_diverging_rate_is_not_chosen(small):
    found = dict(quick(rates=(1e30, 0.1), decays=(1e-3,)).run(small, None))
    assert found["rate"] == 0.1
    assert found["top1"] > 0.5


def test_a_diverged_cell_is_never_right(small):
    data = regression.standardised(small["train"].features["backbone"], small["train"].labels)
    weights = regression.fit(
        data, np.arange(80), (0.1,), (0.0,), classes=3, steps=5, batch_size=32, seed=3
    )
    weights = jax.tree.map(lambda x: x * np.nan, weights)
    zeros = np.flatnonzero(small["train"].labels == 0)  # the arg max of NaNs
    accuracy, error = regression.evaluate(weights, data, zeros)
    assert (accuracy[0], error[0]) == (0.0, np.inf)


def test_unlabelled_images_are_not_trained_on(small):
    train = small["train"]
    x = train.features["backbone"]
    labels = train.labels
    more = Split(
        {"backbone": np.concatenate([x, x])}, np.concatenate([labels, np.full_like(labels, -1)])
    )
    found, expected = (
        dict(quick().run(small | dict(train=split), None)) for split in (more, train)
    )
    assert found == pytest.approx(expected)
    with pytest.raises(ValueError, match="no labelled training images"):
        dict(quick().run(small | dict(train=train._replace(labels=np.full_like(labels, -1))), None))


def test_shares_of_the_labels(small):
    labels = np.array([0] * 200 + [1] * 40 + [2] * 3 + [-1] * 50)
    rows = {share: stratified(labels, share, 0) for share in (0.01, 0.1, 1.0)}
    assert [np.bincount(labels[r]).tolist() for r in rows.values()] == [
        [2, 1, 1],
        [20, 4, 1],
        [200, 40, 3],
    ]
    assert set(rows[0.01]) < set(rows[0.1]) < set(rows[1.0])
    assert (rows[0.1] != stratified(labels, 0.1, 1)).any()
    lines = []

    def same(split):
        return split._replace(
            features=dict.fromkeys(("stage1", "backbone"), split.features["backbone"])
        )

    pixels = {name: same(split) for name, split in small.items()}
    probe = quick(features=("stage1", "backbone"), shares=(0.01, 1.0))
    found = dict(probe.run(pixels, None, lines.append))
    assert found["rate_stage1_0.01"] == 0.1  # one image of each class: none to choose by
    assert "held_out_stage1_0.01" not in found
    assert found["top1_stage1"] == found["top1_backbone"] > found["top1_stage1_0.01"]
    # The same pixels are not probed twice.
    assert lines[-1] == "stage1, 1 of the labels, again, step 60 of 60"


@pytest.mark.parametrize(
    "settings",
    [
        dict(features=()),
        dict(shares=(0.0,)),
        dict(rates=(0.0,)),
        dict(decays=(-1.0,)),
        dict(shares=(0.1, 0.1)),
        dict(steps=0),
        dict(held_out=1.0),
    ],
)
def test_bad_settings(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        quick(**settings)


def softmax_gradient(x, labels, kernel, bias):
    scores = x @ kernel + bias
    shares = np.exp(scores - scores.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    shares[np.arange(len(x)), labels] -= 1
    return x.T @ shares / len(x), shares.mean(0)


def test_augmented_is_torchs_sgd_with_a_rate_for_each_epoch(small):
    x = small["train"].features["backbone"]
    labels = small["train"].labels
    drawn = []

    def draw(key, rows, names, **crops):
        drawn.append(np.asarray(rows))
        assert crops == dict(scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), flip=0.5)
        return {name: x[rows] for name in names}

    facts = RunFacts(classes=3)
    settings = dict(learning_rate=0.5, base_batch_size=80, weight_decay=0.01)
    method = Augmented(epochs=3, batch_size=40, **settings, facts=facts)
    train = small["train"]._replace(draw=draw)
    found = jax.tree.map(np.asarray, method._train(train, {"backbone": 5}, print)["backbone"])
    assert [len(rows) for rows in drawn] == [40, 40, 10] * 3
    assert sorted(np.concatenate(drawn[:3])) == list(range(90))
    still = Augmented(epochs=1, learning_rate=1e-30, batch_size=90, facts=facts)
    kernel = np.asarray(still._train(train, {"backbone": 5}, print)["backbone"]["kernel"])
    bias = np.zeros(3)
    assert 0.004 < kernel.std() < 0.02
    buffers = np.zeros_like(kernel), np.zeros(3)
    for i, rows in enumerate(drawn[:9]):
        rate = 0.25 * (1 + np.cos(np.pi * (i // 3) / 3)) / 2
        for p, g, b in zip(
            (kernel, bias), softmax_gradient(x[rows], labels[rows], kernel, bias), buffers
        ):
            b[:] = 0.9 * b + g + 0.01 * p
        kernel = kernel - rate * buffers[0]
        bias = bias - rate * buffers[1]
    np.testing.assert_allclose(found["kernel"], kernel, atol=2e-5)
    np.testing.assert_allclose(found["bias"], bias, atol=2e-5)
    predicted = (small["test"].features["backbone"] @ kernel + bias).argmax(1)
    assert dict(method.run(small | dict(train=train), None)) == dict(
        top1=np.mean(predicted == small["test"].labels)
    )
    assert dict(method.run(small, None)) == {}  # raw pixels


def test_rates_of_both_protocols():
    swav = Augmented()
    assert swav.rate(0, 256) == 0.3
    assert swav.rate(50, 512) == pytest.approx(0.3)
    la = Augmented(
        schedule="drops",
        drops=(30, 60),
        epochs=70,
        learning_rate=0.01,
        base_batch_size=0,
        batch_size=128,
    )
    assert [la.rate(e, 128) for e in (29, 30, 59, 60)] == pytest.approx([1e-2, 1e-3, 1e-3, 1e-4])
    with pytest.raises(ValueError, match="scale="):
        Augmented(scale=(0.5, 0.1))
    with pytest.raises(ValueError, match="choose cosine or drops"):
        Augmented(schedule="step")
