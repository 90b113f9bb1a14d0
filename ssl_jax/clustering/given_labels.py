"""Labels of a few images, from a table with a row for each of them."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ssl_jax.clustering.cells import PATH_GUARD, cell, places, unguarded
from ssl_jax.data import table_files
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import counted, printable


@dataclasses.dataclass(frozen=True, eq=False)
class GivenLabels:
    """Labels of some images.

    Attributes:
        rows: [n] indices of the images, ascending.
        labels: [n] int32, indices of `classes`.
        classes: names of the labels, sorted.
        notes: sentences for the user.
    """

    rows: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()


def read(path: Path, names: Sequence[str], source: str) -> GivenLabels:
    """Reads a table with the columns file and label, or split, row and label.

    Images are named as in the table of `assign`, whose other columns may stay.

    Args:
        path: a CSV, TSV or Parquet file.
        names: of all images, see `Dataset.names`.
        source: flag and file, for messages ("--labelled=labels.csv").

    Raises:
        SettingError: no such file, other columns, an image that is not there or has two rows, a row
            without a label, or fewer than two labels.
    """
    source = printable(source)
    if not path.is_file():
        raise SettingError(f"{source}: there is no such file; give a table of files and labels")
    header, where = places(names)
    images = {_key(place): i for i, place in enumerate(where)}
    wanted = (*header, "label")

    def choose(columns: Sequence[str]) -> Mapping[str, int]:
        positions = {name.strip().lower(): i for i, name in reversed([*enumerate(columns)])}
        missing = [name for name in wanted if name not in positions]
        if missing:
            raise SettingError(
                f"{source} has no column {missing[0]!r} in its first line; the columns "
                f"{', '.join(wanted)} are needed"
            )
        return {name: positions[name] for name in wanted}

    lines, columns, notes = table_files.read(path, choose)
    first_lines: dict[int, int] = {}
    labels = {}
    for i, line in enumerate(lines):
        place = tuple(columns[name][i] for name in header)
        shown = printable("[".join(place) + "]" if place[1:] else place[0])
        image = images.get(_key(place))
        if image is None:
            raise SettingError(
                f"{source}, line {line}: there is no image {shown} among the {len(names):,} to "
                "assign; remove the row, or name the image as the table of assign does"
            )
        if image in first_lines:
            raise SettingError(
                f"{source}, line {line}: {shown} has a label in line {first_lines[image]} already; "
                "remove one of them"
            )
        label = unguarded(columns["label"][i])
        if not label:
            raise SettingError(
                f"{source}, line {line}: {shown} has no label; fill it in, or remove the row"
            )
        first_lines[image] = line
        labels[image] = label
    classes = sorted(set(labels.values()))
    if len(classes) < 2:
        raise SettingError(
            f"{source} has {counted(len(labels), 'labelled image')}, not of two classes; label "
            "some images of each of at least two classes"
        )
    rows = np.array(sorted(labels))
    numbers = {name: i for i, name in enumerate(classes)}
    return GivenLabels(
        rows=rows,
        labels=np.array([numbers[labels[row]] for row in rows], np.int32),
        classes=tuple(classes),
        notes=notes,
    )


def _key(place: tuple) -> tuple[str, ...]:
    """A place as cells of a table have it, whether escaped or not."""
    first, *rest = (str(part) for part in place)
    first = cell(first.removeprefix(PATH_GUARD), PATH_GUARD).removeprefix(PATH_GUARD).strip()
    return (first, *(str(int(x)) if x.isdecimal() else x for x in rest))
