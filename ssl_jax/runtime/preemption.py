"""Ctrl-C and SIGTERM as a wish to stop: after the current step, or at once where nothing would be lost."""

import contextlib
import signal
import socket
import sys
import threading

import jax
from jax.experimental import multihost_utils

_PATIENCE = 5.0  # seconds that a computation in XLA, which no signal reaches, is waited for


class Stopped(KeyboardInterrupt):
    """The run was asked to stop, and did so in good order."""

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.signum = signum


class Interrupted(KeyboardInterrupt):
    """Long work between two steps was left because of a signal; whoever began it decides what is saved."""

    def __init__(self, signum: int):
        super().__init__(f"interrupted by {signal.Signals(signum).name}")
        self.signum = signum


class StopRequest:
    """Within `with StopRequest() as stop:` the first signal sets `stop.signum`; a second one stops at once.

    Outside the main thread, where Python allows no handlers, it never sets anything. Of several processes one may be
    told alone (a machine that is taken back), and all stop at the same question: JAX has its own handler of SIGTERM
    for that, which is left in place, and is given Ctrl-C, too. They ask in step, each as often as the others.
    """

    signum = 0

    def __enter__(self):
        self._before, self._together, self._asked = {}, jax.process_count() > 1, 0
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT,) if self._together else (signal.SIGINT, signal.SIGTERM):
                self._before[signum] = signal.signal(signum, self._receive)
        return self

    def asked(self) -> int:
        """The signal to stop for, or 0."""
        if self._together:
            self._asked += 1
            if multihost_utils.reached_preemption_sync_point(self._asked):
                self.signum = self.signum or signal.SIGTERM
                return self.signum
            return 0
        return self.signum

    def heed(self) -> None:
        """Raises Interrupted where a stop is asked for."""
        if signum := self.asked():
            raise Interrupted(signum)

    @contextlib.contextmanager
    def leaving(self, leave):
        """Within it, a signal that the main thread does not come to heed calls `leave(signum)` in another thread.

        Python runs no handler while XLA computes, which may take minutes; `leave` is to end the process. One process
        only: several ask each other, and their computations wait for one another.

        Args:
            leave: called some seconds after the signal, unless the block is over by then; None: never.
        """
        if leave is None or not self._before or self._together:
            yield
            return
        over = threading.Event()
        heard, told = socket.socketpair()
        told.setblocking(False)
        before = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)

        def watch():
            while signals := heard.recv(16):  # empty where the block is over
                found = [signum for signum in signals if signum in self._before]
                if found and not over.wait(_PATIENCE):
                    leave(found[0])

        thread = threading.Thread(target=watch, name="signals", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            signal.set_wakeup_fd(before)
            told.close()  # ends the thread's wait
            thread.join()
            heard.close()

    def _receive(self, signum, frame):
        if self.signum:
            raise KeyboardInterrupt
        self.signum = signum
        if self._together:
            signal.raise_signal(signal.SIGTERM)
        sys.stderr.write("\nstopping as soon as nothing is lost; a second signal stops at once\n")

    def __exit__(self, *_):
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
