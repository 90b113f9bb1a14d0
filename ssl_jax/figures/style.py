"""The one place that says how figures look: colours that colour-blind readers tell apart, fonts, grids, sizes."""

import io
import warnings
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.figure import Figure

# Okabe and Ito's palette, for lines on white in this order; its yellow is left to the last.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#4D4D4D", "#B8A900")
MARKERS = ("o", "^", "s", "D", "v", "P", "X")  # with the colours, 56 kinds of points
RIGHT, WRONG, QUIET = "#009E73", "#D55E00", "#6B7280"
WIDTH = 7.2  # inches, of a page's text

_RC = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same figure everywhere
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
    "svg.hashsalt": "ssl_jax",  # the same figure is the same file
}


def styled():
    """The style for as long as a `with` block lasts; no global state is left changed."""
    return mpl.rc_context(_RC)


def panels(rows: int, columns: int, *, width: float = WIDTH, height: float = 2.7, **settings):
    """A figure of rows x columns axes, each row `height` inches, and these axes in a flat list."""
    figure = Figure(figsize=(width, rows * height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False, **settings).flat)


def colour(i: int) -> str:
    """Of the i-th run or class."""
    return PALETTE[i % len(PALETTE)]


def marker(i: int) -> str:
    """Of the i-th class: another one when the colours begin again."""
    return MARKERS[i // len(PALETTE) % len(MARKERS)]


def legend(figure: Figure, handles: Sequence) -> None:
    """One legend for all panels, below them, line by line in as many columns as there is room for."""
    if not handles:
        return
    widest = max(len(h.get_label()) for h in handles)
    room = max(int(figure.get_figwidth() / (0.42 + 0.075 * widest)), 1)  # inches: the mark, and a letter of its font
    lines = -(-len(handles) // room)
    columns = -(-len(handles) // lines)
    by_column = [h for column in range(columns) for h in list(handles)[column::columns]]  # as matplotlib fills them
    figure.legend(handles=by_column, loc="outside lower center", ncols=columns)


def name_of(label: int, names: Sequence[str] = ()) -> str:
    """How the class `label` is called."""
    return str(names[label]) if 0 <= label < len(names) else str(label)


def encoded(figure: Figure, kind: str, *, dpi: int = 160) -> bytes:
    """The figure as a file: "svg", or "png" at `dpi` dots per inch."""
    out = io.BytesIO()
    with styled(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a box stands for it
        figure.savefig(out, format=kind, dpi=dpi, metadata={"Date": None} if kind == "svg" else None)
    return out.getvalue()
