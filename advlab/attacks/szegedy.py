"""The paper's attack: D(x, l) by box-constrained L-BFGS on a penalty, with a search over its constant (section 4.1).

Shapes: B images, n pixels, k classes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from advlab.attacks import targets
from advlab.attacks.criterion import Criterion
from advlab.attacks.result import Adversarial, Model, judge, require_within
from advlab.optim import lbfgsb
from advlab.optim import reference as reference_solver

C_RANGE = (1e-6, 1e6)
"""Constants outside this range are not tried; in units of 1/w² where the box has width w."""

Loss = Literal["cross-entropy", "margin"]
Norm = Literal["squared", "plain"]

ROUNDED = 1e-3
"""‖r‖₂ is taken as √(‖r‖₂² + ROUNDED²)."""

LITERAL_C = 1e-4
"""The constant of ``paper_literal``: a small one, since the smallest that succeeds does not exist."""

GTOL, FTOL = 1e-5, 1e-6
"""Tolerances of each solve; the search over c warm-starts the next one."""


def szegedy_lbfgs(
    model: Model,
    images: Tensor,
    labels: Tensor,
    target: str | Tensor = "random",
    bounds: tuple[float, float] = (0.0, 1.0),
    *,
    seed: int = 0,
    index: Tensor | None = None,
    initial_c: float = 0.1,
    tolerance: float = 0.02,
    search_steps: int = 30,
    max_iter: int = 50,
    history: int = 5,
    loss: Loss = "cross-entropy",
    norm: Norm = "squared",
    reference: Literal["scipy"] | None = None,
    paper_literal: bool = False,
) -> Adversarial:
    """Minimise c‖x' − x‖₂² + loss(x', l) over the box, for the best c of each image.

    The paper asks for the *minimum* c at which the minimiser is read as l. With c multiplying the distance that
    constant tends to zero, where the image is farthest; so this searches the *largest* such c, on a logarithmic
    scale, separately for each image. Every solve starts where the last one ended, and the closest image that any
    evaluation of any solve came across is returned.

    Args:
        model: images [B, ...] → logits [B, k].
        images: [B, ...], within ``bounds``.
        labels: [B] int64, true classes.
        target: a policy name or explicit targets [B]. ``nearest`` attacks all k − 1 wrong classes and keeps the
            closest.
        bounds: the box.
        seed: of the ``random`` policy.
        index: [B] int64, the images' positions in the data set, for the ``random`` policy.
        initial_c: the first constant tried, in units of 1/w² where the box has width w
            (1/w for the plain norm).
        tolerance: the search ends when the largest constant known to succeed and the smallest known to fail are
            within a factor 1 + tolerance.
        search_steps: most constants tried per image.
        max_iter: most L-BFGS-B iterations per constant.
        history: correction pairs of L-BFGS-B.
        loss: ``cross-entropy`` (the paper's), or ``margin``, max(0, max_{j≠l} z_j − z_l) (Carlini & Wagner 2017, f₆).
        norm: ``squared``, or ``plain`` for c‖x' − x‖₂ as printed, rounded off within ``ROUNDED`` of the image, where
            it has no gradient.
        reference: ``scipy`` solves every problem by SciPy's L-BFGS-B, one image at a time: slow, to check the fast
            solver against.
        paper_literal: take "minimum c" at its word: any constant below one that succeeds succeeds too, so solve
            once with a small one, ``LITERAL_C``, and return that minimiser.

    Returns:
        Success means: read as the target (for ``nearest``: not as the label). Images read so already are returned
        unchanged, with NaN for ``c``.

    Raises:
        UserError: images outside ``bounds``, an unknown policy or unusable targets.
    """
    require_within(images, bounds)
    with torch.no_grad():
        logits = model(images)
    chosen = targets.choose(target, logits, labels, seed=seed, index=index)
    minimize = reference_solver.minimize if reference == "scipy" else lbfgsb.minimize
    penalty = _Penalty(
        loss, norm, functools.partial(minimize, max_iter=max_iter, history=history, gtol=GTOL, ftol=FTOL)
    )

    def solve(problem: _Problem) -> None:
        if paper_literal:
            problem.solve_once(LITERAL_C)
        else:
            problem.search(initial_c, tolerance, search_steps)

    if chosen is None:
        return _nearest(model, images, labels, logits, bounds, penalty, solve)
    problem = _Problem(model, images, Criterion(labels, chosen), logits, bounds, penalty)
    solve(problem)
    return judge(model, images, problem.answer(), problem.criterion, problem.evaluations, problem.constants())


def _nearest(
    model: Model,
    images: Tensor,
    labels: Tensor,
    logits: Tensor,
    bounds: tuple[float, float],
    penalty: _Penalty,
    solve: Callable[[_Problem], None],
) -> Adversarial:
    """Attack every wrong class of every image and keep the closest success."""
    num_wrong = logits.shape[1] - 1
    every = (labels[:, None] + torch.arange(1, num_wrong + 1, device=labels.device)) % logits.shape[1]
    repeat = torch.arange(len(labels), device=labels.device).repeat_interleave(num_wrong)
    untargeted = Criterion(labels)
    already = untargeted.is_met(logits)
    live = ~already[repeat]
    problem = _Problem(
        model,
        images[repeat[live]],
        Criterion(labels[repeat[live]], every.flatten()[live]),
        logits[repeat[live]],
        bounds,
        penalty,
    )
    solve(problem)
    distance = torch.full((len(repeat),), torch.inf, dtype=torch.float64, device=images.device)
    distance[live] = problem.best_distance
    best = distance.view(-1, num_wrong).argmin(1)
    position = live.cumsum(0) - 1
    winner = position[torch.arange(len(labels), device=labels.device) * num_wrong + best].clamp(min=0)
    evaluations = torch.zeros(len(repeat), dtype=torch.int64, device=images.device)
    evaluations[live] = problem.evaluations
    keep = already.view(-1, *[1] * (images.ndim - 1))
    if not len(problem.best_c):
        return judge(model, images, images.clone(), untargeted, evaluations.view(-1, num_wrong).sum(1))
    found = torch.where(keep, images, problem.answer()[winner])
    c = torch.where(already, torch.nan, problem.constants()[winner])
    return judge(model, images, found, untargeted, evaluations.view(-1, num_wrong).sum(1), c)


@dataclass(frozen=True, slots=True)
class _Penalty:
    """What is minimised, and by what."""

    loss: Loss
    norm: Norm
    minimize: Callable[..., lbfgsb.Result]

    def losses(self, logits: Tensor, criterion: Criterion) -> Tensor:
        """loss(x', l) of each row [b]."""
        assert criterion.target is not None
        if self.loss == "margin":
            return criterion.margin(logits).relu()
        return functional.cross_entropy(logits, criterion.target, reduction="none")

    def distance(self, squared: Tensor) -> tuple[Tensor, Tensor]:
        """From ‖r‖₂² [b], the distance and the factor of r in its gradient."""
        if self.norm == "plain":
            length = (squared + ROUNDED**2).sqrt()
            return length, 1 / length
        return squared, torch.full_like(squared, 2.0)


class _Problem:
    """The penalised problems of a batch, and the best point each has come across.

    They are solved in the unit box, so that scaling images and bounds scales the answer and nothing else.

    Attributes:
        best: [B, n] in the unit box, the closest success so far, or the point nearest to success while there is none.
        best_distance: [B] float64, its ‖x' − x‖₂; inf without success.
        best_c: [B] float64, the constant in force when it was found.
        evaluations: [B] int64.
    """

    def __init__(
        self,
        model: Model,
        images: Tensor,
        criterion: Criterion,
        logits: Tensor,
        bounds: tuple[float, float],
        penalty: _Penalty,
    ) -> None:
        self.model, self.criterion, self.bounds, self.images, self.penalty = model, criterion, bounds, images, penalty
        width = bounds[1] - bounds[0]
        self.lower, self.width = (bounds[0], width) if 0 < width < math.inf else (0.0, 1.0)
        self.clean = self._from_box(images).flatten(1)
        self.best = self.clean.clone()
        self.already = criterion.is_met(logits)
        rows, device = len(images), images.device
        self.best_margin = criterion.margin(logits)
        self.best_distance = torch.full((rows,), torch.inf, dtype=torch.float64, device=device)
        self.best_distance[self.already] = 0.0
        self.best_c = torch.full((rows,), torch.nan, dtype=torch.float64, device=device)
        self.evaluations = torch.zeros(rows, dtype=torch.int64, device=device)
        self.current = self.clean.clone()

    def answer(self) -> Tensor:
        """[B, ...]: the best points as images; pixels that did not move are the original ones to the bit."""
        moved = (self.best != self.clean).view_as(self.images)
        return torch.where(moved, self._to_box(self.best).clamp(*self.bounds), self.images)

    def constants(self) -> Tensor:
        """[B] float64: the constants that belong to the best points, for distances as images measure them."""
        return self.best_c / (self.width**2 if self.penalty.norm == "squared" else self.width)

    def _from_box(self, images: Tensor) -> Tensor:
        """Images in the unit box."""
        return images if (self.lower, self.width) == (0, 1) else (images - self.lower) / self.width

    def _to_box(self, x: Tensor) -> Tensor:
        """Points x [b, n] of the unit box as images [b, ...]."""
        images = x.view(-1, *self.images.shape[1:])
        return images if (self.lower, self.width) == (0, 1) else images * self.width + self.lower

    def search(self, initial_c: float, tolerance: float, steps: int) -> None:
        """Bracket and bisect c per image on a logarithmic scale."""
        device = self.clean.device
        c = torch.full((len(self.clean),), initial_c, dtype=torch.float64, device=device)
        succeeds = torch.zeros_like(c)  # largest constant known to succeed
        fails = torch.full_like(c, torch.inf)  # smallest known to fail
        live = (~self.already).nonzero().squeeze(1)
        for _ in range(steps):
            if not len(live):
                break
            met = self._solve(live, c[live])
            succeeds[live] = torch.where(met, c[live], succeeds[live])
            fails[live] = torch.where(met, fails[live], c[live])
            low, high = succeeds[live], fails[live]
            bisected = (low * high).sqrt()
            c[live] = torch.where(low == 0, c[live] / 10, torch.where(high.isinf(), c[live] * 10, bisected))
            open_ = (high > low * (1 + tolerance)) & (c[live] >= C_RANGE[0]) & (c[live] <= C_RANGE[1])
            live = live[open_]

    def solve_once(self, c: float) -> None:
        """Minimise with one constant and keep the minimiser itself."""
        live = (~self.already).nonzero().squeeze(1)
        constants = torch.full((len(live),), c, dtype=torch.float64, device=live.device)
        met = self._solve(live, constants)
        distance = (self.current[live] - self.clean[live]).double().norm(dim=1)
        self.best[live] = self.current[live]
        self.best_distance[live] = torch.where(met, distance, torch.inf)
        self.best_c[live] = constants

    def _solve(self, live: Tensor, c: Tensor) -> Tensor:
        """Minimise for the rows ``live`` with constants c [b], from where they stand; [b] bool, who succeeds."""
        lower, upper = ((bound - self.lower) / self.width for bound in self.bounds)
        result = self.penalty.minimize(self._objective(live, c), self.current[live], lower, upper)
        self.current[live] = result.x
        self.evaluations[live] += result.evaluations
        with torch.no_grad():
            return self.criterion.rows(live).is_met_robustly(self.model(self._to_box(result.x)))

    def _objective(self, live: Tensor, c: Tensor) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """c‖x' − x‖² + loss(x', l) and its gradient; takes note of every point it is asked for."""
        c = c.to(self.clean.dtype)

        def objective(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            original = live[rows]
            x = x.detach().requires_grad_()
            with torch.enable_grad():
                logits = self.model(self._to_box(x))
                losses = self.penalty.losses(logits, self.criterion.rows(original))
                (gradient,) = torch.autograd.grad(losses.sum(), x)
            x, logits, losses = x.detach(), logits.detach(), losses.detach()
            perturbation = x - self.clean[original]
            squared = perturbation.square().sum(1)
            self._note(original, x, logits, squared, c[rows])
            distance, slope = self.penalty.distance(squared)
            return losses + c[rows] * distance, gradient + (c[rows] * slope)[:, None] * perturbation

        return objective

    def _note(self, original: Tensor, x: Tensor, logits: Tensor, squared: Tensor, c: Tensor) -> None:
        """Keep x [b, n] where it beats the best so far."""
        criterion = self.criterion.rows(original)
        success, margin = criterion.is_met_robustly(logits), criterion.margin(logits)
        distance = torch.where(success, squared.double().sqrt(), torch.inf)
        closer = distance < self.best_distance[original]
        nearer = self.best_distance[original].isinf() & (margin < self.best_margin[original])
        better = closer | nearer
        self.best[original] = torch.where(better[:, None], x, self.best[original])
        self.best_c[original] = torch.where(better, c.double(), self.best_c[original])
        self.best_margin[original] = torch.where(better, margin, self.best_margin[original])
        self.best_distance[original] = torch.where(closer, distance, self.best_distance[original])
