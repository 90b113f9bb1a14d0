"""Settings of a run: their defaults, the command line, and the way from a checked config to objects."""

from ssl_jax.settings.resolve import SettingError

__all__ = ["SettingError"]
