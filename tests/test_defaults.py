"""Every setting has one default: that of the dataclass which its section fills."""

import dataclasses
import json

import pytest
from helpers import members
from helpers.plans import config_of
from ml_collections import ConfigDict

from ssl_jax.build import build, check
from ssl_jax.data.augment import View
from ssl_jax.data.source import Source
from ssl_jax.models.layers import Head
from ssl_jax.optim.settings import GroupSettings, OptimSettings
from ssl_jax.settings import defaults
from ssl_jax.settings.resolve import SettingError, fill, located
from ssl_jax.settings.run_settings import RunSettings
from ssl_jax.settings.sections import complete, setting_names, settings_of
from ssl_jax.settings.whole_config import completed

CLASSES = (
    RunSettings,
    Source,
    OptimSettings,
    *members.evaluators().values(),
    *members.positives().values(),
)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_a_section_at_its_defaults_fills_its_class_at_its_defaults(cls):
    assert fill(cls, settings_of(cls), "section") == cls()


def test_required_settings_are_left_to_the_config():
    assert set(settings_of(View, size=8)) == {field.name for field in dataclasses.fields(View)}
    assert "size" not in settings_of(View)
    assert settings_of(GroupSettings, pattern="a")["factor"] == GroupSettings("a").factor


def test_what_a_run_fills_in_is_no_setting():
    for cls in (
        *members.methods().values(),
        *members.positives().values(),
        *members.evaluators().values(),
    ):
        assert not {"network", "positives", "facts"} & set(setting_names(cls))
    for cls in (Head, *members.backbones().values()):
        assert not {"parent", "name"} & set(setting_names(cls))


def test_backbones_agree_about_the_defaults_that_they_share():
    shared = defaults.shared_model_settings()
    for name, cls in members.backbones().items():
        for setting, value in defaults.model_settings(cls).items():
            assert shared[setting] == value, f"{name}: {setting}"


def test_a_nested_section_is_completed():
    cls = members.positives()["contextual"]
    found = complete({"boundary": {"keep": 0.5}, "name": "contextual"}, cls, "positives")
    assert found["boundary"]["restarts"] == cls().boundary.restarts
    assert (found["boundary"]["keep"], found["name"]) == (0.5, "contextual")
    with pytest.raises(
        SettingError, match="positives.boundary.kep is not a setting; did you mean 'keep'"
    ):
        complete({"boundary": {"kep": 0.5}}, cls, "positives")


@pytest.mark.parametrize(
    "make",
    [
        lambda: defaults.view(8, jiter=0.5),
        lambda: defaults.method("swav", prototype=3),
        lambda: defaults.evaluator("knn", K=3),
        lambda: defaults.group("a", fctor=2.0),
    ],
)
def test_a_name_that_is_no_setting_is_refused_where_it_is_given(make):
    with pytest.raises(SettingError, match="is not a setting"):
        make()


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("seed=-1: at least 0", "section.seed=-1: at least 0"),
        ("section.seed=-1: at least 0", "section.seed=-1: at least 0"),
        ("seed and epochs do not fit", "section: seed and epochs do not fit"),
    ],
)
def test_a_message_about_a_setting_names_it_once(message, shown):
    assert located(ValueError(message), "section", RunSettings) == shown


def test_a_completed_config_is_plain_whole_and_stays_as_it_is():
    config = config_of("conr", "digits")
    del (
        config.optim["momentum"],
        config.method["moves"],
        config.evals.knn["k"],
        config.positives.boundary["start"],
    )
    settings = completed(config)
    assert settings["optim"]["momentum"] == OptimSettings().momentum
    assert settings["method"]["moves"] == "after"
    assert settings["evals"]["knn"]["k"] == members.evaluators()["knn"]().k == 20
    assert settings["positives"]["boundary"]["start"] == "warm"
    assert completed(settings) == settings
    assert completed(ConfigDict(settings)) == settings
    assert json.loads(json.dumps(settings))["augment"]["pair"]["size"] == 8


def test_groups_are_taken_in_the_order_of_their_names():
    config = config_of("byol", "digits")
    config.optim.groups = dict(
        z=defaults.group("^predictor", factor=0.5), a=defaults.group("^predictor", factor=2.0)
    )
    with pytest.raises(SettingError, match="matches no parameter"):  # of z, since a takes them all
        build(config)
    assert list(completed(config)["optim"]["groups"]) == ["a", "z"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            dict(optim=dict(learning_rate=-1.0)),
            r"stages.pretrain.optim.learning_rate=-1.0: at least 0",
        ),
        (
            dict(optim=dict(momentun=0.5)),
            "stages.pretrain.optim.momentun is not a setting; did you mean 'momentum'",
        ),
        (dict(method=dict(loss_scale=0.0)), "stages.pretrain.method.loss_scale=0.0: above 0"),
        (
            dict(positives=dict(name="instance", k9=1)),
            "stages.pretrain.positives.k9 is not a setting",
        ),
        (
            dict(augment=dict(pair=dict(flip=2.0))),
            "stages.pretrain.augment.pair.flip=2.0: between 0 and 1",
        ),
    ],
)
def test_a_stages_setting_is_named_with_its_stage(overrides, message):
    config = config_of("conr", "digits")
    config.stages.pretrain = dict(until_epoch=1.0) | overrides
    with pytest.raises(SettingError, match=f"^{message}"):
        check(completed(config))
