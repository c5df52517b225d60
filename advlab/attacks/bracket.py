"""Roots of a batch of increasing functions by the Illinois method, a regula falsi that closes from both sides.

With f(l) ≤ 0 < f(h) at the ends of the bracket, the next point is the root of the secant (Dowell & Jarratt 1971)

    p = (l w_h f(h) − h w_l f(l)) / (w_h f(h) − w_l f(l)),

where an end that has stayed for a second time has lost half of its weight w. While one end is unknown, the secant
through the last two points is extrapolated.

Shapes: B functions.
"""

import torch
from torch import Tensor

OVERSHOOT = 1.15
"""An extrapolation goes this much farther than the secant says, so as to end on the other side of the root."""
PATIENCE = 3
"""Extrapolations that may fall short; the shortest step allowed doubles with every further one."""


class Bracket:
    """The brackets of B roots.

    A point that would come to lie next to an end is put one width from that end, so that the bracket closes from both
    sides.

    Attributes:
        point, low, high: [B] float64, the points to try next, and the ends l and h; infinite at first.
        width: a bracket as narrow as this is closed.
    """

    def __init__(self, point: Tensor, width: float, stride: float) -> None:
        """Start every function at its ``point`` [B]; while one side is unknown, no step is longer than ``stride``."""
        self.width, self.stride = width, max(stride, width)
        # point, low, high, weights of the values at low and high, last point and value, side of the root it was on,
        # points on that side in a row
        self._state = torch.full((len(point), 9), torch.nan, dtype=torch.float64, device=point.device)
        self.point, self.low, self.high = self._state[:, :3].unbind(1)
        self.point.copy_(point)
        self.low.fill_(-torch.inf)
        self.high.fill_(torch.inf)

    def closed(self, rows: Tensor) -> Tensor:
        """[b] bool: the roots of ``rows`` [b] are known to within the width."""
        return self.high[rows] - self.low[rows] <= self.width * (1 + 1e-9)

    def update(self, rows: Tensor, value: Tensor) -> None:
        """Take the values [b] of the functions ``rows`` at their points, and choose their next points.

        A value of zero is below the root, NaN is above. An end that a new value contradicts is forgotten.
        """
        point, low, high, at_low, at_high, last, at_last, last_side, streak = self._state[rows].unbind(1)
        value = value.double()
        below = value <= 0
        side = 1 - 2 * below.double()
        streak = torch.where(side == last_side, streak, 0) + 1
        weight = 1 - 0.5 * (side == last_side)  # an end that stays a second time loses half of its weight
        at_low, at_high = torch.where(below, value, weight * at_low), torch.where(below, weight * at_high, value)
        low = torch.where(below, point, low.masked_fill(low >= point, -torch.inf))
        high = torch.where(below, high.masked_fill(high <= point, torch.inf), point)

        slope = (value - at_last) / (point - last)
        shortest = self.width * (streak - PATIENCE).clamp_min(0).exp2()
        length = torch.maximum((OVERSHOOT * value / slope).abs(), shortest).clamp_max(self.stride)
        outside = point - side * torch.where(slope > 0, length, self.stride)
        secant = (low * at_high - high * at_low) / (at_high - at_low)
        secant = torch.where((secant > low) & (secant < high), secant, (low + high) / 2)
        near, edge = 0.6 * self.width, 0.95 * self.width
        secant = torch.where(secant - low < near, low + edge, secant)
        secant = torch.where(high - secant < near, high - edge, secant)
        next_point = torch.where((high - low).isfinite(), secant, outside)
        self._state[rows] = torch.stack((next_point, low, high, at_low, at_high, point, value, side, streak), 1)
