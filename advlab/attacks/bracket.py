"""Roots of a batch of increasing functions, each known only where it was tried: a safeguarded regula falsi.

Shapes: B functions.
"""

from __future__ import annotations

import torch
from torch import Tensor

OVERSHOOT = 1.15
"""An extrapolation goes this much farther than the secant says, so as to end on the other side of the root."""


class Bracket:
    """The Illinois method (Dowell & Jarratt 1971), with an extrapolating secant until both sides are known.

    Where the secant would land next to an end that is known, the next point is one width from that end instead, so
    that the interval closes from both sides.

    Attributes:
        point: [B] float64, the points to try next.
        low, high: [B] float64, the largest point known to be below the root and the smallest above; infinite at first.
        width: [B] float64, an interval as narrow as this is closed.
    """

    def __init__(self, point: Tensor, width: float, stride: float) -> None:
        """Start every function at its ``point`` [B]; while one side is unknown, no step is longer than ``stride``."""
        self.point = point.double().clone()
        self.width, self.stride = width, max(stride, width)
        self.low = torch.full_like(self.point, -torch.inf)
        self.high = torch.full_like(self.point, torch.inf)
        self._at_low, self._at_high, self._last, self._at_last, self._side = (
            torch.full_like(self.point, torch.nan) for _ in range(5)
        )

    def closed(self, rows: Tensor) -> Tensor:
        """[b] bool: the roots of ``rows`` [b] are known to within the width."""
        return self.high[rows] - self.low[rows] <= self.width * (1 + 1e-9)

    def update(self, rows: Tensor, value: Tensor) -> None:
        """Take the values [b] of the functions ``rows`` at their points, and choose their next points.

        A value of zero is below the root, NaN is above. An end that a new value contradicts is forgotten.
        """
        point, value = self.point[rows], value.double()
        below = value <= 0
        side = torch.where(below, -1.0, 1.0).double()
        again = side == self._side[rows]  # an end that stays a second time loses half of its weight
        at_low = torch.where(below, value, torch.where(again, 0.5, 1.0) * self._at_low[rows])
        at_high = torch.where(below, torch.where(again, 0.5, 1.0) * self._at_high[rows], value)
        low = torch.where(below, point, self.low[rows])
        high = torch.where(below, self.high[rows], point)
        low = torch.where(~below & (low >= point), -torch.inf, low)
        high = torch.where(below & (high <= point), torch.inf, high)

        slope = (value - self._at_last[rows]) / (point - self._last[rows])
        length = (OVERSHOOT * value / slope).abs().nan_to_num(torch.inf).clamp(self.width, self.stride)
        length = torch.where(slope > 0, length, self.stride)
        inside = (low * at_high - high * at_low) / (at_high - at_low)
        inside = torch.where((inside > low) & (inside < high), inside, (low + high) / 2)
        edge = 0.95 * self.width
        inside = torch.where(inside - low < 0.6 * self.width, low + edge, inside)
        inside = torch.where(high - inside < 0.6 * self.width, high - edge, inside)
        known = low.isfinite() & high.isfinite()

        self._at_low[rows], self._at_high[rows], self._side[rows] = at_low, at_high, side
        self._last[rows], self._at_last[rows] = point, value
        self.low[rows], self.high[rows] = low, high
        self.point[rows] = torch.where(known, inside, point - side * length)
