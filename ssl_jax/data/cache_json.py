"""Small results that are slow to compute, as JSON files in the cache."""

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from ssl_jax.data import cache
from ssl_jax.data.source import Source
from ssl_jax.runtime.atomic_file import write_atomically


def load(source: Source, kind: str, facts: Any) -> Any:
    """The value that `store` was given with the same facts; None if it is missing or damaged.

    Args:
        source: the settings.
        kind: subfolder of the cache.
        facts: everything the value depends on, as JSON.
    """
    try:
        checksum, _, text = _path(source, kind, facts).read_text("utf-8").partition("\n")
        return json.loads(text) if checksum == _checksum(text) else None
    except (OSError, ValueError):
        return None


def store(source: Source, kind: str, facts: Any, value: Any) -> None:
    """Keeps a value for `load`; does nothing where the cache cannot be written."""
    path = _path(source, kind, facts)
    text = json.dumps(value)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, f"{_checksum(text)}\n{text}")


def _path(source: Source, kind: str, facts: Any) -> Path:
    return cache.root(source) / kind / f"{_checksum(json.dumps(facts))[:32]}.json"


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
