"""Data sets of encoded pictures, wherever their bytes are: probed, decoded, cached or streamed."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ssl_jax.data import cache, decode, deep, streaming, tiff
from ssl_jax.data.errors import CorruptError
from ssl_jax.data.parallel import in_order
from ssl_jax.data.source import Dataset, Source
from ssl_jax.data.whole import WholePictures

# Endings that promise 8 bits and no transparency.
_PLAIN = (".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".avif", ".heic", ".heif")
_TIFF = (".tif", ".tiff")
_BLOCK = 200  # headers that a thread reads at once
_MANY = 2000  # headers that take long enough for a progress bar
_SAMPLE = 100  # test pictures whose values are compared with the range
_DARK = 0.05  # of the range
_DEEP = 1
_TRANSPARENT = 2


class Contents(Protocol):
    """The bytes of N pictures; pickled when streamed images are decoded in other processes."""

    def __call__(self, i: int) -> bytes:
        """The whole picture; raises CorruptError or SettingError."""
        ...

    def head(self, i: int) -> bytes:
        """The first bytes of the picture, at least 26 of them; or all."""
        ...


@dataclasses.dataclass(frozen=True)
class Pictures:
    """N encoded pictures, training pictures first.

    Attributes:
        names: [N], for messages and tables; some endings (".jpg") promise 8 bits.
        labels: int32 [N]; -1: unlabelled.
        train: number of training pictures.
        classes: class names.
        origin: where the pictures come from, for messages.
        contents: their bytes.
        stamps: returns what changes when the contents change, as JSON, for some of the pictures.
        left_out: see `Dataset`.
        notes: sentences for the user.
    """

    names: Sequence[str]
    labels: np.ndarray
    train: int
    classes: tuple[str, ...]
    origin: str
    contents: Contents
    stamps: Callable[[Sequence[int]], Any]
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()


def dataset(source: Source, kind: str, pictures: Pictures) -> Dataset:
    """The pictures as squares [size, size, C], through the cache or streamed as `data.store` says.

    Of whole pictures (`data.keep`) the images are `WholePictures`, unless all are square and
    decoded already.

    Args:
        source: the settings.
        kind: subfolder of the cache.
        pictures: what to decode.

    Raises:
        SettingError: a picture that cannot be read, or a cache that cannot be written.
    """
    source.check_labels(pictures.labels[: pictures.train])
    limits, notes = _probed(source, pictures)
    # Those given also hold for pictures whose names hide their bits.
    given = source.range or limits
    shape = (source.size, source.size, source.bands or 3)
    read = functools.partial(
        _image, pictures.contents, source.size, source.bands, given, source.keep
    )
    work = decode.Work(
        pictures.names,
        pictures.labels,
        pictures.train,
        shape,
        read,
        pictures.classes,
        whole=source.keep == "whole",
    )
    if source.store == "stream":
        data = streaming.dataset(source, pictures.origin, work)
    else:
        names = list(pictures.names)
        stamps = pictures.stamps(range(len(names)))
        labels = pictures.labels.tolist()
        facts = [names, stamps, labels, pictures.train, pictures.classes, source.size]
        if source.bands or given:
            facts.append([source.bands, given])
        if source.keep == "whole":
            facts.append(source.keep)
        if any(name.lower().endswith(_TIFF) for name in names):
            facts.append(tiff.packages())  # they may read what was skipped without them
        data = cache.dataset(source, kind, facts, pictures.origin, lambda: work)
    return dataclasses.replace(
        data,
        notes=(*pictures.notes, *notes, *data.notes),
        range=limits,
        left_out={**pictures.left_out, **data.left_out},
    )


def _image(
    contents: Contents, size: int, bands: int, limits: Sequence[float], keep: str, i: int
) -> np.ndarray | WholePictures:
    return decode.decode(contents(i), size, bands=bands, limits=limits, keep=keep)


def _probed(source: Source, pictures: Pictures) -> tuple[tuple[float, ...], tuple[str, ...]]:
    """The range of deep pictures, empty if there are none; and notes on deep and transparent ones.

    Headers are read of pictures whose name does not promise 8 bits and no transparency.
    """
    rows = np.array([i for i, name in enumerate(pictures.names) if not _is_plain(name)], int)
    flags = _headers(source, pictures, rows)
    deep_rows = rows[(flags & _DEEP) > 0]
    transparent = int((flags & _TRANSPARENT > 0).sum())
    limits = ()
    notes = []
    test_notes = []
    have = "1 image has" if len(deep_rows) == 1 else f"{len(deep_rows):,} images have"
    if len(deep_rows):
        source.check_range(f"{have} more than 8 bits in {pictures.origin}")
        limits = source.range or _range(source, pictures, deep_rows)
        test_rows = deep_rows[deep_rows >= pictures.train]
        if not source.range and 0 < len(test_rows) < len(deep_rows):
            test_notes = _test_notes(source, pictures, test_rows, limits)
        whose = "the training images' range; data.range sets it"
        if source.range:
            whose = source.range_words
        notes.append(
            f"{have} more than 8 bits; {limits[0]:,.10g} to {limits[1]:,.10g} become black to "
            f"white ({whose})"
        )
        notes += test_notes
    elif source.range and not source.of_run:
        notes.append(
            f"data.range={source.range} changes nothing: all images have 8 bits, by their headers"
        )
    if transparent and not source.bands:
        have = "1 image has" if transparent == 1 else f"{transparent:,} images have"
        notes.append(
            f"{have} a band besides colour or grey, taken for transparency over white or left out; "
            "data.bands=4 (2 for grey images) reads it as a channel"
        )
    return limits, tuple(notes)


def _is_plain(name: str) -> bool:
    return name.lower().endswith(_PLAIN)


def _headers(source: Source, pictures: Pictures, rows: np.ndarray) -> np.ndarray:
    """For each of `rows` whether it is _DEEP, _TRANSPARENT, both or neither, int32.

    Kept in the cache if reading so many headers takes time.
    """
    doing = f"looking at {len(rows):,} images of {pictures.origin}"

    def flags_of(block: np.ndarray) -> list[int]:
        return [flag(i) for i in block.tolist()]

    def flag(i: int) -> int:
        with contextlib.suppress(CorruptError):  # named when it is decoded
            head = pictures.contents.head(i)
            flags = deep.png_header(head) or deep.webp_header(head)
            is_deep, transparent = flags or decode.header(pictures.contents(i))
            return _DEEP * is_deep + _TRANSPARENT * transparent
        return 0

    def flags() -> np.ndarray:
        watched = cache.progress(len(rows), doing) if len(rows) > _MANY else _unwatched()
        blocks = np.split(rows, range(_BLOCK, len(rows), _BLOCK))
        values = []
        with watched as advance, in_order(flags_of, blocks) as results:
            for block in results:
                values += block
                for _ in block:
                    advance()
        return np.array(values, np.int32)

    if len(rows) <= _MANY:
        return flags()
    facts = [*_facts(pictures, rows), tiff.packages()]
    return cache.kept(source, "headers", facts, flags, doing, len(rows), optional=_optional(source))


def _range(source: Source, pictures: Pictures, rows: np.ndarray) -> tuple[float, float]:
    """Smallest and largest value of deep pictures, of training pictures if any is among `rows`."""
    trained = rows[rows < pictures.train]
    rows = trained if len(trained) else rows
    return _ends(source, pictures, rows, f"{len(rows):,} images", (0.0, 65535.0))


def _test_notes(
    source: Source, pictures: Pictures, rows: np.ndarray, limits: tuple[float, ...]
) -> list[str]:
    """Notes on deep test pictures that are far brighter or darker than those trained on.

    Args:
        source: the settings.
        pictures: all pictures.
        rows: of the deep test pictures; some of them are looked at.
        limits: the range of the training pictures.
    """
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _SAMPLE)).astype(int))]
    _, highest = _ends(source, pictures, rows, f"{len(rows):,} test images", limits)
    low, high = limits
    values = f"test images reach {highest:,.10g}"
    if highest > high + (high - low):
        return [f"{values}; all above {high:,.10g} become white, unless data.range is given"]
    if highest - low < _DARK * (high - low):
        return [f"{values} only, so they are nearly black, unless data.range is given"]
    return []


def _ends(
    source: Source,
    pictures: Pictures,
    rows: np.ndarray,
    which: str,
    unread: tuple[float, ...],
) -> tuple[float, float]:
    """Smallest and largest value of deep pictures; kept in the cache, as they are decoded for it.

    Args:
        source: the settings.
        pictures: all pictures.
        rows: of some of them.
        which: what these are, for the progress bar.
        unread: the values if none of them can be read.
    """
    doing = f"looking for the range of {which} of {pictures.origin}"

    def limits_of(i: int) -> tuple[float, float] | None:
        with contextlib.suppress(CorruptError):
            return decode.limits_of(pictures.contents(i), source.bands)
        return None

    def ends() -> np.ndarray:
        with (
            cache.progress(len(rows), doing) as advance,
            in_order(limits_of, rows.tolist()) as results,
        ):
            readable = []
            for limits in results:
                if limits:
                    readable.append(limits)
                advance()
        low = min((low for low, _ in readable), default=unread[0])
        high = max((high for _, high in readable), default=unread[1])
        high = high if high > low else low + 1.0
        return np.array([low, high]).view(np.int32)

    facts = [*_facts(pictures, rows), source.bands]
    kept = cache.kept(source, "ranges", facts, ends, doing, 4, optional=_optional(source))
    low, high = kept.view(np.float64).tolist()
    return low, high


def _optional(source: Source) -> bool:
    """Whether the run can do without a cache that it can write."""
    return source.store == "stream"


def _facts(pictures: Pictures, rows: np.ndarray) -> list[Any]:
    names = list(pictures.names)
    numbers = rows.tolist()
    return [[names[i] for i in numbers], pictures.stamps(numbers)]


@contextlib.contextmanager
def _unwatched() -> Iterator[Callable[[], None]]:
    """Stands in for `cache.progress` where there is little to do."""
    yield lambda: None
