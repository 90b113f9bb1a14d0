"""How the processes of one run end when one of them fails: all at once, each with a line that says why.

By itself JAX lets the others wait until a connection breaks (on CPUs) or a heartbeat is missed (elsewhere). And process
0, which serves them all, would take them with it, under pages from JAX's C++ code. So the one that fails says so
before it goes, all listen, and process 0 goes last.
"""

import contextlib
import os
import re
import sys
import threading
import time
import traceback

import jax

from ssl_jax.runtime import processes
from ssl_jax.runtime.memory import OutOfMemory
from ssl_jax.runtime.storage import StorageError
from ssl_jax.settings.resolve import SettingError

_FAILED, _LEFT = "ssl_jax/failed", "ssl_jax/left/"
_EVERY = 1.0  # seconds
_PATIENCE = 5.0  # seconds that process 0 waits for the others


@contextlib.contextmanager
def exit_together():
    """Within it, this process ends with exit code 1 as soon as another one has failed."""
    over = threading.Event()
    if processes.count() > 1:
        threading.Thread(target=_listen, args=(over,), name="others", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def fail(error: BaseException, code: int):
    """Ends this process with a line on `error`, or a traceback where a line would not do; and so all the others.

    With one process `error` is raised again.
    """
    if processes.count() == 1:
        raise error
    said = " ".join(str(error).split())
    own = isinstance(error, (SettingError, StorageError, OutOfMemory))
    if not own and re.search("gloo|nccl|unavailable|deadline_exceeded|coordination|connection", said, re.IGNORECASE):
        said = _told() or f"lost the other processes; start all again, to go on from the last checkpoint ({said[:160]})"
    elif not own and not isinstance(error, (jax.errors.JaxRuntimeError, KeyboardInterrupt)):
        traceback.print_exception(error)
        said = f"{type(error).__name__}: {said}"
    _leave(said, code)


def _listen(over):
    while not over.wait(_EVERY):
        if said := _told():
            _leave(said, 1)


def _told() -> str | None:
    """What another process that failed has said."""
    with contextlib.suppress(Exception):  # nothing yet, or nobody there to ask
        return f"ended with {processes.client().key_value_try_get(_FAILED)}"
    return None


_leaving = threading.Lock()  # for good: the first of two threads that come has the word


def _leave(said, code):
    _leaving.acquire()
    number, client = jax.process_index(), processes.client()
    print(f"error: {processes.name()}: {said}", file=sys.stderr)
    with contextlib.suppress(Exception):  # another one was first, or nobody is there to be told
        client.key_value_set(_FAILED, f"{processes.name()}: {said}")
    with contextlib.suppress(Exception):
        client.key_value_set(f"{_LEFT}{number}", "")
        until = time.monotonic() + _PATIENCE
        while not number and len(client.key_value_dir_get(_LEFT)) < processes.count() and time.monotonic() < until:
            time.sleep(0.1)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # as others are gone, who would be waited for
