"""TensorBoard events of a run: expendable, so a failing disk never stops the run."""

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import scalar

_FLUSH_SECONDS = 10


class EventWriter:
    """Writes scalars to a new events file; gives up silently once the disk fails.

    Args:
        folder: where the file goes.
        purge_step: TensorBoard drops what earlier files hold from this step on.

    Attributes:
        failure: the first error of the disk; empty while there is none.
    """

    def __init__(self, folder: Path, purge_step: int):
        self.failure = ""
        self._records = None
        self._flushed = time.monotonic()
        # Written here and not in tensorboardX's thread, whose queue blocks forever once a full disk
        # has killed the thread.
        path = Path(folder) / f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"
        with self._expendable():
            self._records = RecordWriter(str(path))
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        start = SessionLog(status=SessionLog.START)
        self._write(Event(wall_time=time.time(), step=purge_step, session_log=start))

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Writes one number at a step."""
        self._write(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))

    def close(self) -> None:
        """Closes the file."""
        if self._records:
            with self._expendable():
                self._records.close()
            self._records = None

    def _write(self, event: Event) -> None:
        if not self._records:
            return
        with self._expendable():
            self._records.write(event.SerializeToString())
            if time.monotonic() - self._flushed > _FLUSH_SECONDS:
                self._flushed = time.monotonic()
                self._records.flush()

    @contextlib.contextmanager
    def _expendable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = self.failure or error.strerror or str(error)
            if self._records:
                with contextlib.suppress(OSError):
                    self._records.close()
                self._records = None
