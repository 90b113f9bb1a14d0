"""kNN over a grid: each cell's scores, recomputed features against the live bank, bad input."""

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.runs import tiny

from ssl_jax.build import build
from ssl_jax.evaluation.knn import KNN, weighted_knn
from ssl_jax.evaluation.knn_grid import KNNGrid, grid_scores
from ssl_jax.interface import RunFacts, Split, TrainState
from ssl_jax.methods.instance import InstanceState
from ssl_jax.settings.resolve import SettingError


@pytest.fixture
def data(golden):
    data = golden("knn_eval")
    return [data[name] for name in ("train_features", "train_labels", "test_features")]


def test_each_cell_is_the_knn_of_one_setting(data):
    found = {
        (k, t): scores
        for k, t, scores in grid_scores(*data, k=(50, 1, 400), temperature=(0.07, 1.0), classes=10)
    }
    assert set(found) == {(k, t) for k in (1, 50, 400) for t in (0.07, 1.0)}
    for (k, t), scores in found.items():
        np.testing.assert_allclose(
            scores, weighted_knn(*data, k=k, temperature=t, classes=10), rtol=1e-5
        )


def test_the_published_scores(golden, data):
    published = golden("knn_eval")
    found = {
        (k, t): s for k, t, s in grid_scores(*data, k=(1, 200), temperature=(0.1, 0.07), classes=10)
    }
    for t in (0.1, 0.07):
        case = f"k200_T{round(t * 1000):03d}"
        np.testing.assert_allclose(found[200, t], published[f"{case}_scores"], rtol=5e-6)
        top1 = 100 * np.mean(np.asarray(found[1, t].argmax(1)) == published["test_labels"])
        np.testing.assert_allclose(top1, published["nn_top1"], rtol=1e-6)


def splits_of(data, labels=None):
    train, train_labels, test = data
    rows = weighted_knn(*data, k=5, classes=10).argmax(1)
    flipped = np.where(np.arange(len(test)) % 3 == 0, 0, rows)
    return dict(
        train=Split({"embedding": train}, train_labels if labels is None else labels),
        test=Split({"embedding": test}, flipped),
    )


def test_scores_equal_those_of_knn_and_unlabelled_rows_are_ignored(data):
    labels = np.where(np.arange(len(data[1])) % 2, -1, data[1])
    splits = splits_of(data, labels)
    facts = RunFacts(classes=10)
    grid = dict(KNNGrid(k=(7, 3), temperature=(0.1, 0.5), facts=facts).run(splits, None))
    assert list(grid) == ["top1_k3_t0.1", "top1_k7_t0.1", "top1_k3_t0.5", "top1_k7_t0.5"]
    for k, t in ((3, 0.1), (7, 0.5)):
        single = dict(KNN(k=k, temperature=t, facts=facts).run(splits, None))
        assert grid[f"top1_k{k}_t{t}"] == single["top1"]


def test_the_bank_replaces_the_training_images(data):
    bank = jnp.pad(jnp.asarray(data[0])[::-1], ((0, 5), (0, 0)))
    state = TrainState(0, {}, {}, (), InstanceState(bank), ())
    splits = splits_of(data)
    settings = dict(k=(5,), temperature=(0.1,), facts=RunFacts(classes=10))
    found = dict(KNNGrid(source="bank", **settings).run(splits, state))
    reversed_train = Split({"embedding": data[0][::-1]}, data[1])
    assert found == dict(KNNGrid(**settings).run(splits | dict(train=reversed_train), None))
    assert found != dict(KNNGrid(**settings).run(splits, None))
    # Baselines have no bank.
    assert dict(KNNGrid(source="bank", **settings).run(splits, None)) == {}


@pytest.mark.parametrize(
    ("variant", "settings", "message"),
    [
        (
            "instance",
            dict(k=(5, 257)),
            r"k=\(5, 257\): numbers between 1 and the 256 labelled training images",
        ),
        ("instance", dict(k=()), "numbers between 1"),
        ("instance", dict(k=(5,), temperature=(0.0,)), "numbers above 0"),
        ("instance", dict(k=(5,), source="queue"), "choose recomputed or bank"),
        ("instance", dict(k=(5,), source="bank", feature="backbone"), "the bank holds embeddings"),
        (
            "swav",
            dict(k=(5,), source="bank"),
            "evals.knn_grid reads the method's bank, but swav has none",
        ),
    ],
)
def test_bad_settings(variant, settings, message):
    config = tiny(variant)
    config.evals = dict(knn_grid=settings)
    config.best = "eval/knn_grid/"
    with pytest.raises(SettingError, match=message):
        build(config)
