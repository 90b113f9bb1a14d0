"""The config.json of runs that are older than some of the settings."""

import json
from collections.abc import Iterator
from typing import Any

from ssl_jax.settings.whole_config import with_defaults

BESIDE = ("data_fingerprint", "data_facts", "kept_settings")  # what config.json holds beside settings

# Settings added later, or whose default has changed, with the value that older runs used. By their
# dotted names; in brackets the name of the method, positives or evaluator that has the setting; a
# star stands for each section of evaluators.
EARLIER_VALUES: dict[str, Any] = {
    "model.init": "torchvision",
    "model.bn_momentum": 0.1,
    "model.stem": "imagenet",
    "method[swav].joint_views": True,
    "positives[contextual].boundary.start": "unchecked",
    "positives[contextual].boundary.cluster_unlabelled": True,
    "positives[neighbours].boundary.start": "unchecked",
    "positives[neighbours].boundary.cluster_unlabelled": True,
    "evals.*[knn].k": 200,
}


def with_later_settings(record: dict) -> dict:
    """The settings of a config.json, any missing one filled in at the value that the run had before it existed.

    Evaluators stay those that the run had. Sections of a user's own part that is not there any more stay as they are.

    Args:
        record: settings as JSON keeps them, and what else config.json holds; unchanged.

    Raises:
        SettingError: the record has a setting that there is not.
    """
    for name, value in earlier_values(record).items():
        record = _with(record, name, value)
    return _completed(record)


def earlier_values(record: dict) -> dict[str, Any]:
    """The entries of `EARLIER_VALUES` that apply to a config.json, whose settings it lacks, by plain dotted names."""
    values = {}
    for pattern, value in EARLIER_VALUES.items():
        for name in _lacking(record, pattern.split(".")):
            values[name] = value
    return values


def _lacking(section: dict, path: list[str]) -> Iterator[str]:
    """The dotted names that `path` stands for in a section, of settings that the section lacks."""
    first, *rest = path
    if not rest:
        if first not in section:
            yield first
        return
    key, _, kind = first.rstrip("]").partition("[")
    for name in list(section) if key == "*" else [key]:
        inner = section.get(name)
        if isinstance(inner, dict) and kind in ("", inner.get("name", name)):
            yield from (f"{name}.{below}" for below in _lacking(inner, rest))


def _completed(record: dict) -> dict:
    """`record` with today's defaults for the settings that it lacks; what is no setting stays."""
    settings = {name: value for name, value in record.items() if name not in BESIDE}
    settings.setdefault("evals", {})
    whole = with_defaults(settings, parts_may_be_missing=True)
    return record | json.loads(json.dumps(whole))  # tuples as the lists that JSON makes of them


def _with(section, path, value):
    """`section` with `value` at the dotted `path`."""
    first, _, rest = path.partition(".")
    return section | {first: _with(section[first], rest, value) if rest else value}
