"""The config.json of runs that are older than some of the settings."""

import json
from typing import Any

from ssl_jax.settings.defaults import get_config, group, view

# Settings added later, with the value that older runs implicitly used, listed where today's default or config differs.
# By their dotted names, with the name of the method, positives or evaluator in brackets.
EARLIER_VALUES: dict[str, Any] = {
    "model.init": "torchvision",
    "model.bn_momentum": 0.1,
    "method[swav].joint_views": True,
    "positives[contextual].boundary.start": "unchecked",
    "positives[contextual].boundary.cluster_unlabelled": True,
    "positives[neighbours].boundary.start": "unchecked",
    "positives[neighbours].boundary.cluster_unlabelled": True,
}


def with_later_settings(record: dict) -> dict:
    """The settings of a config.json, any missing one filled in at the value that the run had before it existed.

    Evaluators stay those that the run had.

    Args:
        record: settings as JSON keeps them; unchanged.
    """
    for name, value in earlier_values(record).items():
        record = _with(record, name, value)
    completed = _complete(record, json.loads(get_config().to_json_best_effort()))
    views = {name: _complete(own, _as_json(view(own["size"]))) for name, own in completed["augment"].items()}
    groups = {name: _complete(own, group(own["pattern"])) for name, own in completed["optim"]["groups"].items()}
    optim = completed["optim"] | {"groups": groups}
    return completed | {"augment": views, "optim": optim, "evals": record.get("evals", {})}


def earlier_values(record: dict) -> dict[str, Any]:
    """The entries of `EARLIER_VALUES` that apply to a config.json, whose settings it lacks, by plain dotted names."""
    found = {}
    for name, value in EARLIER_VALUES.items():
        section, path = record, []
        *parts, last = name.split(".")
        for part in parts:
            key, _, kind = part.rstrip("]").partition("[")
            inner = section.get(key)
            section = inner if isinstance(inner, dict) and kind in ("", inner.get("name", key)) else {last: None}
            path.append(key)
        if last not in section:
            found[".".join([*path, last])] = value
    return found


def _complete(own, known):
    """`own` with the settings of `known` that it lacks, section by section."""
    missing = {key: value for key, value in known.items() if key not in own}
    inside = {
        key: _complete(value, known[key]) if isinstance(known.get(key), dict) else value for key, value in own.items()
    }
    return missing | inside


def _with(section, path, value):
    """`section` with `value` at the dotted `path`."""
    first, _, rest = path.partition(".")
    return section | {first: _with(section[first], rest, value) if rest else value}


def _as_json(values):
    """Tuples as the lists that JSON makes of them."""
    return json.loads(json.dumps(values))
