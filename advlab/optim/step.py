"""One round of every live problem, in three functions; the steps are those of `lbfgsb`.

- `judge`: is the trial point accepted (4), and does its pair s, y have positive curvature (5)?
- `settle`: count, choose t and the free variables F (1), and end the problems that are done (6).
- `direct`: learn the pairs, and choose the directions d (2).

`revise` goes between the last two, for problems that go on with another objective. They are tensor functions without a
host synchronisation. The cost of a round is its passes over [L, N]; on the CPU they are compiled loops (`kernels`).
Elsewhere masks of that shape are 0/1 in the problem's own dtype, which is vectorised where bool is not.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.linalg import vecdot

from advlab import compiled
from advlab.optim import kernels
from advlab.optim.batch import Batch, Status

ARMIJO = 1e-4
"""Least decrease of an accepted step, as a share of −sᵀg (Armijo 1966; SciPy's value)."""
NOISE = 4.0
"""Differences of the objective below so many units in the last place are taken to be rounding."""
LENGTHEN = 4.0
"""Growth of t after a step along which the objective was not convex, so that no pair was learnt."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When to stop; the names are those of :func:`advlab.optim.lbfgsb.minimize`."""

    max_iter: int
    max_evaluations: int
    max_line_search: int
    gtol: float
    ftol: float


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on the trial points.

    Attributes:
        new: [L] bool, the evaluation was the problem's first.
        accepted: [L] bool, the trial point is the next iterate.
        learnt: [L] bool, the pair in the newest slot has positive curvature.
        resolved: [L] bool, f changed by more than tolerance and rounding.
        finite: [L] bool, objective and gradient are finite.
        s_y, y_y: [L], sᵀy and yᵀy of the newest pair.
    """

    new: Tensor
    accepted: Tensor
    learnt: Tensor
    resolved: Tensor
    finite: Tensor
    s_y: Tensor
    y_y: Tensor


def judge(batch: Batch, x_trial: Tensor, value: Tensor, gradient: Tensor, limits: Limits) -> Judgement:
    """Write the newest pair of every problem into its memory, and decide which trial points are accepted.

    ``x_trial`` [L, N] is from :meth:`Batch.trial`, ``value`` [L] and ``gradient`` [L, N] are the objective there. Only
    the newest slot of the memory changes.
    """
    dtype = torch.finfo(value.dtype)
    new = batch.evaluations == 0
    slope, s_y, y_y, total = _compare(batch, x_trial, gradient)
    finite = value.isfinite() & total.isfinite()
    accepted, decrease, noise = _sufficient(batch, value, slope, s_y)
    accepted = finite & (new | accepted)
    # the curvature between x and a refused point is as true as that between two iterates
    positive = (s_y > dtype.tiny + dtype.eps * slope.abs()) & (y_y > dtype.tiny**0.5 * s_y + dtype.tiny)
    magnitude = torch.maximum(batch.value.abs(), value.abs()).clamp(min=1)
    large = decrease > torch.maximum(limits.ftol * magnitude, noise)
    return Judgement(
        new=new,
        accepted=accepted,
        learnt=finite & ~new & positive & (y_y < dtype.max),
        resolved=torch.where(accepted & ~new, large, slope.abs() > noise),
        finite=finite,
        s_y=s_y,
        y_y=y_y,
    )


def _compare(batch: Batch, x_trial: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
    """Write the newest pairs s = x⁺ − x, y = g⁺ − g into the memory; y is zero where s is, as the variable did not
    leave its face. Returns sᵀg, sᵀy, yᵀy and the sum of g⁺, [L] each; that is not finite if any of its entries is not.
    """
    curvature = batch.curvature
    y, s = curvature.next_slot().unbind(1)
    if compiled.fits(batch.x, x_trial, gradient):
        found = batch.x.new_empty(4, len(x_trial)).unbind()
        products = dict(zip(("slope", "s_y", "y_y", "total"), found, strict=True))
        compiled.run(kernels.compare, batch, curvature, **products, x_trial=x_trial, gradient_trial=gradient)
        return found
    s.copy_(x_trial).sub_(batch.x)
    y.copy_(gradient).sub_(batch.gradient)
    y.mul_(torch.ne(s, 0, out=torch.empty_like(x_trial)))
    y.nan_to_num_(0, 0, 0)
    return vecdot(s, batch.gradient), vecdot(s, y), vecdot(y, y), gradient.sum(1)


def settle(batch: Batch, value: Tensor, judged: Judgement, limits: Limits) -> Tensor:
    """Count, choose t and the free variables, and end the problems that are done; the iterates have moved already.

    Halfway to a failed search the memory is dropped, for a new start along −γ g. Returns [L] bool, the problems whose
    newest pair is to be learnt.
    """
    curvature = batch.curvature
    new, accepted, learnt = judged.new, judged.accepted, judged.learnt
    settled = ~curvature.empty
    moved = accepted & ~new
    stalled = settled & ~judged.resolved & (moved | (~new & (batch.trials == 0)))
    batch.value = torch.where(accepted | new, value, batch.value)
    batch.evaluations = batch.evaluations + 1
    batch.iterations = batch.iterations + moved
    retry = learnt & ((batch.trials == 0) | ~settled)  # t is in units of the new H
    batch.trials = torch.where(accepted, 0, batch.trials + 1)
    restart = batch.trials == (limits.max_line_search + 1) // 2

    curvature.forget(restart)
    learnt = learnt & ~restart
    curvature.gamma = torch.where(learnt, judged.s_y / judged.y_y, curvature.gamma)
    box = batch.lower, batch.upper
    batch.downhill, batch.free, residual = cauchy(batch.x, batch.gradient, curvature.gamma, *box)

    longer = torch.where(learnt, 1, LENGTHEN * batch.step)
    shorter = torch.where(retry, 1, torch.where(judged.finite, 0.5, 0.1) * batch.step)
    first = 1 / residual.clamp(min=1)
    batch.step = torch.where(new | restart, first, torch.where(accepted, longer, shorter))

    status = batch.status
    for condition, reason in (
        (batch.evaluations >= limits.max_evaluations, Status.MAX_EVALUATIONS),
        (batch.iterations - batch.begun >= limits.max_iter, Status.MAX_ITER),
        (batch.trials >= limits.max_line_search, Status.LINE_SEARCH_FAILED),
        ((residual <= limits.gtol) | stalled, Status.CONVERGED),
        (new & ~judged.finite, Status.NONFINITE),
    ):
        status = status.masked_fill(condition, int(reason))
    batch.status = status
    return learnt


def revise(batch: Batch, learnt: Tensor, places: Tensor, value: Tensor, gradient: Tensor, shift: Tensor) -> Tensor:
    """Let the problems at ``places`` [K] go on from where they are with another objective, between :func:`settle`, from
    which ``learnt`` [L] bool is, and :func:`direct`.

    ``value`` [K] and ``gradient`` [K, N] are the new objective at their iterates, ``shift`` [K] its Hessian minus that
    of the old one, as a multiple of I. Returns ``learnt``, without the pairs that the shift makes concave.
    """
    curvature = batch.curvature
    curvature.shift(places, shift)
    learnt, residual = _take_over(batch, learnt, places, gradient, shift)
    knows = (learnt | ~curvature.empty)[places]
    batch.value[places] = value
    batch.step[places] = torch.where(knows, 1, 1 / residual.clamp(min=1))
    batch.trials[places] = 0
    batch.begun[places] = batch.iterations[places]
    batch.status[places] = int(Status.RUNNING)
    return learnt


def _take_over(batch: Batch, learnt: Tensor, places: Tensor, gradient: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Correct the newest pairs, γ and F; returns ``learnt`` [L] of :func:`revise`, and ‖P(x − g) − x‖_∞ [K]."""
    curvature = batch.curvature
    if compiled.fits(batch.x, gradient, shift):
        learnt, residual = learnt.clone(), torch.empty_like(shift)
        revised = {"places": places, "by": shift, "new_gradient": gradient}
        compiled.run(kernels.revise, batch, curvature, **revised, learnt=learnt, residual=residual)
        return learnt, residual
    y, s = curvature.pairs[places, curvature.slot].unbind(1)
    s_s, s_y = vecdot(s, s), vecdot(s, y)
    y_y = vecdot(y, y) + shift * (2 * s_y + shift * s_s)
    s_y = s_y + shift * s_s
    convex = learnt[places] & (s_y > torch.finfo(s_y.dtype).eps * s_s)
    gamma = torch.where(convex, s_y / y_y, curvature.gamma[places])
    x = batch.x.index_select(0, places)
    box = (batch.lower, batch.upper) if batch.shared_box else (batch.lower[places], batch.upper[places])
    downhill, free, residual = cauchy(x, gradient, gamma, *box)
    curvature.gamma[places] = gamma
    batch.downhill.index_copy_(0, places, downhill)
    batch.free.index_copy_(0, places, free)
    batch.gradient.index_copy_(0, places, gradient)
    return learnt.index_copy(0, places, convex), residual


def direct(batch: Batch, learnt: Tensor) -> None:
    """Learn the newest pairs where ``learnt`` [L] and choose the next directions: −(H g_F)_F, and −γ g off F."""
    curvature = batch.curvature
    if compiled.fits(batch.gradient):
        compiled.run(kernels.direct, batch, curvature, learnt=learnt, newest=curvature.slot)
        return
    curvature.learn(learnt)
    y_g, s_g = curvature.products((batch.gradient * batch.free)[:, None])
    correction = curvature.correction(y_g[:, 0], s_g[:, 0])
    batch.direction = torch.addcmul(batch.downhill, batch.free, correction)


def cauchy(x: Tensor, gradient: Tensor, gamma: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """−γ g [L, N], 1 where x − γ g lies within the box [L, N], and ‖P(x − g) − x‖_∞ [L].

    On a model of curvature 1/γ the generalised Cauchy point is P(x − γ g); the variables that it clips are not free.
    """
    if compiled.fits(x, gradient, gamma):
        downhill, free, residual = torch.empty_like(x), torch.empty_like(x), torch.empty_like(gamma)
        compiled.run(
            kernels.cauchy, x=x, gradient=gradient, gamma=gamma, lower=lower, upper=upper, downhill=downhill, free=free,
            residual=residual,
        )  # fmt: skip
        return downhill, free, residual
    downhill = gradient * -gamma[:, None]
    point = x + downhill
    free = point.clamp(lower, upper)
    residual = (x - gradient).clamp_(lower, upper).sub_(x).abs_().amax(1)
    return downhill, torch.eq(free, point, out=free), residual


def _sufficient(batch: Batch, value: Tensor, slope: Tensor, s_y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Whether the trial point decreases the objective enough [L] bool, the decrease [L] and its rounding [L]."""
    noise = torch.finfo(value.dtype).eps * torch.maximum(batch.value.abs(), value.abs())
    decrease = batch.value - value
    sufficient = decrease >= -ARMIJO * slope
    # within the noise the slopes decide, so that float32 searches end at the bottom (Hager & Zhang 2005, (4.1))
    indistinct = (decrease >= -NOISE * noise) & (slope + s_y <= (2 * ARMIJO - 1) * slope)
    return (slope < 0) & (sufficient | indistinct), decrease, noise
