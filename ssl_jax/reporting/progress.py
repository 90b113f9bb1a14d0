"""Progress lines of long work, thinned to what a reader of a log wants."""

import time
from collections.abc import Callable
from typing import Any

from ssl_jax.interface import Report

_SECONDS = 20.0  # between two lines


def occasionally(
    say: Callable[[str], Any],
    seconds: float = _SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> Report:
    """A `Report` that passes on at most one line in `seconds`, and none before the first are over.

    Args:
        say: takes the lines that remain.
        seconds: between two of them.
        clock: seconds since any moment.
    """
    last = clock()

    def report(text: str) -> None:
        nonlocal last
        now = clock()
        if now - last >= seconds:
            last = now
            say(f"  {text}")

    return report
