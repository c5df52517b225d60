"""One step of every live problem: judge the trial points, learn from them, choose the next ones.

Plain tensor functions without a host synchronisation. Passes over [L, N] are what a step costs, so masks of that
shape are 0/1 in the problem's own dtype, which vectorises where bool does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.linalg import vecdot

from advlab.optim.batch import Batch, Status

ARMIJO = 1e-4
"""Least decrease of an accepted step, as a share of what the slope promises (Armijo 1966; SciPy's value)."""
NOISE = 4.0
"""Differences of the objective below this many units in the last place say nothing."""
LENGTHEN = 4.0
"""Growth of the step after one along which the objective was not convex, so that no curvature was learnt."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When to stop; the names are those of :func:`advlab.optim.lbfgsb.minimize`."""

    max_iter: int
    max_evaluations: int
    max_line_search: int
    gtol: float
    ftol: float


def advance(batch: Batch, x_trial: Tensor, value: Tensor, gradient: Tensor, limits: Limits) -> None:
    """Take the evaluation of the trial points into the state of every problem.

    A problem accepts its trial point or keeps its iterate; either way it learns the curvature between the two and
    gets its next direction and step. Halfway to a failed search the memory is dropped, for a fresh start downhill.

    Args:
        batch: the live problems, changed in place.
        x_trial: [L, N], from :meth:`Batch.trial`.
        value, gradient: [L], [L, N], the objective there.
        limits: when to stop.
    """
    curvature, dtype = batch.curvature, torch.finfo(value.dtype)
    new = batch.evaluations == 0
    settled = ~curvature.empty
    finite = value.isfinite() & gradient.sum(1).isfinite()
    gradient = gradient.nan_to_num(0, 0, 0)

    vectors = gradient.new_empty(len(gradient), 2, gradient.shape[1])
    free_gradient, change = vectors.unbind(1)
    y, s = curvature.next_slot()
    torch.sub(x_trial, batch.x, out=s)
    torch.ne(s, 0, out=change)  # a variable that stayed at its bound tells nothing about the face we are on
    change.mul_(gradient - batch.gradient)
    torch.nan_to_num(change, 0, 0, 0, out=y)
    slope, s_y, y_y = vecdot(s, batch.gradient), vecdot(s, change), vecdot(change, change)

    accepted, decrease, noise = _judge(batch, value, slope, s_y)
    accepted = finite & (new | accepted)
    moved = accepted & ~new
    # The curvature between x and a refused point is as true as that between two iterates.
    positive = (s_y > dtype.tiny + dtype.eps * slope.abs()) & (y_y > dtype.tiny**0.5 * s_y + dtype.tiny)
    learnt = finite & ~new & positive & (y_y < dtype.max)
    magnitude = torch.maximum(batch.value.abs(), value.abs()).clamp(min=1)
    resolved = torch.where(moved, decrease > torch.maximum(limits.ftol * magnitude, noise), slope.abs() > noise)
    stalled = settled & ~resolved & (moved | (~new & (batch.trials == 0)))

    weight = accepted[:, None].to(gradient.dtype)
    batch.x = torch.lerp(batch.x, x_trial, weight)
    batch.gradient = torch.lerp(batch.gradient, gradient, weight)
    batch.value = torch.where(accepted | new, value, batch.value)
    batch.evaluations = batch.evaluations + 1
    batch.iterations = batch.iterations + moved
    retry = learnt & ((batch.trials == 0) | ~settled)  # the step is in units of the new H
    batch.trials = torch.where(accepted, 0, batch.trials + 1)
    failed = batch.trials >= limits.max_line_search
    restart = batch.trials == (limits.max_line_search + 1) // 2

    # On a model of curvature 1/γ the generalised Cauchy point is P(x − γg); the variables it clips are not free.
    gamma = torch.where(learnt, s_y / y_y, curvature.gamma).masked_fill(restart, 1)
    downhill = batch.gradient * -gamma[:, None]
    point = batch.x + downhill
    free = batch.clip(point).eq_(point)
    torch.mul(batch.gradient, free, out=free_gradient)
    y_v, s_v = curvature.products(vectors)
    curvature.learn(learnt, y_v[:, 1], s_v[:, 1])
    curvature.forget(restart)
    batch.direction = downhill.addcmul_(free, curvature.correction(y_v[:, 0], s_v[:, 0]))

    residual = batch.clip(batch.x - batch.gradient).sub_(batch.x).abs_().amax(1)
    longer = torch.where(learnt, 1, LENGTHEN * batch.step)
    shorter = torch.where(retry, 1, torch.where(finite, 0.5, 0.1) * batch.step)
    first = 1 / residual.clamp(min=1)
    batch.step = torch.where(new | restart, first, torch.where(accepted, longer, shorter))

    status = batch.status
    for condition, reason in (
        (batch.evaluations >= limits.max_evaluations, Status.MAX_EVALUATIONS),
        (batch.iterations >= limits.max_iter, Status.MAX_ITER),
        (failed, Status.LINE_SEARCH_FAILED),
        ((residual <= limits.gtol) | stalled, Status.CONVERGED),
        (new & ~finite, Status.NONFINITE),
    ):
        status = status.masked_fill(condition, int(reason))
    batch.status = status


def _judge(batch: Batch, value: Tensor, slope: Tensor, s_y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Does the trial point decrease the objective enough? [L] bool, with the decrease and its rounding noise [L].

    Where the decrease drowns in the rounding noise the slopes decide in place of the values (the approximate Wolfe
    condition of Hager & Zhang 2005, equation 4.1), so a float32 line search ends at the bottom and not in the noise.
    """
    noise = torch.finfo(value.dtype).eps * torch.maximum(batch.value.abs(), value.abs())
    decrease = batch.value - value
    sufficient = decrease >= -ARMIJO * slope
    indistinct = (decrease >= -NOISE * noise) & (slope + s_y <= (2 * ARMIJO - 1) * slope)
    return (slope < 0) & (sufficient | indistinct), decrease, noise
