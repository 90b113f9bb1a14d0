"""Ctrl-C and SIGTERM as a request to stop: after the current step, or sooner if nothing is lost."""

import contextlib
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils

_PATIENCE = 5.0  # seconds to wait for a computation in XLA, which signals do not reach


class Stopped(KeyboardInterrupt):
    """The run was asked to stop, and stopped with its state saved."""

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.signum = signum


class Interrupted(KeyboardInterrupt):
    """A signal interrupted long work between two steps; the caller decides what to save."""

    def __init__(self, signum: int):
        super().__init__(f"interrupted by {signal.Signals(signum).name}")
        self.signum = signum


class StopRequest:
    """Within `with StopRequest() as stop:` the first signal sets `stop.signum`.

    A second signal stops at once. Outside the main thread, where Python allows no handlers, it
    never sets anything.

    Of several processes one alone may get the signal (a preempted machine), yet all must stop at
    the same step. JAX's own handler of SIGTERM arranges that; it stays in place and also gets
    Ctrl-C. The processes must call `asked` in step, equally often.
    """

    signum = 0

    def __enter__(self):
        self._before = {}
        self._distributed = jax.process_count() > 1
        self._asked = 0
        if threading.current_thread() is threading.main_thread():
            signals = (signal.SIGINT,) if self._distributed else (signal.SIGINT, signal.SIGTERM)
            for signum in signals:
                self._before[signum] = signal.signal(signum, self._receive)
        return self

    def asked(self) -> int:
        """The signal to stop for, or 0."""
        if self._distributed:
            self._asked += 1
            if multihost_utils.reached_preemption_sync_point(self._asked):
                self.signum = self.signum or signal.SIGTERM
                return self.signum
            return 0
        return self.signum

    def heed(self) -> None:
        """Raises Interrupted if a stop was requested."""
        if signum := self.asked():
            raise Interrupted(signum)

    @contextlib.contextmanager
    def leaving(self, leave: Callable[[int], None] | None) -> Iterator[None]:
        """Within it, a signal that the main thread cannot heed calls `leave(signum)` in a thread.

        Python runs no signal handler while XLA computes, which may take minutes; `leave` must end
        the process. Only with one process: several have to agree first, and their computations
        wait for one another.

        Args:
            leave: called some seconds after the signal unless the block is over by then; None:
                never called.
        """
        if leave is None or not self._before or self._distributed:
            yield
            return
        over = threading.Event()
        receiver, sender = socket.socketpair()
        sender.setblocking(False)
        before = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)

        def watch() -> None:
            while signums := receiver.recv(16):  # empty once the sender is closed
                stopping = [signum for signum in signums if signum in self._before]
                if stopping and not over.wait(_PATIENCE):
                    leave(stopping[0])

        thread = threading.Thread(target=watch, name="signals", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            signal.set_wakeup_fd(before)
            sender.close()  # ends the thread's wait
            thread.join()
            receiver.close()

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        if self.signum:
            raise KeyboardInterrupt
        self.signum = signum
        if self._distributed:
            signal.raise_signal(signal.SIGTERM)
        sys.stderr.write("\nstopping at the next safe point; a second signal stops at once\n")

    def __exit__(self, *_):
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
