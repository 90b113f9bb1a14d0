"""CoNR as a run: stages, presets on three bases, ablation by override, continuing other runs."""

import numpy as np
import pytest
from helpers.plans import TINY_MODEL, plan_of
from helpers.plans import config_of as published
from helpers.runs import arrays, quiet, records, tiny

from ssl_jax import train
from ssl_jax.positives.contextual import Contextual
from ssl_jax.positives.instance import Instance
from ssl_jax.positives.neighbours import Neighbours
from ssl_jax.settings import command_line
from ssl_jax.settings.resolve import SettingError


def config_of(name, variant):
    """A config with a tiny network; stages do not depend on it."""
    config = published(name, variant)
    config.model.update(TINY_MODEL)
    return config


def kinds(plan):
    return [type(stage.method.positives) for stage in plan.stages]


def test_paper_preset(tmp_path):
    plan = plan_of("conr", "paper_cifar10", tmp_path, model=TINY_MODEL)
    first, second = plan.stages
    per_epoch = plan.steps_per_epoch
    assert (first.until, second.until) == (800 * per_epoch, 1000 * per_epoch)
    assert kinds(plan) == [Instance, Contextual]
    positives = second.method.positives
    assert (positives.k, positives.k1, positives.k2, positives.alpha, positives.layers) == (
        10,
        10,
        2,
        2.0,
        2,
    )
    boundary = positives.boundary
    assert (boundary.keep, boundary.strict, boundary.count_left_out) == (0.8, False, False)
    assert boundary.fraction(1) == pytest.approx(0.801)
    assert boundary.fraction(200) == 1.0
    assert [float(s.schedule(810 * per_epoch)) for s in plan.stages] == pytest.approx(
        [0.00677] * 2, rel=0.01
    )
    assert first.views == second.views
    assert first.views[0].scale == (0.08, 1.0)


def test_released_preset(tmp_path):
    plan = plan_of("conr", "released_cifar10", tmp_path, model=TINY_MODEL)
    first, second = plan.stages
    rates = [float(s.schedule(800 * plan.steps_per_epoch)) for s in plan.stages]
    assert rates == pytest.approx([0.0146, 0.00146], rel=0.01)
    assert [s.views[0].scale for s in plan.stages] == [(0.08, 1.0), (0.45, 1.0)]
    boundary = second.method.positives.boundary
    assert (boundary.strict, boundary.count_left_out) == (True, True)
    assert [boundary.fraction(n) for n in (1, 50, 51)] == pytest.approx([0.804, 1.0, 1.0])
    assert (first.method.moves, first.method.shuffle) == ("before", True)
    assert first.method.network.backbone.bn_groups == 4


@pytest.mark.parametrize("base", ["byol", "simsiam", "moco"])
def test_every_preset_works_with_every_base(base, tmp_path):
    for variant in (
        "digits",
        "paper_cifar10",
        "released_cifar10",
        "paper_cifar20",
        "stl10",
        "imagenet10",
    ):
        config = config_of("conr", f"{variant}+{base}")
        assert config.method.name == config.base == base
    changes = dict(method=dict(queue_length=4096)) if base == "moco" else {}
    plan = plan_of("conr", f"released_cifar10+{base}", tmp_path, **changes)
    assert kinds(plan) == [Instance, Contextual]


@pytest.mark.parametrize(
    ("changes", "kind", "keep", "relax"),
    [
        ({"positives.name": "instance"}, Instance, None, None),
        ({"positives.name": "neighbours"}, Neighbours, 0.8, True),
        ({"positives.boundary.keep": 1.0}, Contextual, 1.0, True),
        ({"positives.boundary.relax": False}, Contextual, 0.8, False),
    ],
)
def test_every_part_of_the_ablation_is_one_override(changes, kind, keep, relax, tmp_path):
    config = config_of("conr", "digits")
    config.update_from_flattened_dict(changes)
    positives = train.build(config).stages[-1].method.positives
    assert type(positives) is kind
    if keep:
        assert (positives.boundary.keep, positives.boundary.relax) == (keep, relax)


def test_the_base_is_chosen_on_the_command_line():
    def call(*flags):
        return command_line.with_base(["main", *flags])[1:]

    assert call("--config=c/conr.py:paper_cifar10", "--config.base=moco") == [
        "--config=c/conr.py:paper_cifar10+moco",
        "--config.base=moco",
    ]
    assert call("--config.base=moco", "--config=conr.py")[1] == "--config=conr.py:digits+moco"
    assert call("--config=conr.py", "--config.epochs=2") == [
        "--config=conr.py",
        "--config.epochs=2",
    ]
    assert call("--config", "conr.py", "--config.base", "moco") == [
        "--config=conr.py:digits+moco",
        "--config.base=moco",
    ]


def test_images_without_labels(tmp_path):
    config = config_of("conr", "digits")
    config.data.labels = "none"
    with pytest.raises(
        SettingError,
        match=r"positives.boundary.clusters=0: .* has no classes, so give their number",
    ):
        train.build(config)
    config.positives.boundary.clusters = 10
    assert kinds(train.build(config)) == [Instance, Contextual]
    config = config_of("byol", "digits")
    config.data.labels = "none"
    assert kinds(train.build(config)) == [Instance]


def test_purity_follows_the_settings_of_the_graph():
    config = config_of("conr", "imagenet_dogs")
    config.positives.k1 = 25
    config.batch_size = 64
    assert (config.evals.purity.k1, config.evals.purity.k2, config.evals.purity.batch_size) == (
        25,
        10,
        64,
    )


def test_the_released_rates_follow_one_override(tmp_path):
    plan = plan_of(
        "conr", "released_cifar10", tmp_path, model=TINY_MODEL, optim={"learning_rate": 0.01}
    )
    rates = [float(s.schedule(100 * plan.steps_per_epoch)) for s in plan.stages]
    assert rates[0] == pytest.approx(10 * rates[1])


def test_a_base_that_does_not_match_is_refused():
    with pytest.raises(SettingError, match="choose one of: byol, simsiam, moco"):
        config_of("conr", "digits+swav")
    config = config_of("conr", "digits")
    config.base = "moco"
    with pytest.raises(SettingError, match="base='moco', but method.name='byol'"):
        train.build(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positives.k": 128}, "positives.k=128: at least 1 and below batch_size=128"),
        ({"positives.k1": 128}, "positives.k1=128: at least 1 and below"),
        ({"positives.k2": 11}, "positives.k2=11: between 2 and k1=10"),
        ({"positives.kk": 3}, "positives.kk is not a setting; did you mean 'k"),
        ({"positives.boundary.keep": 1.5}, "positives.boundary.keep=1.5: above 0 and at most 1"),
        (
            {"positives.boundary.relax_epochs": 99.0},
            "positives.boundary.relax_epochs=99.0: at least 0, and within",
        ),
        (
            {"stages.pretrain.until_epoch": 60.0},
            "stages.pretrain.until_epoch=60.0: must lie within the 60 epochs; 0 skips the stage",
        ),
        ({"init_fresh": True}, "init_fresh, init_epoch and init_prefix need init_from"),
        (
            {"init_from": "nowhere"},
            "init_from='nowhere' holds no checkpoint; give the folder of a run",
        ),
    ],
)
def test_bad_settings_are_one_line_before_any_work(changes, message, tmp_path):
    config = config_of("conr", "digits")
    with config.unlocked(), config.positives.unlocked():
        for name, value in changes.items():
            *parts, last = name.split(".")
            section = config
            for part in parts:
                section = section[part]
            with section.unlocked():
                section[last] = value
    with pytest.raises(SettingError, match=message):
        train.run(config, tmp_path / "run", console=quiet())
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def donor(tmp_path_factory):
    """A finished run of the base: one epoch, half as long as the runs below."""
    folder = tmp_path_factory.mktemp("byol") / "run"
    config = short("byol")
    config.epochs = 1
    train.run(config, folder, console=quiet())
    return folder


def short(variant):
    """Two epochs whose steps do not depend on how many there will be."""
    config = tiny(variant)
    config.epochs = 2
    config.evals = dict(knn=dict(k=5))
    config.baselines = False
    config.method.momentum_schedule = "constant"
    config.optim.schedule.name = "constant"
    return config


def test_a_run_continues_from_another_runs_checkpoint(donor, tmp_path):
    config = short("byol")
    train.run(config, tmp_path / "whole", console=quiet())
    config.init_from = str(donor)
    train.run(config, tmp_path / "run", console=quiet())
    assert [r["step"] for r in records(tmp_path / "run")][:2] == [9, 10]
    ours = arrays(tmp_path / "run", 16)
    theirs = arrays(tmp_path / "whole", 16)
    for name, expected in theirs.items():
        np.testing.assert_array_equal(ours[name], expected, err_msg=name)


def test_neighbours_continue_from_the_bases_checkpoint(donor, tmp_path):
    config = short("conr")
    config.init_from = str(donor)
    train.run(config, tmp_path / "run", console=quiet())
    found = records(tmp_path / "run")
    # At once, and when the stage is an epoch old.
    assert [r["step"] for r in found if "refresh" in r] == [8, 14]
    assert [r["train/kept"] for r in found if "train/kept" in r] == [0.5] * 8


def test_neighbours_from_the_first_epoch_on_a_finished_base(donor, tmp_path):
    config = short("conr")
    config.init_from = str(donor)
    config.init_fresh = True
    config.init_epoch = 1.0
    config.stages.pretrain.until_epoch = 0.0
    config.epochs = 1
    assert kinds(train.build(config)) == [Contextual]
    train.run(config, tmp_path / "run", console=quiet())
    assert [r["train/kept"] for r in records(tmp_path / "run") if "train/kept" in r] == [0.5] * 8


def test_a_fresh_start_takes_only_the_networks(donor, tmp_path):
    config = short("byol")
    config.init_from = str(donor)
    config.init_fresh = True
    config.optim.learning_rate = 0.0
    train.run(config, tmp_path / "run", console=quiet())
    ours = arrays(tmp_path / "run", 16)
    theirs = arrays(donor, 8)
    own = [name for name in theirs if name.startswith("['params']")]
    assert own
    for name in own:
        np.testing.assert_array_equal(ours[name], theirs[name])
    assert ours["['step']"] == 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(method=dict(name="byol", predictor=(24,))), r"has \(16,\) for params/predictor/"),
        (dict(init_epoch=0.5), r"holds no checkpoint of step 4, only of \[8\]"),
        (dict(epochs=1), "is at step 8, this run ends at 8; raise epochs, or set init_fresh=True"),
        (
            dict(batch_size=16),
            "had 8 steps per epoch, this run has 16; use its batch_size and data, or set",
        ),
    ],
)
def test_another_run_that_does_not_fit(change, message, donor, tmp_path):
    config = short("byol")
    config.update(change)
    config.init_from = str(donor)
    with pytest.raises(SettingError, match=message):
        train.run(config, tmp_path / "run", console=quiet())
    assert not (tmp_path / "run").exists()


def test_a_missing_tree_is_named(tmp_path):
    other = tiny("instance")
    other.evals = {}
    other.epochs = 1
    train.run(other, tmp_path / "instance", console=quiet())
    config = short("byol")
    config.init_from = str(tmp_path / "instance")
    with pytest.raises(SettingError, match="has no params/predictor/"):
        train.run(config, tmp_path / "run", console=quiet())
