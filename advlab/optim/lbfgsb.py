"""Box-constrained L-BFGS for a batch of independent problems."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import IntEnum

import torch
from torch import Tensor

from advlab.errors import UserError
from advlab.optim.curvature import Curvature

Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""fun(x [B, n], rows LongTensor [B]) -> (values [B], gradients [B, n])."""


class Status(IntEnum):
    """Why a problem stopped."""

    RUNNING = -1
    CONVERGED = 0
    MAX_ITER = 1
    LINE_SEARCH_FAILED = 2
    NONFINITE = 3
    MAX_EVALUATIONS = 4


@dataclass(frozen=True, slots=True)
class Result:
    x: Tensor
    fun: Tensor
    grad: Tensor
    iterations: Tensor
    evaluations: Tensor
    status: Tensor


@dataclass(frozen=True, slots=True)
class Options:
    max_iter: int
    gtol: float
    ftol: float
    max_evaluations: int
    max_line_search: int


@dataclass(slots=True)
class Lanes:
    rows: Tensor
    lower: Tensor
    upper: Tensor
    x: Tensor
    value: Tensor
    gradient: Tensor
    direction: Tensor
    step: Tensor
    trials: Tensor
    iterations: Tensor
    evaluations: Tensor
    status: Tensor
    curvature: Curvature


def minimize(
    fun: Objective,
    x0: Tensor,
    lower: Tensor | float,
    upper: Tensor | float,
    history: int = 10,
    max_iter: int = 100,
    gtol: float = 1e-5,
    ftol: float = 1e-9,
    *,
    max_evaluations: int | None = None,
    max_line_search: int = 20,
    max_live: int | None = None,
) -> Result:
    lower = torch.as_tensor(lower, dtype=x0.dtype, device=x0.device)
    upper = torch.as_tensor(upper, dtype=x0.dtype, device=x0.device)
    x0, lower, upper = torch.broadcast_tensors(x0, lower, upper)
    if bool((lower > upper).any()):
        raise UserError("lower exceeds upper.")
    start = torch.minimum(torch.maximum(x0, lower), upper)
    num, n = start.shape
    options = Options(max_iter, gtol, ftol, 2**62 if max_evaluations is None else max_evaluations, max_line_search)
    result = Result(
        x=start.clone(),
        fun=start.new_full((num,), torch.nan),
        grad=torch.zeros_like(start),
        iterations=torch.zeros(num, dtype=torch.int64, device=start.device),
        evaluations=torch.zeros(num, dtype=torch.int64, device=start.device),
        status=torch.full((num,), int(Status.RUNNING), device=start.device),
    )
    if not num:
        return result
    live = num if max_live is None else min(max_live, num)
    waiting = live
    rows = torch.arange(live, device=start.device)
    whole = lambda v: torch.zeros(live, dtype=torch.int64, device=start.device) + v
    lanes = Lanes(
        rows, lower[rows], upper[rows], start[rows].clone(), start.new_full((live,), torch.inf),
        torch.zeros_like(start[rows]), torch.zeros_like(start[rows]), start.new_zeros(live),
        whole(0), whole(0), whole(0), whole(-1), Curvature.allocate(live, n, history, start),
    )
    while live:
        x_trial = torch.addcmul(lanes.x, lanes.direction, lanes.step[:, None])
        x_trial = torch.minimum(torch.maximum(x_trial, lanes.lower), lanes.upper)
        value, gradient = fun(x_trial, lanes.rows)
        advance(lanes, x_trial, value.detach(), gradient.detach(), options)
        finished = (lanes.status != Status.RUNNING).nonzero().squeeze(1)
        if not len(finished):
            continue
        out = lanes.rows[finished]
        result.x[out] = lanes.x[finished]
        result.fun[out] = lanes.value[finished]
        result.grad[out] = lanes.gradient[finished]
        result.iterations[out] = lanes.iterations[finished]
        result.evaluations[out] = lanes.evaluations[finished]
        result.status[out] = lanes.status[finished]
        refill = min(len(finished), num - waiting)
        if refill:
            slot = finished[:refill]
            new = torch.arange(waiting, waiting + refill, device=start.device)
            waiting += refill
            lanes.rows = lanes.rows.clone()
            lanes.rows[slot] = new
            lanes.lower[slot] = lower[new]
            lanes.upper[slot] = upper[new]
            lanes.x[slot] = start[new]
            lanes.value[slot] = torch.inf
            lanes.gradient[slot] = 0
            lanes.direction[slot] = 0
            lanes.step[slot] = 0
            lanes.trials[slot] = 0
            lanes.iterations[slot] = 0
            lanes.evaluations[slot] = 0
            lanes.status[slot] = -1
            fresh = torch.zeros(live, dtype=torch.bool, device=start.device)
            fresh[slot] = True
            lanes.curvature.forget(fresh)
        holes = finished[refill:]
        if len(holes):
            keep = torch.ones(live, dtype=torch.bool, device=start.device)
            keep[holes] = False
            live -= len(holes)
            target = holes[holes < live]
            source = keep[live:].nonzero().squeeze(1) + live
            for owner in (lanes, lanes.curvature):
                for field in fields(owner):
                    tensor = getattr(owner, field.name)
                    if isinstance(tensor, Tensor):
                        if field.name == "rows":
                            tensor = tensor.clone()
                        tensor[target] = tensor[source]
                        setattr(owner, field.name, tensor[:live])
    return result


def advance(lanes: Lanes, x_trial: Tensor, value: Tensor, gradient: Tensor, options: Options) -> None:
    dot = torch.linalg.vecdot
    curvature = lanes.curvature
    eps = torch.finfo(lanes.x.dtype).eps
    tiny = torch.finfo(lanes.x.dtype).tiny
    new = lanes.evaluations == 0
    lanes.evaluations = lanes.evaluations + 1
    finite = value.isfinite() & gradient.sum(1).isfinite()

    s = x_trial - lanes.x
    y = (gradient - lanes.gradient).masked_fill_((s == 0) | ~finite[:, None], 0)
    slope = dot(s, lanes.gradient)
    s_y = dot(s, y)
    y_y = dot(y, y)
    slope_end = slope + s_y
    noise = eps * torch.maximum(lanes.value.abs(), value.abs())
    decrease = lanes.value - value
    sufficient = decrease >= -1e-4 * slope
    approximate = (decrease >= -4 * noise) & (slope_end <= -0.9998 * slope)
    accepted = finite & (new | ((slope < 0) & (sufficient | approximate)))
    step_taken = accepted & ~new
    update = step_taken & (s_y > -eps * slope) & (y_y > tiny)
    stalled = step_taken & (
        decrease <= torch.maximum(options.ftol * torch.maximum(lanes.value.abs(), value.abs()).clamp(min=1), noise)
    )
    below_noise = ~accepted & (lanes.trials == 0) & (-slope <= noise) & ~new

    ratio = _interpolate(slope, slope_end, decrease)
    ratio = torch.where(finite, ratio, 0.1)

    lanes.x = torch.where(accepted[:, None], x_trial, lanes.x)
    lanes.gradient = torch.where((accepted | new)[:, None], gradient, lanes.gradient)
    lanes.value = torch.where(accepted | new, value, lanes.value)
    lanes.iterations = lanes.iterations + step_taken
    lanes.trials = torch.where(accepted, 0, lanes.trials + 1)
    exhausted = lanes.trials >= options.max_line_search
    failed = exhausted & curvature.empty
    restart = exhausted & ~curvature.empty
    lanes.trials = lanes.trials.masked_fill(restart, 0)

    curvature.offer(s, y)
    gamma = torch.where(update, s_y / y_y, curvature.gamma).masked_fill(restart, 1)[:, None]
    scaled = lanes.gradient * gamma
    point = lanes.x - scaled
    free = point == torch.minimum(torch.maximum(point, lanes.lower), lanes.upper)
    s_v, y_v = curvature.products(torch.stack((lanes.gradient * free, y), 1))
    curvature.take(update, s_v[:, 1], y_v[:, 1])
    curvature.forget(restart)
    lanes.direction = -scaled - curvature.correction(s_v[:, 0], y_v[:, 0]) * free

    pg = torch.minimum(torch.maximum(lanes.x - lanes.gradient, lanes.lower), lanes.upper) - lanes.x
    small = pg.abs().amax(1) <= options.gtol
    first = 1 / torch.linalg.vector_norm(pg, dim=1).clamp(min=1)
    step = torch.where(accepted, torch.where(update, 1.0, 4 * lanes.step), ratio * lanes.step)
    lanes.step = torch.where(new | restart, first, step)

    status = lanes.status
    status = torch.where(lanes.evaluations >= options.max_evaluations, int(Status.MAX_EVALUATIONS), status)
    status = torch.where(lanes.iterations >= options.max_iter, int(Status.MAX_ITER), status)
    status = torch.where(failed, int(Status.LINE_SEARCH_FAILED), status)
    status = torch.where(small | stalled | below_noise, int(Status.CONVERGED), status)
    lanes.status = torch.where(new & ~finite, int(Status.NONFINITE), status)


def _interpolate(slope: Tensor, slope_end: Tensor, decrease: Tensor) -> Tensor:
    middle = slope + slope_end + 3 * decrease
    root = (middle * middle - slope * slope_end).clamp(min=0).sqrt()
    ratio = 1 - (slope_end + root - middle) / (slope_end - slope + 2 * root)
    return ratio.nan_to_num(0.5).clamp(0.1, 0.5)
