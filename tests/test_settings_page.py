"""docs/settings.md lists every setting, with its default and meaning."""

import importlib.util
import sys
from pathlib import Path

import pytest
from helpers import members
from helpers.plans import config_of
from ml_collections import ConfigDict

from ssl_jax.settings import defaults
from ssl_jax.settings.whole_config import completed

SCRIPT = Path(__file__).parents[1] / "experiments" / "settings_page.py"
spec = importlib.util.spec_from_file_location("settings_page", SCRIPT)
settings_page = sys.modules["settings_page"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(settings_page)

SECTIONS = settings_page.sections()


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.title)
def test_every_setting_has_a_meaning(section):
    missing = [setting.name for setting in section.settings if not setting.meaning.strip()]
    assert not missing, f'add to "Attributes:" of {section.cls.__name__}: {", ".join(missing)}'


def test_the_page_is_up_to_date():
    page = settings_page.PAGE.read_text("utf-8")
    assert page == settings_page.page(), "run python experiments/settings_page.py"


def test_every_part_and_every_setting_is_listed():
    listed = {section.cls for section in SECTIONS}
    for parts in (members.methods, members.positives, members.evaluators, members.backbones):
        assert set(parts().values()) <= listed
    names = {setting.name for section in SECTIONS for setting in section.settings}
    for config in (config_of("swav", "cifar10"), config_of("conr", "digits")):
        assert set(leaves(completed(config))) <= names | {"until_epoch"}


def leaves(section):
    """Names of all settings, without those of sections and groups; `name` selects a class."""
    for name, value in section.items():
        if isinstance(value, dict | ConfigDict):
            yield from leaves(value)
        elif name != "name":
            yield name


def test_defaults_are_those_of_a_config():
    (head,) = (section for section in SECTIONS if section.title == "`head`")
    shown = {setting.name: setting.default for setting in head.settings}
    assert shown == {
        name: f"`{settings_page._shown(value)}`"
        for name, value in defaults.get_config().head.items()
    }


DOCSTRING = """A part.

Attributes:
    a, b: of both,
        over two lines.
    c: as in `resnet.ResNet`.

Not one: of them.
"""


def test_meanings_are_read_from_docstrings():
    assert settings_page.attributes(DOCSTRING) == (
        {
            "a": "of both, over two lines.",
            "b": "of both, over two lines.",
            "c": "as in `resnet.ResNet`.",
        },
        "",
    )
    assert settings_page.attributes("Attributes: as in `a.B`.") == ({}, "a.B")
    resnet, preact, vgg = (members.backbones()[name] for name in ("resnet", "preact_resnet", "vgg"))
    meanings = settings_page.meanings(resnet)
    assert settings_page.meanings(preact)["conv_init"] == meanings["conv_init"]
    assert settings_page.meanings(vgg)["conv_init"] == meanings["conv_init"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(4 / 3, "1.33333"), (1.5e-6, "1.5e-06"), ((5,), "(5,)"), ("", '""'), (True, "True")],
)
def test_defaults_are_shown_as_python(value, text):
    assert settings_page._shown(value) == text


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("side in pixels.", "Side in pixels."),
        ("a split.", "A split."),
        ("k of an anchor.", "k of an anchor."),
        ("fr(t0), the fraction.", "fr(t0), the fraction."),
        ("a|b or <name>.", "A\\|b or &lt;name>."),
    ],
)
def test_meanings_become_sentences(text, sentence):
    assert settings_page._sentence(text) == sentence
