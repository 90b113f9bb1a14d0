"""Recognises errors of disks that are full or failing."""

import errno
import os
import re

_CODES = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
_WORDS = re.compile("no space left on device|disk quota exceeded|input/output error", re.IGNORECASE)


class StorageError(RuntimeError):
    """The disk is full or failing; the message is one line and names the last good checkpoint."""


def storage_failure(error: BaseException | None) -> str:
    """The message of a disk error among `error` and its causes; empty if none is."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in _CODES:
            return os.strerror(error.errno)
        # orbax passes on only the text of its threads' errors.
        if match := _WORDS.search(str(error)):
            return match[0]
        error = error.__cause__ or error.__context__
    return ""
