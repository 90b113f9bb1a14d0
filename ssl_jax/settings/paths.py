"""Paths as users give them."""

import errno
import os
import secrets
from pathlib import Path

from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

_SHOWN = 80  # characters of a path in a message, at most
_REFUSED = (errno.ENAMETOOLONG, errno.EACCES)


def user_path(text, setting: str) -> Path:
    """`text` as a path, its leading ~ expanded; the path need not exist.

    Args:
        text: a string or a path.
        setting: what gave it, for messages, such as "data.dir" or "--out".

    Raises:
        SettingError: no file can have this path: it is the home of an unknown user, has a character that no path
            may have, or is too long; or a folder on the way may not be entered.
    """
    try:
        path = Path(text).expanduser()
        os.lstat(path)
    except RuntimeError as error:
        raise _refused(text, setting, "there is no such user") from error
    except ValueError as error:
        raise _refused(text, setting, "no path can have such a character") from error
    except OSError as error:
        if error.errno in _REFUSED:
            raise _refused(text, setting, error.strerror) from error
    return path


def check_writable(path: Path, setting: str) -> None:
    """Raises SettingError where no file can be made at `path`, or beside it under a somewhat longer name."""
    probe = path.with_name(f".{path.name}-{secrets.token_hex(4)}-new")
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise SettingError(f"{setting}={printable(path)} cannot be written ({error.strerror})") from error


def _refused(text, setting, why) -> SettingError:
    shown = printable(text)
    if len(shown) > _SHOWN:
        shown = f"{shown[: _SHOWN - 3]}..."
    return SettingError(f"{setting}={shown} cannot be used ({why}); give another path")
