"""The config.json of runs that are older than some of the settings."""

import json
from typing import Any

from ssl_jax.settings.defaults import get_config, group, view

# A setting that came later, and the value that leaves runs recorded before it as they were, where the default does
# not. By its dotted name, with the name of the method, positives or evaluator in brackets: "method[swav].hard".
EARLIER_VALUES: dict[str, Any] = {}


def with_later_settings(record: dict) -> dict:
    """The settings of a config.json, completed by those that it does not name, at the values that hold without them.

    Evaluators stay those that the run had.

    Args:
        record: settings as JSON keeps them; unchanged.
    """
    for name, value in EARLIER_VALUES.items():
        record = _with_earlier_value(record, name.split("."), value)
    completed = _complete(record, json.loads(get_config().to_json_best_effort()))
    views = {name: _complete(own, _as_json(view(own["size"]))) for name, own in completed["augment"].items()}
    groups = {name: _complete(own, group(own["pattern"])) for name, own in completed["optim"]["groups"].items()}
    optim = completed["optim"] | {"groups": groups}
    return completed | {"augment": views, "optim": optim, "evals": record.get("evals", {})}


def _complete(own, known):
    """`own` with the settings of `known` that it lacks, section by section."""
    missing = {key: value for key, value in known.items() if key not in own}
    inside = {
        key: _complete(value, known[key]) if isinstance(known.get(key), dict) else value for key, value in own.items()
    }
    return missing | inside


def _with_earlier_value(section, path, value):
    """`section` with `value` at `path`, where the section above is of the name in brackets and lacks the setting."""
    first, *rest = path
    if not rest:
        return {first: value} | section
    key, _, kind = first.rstrip("]").partition("[")
    inner = section.get(key)
    if not isinstance(inner, dict) or kind not in ("", inner.get("name", key)):
        return section
    return section | {key: _with_earlier_value(inner, rest, value)}


def _as_json(values):
    """Tuples as the lists that JSON makes of them."""
    return json.loads(json.dumps(values))
