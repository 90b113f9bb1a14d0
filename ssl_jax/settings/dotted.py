"""Settings by their dotted names, such as "optim.schedule.name", in nested dicts."""

from collections.abc import Iterator, Mapping
from typing import Any


def matching(settings: Mapping[str, Any], pattern: str) -> Iterator[str]:
    """The dotted names that match a pattern, whether or not their section has the last part.

    Args:
        settings: sections in sections.
        pattern: a dotted name. A star stands for any section; brackets hold the name of the method,
            positives or evaluator that must be selected, as in "method[swav].prototypes" and
            "evals.*[knn].k".
    """
    first, _, rest = pattern.partition(".")
    if not rest:
        yield first
        return
    key, _, part = first.rstrip("]").partition("[")
    for name in list(settings) if key == "*" else [key]:
        inner = settings.get(name)
        if isinstance(inner, Mapping) and part in ("", inner.get("name", name)):
            yield from (f"{name}.{below}" for below in matching(inner, rest))


def value_at(settings: Mapping[str, Any], name: str, default: Any = None) -> Any:
    """The value of the setting `name`; `default` if there is none."""
    first, _, rest = name.partition(".")
    if not rest:
        return settings.get(first, default)
    inner = settings.get(first)
    return value_at(inner, rest, default) if isinstance(inner, Mapping) else default


def replaced(settings: Mapping[str, Any], name: str, value: Any) -> dict[str, Any]:
    """A copy of `settings` with another value of the setting `name`."""
    first, _, rest = name.partition(".")
    return {**settings, first: replaced(settings[first], rest, value) if rest else value}
