"""Seals a checkpoint once orbax has written it: reads it back and writes its checksums."""

import threading
from pathlib import Path

import orbax.checkpoint as ocp

from ssl_jax.runs import checksums
from ssl_jax.runs.checkpoint_files import Shape, reason, shapes_of
from ssl_jax.runtime.storage import StorageError

_POLL = 0.05  # seconds between looks for a checkpoint that orbax is writing


class Sealing(threading.Thread):
    """A thread that waits until a checkpoint is complete and writes its checksums.

    A kill in between leaves a checkpoint without checksums, which is read with a note.

    Args:
        folder: of the checkpoint; orbax puts it in place by renaming it.
        expected: path -> shape of the arrays that must be read back; None skips reading back.
    """

    def __init__(self, folder: Path, expected: dict[str, Shape] | None):
        super().__init__(name="checksums", daemon=True)
        self._folder = folder
        self._expected = expected
        self._ended = threading.Event()
        self._failure: Exception | None = None

    def run(self) -> None:
        try:
            while True:
                # Asked before looking: once orbax has ended, the folder is there or never will be.
                ended = self._ended.is_set()
                if self._folder.is_dir():
                    break
                if ended:
                    return
                self._ended.wait(_POLL)
            if self._expected is not None:
                self._read_back()
            checksums.write(self._folder)
        except Exception as error:  # raised by `finish`
            self._failure = error

    def finish(self) -> None:
        """Once orbax has finished, waits for the checksums; raises a failure once."""
        self._ended.set()
        self.join()
        failure = self._failure
        self._failure = None
        if failure:
            raise failure

    def _read_back(self) -> None:
        try:
            shapes = read_back(self._folder)
        except Exception as error:  # orbax raises all kinds
            raise self._unreadable(reason(error)) from error
        if shapes != self._expected:
            raise self._unreadable("its arrays differ")

    def _unreadable(self, why: str) -> StorageError:
        return StorageError(
            f"checkpoint {self._folder.name} was written but cannot be read back ({why}); "
            f"choose another folder than {self._folder.parents[1]} with --workdir"
        )


def read_back(folder: Path) -> dict[str, Shape]:
    """path -> shape of the arrays that orbax finds in a checkpoint's folder."""
    return shapes_of(ocp.StandardCheckpointHandler().metadata(folder.absolute() / "default"))
