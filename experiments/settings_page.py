"""Writes docs/settings.md: every setting of every section, with default and meaning.

    python experiments/settings_page.py

Defaults come from the dataclasses that fill the sections of a config, meanings from the
"Attributes:" of their docstrings. `ssl_jax/settings/defaults.py` maps sections to classes.
"""

import dataclasses
import inspect
import pkgutil
import re
from pathlib import Path
from typing import Any

from ssl_jax.data.augment import View
from ssl_jax.data.source import Source
from ssl_jax.models.layers import Head
from ssl_jax.optim.settings import GroupSettings, OptimSettings, ScheduleSettings
from ssl_jax.positives.boundary import Boundary
from ssl_jax.settings import defaults
from ssl_jax.settings.eval_settings import EvalSettings
from ssl_jax.settings.resolve import available
from ssl_jax.settings.run_settings import RunSettings
from ssl_jax.settings.sections import setting_names, settings_of

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"

_INTRODUCTION = """# Settings

Every setting of a run, with its default and meaning. Set one in a config file, as in `config.optim.learning_rate = 0.1`, or on the command line, as in `--config.optim.learning_rate=0.1`.

The files in [configs](../configs) change many of these defaults to published values. The `config.json` of a run folder records the values that the run used.

`python experiments/settings_page.py` writes this page from the docstrings of the classes that it names.
"""  # noqa: E501

_STAGES = """## `stages.NAME`

A stage overrides settings of the sections `method`, `positives`, `augment` or `optim` until some epoch; the last stage has no overrides.

| setting | default | meaning |
| --- | --- | --- |
| `until_epoch` | `0.0` | Epoch at which the stage ends; 0 skips the stage. |
| `method`, `positives`, `augment`, `optim` | `{}` | Overrides, by the names of the settings in these sections. |
"""  # noqa: E501

# Parts chosen by name: section, package, attribute, what the section chooses, default.
_PARTS = (
    ("model", "ssl_jax.models", "Backbone", "backbone", "resnet"),
    ("method", "ssl_jax.methods", "Method", "method", None),
    ("positives", "ssl_jax.positives", "Positives", "kind of positives", "instance"),
    ("evals.NAME", "ssl_jax.evaluation", "Evaluator", "evaluator", None),
)


@dataclasses.dataclass(frozen=True)
class Setting:
    """A row of the page; `default` is "required" if there is none, `meaning` empty if unknown."""

    name: str
    default: str
    meaning: str


@dataclasses.dataclass(frozen=True)
class Section:
    """The settings of one class.

    Attributes:
        title: section of the config, and the name that selects the class, if any.
        cls: the class.
        settings: `name` first, others in the order of the fields.
        level: of the heading.
    """

    title: str
    cls: type
    settings: list[Setting]
    level: int = 2


def sections() -> list[Section]:
    """All sections of a config but `stages`, in the order of the page."""
    parts = {name: _parts(name, package, kind) for name, package, kind, _, _ in _PARTS}
    return [
        _section("Top level", RunSettings),
        _section("`data`", Source),
        _section("`augment.NAME`", View),
        *parts["model"],
        _section("`head`", Head, without=defaults.FROM_MODEL),
        *parts["method"],
        *parts["positives"],
        _section("`positives.boundary`", Boundary, level=3),
        _section("`optim`", OptimSettings, without=("schedule",)),
        _section("`optim.schedule`", ScheduleSettings, level=3),
        _section("`optim.groups.NAME`", GroupSettings, level=3),
        _section("`evals`", EvalSettings),
        *parts["evals.NAME"],
    ]


def _parts(section: str, package: str, attribute: str) -> list[Section]:
    """The classes that the setting `name` of a section selects."""
    return [
        _section(f"`{section}`: {name}", cls, without=("boundary",), level=3)
        for name, cls in available(package, attribute).items()
    ]


def _section(title: str, cls: type, *, without: tuple[str, ...] = (), level: int = 2) -> Section:
    values = settings_of(cls)
    texts = meanings(cls)
    settings = []
    for field in setting_names(cls):
        if field in without:
            continue
        default = f"`{_shown(values[field])}`" if field in values else "required"
        name = "init" if field == "conv_init" else field  # see `defaults.model_settings`
        settings.append(Setting(name, default, _sentence(texts.get(field, ""))))
    settings.sort(key=lambda setting: setting.name != "name")  # first, as it selects the others
    return Section(title, cls, settings, level)


def meanings(cls: type) -> dict[str, str]:
    """Meanings of a class's fields, from its docstring and those of its bases.

    A meaning like "as in `resnet.ResNet`" is looked up there.
    """
    texts = {}
    for base in reversed(cls.__mro__):
        entries, reference = attributes(vars(base).get("__doc__") or "")
        texts |= meanings(_class(reference, base)) if reference else {}
        for name, text in entries.items():
            reference = re.match(r"as [^`]*`([\w.]+)`", text)
            texts[name] = meanings(_class(reference[1], base))[name] if reference else text
    return texts


def attributes(docstring: str) -> tuple[dict[str, str], str]:
    """The "Attributes:" of a Google-style docstring, by name, and a class that has the others.

    The class is that of a line such as "Attributes: as in `resnet.ResNet`."; usually empty.
    """
    entries: dict[str, str] = {}
    names: list[str] = []
    reference = ""
    inside = False
    for line in inspect.cleandoc(docstring).splitlines():
        if not line.startswith(" "):
            inside = line.startswith("Attributes:") or (inside and not line)
            if line.startswith("Attributes:"):
                named = re.search(r"`([\w.]+)`", line)
                reference = named[1] if named else ""
            continue
        entry = re.fullmatch(r" {4}(\w+(?:, \w+)*): (.*)", line)
        if inside and entry:
            names = entry[1].split(", ")
            entries |= dict.fromkeys(names, entry[2])
        elif inside:
            entries |= {name: f"{entries[name]} {line.strip()}" for name in names}
    return entries, reference


def _class(name: str, beside: type) -> type:
    """A class by its dotted name, below the package of the class `beside` or below ssl_jax."""
    package = beside.__module__.rpartition(".")[0]
    for prefix in (package, "ssl_jax"):
        try:
            return pkgutil.resolve_name(f"{prefix}.{name}")
        except (ImportError, AttributeError):
            continue
    raise LookupError(f"{beside.__name__} refers to {name}, which does not exist")


def _shown(value: Any) -> str:
    """A default as Python, with floats to six digits and double quotes."""
    if isinstance(value, float):
        return repr(float(f"{value:.6g}"))
    if isinstance(value, tuple):
        items = ", ".join(map(_shown, value))
        return f"({items},)" if len(value) == 1 else f"({items})"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _sentence(text: str) -> str:
    """`text` for a table cell; a first word (not a symbol such as k) gets a capital letter."""
    if re.match(r"(a|[a-z]{2,})\b(?![(=])", text):
        text = text[0].upper() + text[1:]
    return text.replace("|", "\\|").replace("<", "&lt;")


def page() -> str:
    """The page as Markdown."""
    blocks = [_INTRODUCTION]
    choices = {f"`{name}`: ": _choice(*rest, name) for name, *rest in _PARTS}
    for section in sections():
        prefix = section.title.partition(": ")[0] + ": "
        blocks.append(choices.pop(prefix, ""))
        blocks.append(_block(section))
    blocks.append(_STAGES)
    return "\n".join(block for block in blocks if block)


def _choice(package: str, attribute: str, kind: str, default: str | None, section: str) -> str:
    """The heading of a section whose class is selected by name, and the setting that does so."""
    names = ", ".join(f"`{name}`" for name in available(package, attribute))
    if section == "evals.NAME":
        usual = ", ".join(f"`{name}`" for name in defaults.EVALUATORS)
        sentence = (
            f"NAME selects the {kind}: {names}; or set `name` to a module of your own by its "
            f"dotted name. Runs use {usual} by default."
        )
    else:
        sentence = f"`name` selects the {kind}: {names}, or a module of your own by its dotted name"
        sentence += f" (default `{default}`)." if default else " (required)."
    return f"## `{section}`\n\n{sentence}\n"


def _block(section: Section) -> str:
    """A section as Markdown: heading, summary of its class, table of its settings."""
    summary = " ".join(inspect.getdoc(section.cls).partition("\n\n")[0].split())
    lines = [f"{'#' * section.level} {section.title}", "", f"`{_dotted(section.cls)}`: {summary}"]
    if section.settings:
        lines += ["", "| setting | default | meaning |", "| --- | --- | --- |"]
    for setting in section.settings:
        lines.append(f"| `{setting.name}` | {setting.default} | {setting.meaning} |")
    return "\n".join(lines) + "\n"


def _dotted(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}".removeprefix("ssl_jax.")


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
    print(f"wrote {PAGE}")
