"""Figures as PNG bytes, drawn on Figure objects: no global plotting state, no display."""

import io
import math
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from advlab.report.palette import INK, MUTED, RULE, hue

STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": RULE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.parse_math": False,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}
_DPI = 160
DASHES: Any = ("-", (0, (5, 1.5)), (0, (2, 1.2)))
"""Curves differ in dashes as well as in hue, so that they are distinguishable without colour."""
CHART_WIDTH = 6.6
"""Inches."""
MAGNIFIED = 10.0
"""Factor by which differences are magnified in the paper's Figures 5 and 6."""
_VISIBLE = 0.5  # a difference that goes from grey to black or white


def figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches."""
    drawn = Figure(figsize=(width, height), dpi=_DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(drawn)
    return drawn


def look(position: int) -> dict[str, Any]:
    """Colour and dashes of the curve at a position."""
    return {"color": hue(position), "linestyle": DASHES[position % len(DASHES)]}


def plain(axis: Axis) -> None:
    """Write powers of ten as plain numbers: the report's text is never parsed as mathematics."""
    axis.set_major_formatter(lambda value, _position: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def png(drawn: Figure, **options: Any) -> bytes:
    """A figure as PNG; ``options`` are Matplotlib's."""
    buffer = io.BytesIO()
    # Without Matplotlib's version in the file, it changes only when the picture does.
    drawn.savefig(buffer, format="png", metadata={"Software": None}, **options)
    return buffer.getvalue()


def magnification(change: np.ndarray) -> float:
    """The factor, of one digit and zeros, by which a change of intensities can be seen; at least the paper's ten."""
    moved = np.abs(change[change != 0])  # an attack may not change most pixels
    largest = float(np.quantile(moved, 0.99)) if len(moved) else _VISIBLE
    if MAGNIFIED * largest >= _VISIBLE:
        return MAGNIFIED
    power = 10.0 ** math.floor(math.log10(_VISIBLE / largest))
    return power * (_VISIBLE / largest // power)


def tiled(tiles: np.ndarray, across: int, gaps: tuple[int, int]) -> np.ndarray:
    """Tiles [N, h, w, C] in rows of ``across`` as one picture [·, ·, C], with white ``gaps`` below and beside them."""
    down, (below, beside) = -(-len(tiles) // across), gaps
    padding = ((0, down * across - len(tiles)), (0, below), (0, beside), (0, 0))
    padded = np.pad(tiles, padding, constant_values=1)
    rows = padded.reshape(down, across, *padded.shape[1:]).swapaxes(1, 2)
    return rows.reshape(down * padded.shape[1], across * padded.shape[2], -1)[:-below, :-beside]


def mosaic(tiles: np.ndarray, across: int, title: str) -> bytes:
    """Tiles [N, h, w, C] in rows of ``across``; PNG."""
    gap = max(1, tiles.shape[2] // 10)
    picture = tiled(tiles, across, (gap, gap))
    with rc_context(STYLE):
        drawn = figure(8.0, 8.0 * picture.shape[0] / picture.shape[1] + 0.4)
        axes = drawn.add_subplot()
        axes.set_axis_off()
        axes.imshow(picture if picture.shape[2] > 1 else picture[..., 0], cmap="gray", interpolation="nearest")
        axes.set_title(title, fontsize=11, loc="left")
        return png(drawn, bbox_inches="tight", pad_inches=0.06)
