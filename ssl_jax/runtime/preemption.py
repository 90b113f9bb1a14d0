"""Ctrl-C and SIGTERM as a wish to stop after the current step."""

import signal
import sys
import threading

import jax
from jax.experimental import multihost_utils


class Stopped(KeyboardInterrupt):
    """The run was asked to stop, and did so in good order."""

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.signum = signum


class StopRequest:
    """Within `with StopRequest() as stop:` the first signal sets `stop.signum`; a second one stops at once.

    Outside the main thread, where Python allows no handlers, it never sets anything. Of several processes one may be
    told alone (a machine that is taken back), and all stop after the same step: JAX has its own handler of SIGTERM for
    that, which is left in place, and is given Ctrl-C, too.
    """

    signum = 0

    def __enter__(self):
        self._before, self._together = {}, jax.process_count() > 1
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT,) if self._together else (signal.SIGINT, signal.SIGTERM):
                self._before[signum] = signal.signal(signum, self._receive)
        return self

    def after(self, step: int) -> int:
        """The signal to stop for after `step`, or 0; with several processes each asks once for every step."""
        if self._together and multihost_utils.reached_preemption_sync_point(step):
            self.signum = self.signum or signal.SIGTERM
            return self.signum
        return 0 if self._together else self.signum

    def _receive(self, signum, frame):
        if self.signum:
            raise KeyboardInterrupt
        self.signum = signum
        if self._together:
            signal.raise_signal(signal.SIGTERM)
        sys.stderr.write("\nstopping after this step\n")

    def __exit__(self, *_):
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
