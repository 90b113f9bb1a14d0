"""Settings of a run: defaults, config files, command-line flags, and objects built from them."""

from ssl_jax.settings.resolve import SettingError

__all__ = ["SettingError"]
