"""The line that ends a run: each rule with made-up records."""

import re

import pytest

from ssl_jax.build import completed
from ssl_jax.configs import instance, swav
from ssl_jax.runs.in_use import means, shown_signs
from ssl_jax.runs.scores import FEATURES, compare_scores, few_images, scored_split
from ssl_jax.training.verdict import verdict

WELL = {"loss": 2.4, "loss_over_ln_k": 0.5, "code_entropy": 0.4, "spread": 0.9}


def rows(**knn):
    return {FEATURES[kind]: {"knn/top1": value} for kind, value in knn.items()}


def judged(scores, metrics=WELL, config=None, **options):
    settings = completed(config or swav.get_config())
    return verdict(scores, metrics, settings, **{"tests": 360, "stored": 8} | options)


@pytest.mark.parametrize(
    ("scores", "opening"),
    [
        (dict(largest_class=0.1, untrained=0.74, pixels=0.8, eval=0.95), "learnt: kNN 0.9500 ("),
        (dict(largest_class=0.1, adopted=0.74, eval=0.95), "learnt: kNN 0.9500"),
        (
            dict(largest_class=0.1, untrained=0.74, pixels=0.975, eval=0.9556),
            "better than before training, but no better than raw pixels: kNN 0.9556",
        ),
        (
            dict(largest_class=0.1, untrained=0.74, pixels=0.975, eval=0.66),
            "no better than the untrained encoder: kNN 0.6600 (largest class 0.1000, untrained "
            "encoder 0.7400, raw pixels 0.9750)",
        ),
        (
            dict(largest_class=0.7, untrained=0.6, pixels=0.6, eval=0.7),
            "no better than always naming the largest class: kNN 0.7000",
        ),
        (dict(largest_class=0.1, adopted=0.9, eval=0.9), "no better than the encoder before this"),
        (dict(pixels=0.9, eval=0.9), "no better than raw pixels: kNN"),
        (dict(largest_class=0.1, eval=0.9), "better than largest class: kNN 0.9000"),
        (dict(eval=0.9), "nothing to compare with: kNN 0.9000"),
    ],
)
def test_accuracies_are_compared(scores, opening):
    line = judged(rows(**scores))
    assert line.startswith(f"verdict: {opening}")
    assert "\n" not in line
    assert ("In a new folder try more epochs" in line) == opening.startswith(
        ("no better", "better than before")
    )


def test_a_perfect_score_on_two_images_is_not_called_worse():
    line = judged(rows(largest_class=0.5, untrained=0.5, eval=1.0), tests=2)
    opening = "verdict: not clearly better, on 2 test images, than always naming the largest class"
    assert line.startswith(f"{opening}: kNN 1.0000 (largest class 0.5000, ")


def test_the_fewest_prototypes_are_not_lowered():
    config = swav.get_config()
    weak = WELL | {"loss_over_ln_k": 1.0, "code_entropy": 0.7}
    assert "fewer method.prototypes (now 128)" in judged(rows(eval=0.9), weak, config)
    config.method.prototypes = 2
    assert "prototypes" not in judged(rows(eval=0.9), weak, config)


def test_a_small_difference_is_none_on_few_images():
    scores = rows(untrained=0.8, eval=0.85)
    assert judged(scores, tests=10_000).startswith("verdict: learnt")
    opening = "verdict: not clearly better, on 300 test images, than the untrained encoder"
    assert judged(scores, tests=300).startswith(opening)


def test_another_classifier_stands_in_for_knn():
    scores = {FEATURES["untrained"]: {"linear/top1": 0.2}, FEATURES["eval"]: {"linear/top1": 0.9}}
    assert judged(scores).startswith("verdict: learnt: linear 0.9000")


@pytest.mark.parametrize(
    ("entropy", "state", "remedy"),
    [
        (0.97, "codes are nearly uniform (entropy 0.97 of the maximum)", "a lower method.epsilon"),
        (0.8, "codes say little (entropy 0.80", "a lower method.epsilon (now 0.05)"),
        (0.2, "codes are sharp, but views do not predict each other's", "fewer method.prototypes"),
    ],
)
def test_a_loss_near_ln_k_is_named(entropy, state, remedy):
    metrics = WELL | {"loss_over_ln_k": 0.95, "code_entropy": entropy}
    line = judged({}, metrics)
    assert "the loss is 0.95 times ln K" in line
    assert state in line
    assert remedy in line
    assert line.endswith("or more epochs")
    assert ("method.epsilon" in line) == (entropy > 0.5)  # which would not help sharp codes
    learnt = judged(rows(untrained=0.5, eval=0.9), metrics)
    assert learnt.startswith("verdict: learnt: kNN 0.9000")
    assert state in learnt
    assert "ln K" not in judged({}, WELL | {"loss_over_ln_k": 0.89})


def test_a_bank_loss_at_chance_is_named():
    config = instance.get_config()
    line = judged({}, {"loss": 7.0, "spread": 0.9, "loss_over_chance": 0.99}, config)
    assert "0.99 times an untrained network's: images are not told apart" in line
    assert "method.epsilon" not in line
    assert "chance" not in judged({}, {"loss": 4.0, "loss_over_chance": 0.6}, config)


def test_without_scores_loss_and_spread_are_reported():
    assert judged({}) == (
        "verdict: no scores to judge by: loss 2.4000, spread of the embeddings 0.90 (0 is one "
        "point, 1 is evenly spread)"
    )
    assert "0.02 (nearly one point)" in judged({}, WELL | {"spread": 0.02})
    assert judged({}, {}) == ""


def test_a_standing_collapse_is_the_verdict():
    standing = "warning: the embeddings have collapsed"
    assert judged(rows(untrained=0.5, eval=0.9), standing=standing) == standing


def test_larger_views_are_proposed_where_images_are_larger():
    config = swav.get_config("folder")
    config.augment.large.size = 96  # chosen from the images, as in every record of a run
    line = judged(rows(untrained=0.5, eval=0.5), config=config, stored=128)
    assert "larger views (augment.large.size=96, images have 128)" in line
    assert "larger views" not in judged(rows(untrained=0.5, eval=0.5), config=config, stored=96)


def test_nothing_is_proposed_where_every_test_image_is_right():
    line = judged(rows(untrained=1.0, pixels=0.9, eval=1.0))
    assert line.startswith("verdict: no better than the untrained encoder: kNN 1.0000")
    assert "try" not in line
    assert "more epochs" in judged(rows(untrained=0.99, pixels=0.9, eval=0.99))


def test_settings_to_try_exist():
    metrics = WELL | {"loss_over_ln_k": 0.95, "code_entropy": 0.97, "loss_over_chance": 1.0}
    for config in (swav.get_config("folder"), instance.get_config()):
        settings = completed(config)
        line = judged(rows(untrained=0.5, eval=0.5), metrics, config, stored=10_000)
        names = re.findall(r"\b(?:method|augment|optim)[.\w]+", line)
        assert names
        for name in names:
            section = settings
            for part in name.split("."):
                section = section[part]


def test_the_largest_class_is_a_row_and_no_comparison():
    scores = rows(largest_class=0.7, untrained=0.6, eval=0.7)
    sentences = compare_scores(scores)
    assert len(sentences) == 1
    assert sentences[0].startswith("compared with the untrained encoder")
    assert compare_scores(rows(largest_class=0.7, eval=0.7)) == []


def test_which_scores_are_accuracies_of_what():
    names = ("knn/top1", "knn_grid/top1_k5_t0.1", "probe/top1_stage3_0.01", "clustering/acc")
    assert [scored_split(name) for name in names] == ["test", "test", "test", "trained"]
    others = ("clustering/nmi", "probe/held_out", "knn/balanced", "purity/local_10", "a/top10")
    assert not any(map(scored_split, others))


def test_scores_on_few_images():
    assert few_images(6) == "on 6 test images one image is 0.17 of a score"
    assert few_images(1) == "on 1 test image one image is 1 of a score"
    assert few_images(100) == few_images(0) == ""


def test_means_over_the_last_epoch():
    records = [
        {"step": 0, "epoch": 0.0, "refresh": True, "refresh/clusters_used": 0.2},
        {"step": 2, "epoch": 1.0, "train/loss": 9.0, "train/spread": 0.1},
        {"step": 3, "epoch": 1.5, "train/loss": 2.0, "train/spread": 0.4},
        {"step": 4, "epoch": 2.0, "refresh": True, "refresh/clusters_used": 0.7},
        {"step": 4, "epoch": 2.0, "train/loss": 1.0, "train/spread": 0.6},
        {"step": 4, "epoch": 2.0, "eval/knn/top1": 1.0},
    ]
    found = means(records)
    assert found == pytest.approx({"loss": 1.5, "spread": 0.5, "clusters_used": 0.7})
    assert shown_signs(found) == {"spread": "0.50", "clusters in use": "70%"}
    assert means(records[:1]) == {}
