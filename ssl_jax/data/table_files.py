"""Tables as Excel, pandas and others write them: CSV, TSV and Parquet, as columns of text."""

import codecs
import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from ssl_jax.data import labels
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

ENDINGS = (".csv", ".tsv", ".parquet")
_DELIMITERS = (",", ";", "\t", "|")
_PARQUET = b"PAR1"
_WESTERN = "cp1252"  # of Windows
_KINDS = {  # first bytes of files that are something else
    b"PK\x03\x04": "an Excel workbook or a zip archive; save the sheet as CSV",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save the sheet as CSV",
    b"\x1f\x8b": "compressed; unpack it with gunzip",
}
_BOMS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
Choose = Callable[[Sequence[str]], Mapping[str, int]]


def read(path: Path, choose: Choose) -> tuple[list[int], dict[str, list[str]], tuple[str, ...]]:
    """Some columns of a table; missing values are "", and empty rows are left out.

    Args:
        path: the file; the contents decide whether it is Parquet.
        choose: given the column names, returns the positions of the columns to read, by a name of
            its own; none if the names are not those of a header.

    Returns:
        the place of each row in the file: its line, or its row number from 1 in Parquet; the
        columns, by the names that `choose` gives; and sentences for the user.

    Raises:
        SettingError: a file that cannot be read.
    """
    try:
        with open(path, "rb") as file:
            is_parquet = file.read(4) == _PARQUET
        raw = b"" if is_parquet else path.read_bytes()
    except OSError as error:
        raise SettingError(f"{printable(path)} cannot be read ({error.strerror})") from error
    if is_parquet:
        return *_parquet(path, choose), ()
    for start, kind in _KINDS.items():
        if raw.startswith(start):
            raise SettingError(f"{printable(path)} is {kind}")
    text, encoding = _decoded(path, raw)
    notes = ()
    if encoding == _WESTERN:
        notes = (f"{path} is not in UTF-8, and read as Western European text ({_WESTERN})",)
    return *_csv(path, text, choose), notes


def _decoded(path: Path, raw: bytes) -> tuple[str, str]:
    """The text of a file and its encoding: UTF-8, UTF-16 with a byte order mark, or _WESTERN."""
    encoding = next((name for bom, name in _BOMS.items() if raw.startswith(bom)), "")
    try:
        if encoding:
            return raw.decode(encoding), encoding
        if b"\0" in raw:
            raise SettingError(f"{printable(path)} is not a text file; save it as CSV in UTF-8")
        try:
            return raw.decode("utf-8"), "utf-8"
        except UnicodeDecodeError:
            return raw.decode(_WESTERN), _WESTERN
    except UnicodeError as error:
        raise SettingError(
            f"{printable(path)} is not valid text ({printable(error)}); save it as CSV in UTF-8"
        ) from error


def _csv(path: Path, text: str, choose: Choose) -> tuple[list[int], dict[str, list[str]]]:
    delimiters = _DELIMITERS
    skipped = 0
    if text[:4].lower() == "sep=" and len(text) > 4:  # Excel's hint to itself
        delimiters = (text[4],)
        _, _, text = text.partition("\n")
        skipped = 1
    try:
        rows = _rows(text, _delimiter(text, delimiters, choose))
        _, names = next(rows, (0, []))
        chosen = choose(names)
        lines = []
        columns = {name: [] for name in chosen}
        for line, row in rows:
            if any(row[len(names) :]):
                raise SettingError(
                    f"{printable(path)}, line {line + skipped}: {len(row)} fields for "
                    f"{len(names)} columns; put a field that holds the delimiter into quotes"
                )
            lines.append(line + skipped)
            for name, i in chosen.items():
                columns[name].append(row[i] if i < len(row) else "")
    except csv.Error as error:
        raise SettingError(
            f"{printable(path)} is not a readable CSV file ({printable(error)}); save it again"
        ) from error
    return lines, columns


def _delimiter(text: str, delimiters: Sequence[str], choose: Choose) -> str:
    """The delimiter that splits the header into most columns, among those that fit if any does."""
    best = ((False, 0), delimiters[0])
    for delimiter in delimiters:
        _, names = next(_rows(text, delimiter), (0, []))
        try:
            fits = bool(choose(names))
        except SettingError:
            fits = False
        if (fits, len(names)) > best[0]:
            best = ((fits, len(names)), delimiter)
    return best[1]


def _rows(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not empty, as (line on which they start, fields without spaces around them)."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=False)
    line = 1
    for row in reader:
        fields = [field.strip() for field in row]
        if any(fields):
            yield line, fields
        line = reader.line_num + 1


def _parquet(path: Path, choose: Choose) -> tuple[list[int], dict[str, list[str]]]:
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
        names = file.schema_arrow.names
        chosen = choose(names)
        nested = [names[i] for i in chosen.values() if file.schema_arrow.types[i].num_fields]
        if nested:
            raise SettingError(
                f"{printable(path)}: {printable(nested[0])} is no column of text; if it holds the "
                f"pictures themselves, give data.name=hf:{printable(path.parent)}"
            )
        table = file.read(columns=[names[i] for i in chosen.values()])
        columns = {
            name: [labels.text(value) for value in table.column(names[i]).to_pylist()]
            for name, i in chosen.items()
        }
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise SettingError(
            f"{printable(path)} is not a readable Parquet file ({printable(error)}); save it again"
        ) from error
    numbers = range(1, table.num_rows + 1)
    kept = [i for i in numbers if any(column[i - 1] for column in columns.values())]
    return kept, {name: [column[i - 1] for i in kept] for name, column in columns.items()}
