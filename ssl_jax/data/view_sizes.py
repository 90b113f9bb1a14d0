"""Whether the views of a config suit the size of the images: recipes are made for some size."""

from collections.abc import Mapping
from typing import Any

from ssl_jax.data import datasets
from ssl_jax.data.augment import View
from ssl_jax.data.whole import WholePictures
from ssl_jax.settings.resolve import SettingError

_FEW = 3  # a ratio of the sides beyond this deserves a note
_FEW_OF_WHOLE = 4  # the same of whole pictures, whose crops are small parts of a larger square
_SPARED = 0.5  # of the space: smaller squares that take no more deserve a note
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
    data = settings["data"]
    whole = datasets.makes_squares(data["name"]) and data["keep"] == "whole"
    few = _FEW_OF_WHOLE if whole else _FEW
    if largest.size * few >= side:
        return ()
    way_out = f"{_recipe(settings)} has views for such images"
    if largest.size < _SMALL:
        raise SettingError(
            f"{view}: too small for the images of data.name={settings['data']['name']!r}, which "
            f"have {side} pixels a side; {way_out}, or set augment.{name}.size to at least "
            f"{-(-side // few)}"
        )
    return (f"{view}: the images have {side} pixels a side; {way_out}",)


def note_on_space(views: Mapping[str, View], images: Any) -> tuple[str, ...]:
    """A note if all pictures are so small that smaller squares would keep all of their detail.

    Args:
        views: groups of views by name, the largest first.
        images: training images; only of decoded `WholePictures`, none of them square, the sizes of
            all are known.
    """
    if not isinstance(images, WholePictures):
        return ()
    side = images.shape[1]
    longest = int(images.sizes.max())
    enough = max(longest, next(iter(views.values())).size)
    share = (enough / side) ** 2
    if share > _SPARED:
        return ()
    return (
        f"no image is longer than {longest} pixels: data.size={enough} keeps all of their detail "
        f"in {100 * share:.0f} % of the space",
    )


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
