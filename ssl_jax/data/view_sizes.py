"""Whether the views of a config suit the size of the images: recipes are made for some size."""

from collections.abc import Mapping
from typing import Any

from ssl_jax.data.augment import View
from ssl_jax.settings.resolve import SettingError

_FEW = 3  # a ratio of the sides beyond this deserves a note
_SMALL = 32  # views of fewer pixels, CIFAR's, show nothing of a photograph


def check(views: Mapping[str, View], side: int, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """A note if the largest view and the images differ much in size.

    Args:
        views: groups of views by name, the largest first.
        side: of the stored images, in pixels; the shorter one.
        settings: complete settings of the run, to name a recipe that fits.

    Raises:
        SettingError: the largest view is tiny beside the images, as in the recipes for digits.
    """
    name, largest = next(iter(views.items()))
    view = f"augment.{name}.size={largest.size}"
    if largest.size > _FEW * side:
        return (f"{view}: the images have only {side} pixels a side and are enlarged",)
    if largest.size * _FEW >= side:
        return ()
    way_out = f"{_recipe(settings)} has views for such images"
    if largest.size < _SMALL:
        raise SettingError(
            f"{view}: too small for the images of data.name={settings['data']['name']!r}, which "
            f"have {side} pixels a side; {way_out}, or set augment.{name}.size to at least "
            f"{-(-side // _FEW)}"
        )
    return (f"{view}: the images have {side} pixels a side; {way_out}",)


def _recipe(settings: Mapping[str, Any]) -> str:
    """The flags of the recipe for images of any size, with the same method and data."""
    method = settings["method"]["name"]
    config = "conr" if settings["base"] else method
    if "." in method:  # a user's own
        config = "swav"
    data = settings["data"]["name"]
    if data in ("folder", "array"):
        return f"--config={config}:{data}"
    return f"--config={config}:folder --config.data.name={data}"
