"""Ctrl-C and SIGTERM as a wish to stop after the current step."""

import signal
import sys
import threading


class Stopped(KeyboardInterrupt):
    """The run was asked to stop, and did so in good order."""

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.signum = signum


class StopRequest:
    """Within `with StopRequest() as stop:` the first signal sets `stop.signum`; a second one stops at once.

    Outside the main thread, where Python allows no handlers, it never sets anything.
    """

    signum = 0

    def __enter__(self):
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._before[signum] = signal.signal(signum, self._receive)
        return self

    def _receive(self, signum, frame):
        if self.signum:
            raise KeyboardInterrupt
        self.signum = signum
        sys.stderr.write("\nstopping after this step\n")

    def __exit__(self, *_):
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
