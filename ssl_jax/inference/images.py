"""Images for a trained encoder: of other data than it was trained on, or given as arrays."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ssl_jax.build import load_data
from ssl_jax.data import channels as channels_of
from ssl_jax.data import datasets, deep
from ssl_jax.data.errors import LabelError
from ssl_jax.data.source import Dataset
from ssl_jax.settings.text import counted, printable

_FEW = 3  # a ratio of the sides beyond this deserves a note
_NUMBERS = "iuf"  # kinds of numpy's types that a range can scale


def load_images(settings: Mapping[str, Any], channels: int, **reader: Any) -> Dataset:
    """Reads the data of complete settings for a run; grey and colour take each other's place.

    Args:
        settings: of the data.
        channels: of the images that the run was trained on.
        **reader: what the images are read for, see `restore.with_range`.

    Returns:
        the data as they are; see `channels.converted`.

    Raises:
        SettingError: no such data, or images with other channels.
    """
    data = settings["data"]
    if datasets.makes_squares(data["name"]):  # their channels are known before the images are read
        channels_of.check(data["name"], data["bands"] or 3, channels)
    dataset = load_data(settings, **reader)
    channels_of.check(data["name"], dataset.train.images.shape[-1], channels)
    return dataset


def pictures(
    settings: dict[str, Any], trained_on: Dataset, **reader: Any
) -> tuple[Dataset, tuple[str, ...]]:
    """Loads the data set of complete settings, without labels if these cannot be used.

    Args:
        settings: of the data.
        trained_on: the run's data.
        **reader: what the images are read for, see `restore.with_range`.

    Returns:
        the data, and notes for the user.

    Raises:
        SettingError: no such data, or images that the run's encoder does not take.
    """
    channels = trained_on.train.images.shape[-1]
    notes = []
    try:
        dataset = load_images(settings, channels, **reader)
    except LabelError as error:
        notes.append(printable(f"labels are not used: {error.reason}"))
        settings = settings | {"data": settings["data"] | {"labels": "none"}}
        dataset = load_images(settings, channels, **reader)
    return dataset, (*notes_on(dataset, trained_on), *notes)


def notes_on(dataset: Dataset, trained_on: Dataset) -> tuple[str, ...]:
    """Sentences on how data are read for a run, and what is left out of them.

    Args:
        dataset: as `load_images` returns it.
        trained_on: the run's.
    """
    notes = list(dataset.notes)
    if dataset.left_out:
        notes.append(_left_out(dataset.left_out))
    if trained_on.range and not dataset.range:
        low, high = trained_on.range
        notes.append(
            "the images have 8 bits and are used as they are; the encoder was trained on values "
            f"of {low:g} to {high:g}"
        )
    side, trained_side = (min(data.train.images.shape[1:3]) for data in (dataset, trained_on))
    if not 1 / _FEW <= side / trained_side <= _FEW:
        notes.append(
            f"the images have {side} pixels a side, those in training {trained_side}; an encoder "
            "knows things of the size that it was trained on"
        )
    channels = (data.train.images.shape[-1] for data in (dataset, trained_on))
    notes.append(channels_of.note(*channels))
    return tuple(printable(note) for note in notes if note)


def _left_out(counts: Mapping[str, int]) -> str:
    """A sentence on files that are not read, by ending; see `Dataset`."""
    parts = []
    for ending, number in counts.items():
        if ending == "unreadable":
            parts.append(f"{number:,} unreadable")
        else:
            parts.append(f"{ending or 'without ending'} {number:,}")
    return f"left out {counted(sum(counts.values()), 'file')} ({', '.join(parts)})"


def prepared(images: Any, channels: int, limits: Sequence[float] = ()) -> Any:
    """Images given by hand as uint8 [N, H, W, C], converted whenever they are read.

    Args:
        images: [N, H, W, C] uint8; with `limits` also other integers, or floats.
        channels: C of the encoder; grey and colour take each other's place.
        limits: the values that become 0 and 255.

    Raises:
        ValueError: images of another shape or type.
    """
    images = images if hasattr(images, "ndim") else np.asarray(images)
    shaped = images.ndim == 4 and 0 not in images.shape
    if not shaped or not channels_of.convertible(images.shape[-1], channels):
        raise ValueError(
            f"images of shape {tuple(images.shape)}, {images.dtype}: give uint8 "
            f"[N, H, W, {channels}], N >= 1"
        )
    if images.dtype != np.uint8:
        if not limits or getattr(images.dtype, "kind", "") not in _NUMBERS:
            raise ValueError(
                f"images of type {images.dtype}: give uint8 in 0..255; from 0..1: "
                "(255 * images).round().astype('uint8'), or unit=True"
            )
        function = functools.partial(_scaled, limits)
        images = channels_of.MappedImages(images, function, images.shape[-1])
    return channels_of.as_channels(images, channels)


def _scaled(limits: Sequence[float], images: np.ndarray) -> np.ndarray:
    """Images of any type as uint8; see `deep.scaled`.

    Raises:
        ValueError: values that are not finite, or in 0..1 where much larger ones are expected.
    """
    low, high = limits
    if images.dtype.kind == "f":
        if not np.isfinite(images).all():
            raise ValueError("images hold values that are not finite; replace NaN and infinity")
        in_unit = images.min() >= 0 and images.max() <= 1 and (images % 1 > 0).any()
        if in_unit and high >= 255:
            raise ValueError(
                f"images of values in 0..1: the encoder was trained on values of {low:g} to "
                f"{high:g}; give such values, or uint8"
            )
    return deep.scaled(images, low, high)
