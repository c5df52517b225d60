"""The colours of reports, distinguishable for colour-blind readers: one ramp for rates, eight hues for models."""

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_hex

INK = "#1d2433"
MUTED = "#5f6878"
RULE = "#d5d9e0"

HEAT = LinearSegmentedColormap.from_list(
    "advlab-heat", ["#f6f3ec", "#fbd9a5", "#f39c6b", "#d5566a", "#8a2f77", "#3f1a5b"]
)
"""Error rate 0 -> 1, of decreasing lightness, so that it works in greyscale and for dichromats."""

HUES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#7a3e9d", "#44546a")
"""Okabe and Ito's colours, the yellow darkened for white backgrounds, and two more for larger zoos."""


def hue(position: int) -> str:
    """The colour of the model at a position; colours repeat after eight."""
    return HUES[position % len(HUES)]


def heat(rate: float) -> tuple[str, str]:
    """Background and readable text colour (hex) of a cell with this error rate."""
    colour = HEAT(min(max(rate, 0.0), 1.0))
    channels = np.array(colour[:3])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)  # IEC 61966-2-1
    luminance = linear @ (0.2126, 0.7152, 0.0722)
    # WCAG contrast with white is 1.05/(L + .05), with INK (L + .05)/.067; they are equal at L = 0.215.
    return to_hex(colour), INK if luminance > 0.215 else "#ffffff"
