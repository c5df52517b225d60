"""The search for the largest constant c at which the minimiser x(c) of a penalised problem is classified as the target.

The margin m(x(c)) increases with log c, so the constant is a root (`bracket`). A solve serves only to find the sign of
the margin at its end, and is left as soon as that is clear. With the gradient ∇f at the iterate, and the step q to the
generalised Cauchy point of the solver, the loss will change by about

    Δ = ∇f · q − c ∇D · q,                                                                          (1)

and the margin, where two classes count, loss = log(1 + eᵐ) and so dm = dloss/(1 − e^{−loss}), by

    Δm = Δ/(1 − e^{−loss}).                                                                         (2)

The sign of m is clear where |Δm| ≤ 0.3 |m|, and m + Δm is the value that the root finder gets. The problem then goes on
with its next constant from where it is, with all the curvature that L-BFGS has learnt: a change of c changes the
Hessian of c ‖r‖² by a known multiple of I. Each image does so by itself; none waits for another. The constant that is
the answer is solved to 0.1 |m|; where its minimiser does not succeed, the search goes on with solves to the end.
"""

import math

import torch
from torch import Tensor
from torch.linalg import vecdot

from advlab.attacks.bracket import Bracket
from advlab.attacks.penalised import FTOL, Problems
from advlab.optim import lbfgsb

C_RANGE = (1e-6, 1e6)
"""Constants outside this range are not tried; in units of 1/w² where the box has width w."""
STRIDE = 8.0
"""Largest factor between two constants in a row, until one is known to succeed and one to fail."""
CLEAR, CLEAR_LAST = 0.3, 0.1
"""A solve is left when |Δm| is below this share of |m|; the second holds for the constant that is the answer."""
VANISHED = 1e-2
"""Lower bound of 1 − e^{−loss} in (2): where the cross entropy is so small, success is clear."""


def search(
    problems: Problems, live: Tensor, start: Tensor, initial_c: float | Tensor, tolerance: float, steps: int
) -> None:
    """Find the largest constant that succeeds, of the images ``live`` [b].

    Args:
        problems: they record the closest success on the way.
        live: [b] int64.
        start: [b, n] in the unit box, where the first solves start.
        initial_c: the first constants, one or [b].
        tolerance: the search ends when the largest constant known to succeed and the smallest known to fail are
            within a factor 1 + tolerance.
        steps: most constants tried per image.
    """
    problems.c[live] = initial_c
    bracket = Bracket(problems.c[live].log(), math.log1p(tolerance), math.log(STRIDE))
    if problems.method.scipy:
        _in_rounds(problems, live, start, bracket, steps)
    else:
        problems.minimize(live, start, _Path(problems, live, bracket, steps).revise)


def _in_rounds(problems: Problems, live: Tensor, x: Tensor, bracket: Bracket, steps: int) -> None:
    """Solve to the end for one constant after another, each from where the last one ended; the first from x [b, n]."""
    rows = torch.arange(len(live), device=live.device)
    for _ in range(steps):
        if not len(rows):
            break
        x[rows], excess = problems.solve(live[rows], x[rows])
        bracket.update(rows, excess)
        problems.c[live[rows]] = bracket.point[rows].exp()
        rows = rows[~bracket.closed(rows) & _tried(bracket.point[rows])]


class _Path:
    """The paths x(c) of the images ``live`` [b], followed by one run of the solver."""

    def __init__(self, problems: Problems, live: Tensor, bracket: Bracket, steps: int) -> None:
        self.problems, self.live, self.bracket, self.max_constants = problems, live, bracket, steps
        self.iterate = problems.clean.new_full((len(live), 2), torch.nan)  # loss and excess at the iterates
        self.constants = torch.ones_like(live)  # tried so far
        self.evaluations = torch.full_like(live, -1)  # with the present constant, without the point it began with
        self.last = torch.zeros_like(live, dtype=torch.bool)  # the present constant is the answer
        self.careful = self.last.clone()  # an answer did not succeed, so every constant is solved to the end

    def revise(self, progress: lbfgsb.Progress) -> lbfgsb.Revision:
        """Give the next constant to the images whose verdict on the present one is clear."""
        rows, accepted = progress.rows, progress.accepted
        evaluated = torch.stack((self.problems.loss, self.problems.excess), 1)
        self.iterate[rows] = torch.where(accepted[:, None], evaluated, self.iterate[rows])
        self.evaluations[rows] += 1
        original = self.live[rows]
        c = self.problems.c[original].to(progress.value.dtype)
        perturbation = progress.x - self.problems.clean.index_select(0, original)
        distance, slope = self.problems.method.distance(vecdot(perturbation, perturbation))

        decided, estimate, stop = self._verdict(progress, vecdot(perturbation, progress.cauchy) * c * slope)
        places = decided.nonzero().squeeze(1)
        self._choose(rows[places], estimate[places])
        step = self.problems.c[original[places]].to(c.dtype) - c[places]
        changed = step != 0
        places, step = places[changed], step[changed]
        self.constants[rows[places]] += 1
        self.evaluations[rows[places]] = 0
        shift = step * slope[places]
        return lbfgsb.Revision(
            places,
            progress.value[places] + step * distance[places],
            torch.addcmul(progress.gradient[places], perturbation[places], shift[:, None]),
            shift,
            stop,
        )

    def _verdict(self, progress: lbfgsb.Progress, distance_slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Which live problems are done with their constant [b] bool, the estimated margins at its minimiser [b], and
        the places [j] of those that have found their answer; ``distance_slope`` [b] is c ∇D · q of (1).
        """
        rows = progress.rows
        (loss, excess), last = self.iterate[rows].unbind(1), self.last[rows]
        decrease = vecdot(progress.gradient, progress.cauchy)
        ended = progress.status != lbfgsb.Status.RUNNING
        flat = progress.learnt & (decrease.abs() <= FTOL * progress.value.abs().clamp(min=1))
        if self.problems.method.loss == "margin":  # zero wherever the target is reached, however clearly
            clear, estimate = torch.zeros_like(last), torch.where(excess <= 0, -1.0, 1.0)
        else:
            change = (decrease - distance_slope) / -torch.expm1(-loss).clamp(max=-VANISHED)
            share = torch.where(last, CLEAR_LAST, CLEAR)
            clear = progress.accepted & progress.learnt & (change.abs() <= share * excess.abs())
            estimate = torch.where((excess + change <= 0) == (excess <= 0), excess + change, excess)
        clear &= ((self.evaluations[rows] > 0) | last) & ~self.careful[rows]
        refuted = last & (ended | flat | clear) & (excess > 0) & (self.constants[rows] < self.max_constants)
        decided = torch.where(last, refuted, clear | flat | ended)
        stop = (last & ~refuted & (clear | flat | ended)).nonzero().squeeze(1)
        return decided & (progress.status != lbfgsb.Status.NONFINITE), estimate, stop

    def _choose(self, rows: Tensor, estimate: Tensor) -> None:
        """Set the next constants of ``rows`` [b], for whose present ones the margins ``estimate`` [b] are."""
        bracket, present = self.bracket, self.bracket.point[rows]
        bracket.update(rows, estimate)
        point, low = bracket.point[rows], bracket.low[rows]
        self.careful[rows] |= self.last[rows]
        last = bracket.closed(rows) | ~_tried(point) | (self.constants[rows] >= self.max_constants)
        point = torch.where(last, torch.where(low.isfinite(), low, present), point)
        self.last[rows] = last
        bracket.point[rows] = point
        self.problems.c[self.live[rows]] = point.exp()


def _tried(log_c: Tensor) -> Tensor:
    """[b] bool: the constants are within `C_RANGE`."""
    return (log_c >= math.log(C_RANGE[0])) & (log_c <= math.log(C_RANGE[1]))
