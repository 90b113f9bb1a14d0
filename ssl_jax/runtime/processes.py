"""One run on several processes, on one machine or many: what they share and agree on.

With one process nothing here does anything special. All processes must call `share`, `gather`,
`agree`, `same`, `check_shared` and `whole` at the same point of the run.
"""

import contextlib
import hashlib
import itertools
import json
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from ssl_jax.ops.mesh import make_mesh
from ssl_jax.settings.resolve import SettingError

_LENGTH = 2048  # bytes of the texts that processes exchange
_WEEK = 7 * 24 * 3600 * 1000  # milliseconds
_meetings = itertools.count()

T = TypeVar("T")


class Agreed(SettingError):
    """An error that all processes raise, so that only one has to print it."""


def count() -> int:
    """The number of processes."""
    return jax.process_count()


def is_first() -> bool:
    """Whether this is process 0, the only one that prints and writes."""
    return jax.process_index() == 0


def name() -> str:
    """This process in messages: "process 1 of 2"; empty if it is the only one."""
    return f"process {jax.process_index()} of {count()}" if count() > 1 else ""


def client() -> Any:
    """The client of JAX's coordination service, which has no public name; None with one process."""
    from jax._src.distributed import global_state

    return global_state.client


def meet() -> None:
    """Waits for all processes, however long; a collective on CPUs gives up after half a minute."""
    if count() > 1:
        client().wait_at_barrier(f"ssl_jax/meeting {next(_meetings)}", _WEEK)


def share(value: Any) -> Any:
    """The first process's `value`, anything JSON can hold, on all processes."""
    if count() == 1:
        return value
    text = json.dumps(value).encode() if is_first() else b""
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    # A power of two, since each length is compiled for.
    buffer = np.zeros(1 << max(size - 1, 1023).bit_length(), np.uint8)
    buffer[: len(text)] = np.frombuffer(text, np.uint8)
    return json.loads(np.asarray(multihost_utils.broadcast_one_to_all(buffer)).tobytes()[:size])


def gather(text: str) -> list[str]:
    """The `text` of each process, in order, on all of them; cut to 2,048 bytes."""
    if count() == 1:
        return [text]
    buffer = np.frombuffer(text.encode()[:_LENGTH].ljust(_LENGTH, b"\0"), np.uint8)
    buffers = np.asarray(multihost_utils.process_allgather(buffer))
    return [row.tobytes().rstrip(b"\0").decode(errors="ignore") for row in buffers]


def agree(function: Callable[[], T]) -> T:
    """`function()` of each process; if any raises a SettingError, all do.

    The processes wait for each other, however long one of them takes.

    Raises:
        Agreed: the message of the first process that failed, with its number unless all say the
            same.
    """
    if count() == 1:
        return function()
    result = None
    message = ""
    try:
        result = function()
    except SettingError as error:
        message = str(error)
    meet()
    messages = gather(message)
    if not any(messages):
        return result
    first = next(i for i, text in enumerate(messages) if text)
    if len(set(messages)) == 1:
        raise Agreed(messages[first])
    raise Agreed(f"process {first} of {len(messages)}: {messages[first]}")


def same(value: Any, what: str) -> None:
    """Checks that `str(value)` is the same on all processes.

    Args:
        value: the value.
        what: what differs, and the way out, for the message.

    Raises:
        Agreed: it differs; names the first process whose value is not that of process 0.
    """
    hashes = gather(hashlib.sha256(str(value).encode()).hexdigest())
    other = next((i for i, text in enumerate(hashes) if text != hashes[0]), None)
    if other is not None:
        raise Agreed(f"process {other} of {len(hashes)} differs from process 0: {what}")


def check_devices() -> None:
    """Checks that all processes have the same number of devices.

    Raises:
        Agreed: they do not.
    """
    numbers = [sum(d.process_index == i for d in jax.devices()) for i in range(count())]
    if len(set(numbers)) > 1:
        raise Agreed(f"the processes have {numbers} devices; all need the same number")


def check_shared(folder: Path, seconds: float = 20.0) -> None:
    """Checks that all processes see what process 0 writes into `folder`.

    Args:
        folder: the run folder.
        seconds: how long a file may take to appear.

    Raises:
        Agreed: a process does not see it: its host has another folder of this name.
    """
    path = Path(folder) / ".hosts"
    token = share(secrets.token_hex(8))
    if count() == 1:
        return
    if is_first():
        path.write_text(token)
    agree(lambda: _wait_for(path, token, seconds))
    if is_first():
        path.unlink(missing_ok=True)


def _wait_for(path: Path, token: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if path.read_text() == token:
                return
        time.sleep(0.05)
    raise SettingError(
        f"workdir {path.parent} is not the folder of process 0; give one that all hosts share"
    )


def whole(tree: Any) -> Any:
    """`tree` as complete numpy arrays on every process; those sharded over hosts are gathered."""
    if count() == 1:
        return tree
    return jax.tree.map(np.asarray, multihost_utils.process_allgather(tree, tiled=True))


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Within it each process works by itself: the active mesh has only its own devices."""
    if count() == 1:
        yield
        return
    with jax.set_mesh(make_mesh(jax.local_devices())):
        yield
