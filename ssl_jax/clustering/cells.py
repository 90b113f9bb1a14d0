"""Cells of tables for spreadsheets, and the columns that say where an image comes from."""

import re
from collections.abc import Sequence

from ssl_jax.settings.text import encodable

_ARRAY_ROW = re.compile(r"(\w+)\[(\d+)\]")  # "train[17]"; all other names are files
_FORMULA = tuple("=+-@\t\r＝＋－＠")  # characters that start a formula in a spreadsheet
PATH_GUARD = "./"  # before a file name that would start a formula
TEXT_GUARD = "'"  # before other text that would


def cell(text: str, guard: str) -> str:
    """Text that is safe in a spreadsheet: UTF-8, and no formula.

    Invalid bytes of a file name become \\xff escapes. `guard` goes before text that would start a
    formula, also if it would do so only behind guards: `unguarded` then gives it back as it was.
    """
    text = encodable(text)
    return guard + text if _is_formula(text, guard) else text


def unguarded(text: str) -> str:
    """The text of a cell that `cell` wrote with `TEXT_GUARD`."""
    rest = text.removeprefix(TEXT_GUARD)
    return rest if _is_formula(rest, TEXT_GUARD) else text


def _is_formula(text: str, guard: str) -> bool:
    """Whether text, behind any number of guards, starts a formula."""
    while text.startswith(guard):
        text = text.removeprefix(guard)
    return text.startswith(_FORMULA)


def quoted(content: object) -> str:
    """A CSV cell, quoted if it holds a comma, a quote, or an unprintable character."""
    text = str(content)
    if text.isprintable() and not set(text) & {",", '"'}:
        return text
    return '"' + text.replace('"', '""') + '"'


def places(names: Sequence[str]) -> tuple[tuple[str, ...], list[tuple]]:
    """Where images come from, as columns of a table.

    Args:
        names: of the images, see `Dataset.names`.

    Returns:
        ("split", "row") for rows of arrays, else ("file",); and the values of each image, unescaped
        and sortable.
    """
    matches = [_ARRAY_ROW.fullmatch(name) for name in names]
    if all(matches):
        return ("split", "row"), [(match[1], int(match[2])) for match in matches if match]
    return ("file",), [(name,) for name in names]
