"""Paths given by users."""

import errno
import os
import secrets
from pathlib import Path

from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

_LONGEST_SHOWN = 80  # characters of a path in a message
_UNUSABLE = (errno.ENAMETOOLONG, errno.EACCES)


def user_path(text: str | os.PathLike[str], setting: str) -> Path:
    """`text` as a path with a leading ~ expanded; the path need not exist.

    Args:
        text: a string or a path.
        setting: its origin, for messages, such as "data.dir" or "--out".

    Raises:
        SettingError: no file can have this path (home of an unknown user, invalid character, too
            long), or access to a folder on the way is denied.
    """
    try:
        path = Path(text).expanduser()
        os.lstat(path)
    except RuntimeError as error:
        raise _unusable(text, setting, "there is no such user") from error
    except ValueError as error:
        raise _unusable(text, setting, "no path can have such a character") from error
    except OSError as error:
        if error.errno in _UNUSABLE:
            raise _unusable(text, setting, error.strerror) from error
    return path


def check_writable(path: Path, setting: str) -> None:
    """Checks that files can be created beside `path`, even under a slightly longer name.

    Raises:
        SettingError: they cannot.
    """
    probe = path.with_name(f".{path.name}-{secrets.token_hex(4)}-new")
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise SettingError(
            f"{setting}={printable(path)} cannot be written ({error.strerror})"
        ) from error


def _unusable(text: str | os.PathLike[str], setting: str, reason: str) -> SettingError:
    shown = printable(text)
    if len(shown) > _LONGEST_SHOWN:
        shown = f"{shown[: _LONGEST_SHOWN - 3]}..."
    return SettingError(f"{setting}={shown} cannot be used ({reason}); give another path")
