"""The state of the live problems, and how problems enter and leave it."""

from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any, Self

import torch
from torch import Tensor

from advlab import compiled
from advlab.optim import kernels
from advlab.optim.curvature import Curvature


class Status(IntEnum):
    """Why a problem stopped."""

    CONVERGED = 0
    MAX_ITER = 1
    LINE_SEARCH_FAILED = 2
    NONFINITE = 3
    MAX_EVALUATIONS = 4
    STOPPED = 5
    RUNNING = 6


@dataclass(slots=True)
class Batch:
    """The state of L live problems of N variables; place l of every tensor belongs to problem ``rows[l]``.

    Attributes:
        rows: [L] int64.
        lower, upper: [L, N], or [1, N] when all problems share one box.
        x, value, gradient: [L, N], [L], [L, N], the iterates; a value of infinity marks a problem that waits for
            its first evaluation.
        downhill, free: [L, N]; −γ g, and 1 for the variables F that P(x − γ g) does not clip, else 0.
        direction, step: [L, N], [L]; d and t: the next trial point is P(x + t d).
        trials: [L] int64, trial points refused since x was accepted.
        iterations, evaluations, status: [L] int64.
        begun: [L] int64, the iterations when the objective was last revised.
        curvature: H of the live problems.
        shared_box: all problems share one box.
    """

    rows: Tensor
    lower: Tensor
    upper: Tensor
    x: Tensor
    value: Tensor
    gradient: Tensor
    downhill: Tensor
    free: Tensor
    direction: Tensor
    step: Tensor
    trials: Tensor
    iterations: Tensor
    evaluations: Tensor
    begun: Tensor
    status: Tensor
    curvature: Curvature
    shared_box: bool

    @classmethod
    def start(
        cls, x: Tensor, lower: Tensor, upper: Tensor, history: int, *, shared_box: bool = False, shiftable: bool = False
    ) -> Self:
        """Problems 0 … L − 1 at their feasible points x [L, N]."""
        rows = torch.arange(len(x), device=x.device)
        vectors = {name: torch.zeros_like(x) for name in ("gradient", "downhill", "free", "direction")}
        counts = {name: torch.zeros_like(rows) for name in ("trials", "iterations", "evaluations", "begun")}
        state: dict[str, Any] = vectors | counts
        return cls(
            rows=rows,
            lower=lower,
            upper=upper,
            x=x,
            value=torch.full_like(x[:, 0], torch.inf),
            step=torch.zeros_like(x[:, 0]),
            status=torch.full_like(rows, int(Status.RUNNING)),
            curvature=Curvature.allocate(len(x), history, x, shiftable=shiftable),
            shared_box=shared_box,
            **state,
        )

    def trial(self) -> Tensor:
        """The next points to evaluate, [L, N], exactly within the box."""
        if compiled.fits(self.x):
            point = torch.empty_like(self.x)
            compiled.run(kernels.trial, self, point=point)
            return point
        point = torch.addcmul(self.x, self.direction, self.step[:, None])
        return point.nan_to_num_(0).clamp_(
            self.lower, self.upper
        )  # a direction can overflow; such a trial point will be refused

    def move(self, x_trial: Tensor, gradient: Tensor, accepted: Tensor) -> None:
        """Make the trial points the iterates where ``accepted`` [L]; the others stay."""
        if compiled.fits(self.x, gradient):
            compiled.run(kernels.move, self, x_trial=x_trial, gradient_trial=gradient, accepted=accepted)
            return
        refused = (~accepted).nonzero().squeeze(1)
        # as a rule nearly all are accepted, so the few others are copied; x_trial itself is the caller's
        self.x = x_trial.index_copy(0, refused, self.x.index_select(0, refused))
        gradient = gradient.nan_to_num(0, 0, 0)
        self.gradient = gradient.index_copy_(0, refused, self.gradient.index_select(0, refused))

    def replace(self, places: Tensor, rows: Tensor, x: Tensor, lower: Tensor, upper: Tensor) -> None:
        """Start the problems ``rows`` [K] at the feasible x [K, N] in ``places`` [K], whose problems have stopped."""
        self.rows = self.rows.index_copy(0, places, rows)
        self.x[places] = x
        if not self.shared_box:
            self.lower[places] = lower
            self.upper[places] = upper
        self.value[places] = torch.inf
        self.status[places] = int(Status.RUNNING)
        for tensor in (self.gradient, self.step, self.trials, self.iterations, self.evaluations, self.begun):
            tensor[places] = 0
        self.curvature.forget(torch.zeros_like(self.rows, dtype=torch.bool).index_fill(0, places, True))

    def remove(self, places: Tensor) -> None:
        """Remove the problems at ``places`` [K]: the last ones move into the gaps, so the cost is K rows and not L."""
        num_live = len(self.rows) - len(places)
        movers, gaps = compiled.vacate(len(self.rows), places)
        self.rows = self.rows.clone()
        shared = ("lower", "upper") if self.shared_box else ()
        for owner in (self, self.curvature):
            names = [field.name for field in fields(owner) if field.name not in shared]
            held = {name: value for name in names if isinstance(value := getattr(owner, name), Tensor)}
            compiled.copy_rows(held.values(), movers, gaps)
            for name, tensor in held.items():
                setattr(owner, name, tensor[:num_live])
