"""How all figures look: colours for colour-blind readers, fonts, grids and sizes."""

import io
import warnings
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's palette, ordered for lines on white: its yellow comes last.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#4D4D4D", "#B8A900")
MARKERS = ("o", "^", "s", "D", "v", "P", "X")  # 56 combinations with the colours
RIGHT = "#009E73"
WRONG = "#D55E00"
QUIET = "#6B7280"
WIDTH = 7.2  # inches: the text width of a page

_RC = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib, so figures are the same everywhere
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 6.0,
    "axes.labelsize": 9.0,
    "axes.labelcolor": "#374151",
    "axes.edgecolor": "#9CA3AF",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": mpl.cycler(color=PALETTE),
    "grid.color": "#E5E7EB",
    "grid.linewidth": 0.7,
    "xtick.color": "#6B7280",
    "ytick.color": "#6B7280",
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 1.6,
    "legend.columnspacing": 1.4,
    "lines.linewidth": 1.7,
    "lines.markersize": 3.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "ssl_jax",  # equal figures are equal files
}


def styled() -> AbstractContextManager[None]:
    """Applies the style inside a `with` block only."""
    return mpl.rc_context(_RC)


def panels(
    rows: int, columns: int, *, width: float = WIDTH, height: float = 2.7, **settings: Any
) -> tuple[Figure, list[Axes]]:
    """A figure and its rows x columns axes, row by row.

    Args:
        rows: number of rows.
        columns: number of columns.
        width: of the figure, in inches.
        height: of each row, in inches.
        **settings: for `Figure.subplots`.
    """
    figure = Figure(figsize=(width, rows * height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False, **settings).flat)


def colour(i: int) -> str:
    """The colour of the i-th run or class."""
    return PALETTE[i % len(PALETTE)]


def marker(i: int) -> str:
    """The marker of the i-th class; it changes when the colours repeat."""
    return MARKERS[i // len(PALETTE) % len(MARKERS)]


def legend(figure: Figure, handles: Collection[Artist]) -> None:
    """One legend below all panels, filled row by row, with as many columns as fit."""
    if not handles:
        return
    letters = max(len(h.get_label()) for h in handles)
    entry_width = 0.42 + 0.075 * letters  # inches: the marker, and each letter of the label
    fitting = max(int(figure.get_figwidth() / entry_width), 1)
    lines = -(-len(handles) // fitting)
    columns = -(-len(handles) // lines)
    by_column = []  # matplotlib fills legends column by column
    for column in range(columns):
        by_column += list(handles)[column::columns]
    figure.legend(handles=by_column, loc="outside lower center", ncols=columns)


def name_of(label: int, names: Sequence[str] = ()) -> str:
    """The name of the class `label`, or its number."""
    return str(names[label]) if 0 <= label < len(names) else str(label)


def encoded(figure: Figure, kind: str, *, dpi: int = 160) -> bytes:
    """The figure as a file: "svg", or "png" at `dpi` dots per inch."""
    out = io.BytesIO()
    with styled(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # drawn as a box
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(out, format=kind, dpi=dpi, metadata=metadata)
    return out.getvalue()
