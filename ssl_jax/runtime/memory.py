"""Devices and hosts that have no memory left."""

import re

_WORDS = re.compile(r"resource_exhausted|out of memory|out_of_memory|bad_alloc|ran out of memory", re.IGNORECASE)
_SHOWN = 160  # characters of what XLA says, of which a page may follow


class OutOfMemory(RuntimeError):
    """There was no memory left; the message is one line and names the settings that need less."""


def memory_failure(error: BaseException | None) -> str:
    """What was said, where `error` or one of its causes comes from a lack of memory; else nothing."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        text = str(error)
        if isinstance(error, MemoryError) or (_WORDS.search(text) and "memory" in text.lower()):
            first = text.strip().partition("\n")[0].removeprefix("RESOURCE_EXHAUSTED: ").rstrip(". ")
            return first[:_SHOWN] or "the host has none left"
        error = error.__cause__ or error.__context__
    return ""
