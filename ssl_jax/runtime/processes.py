"""One run on several processes, on one machine or many: what they agree on, what one of them does for all.

With one process nothing here does anything special. All processes call `share` to `whole`, at the same point of the
run.
"""

import contextlib
import hashlib
import itertools
import json
import secrets
import time
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from ssl_jax.ops.mesh import make_mesh
from ssl_jax.settings.resolve import SettingError

_LENGTH = 2048  # bytes of a text that all send to all
_WEEK = 7 * 24 * 3600 * 1000  # milliseconds
_meetings = itertools.count()


class Agreed(SettingError):
    """An error that every process raises alike, so that one alone has to print it."""


def count() -> int:
    """How many processes there are."""
    return jax.process_count()


def is_first() -> bool:
    """Whether this is the one process that prints and writes."""
    return jax.process_index() == 0


def name() -> str:
    """How messages call this process: "process 1 of 2", or nothing where it is the only one."""
    return f"process {jax.process_index()} of {count()}" if count() > 1 else ""


def client():
    """What speaks to JAX's coordination service, which has no public name; None with one process."""
    from jax._src.distributed import global_state

    return global_state.client


def meet() -> None:
    """Waits for all processes, however long one of them takes; a collective does so for half a minute on CPUs."""
    if count() > 1:
        client().wait_at_barrier(f"ssl_jax/meeting {next(_meetings)}", _WEEK)


def share(value):
    """The first process's `value`, anything that JSON keeps, on all of them."""
    if count() == 1:
        return value
    text = json.dumps(value).encode() if is_first() else b""
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    room = np.zeros(1 << max(size - 1, 1023).bit_length(), np.uint8)  # few lengths: each is compiled for
    room[: len(text)] = np.frombuffer(text, np.uint8)
    return json.loads(np.asarray(multihost_utils.broadcast_one_to_all(room)).tobytes()[:size])


def gather(text: str) -> list[str]:
    """The `text` of each process, in their order, on all of them; what is longer than 2,048 bytes is cut."""
    if count() == 1:
        return [text]
    own = np.frombuffer(text.encode()[:_LENGTH].ljust(_LENGTH, b"\0"), np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(own))
    return [row.tobytes().rstrip(b"\0").decode(errors="ignore") for row in rows]


def agree(function):
    """`function()` of each process, which may take as long as it wants; a SettingError in one of them is raised by all.

    Raises:
        Agreed: the message of the first process that has one, with its number unless all say the same.
    """
    if count() == 1:
        return function()
    found, said = None, ""
    try:
        found = function()
    except SettingError as error:
        said = str(error)
    meet()
    every = gather(said)
    if not any(every):
        return found
    first = next(i for i, text in enumerate(every) if text)
    alike = len(set(every)) == 1
    raise Agreed(every[first] if alike else f"process {first} of {len(every)}: {every[first]}")


def same(value, what: str) -> None:
    """Raises Agreed unless `value` is the same text on all processes; `what` says what differs, and the way out."""
    every = gather(hashlib.sha256(str(value).encode()).hexdigest())
    other = next((i for i, text in enumerate(every) if text != every[0]), None)
    if other is not None:
        raise Agreed(f"process {other} of {len(every)} differs from process 0: {what}")


def check_devices() -> None:
    """Raises a SettingError unless all processes have as many devices."""
    numbers = [sum(d.process_index == i for d in jax.devices()) for i in range(count())]
    if len(set(numbers)) > 1:
        raise Agreed(f"the processes have {numbers} devices; each needs as many")


def check_shared(folder, seconds: float = 20.0) -> None:
    """What the first process writes into `folder` is seen by all within `seconds`; process 0 waits 30 for the others.

    Raises:
        Agreed: it is not: each host has a folder of its own by this name.
    """
    path, token = Path(folder) / ".hosts", share(secrets.token_hex(8))
    if count() == 1:
        return
    if is_first():
        path.write_text(token)
    agree(lambda: _wait_for(path, token, seconds))
    if is_first():
        path.unlink(missing_ok=True)


def _wait_for(path, token, seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            if path.read_text() == token:
                return
        time.sleep(0.05)
    raise SettingError(f"workdir {path.parent} is not the folder of process 0: name one that all hosts share")


def whole(tree):
    """`tree` as arrays of this process: what lies spread over the hosts is fetched by each of them."""
    if count() == 1:
        return tree
    return jax.tree.map(np.asarray, multihost_utils.process_allgather(tree, tiled=True))


@contextlib.contextmanager
def alone():
    """Work that every process does by itself: its own devices are the active mesh then."""
    if count() == 1:
        yield
        return
    with jax.set_mesh(make_mesh(jax.local_devices())):
        yield
