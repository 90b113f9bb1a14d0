"""Recognises errors of devices and hosts that run out of memory."""

import re

_WORDS = re.compile(
    r"resource_exhausted|out of memory|out_of_memory|bad_alloc|ran out of memory", re.IGNORECASE
)
_SHOWN = 160  # characters of XLA's message, which may continue for a page


class OutOfMemory(RuntimeError):
    """A device or the host ran out of memory; the message is one line on what to lower."""


def memory_failure(error: BaseException | None) -> str:
    """The message of an out-of-memory error among `error` and its causes; empty if none is."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        text = str(error)
        if isinstance(error, MemoryError) or (_WORDS.search(text) and "memory" in text.lower()):
            first_line = text.strip().partition("\n")[0]
            message = first_line.removeprefix("RESOURCE_EXHAUSTED: ").rstrip(". ")
            return message[:_SHOWN] or "the host has none left"
        error = error.__cause__ or error.__context__
    return ""
