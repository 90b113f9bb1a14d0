"""Reads the config.json of runs made before some settings existed."""

import json
from collections.abc import Iterator
from typing import Any

from ssl_jax.settings.whole_config import with_defaults

# Entries of config.json that are not settings.
BESIDE = ("data_fingerprint", "data_facts", "kept_settings")

# Settings added later, or whose default has changed, with the value that older runs used. Keys are
# dotted names; brackets hold the name of the method, positives or evaluator with the setting; a
# star stands for any section of evaluators.
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


def with_later_settings(record: dict[str, Any]) -> dict[str, Any]:
    """Completes a config.json: missing settings get the value that the run effectively used.

    The run's evaluators are kept; so are sections of a user's part whose module no longer exists.

    Args:
        record: the content of config.json, settings and other entries; not modified.

    Raises:
        SettingError: the record has an unknown setting.
    """
    for name, value in earlier_values(record).items():
        record = _with(record, name, value)
    return _completed(record)


def earlier_values(record: dict[str, Any]) -> dict[str, Any]:
    """The `EARLIER_VALUES` of settings that a config.json lacks, by plain dotted names."""
    return {
        name: value
        for pattern, value in EARLIER_VALUES.items()
        for name in _missing(record, pattern.split("."))
    }


def _missing(section: dict[str, Any], path: list[str]) -> Iterator[str]:
    """Dotted names that match `path` in a section, of settings that the section lacks."""
    first, *rest = path
    if not rest:
        if first not in section:
            yield first
        return
    key, _, part = first.rstrip("]").partition("[")
    for name in list(section) if key == "*" else [key]:
        inner = section.get(name)
        if isinstance(inner, dict) and part in ("", inner.get("name", name)):
            yield from (f"{name}.{below}" for below in _missing(inner, rest))


def _completed(record: dict[str, Any]) -> dict[str, Any]:
    """`record` with today's defaults for missing settings."""
    settings = {name: value for name, value in record.items() if name not in BESIDE}
    settings.setdefault("evals", {})
    settings = with_defaults(settings, parts_may_be_missing=True)
    return record | json.loads(json.dumps(settings))  # JSON has lists in place of tuples


def _with(section: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """`section` with `value` at the dotted `path`."""
    first, _, rest = path.partition(".")
    return section | {first: _with(section[first], rest, value) if rest else value}
