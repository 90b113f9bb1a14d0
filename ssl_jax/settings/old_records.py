"""Reads the config.json of runs made before some settings existed."""

import json
from typing import Any

from ssl_jax.settings.dotted import matching, replaced, value_at
from ssl_jax.settings.whole_config import with_defaults

# Entries of config.json that are not settings.
BESIDE = ("data_fingerprint", "data_facts", "kept_settings")

_MISSING = object()

# Settings added later, or whose default has changed, with the value that older runs used. Keys are
# patterns of dotted names, see `dotted.matching`.
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
    "data.keep": "centre",
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
        record = replaced(record, name, value)
    return _completed(record)


def earlier_values(record: dict[str, Any]) -> dict[str, Any]:
    """The `EARLIER_VALUES` of settings that a config.json lacks, by plain dotted names."""
    return {
        name: value
        for pattern, value in EARLIER_VALUES.items()
        for name in matching(record, pattern)
        if value_at(record, name, _MISSING) is _MISSING
    }


def _completed(record: dict[str, Any]) -> dict[str, Any]:
    """`record` with today's defaults for missing settings."""
    settings = {name: value for name, value in record.items() if name not in BESIDE}
    settings.setdefault("evals", {})
    settings = with_defaults(settings, parts_may_be_missing=True)
    return record | json.loads(json.dumps(settings))  # JSON has lists in place of tuples
