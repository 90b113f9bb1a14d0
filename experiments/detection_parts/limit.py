"""When a piece of work must stop: after some minutes, or at a signal."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Interrupted(Exception):
    """The time is up, or a signal came; everything is saved.

    Attributes:
        code: the exit code.
    """

    def __init__(self, text: str, code: int) -> None:
        super().__init__(f"{text}; rerun the same command to resume")
        self.code = code


class Limit:
    """Counts the minutes of all pieces, and says when this one must stop.

    Attributes:
        earlier: minutes of earlier pieces.
        signum: the signal that came, or 0.
    """

    def __init__(self, minutes: float) -> None:
        self._limit = minutes
        self._began = time.monotonic()
        self.earlier = 0.0
        self.signum = 0

    def total(self) -> float:
        """Minutes of all pieces."""
        return self.earlier + (time.monotonic() - self._began) / 60

    def check(self, text: str) -> None:
        """Raises Interrupted if this piece must stop; `text` says where it is."""
        if self.signum:
            raise Interrupted(f"stopped {text}", 128 + self.signum)
        if self._limit and time.monotonic() - self._began > 60 * self._limit:
            raise Interrupted(f"--minutes={self._limit:g} are over {text}", 0)

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Within it Ctrl-C and SIGTERM let the current step finish."""

        def receive(signum: int, frame: object) -> None:
            self.signum = signum

        names = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(name, receive) for name in names]
        try:
            yield
        finally:
            for name, handler in zip(names, before, strict=True):
                signal.signal(name, handler)
