"""Errors of single images, and of labels."""

from ssl_jax.settings.resolve import SettingError


class CorruptError(Exception):
    """An image exists but cannot be decoded; the message says why."""


class LabelError(SettingError):
    """Labels that cannot be used; the images can be read without them (data.labels=none).

    The message is "what is wrong; the way out".
    """

    @property
    def reason(self) -> str:
        """What is wrong, without the way out."""
        return str(self).rpartition("; ")[0] or str(self)
