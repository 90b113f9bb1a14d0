"""If one process of a run fails, all end at once, each with a line that says why.

Without this, JAX lets the others wait until a connection breaks (on CPUs) or a heartbeat is missed
(elsewhere); and process 0, which runs the coordination service, would take them down under pages of
messages from JAX's C++ code. So the process that fails announces it before it exits, all others
listen, and process 0 exits last.
"""

import contextlib
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import NoReturn

import jax

from ssl_jax.runtime import processes
from ssl_jax.runtime.memory import OutOfMemory
from ssl_jax.runtime.storage import StorageError
from ssl_jax.settings.resolve import SettingError

_FAILED = "ssl_jax/failed"  # key of the first failure in JAX's coordination service
_LEFT = "ssl_jax/left/"  # folder of keys, one for each process that has exited
_EVERY = 1.0  # seconds between looks for a failure elsewhere
_PATIENCE = 5.0  # seconds that process 0 waits for the others
_LOST = re.compile("gloo|nccl|unavailable|deadline_exceeded|coordination|connection", re.IGNORECASE)


@contextlib.contextmanager
def exit_together() -> Iterator[None]:
    """Within it, this process ends with exit code 1 as soon as another one has failed."""
    over = threading.Event()
    if processes.count() > 1:
        threading.Thread(target=_listen, args=(over,), name="others", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def fail(error: BaseException, code: int) -> NoReturn:
    """Ends this process, and so all others, with a line on `error`, or a traceback for a bug.

    With one process `error` is raised again.
    """
    if processes.count() == 1:
        raise error
    message = " ".join(str(error).split())
    expected = isinstance(error, (SettingError, StorageError, OutOfMemory))
    if not expected and _LOST.search(message):
        message = _failure_elsewhere() or (
            "lost the other processes; restart all of them to resume from the last checkpoint "
            f"({message[:160]})"
        )
    elif not expected and not isinstance(error, (jax.errors.JaxRuntimeError, KeyboardInterrupt)):
        traceback.print_exception(error)
        message = f"{type(error).__name__}: {message}"
    _leave(message, code)


def _listen(over: threading.Event) -> None:
    while not over.wait(_EVERY):
        if message := _failure_elsewhere():
            _leave(message, 1)


def _failure_elsewhere() -> str | None:
    """One line on another process that has announced its failure; None if there is none."""
    with contextlib.suppress(Exception):  # no such key yet, or process 0 is gone
        return f"ended because of {processes.client().key_value_try_get(_FAILED)}"
    return None


_leaving = threading.Lock()  # never released: only the first of two threads prints and exits


def _leave(message: str, code: int) -> NoReturn:
    _leaving.acquire()
    number = jax.process_index()
    client = processes.client()
    print(f"error: {processes.name()}: {message}", file=sys.stderr)
    with contextlib.suppress(Exception):  # another failure came first, or process 0 is gone
        client.key_value_set(_FAILED, f"{processes.name()}: {message}")
    with contextlib.suppress(Exception):
        client.key_value_set(f"{_LEFT}{number}", "")
        deadline = time.monotonic() + _PATIENCE
        while (
            number == 0
            and len(client.key_value_dir_get(_LEFT)) < processes.count()
            and time.monotonic() < deadline
        ):
            time.sleep(0.1)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # skip atexit: it would wait for dead peers
