"""Disks that are full or fail."""

import errno
import os
import re

_CODES = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
_WORDS = re.compile("no space left on device|disk quota exceeded|input/output error", re.IGNORECASE)


class StorageError(RuntimeError):
    """The disk is full, or fails; the message is one line and names the last good checkpoint."""


def storage_failure(error: BaseException | None) -> str:
    """What the disk said, where `error` or one of its causes comes from a full or failing disk; else nothing."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in _CODES:
            return os.strerror(error.errno)
        if found := _WORDS.search(str(error)):  # orbax hands on only the text of what its threads met
            return found[0]
        error = error.__cause__ or error.__context__
    return ""
