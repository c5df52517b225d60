"""Box-constrained L-BFGS for a batch of independent problems: min f_b(x) subject to lower ≤ x ≤ upper.

A two-metric projection method (Bertsekas 1982; with limited memory: Schmidt, Kim & Sra 2011). P is the projection on
the box, g the gradient at the iterate x, H the L-BFGS inverse Hessian (`curvature`) and γ its scale.

1. Free variables: F = {i : P(x − γ g)_i = x_i − γ g_i}, those that the generalised Cauchy point of a model of curvature
   1/γ does not put at a bound (`step.cauchy`).
2. Direction: d_F = −(H g_F)_F, and d_i = −γ g_i for i ∉ F, which leads to the bound (`step.direct`).
3. Trial point: x⁺ = P(x + t d), with t = 1 at first (`batch.Batch.trial`).
4. It is accepted (`step.judge`) on Armijo's condition along the projected arc, f(x) − f(x⁺) ≥ −10⁻⁴ sᵀg with
   s = x⁺ − x; or, where that difference is within the rounding of f, on the slopes: (2 · 10⁻⁴ − 1) sᵀg ≥ sᵀg⁺, an
   approximate Wolfe condition (Hager & Zhang 2005, (4.1)).
5. The pair s, y = g⁺ − g is learnt if sᵀy > 0, also from a refused point; y is zero where s is, so that on a settled
   active set H is the inverse Hessian of the face. The next trial has t = 1 if a pair was learnt, and 4 t if the point
   was accepted without; after a second refused point in a row, t/2.
6. A problem has converged when ‖P(x − g) − x‖_∞ ≤ gtol, or when a step changes f too little.

There is no inner line search. Every round evaluates one trial point of every live problem, whether it is the first of
an iteration or follows a refused one; a problem that stops makes room for one that waits. A round costs one batched
evaluation and two host synchronisations, and a problem never waits for another.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Self

import torch
from torch import Tensor

from advlab.errors import UserError
from advlab.optim.batch import Batch, Status
from advlab.optim.step import Limits, direct, judge, revise, settle

__all__ = ["Objective", "Progress", "Result", "Revise", "Revision", "Status", "minimize"]

Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""``fun(x [b, n], rows LongTensor [b]) -> (values [b], gradients [b, n])``: x[i] is a point of problem rows[i]."""
_HISTORY_BYTES, _HISTORY_BYTES_ELSEWHERE = 16 * 2**20, 4 * 2**30
"""Size of the curvature memory on the CPU, half of a last-level cache, and on other devices."""
_LEAST_LIVE = 64


@dataclass(frozen=True, slots=True)
class Result:
    """The answers, row b for problem b; each row depends on its own problem alone.

    On the CPU this holds to the bit if it does for the rows of the objective and all problems are live from the start,
    elsewhere up to rounding.

    Attributes:
        x: [B, n], the last iterates, exactly within the box.
        fun: [B], the objective there.
        grad: [B, n], its gradient; zero where the status is NONFINITE.
        iterations: [B] int64, accepted steps.
        evaluations: [B] int64, calls of the objective for this row, the start included.
        status: [B] int64, values of :class:`Status`.
    """

    x: Tensor
    fun: Tensor
    grad: Tensor
    iterations: Tensor
    evaluations: Tensor
    status: Tensor

    @classmethod
    def unsolved(cls, start: Tensor) -> Self:
        """Room for the answers of problems that are at ``start`` [B, n]."""
        counts, unknown = start.new_zeros(len(start), dtype=torch.int64), start.new_full((len(start),), torch.nan)
        running = torch.full_like(counts, int(Status.RUNNING))
        return cls(start.clone(), unknown, torch.zeros_like(start), counts, counts.clone(), running)


@dataclass(frozen=True, slots=True)
class Progress:
    """The live problems after a round, row i for problem rows[i]; clone what is to outlive the round.

    Attributes:
        rows: [b] int64.
        accepted: [b] bool, the point evaluated last is the iterate.
        learnt: [b] bool, the memory holds curvature.
        x, value, gradient: [b, n], [b], [b, n], at the iterate.
        cauchy: [b, n], the step P(x − γ g) − x to the generalised Cauchy point, a measure of what is left to do.
        status: [b] int64; a problem that is not RUNNING stops unless it is revised.
    """

    rows: Tensor
    accepted: Tensor
    learnt: Tensor
    x: Tensor
    value: Tensor
    gradient: Tensor
    cauchy: Tensor
    status: Tensor


@dataclass(frozen=True, slots=True)
class Revision:
    """Problems that go on with another objective, which ``fun`` evaluates from now on.

    Attributes:
        places: [k] int64, positions in the rows of :class:`Progress`.
        value, gradient: [k], [k, n], the new objective at the iterates.
        shift: [k], its Hessian minus that of the old objective, as a multiple of I, by which the curvature is
            corrected. If the difference is not a multiple of I, any shift is safe: only the speed depends on it.
        stop: [j] int64, positions of problems that end here, with status STOPPED.
    """

    places: Tensor
    value: Tensor
    gradient: Tensor
    shift: Tensor
    stop: Tensor


Revise = Callable[[Progress], Revision]


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
    revise_objective: Revise | None = None,
) -> Result:
    """Minimise B independent functions of n variables within a box.

    Args:
        fun: the objective of the live problems; called with points exactly within the box, once a round, never twice
            for a row in one call. The order of ``rows`` is arbitrary and changes.
        x0: float32 or float64, the starts; its dtype and device are those of the computation.
        lower, upper: bounds, infinite where there is none. ``x0``, ``lower`` and ``upper`` broadcast to [B, n].
        history: curvature pairs kept per problem; 3 to 5 cost less and need hardly more evaluations than 10.
        max_iter: accepted steps per problem, counted from zero after a revision.
        gtol: a problem has converged when ‖P(x − g) − x‖_∞ ≤ gtol.
        ftol: … or when a step decreases f by at most ftol · max(|f|, |f'|, 1), or by less than the rounding of f.
        max_evaluations: per problem; None means no limit.
        max_line_search: so many refused trial points in a row end a problem; after half of them H = I again.
        max_live: problems solved at the same time, which bounds the memory: 2 · history · n numbers each, and a dozen
            vectors. The default keeps the curvature memory within 16 MiB on the CPU and 4 GiB elsewhere.
        revise_objective: called after every round; problems may go on with another objective from their iterates,
            with all their curvature and without a new evaluation: weights of a penalty or of a proximal term,
            regularisation paths.

    Returns:
        The last iterate of each problem. The objective never increases from one iterate to the next by more than the
        rounding of f.

    Raises:
        UserError: shapes that do not broadcast to [B, n], bounds that cross, NaN in x0 or the bounds, a limit out of
            range, an objective that returns wrong shapes, or a ``revise_objective`` that writes into the iterates.
    """
    start, lower, upper = _feasible_start(x0, lower, upper)
    most = torch.iinfo(torch.int64).max if max_evaluations is None else max_evaluations
    limits = Limits(max_iter, most, max_line_search, gtol, ftol)
    num_problems, num_variables = start.shape
    if max_live is None:
        size = _HISTORY_BYTES if start.is_cpu else _HISTORY_BYTES_ELSEWHERE
        max_live = max(_LEAST_LIVE, size // max(1, 2 * history * num_variables * start.element_size()))
    _require_least({"history": history} | asdict(limits) | {"max_live": max_live})
    result = Result.unsolved(start)
    begun = min(max_live, num_problems)
    shared_box = len(lower) < num_problems
    box = (lower, upper) if shared_box else (lower[:begun].clone(), upper[:begun].clone())
    shiftable = revise_objective is not None
    batch = Batch.start(start[:begun].clone(), *box, history, shared_box=shared_box, shiftable=shiftable)
    while len(batch.rows):
        x_trial = batch.trial()
        value, gradient = _evaluate(fun, x_trial, batch.rows)
        judged = judge(batch, x_trial, value, gradient, limits)
        batch.move(x_trial, gradient, judged.accepted)
        learnt = settle(batch, value, judged, limits)
        if revise_objective is not None:
            version = None if batch.x.is_inference() else batch.x._version
            revision = revise_objective(_progress(batch, judged.accepted, learnt))
            if version is not None and batch.x._version != version:
                raise UserError("revise_objective wrote into the x it was given; let it work on a clone.")
            batch.status[revision.stop] = int(Status.STOPPED)
            if len(revision.places):
                learnt = revise(batch, learnt, revision.places, *_changed(revision, batch.x))
        direct(batch, learnt)
        stopped = (batch.status != Status.RUNNING).nonzero().squeeze(1)
        if not len(stopped):
            continue
        _record(result, batch, stopped)
        num_next = min(len(stopped), num_problems - begun)
        if num_next:
            rows = torch.arange(begun, begun + num_next, device=start.device)
            box = (lower, upper) if shared_box else (lower[rows], upper[rows])
            batch.replace(stopped[:num_next], rows, start[rows], *box)
            begun += num_next
        if len(stopped) > num_next:
            batch.remove(stopped[num_next:])
    return result


def _feasible_start(x0: Tensor, lower: Tensor | float, upper: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
    """P(x0) [B, n] and the bounds, [B, n] each or [1, n] each, all checked."""
    if x0.dtype not in (torch.float32, torch.float64):
        raise UserError(f"x0 has dtype {x0.dtype}; give float32 or float64.")
    x0 = x0.detach()
    lower, upper = (torch.as_tensor(bound, dtype=x0.dtype, device=x0.device).detach() for bound in (lower, upper))
    shapes = [tuple(tensor.shape) for tensor in (x0, lower, upper)]
    try:
        shape = torch.broadcast_shapes(*shapes)
    except RuntimeError:
        shape = torch.Size()
    if len(shape) != 2 or not shape[1]:
        raise UserError(
            "x0, lower and upper have shapes {}, {} and {}; they must broadcast to [B, n], n > 0.".format(*shapes)
        )
    if bool(torch.isnan(x0).any() | torch.isnan(lower).any() | torch.isnan(upper).any()):
        raise UserError("x0, lower or upper holds NaN; give numbers, and an infinite bound where there is none.")
    same_box = all(bound.ndim < 2 or len(bound) == 1 for bound in (lower, upper))
    # Bounds at a quarter of the largest number keep every difference of two feasible points finite.
    largest = torch.finfo(x0.dtype).max / 4
    lower, upper = (
        bound.clamp(-largest, largest).expand(1 if same_box else shape[0], shape[1]).contiguous()
        for bound in (lower, upper)
    )
    crossing = lower > upper
    if bool(crossing.any()):
        b, i = crossing.nonzero()[0].tolist()
        raise UserError(
            f"lower exceeds upper at [{b}, {i}]: {float(lower[b, i]):g} > {float(upper[b, i]):g}; exchange them."
        )
    return x0.expand(shape).clamp(lower, upper), lower, upper


def _require_least(counts: dict[str, float]) -> None:
    for name, count in counts.items():
        least = 0 if name in ("max_iter", "gtol", "ftol") else 1
        if not count >= least:
            raise UserError(f"{name} is {count}; it must be at least {least}.")


def _evaluate(fun: Objective, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    value, gradient = fun(x.clone(), rows)  # a copy: fun may write into its argument
    if value.shape != x.shape[:1] or gradient.shape != x.shape:
        raise UserError(
            f"fun returned shapes {tuple(value.shape)} and {tuple(gradient.shape)} for x {tuple(x.shape)}; "
            f"return values {tuple(x.shape[:1])} and gradients {tuple(x.shape)}."
        )
    return value.detach().to(x.dtype), gradient.detach().to(x.dtype)


def _changed(revision: Revision, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Value, gradient and shift of a revision, checked, in the type of the iterates x [L, n]."""
    count, changed = len(revision.places), (revision.value, revision.gradient, revision.shift)
    shapes, expected = [tuple(part.shape) for part in changed], [(count,), (count, x.shape[1]), (count,)]
    if shapes != expected:
        raise UserError(
            "revise_objective returned value, gradient and shift of shapes {}, {} and {} for {} places; "
            "return {}, {} and {}.".format(*shapes, count, *expected)
        )
    if x.device.type == "cpu" and not 0 <= int(revision.places.min()) <= int(revision.places.max()) < len(x):
        raise UserError(f"revise_objective named places {revision.places.tolist()} of {len(x)} live problems.")
    value, gradient, shift = (part.detach().to(x.dtype) for part in changed)
    return value, gradient, shift


def _progress(batch: Batch, accepted: Tensor, learnt: Tensor) -> Progress:
    return Progress(
        rows=batch.rows,
        accepted=accepted,
        learnt=learnt | ~batch.curvature.empty,
        x=batch.x,
        value=batch.value,
        gradient=batch.gradient,
        cauchy=(batch.x + batch.downhill).clamp_(batch.lower, batch.upper).sub_(batch.x),
        status=batch.status,
    )


def _record(result: Result, batch: Batch, places: Tensor) -> None:
    """Write the stopped problems of ``places`` into their rows of the result."""
    rows = batch.rows[places]
    sources = (batch.x, batch.value, batch.gradient, batch.iterations, batch.evaluations, batch.status)
    for field, source in zip(fields(result), sources, strict=True):
        getattr(result, field.name)[rows] = source[places]
