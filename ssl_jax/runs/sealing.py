"""What follows once orbax has written a checkpoint: a look whether it is found again, and its checksums."""

import threading
from pathlib import Path

import orbax.checkpoint as ocp

from ssl_jax.runs import checksums
from ssl_jax.runs.checkpoint_files import reason, shapes_of
from ssl_jax.runtime.storage import StorageError

_POLL = 0.05  # seconds between looks for a checkpoint that orbax is writing


class Sealing(threading.Thread):
    """Waits until a checkpoint is there, reads its names and shapes back if asked to, and writes its checksums.

    A kill in between leaves a checkpoint without checksums, which is read with a note.

    Args:
        folder: of the checkpoint; orbax renames it whole.
        expected: path -> shape of the arrays that are to be found there; None: not read back.
    """

    def __init__(self, folder: Path, expected: dict[str, tuple[int, ...]] | None):
        super().__init__(name="checksums", daemon=True)
        self._folder, self._expected = folder, expected
        self._ended, self._failure = threading.Event(), None

    def run(self):
        try:
            while True:
                ended = self._ended.is_set()  # asked first: what has ended has left the folder, or never will
                if self._folder.is_dir():
                    break
                if ended:
                    return
                self._ended.wait(_POLL)
            if self._expected is not None:
                self._read_back()
            checksums.write(self._folder)
        except Exception as error:  # raised by whoever waits
            self._failure = error

    def finish(self):
        """Waits for the checksums of what orbax has written, and raises what has gone wrong; once."""
        self._ended.set()
        self.join()
        failure, self._failure = self._failure, None
        if failure:
            raise failure

    def _read_back(self):
        lost = lambda why: StorageError(
            f"checkpoint {self._folder.name} was written and cannot be read back ({why}); name another folder than "
            f"{self._folder.parents[1]} with --workdir"
        )
        try:
            found = read_back(self._folder)
        except Exception as error:  # orbax raises all kinds
            raise lost(reason(error)) from error
        if found != self._expected:
            raise lost("its arrays are others")


def read_back(folder: Path) -> dict[str, tuple[int, ...]]:
    """path -> shape of the arrays in a checkpoint's folder, as orbax finds them there."""
    return shapes_of(ocp.StandardCheckpointHandler().metadata(folder.absolute() / "default"))
