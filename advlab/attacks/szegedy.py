"""The paper's attack: D(x, l) by box-constrained L-BFGS on a penalty, with a search over its constant (section 4.1).

Shapes: B images, n pixels, k classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from advlab.attacks import targets
from advlab.attacks.criterion import Criterion
from advlab.attacks.result import Adversarial, Model, judge
from advlab.optim import lbfgsb

C_RANGE = (1e-6, 1e6)
"""Constants outside this range are not tried."""


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
    history: int = 10,
    paper_literal: bool = False,
) -> Adversarial:
    """Minimise c‖x' − x‖₂² + cross entropy(x', l) over the box, for the best c of each image.

    The paper asks for the *minimum* c at which the minimiser is read as l. With c multiplying the distance that
    constant tends to zero and gives the farthest image, so this searches the *largest* such c, on a logarithmic
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
        initial_c: the first constant tried.
        tolerance: the search ends when the largest constant known to succeed and the smallest known to fail are
            within a factor 1 + tolerance.
        search_steps: most constants tried per image.
        max_iter: most L-BFGS-B iterations per constant.
        history: correction pairs of L-BFGS-B.
        paper_literal: take "minimum c" at its word: solve once, with the smallest constant of ``C_RANGE`` that the
            formula as printed would settle on (1e-4), and return that minimiser.

    Returns:
        Success means: read as the target (for ``nearest``: not as the label). Images read so already are returned
        unchanged, with NaN for ``c``.

    Raises:
        UserError: an unknown policy or unusable targets.
    """
    with torch.no_grad():
        logits = model(images)
    chosen = targets.choose(target, logits, labels, seed=seed, index=index)
    if chosen is None:
        return _nearest(model, images, labels, logits, bounds, initial_c, tolerance, search_steps, max_iter, history)
    problem = _Problem(model, images, Criterion(labels, chosen), logits, bounds)
    if paper_literal:
        problem.solve_once(1e-4, max_iter=max_iter, history=history)
    else:
        problem.search(initial_c, tolerance, search_steps, max_iter=max_iter, history=history)
    return judge(model, images, problem.answer(), problem.criterion, problem.evaluations, problem.best_c)


def _nearest(
    model: Model,
    images: Tensor,
    labels: Tensor,
    logits: Tensor,
    bounds: tuple[float, float],
    initial_c: float,
    tolerance: float,
    search_steps: int,
    max_iter: int,
    history: int,
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
    )
    problem.search(initial_c, tolerance, search_steps, max_iter=max_iter, history=history)
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
    c = torch.where(already, torch.nan, problem.best_c[winner])
    return judge(model, images, found, untargeted, evaluations.view(-1, num_wrong).sum(1), c)


class _Problem:
    """The penalised problems of a batch, and the best point each has come across.

    Attributes:
        best: [B, n], the closest success so far, or the point nearest to success while there is none.
        best_distance: [B] float64, its ‖x' − x‖₂; inf without success.
        best_c: [B] float64, the constant in force when it was found.
        evaluations: [B] int64.
    """

    def __init__(
        self, model: Model, images: Tensor, criterion: Criterion, logits: Tensor, bounds: tuple[float, float]
    ) -> None:
        assert criterion.target is not None
        self.model, self.criterion, self.bounds = model, criterion, bounds
        self.shape = images.shape
        self.target = criterion.target
        self.clean = images.flatten(1)
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
        """[B, ...]: the best points in the shape of the images."""
        return self.best.view(self.shape)

    def search(self, initial_c: float, tolerance: float, steps: int, *, max_iter: int, history: int) -> None:
        """Bracket and bisect c per image on a logarithmic scale."""
        device = self.clean.device
        c = torch.full((len(self.clean),), initial_c, dtype=torch.float64, device=device)
        succeeds = torch.zeros_like(c)  # largest constant known to succeed
        fails = torch.full_like(c, torch.inf)  # smallest known to fail
        live = (~self.already).nonzero().squeeze(1)
        for _ in range(steps):
            if not len(live):
                break
            met = self._solve(live, c[live], max_iter, history)
            succeeds[live] = torch.where(met, c[live], succeeds[live])
            fails[live] = torch.where(met, fails[live], c[live])
            low, high = succeeds[live], fails[live]
            bisected = (low * high).sqrt()
            c[live] = torch.where(low == 0, c[live] / 10, torch.where(high.isinf(), c[live] * 10, bisected))
            open_ = (high > low * (1 + tolerance)) & (c[live] >= C_RANGE[0]) & (c[live] <= C_RANGE[1])
            live = live[open_]

    def solve_once(self, c: float, *, max_iter: int, history: int) -> None:
        """Minimise with one constant and keep the minimiser itself."""
        live = (~self.already).nonzero().squeeze(1)
        self._solve(live, torch.full((len(live),), c, dtype=torch.float64, device=live.device), max_iter, history)
        self.best = torch.where(self.already[:, None], self.clean, self.current)
        self.best_c = torch.where(self.already, torch.nan, c)

    def _solve(self, live: Tensor, c: Tensor, max_iter: int, history: int) -> Tensor:
        """Minimise for the rows ``live`` with constants c [b], from where they stand; [b] bool, who succeeds."""
        result = lbfgsb.minimize(
            self._objective(live, c),
            self.current[live],
            torch.as_tensor(self.bounds[0], dtype=self.clean.dtype, device=live.device),
            torch.as_tensor(self.bounds[1], dtype=self.clean.dtype, device=live.device),
            history=history,
            max_iter=max_iter,
            gtol=1e-5,
            ftol=1e-6,
        )
        self.current[live] = result.x
        self.evaluations[live] += result.evaluations
        with torch.no_grad():
            return self.criterion.rows(live).is_met_robustly(self.model(result.x.view(-1, *self.shape[1:])))

    def _objective(self, live: Tensor, c: Tensor) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """c‖x' − x‖² + cross entropy(x', l) and its gradient; takes note of every point it is asked for."""
        c = c.to(self.clean.dtype)

        def objective(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            original = live[rows]
            x = x.detach().requires_grad_()
            with torch.enable_grad():
                logits = self.model(x.view(-1, *self.shape[1:]))
                losses = functional.cross_entropy(logits, self.target[original], reduction="none")
                (gradient,) = torch.autograd.grad(losses.sum(), x)
            x, logits, losses = x.detach(), logits.detach(), losses.detach()
            perturbation = x - self.clean[original]
            squared = perturbation.square().sum(1)
            self._note(original, x, logits, squared, c[rows])
            return losses + c[rows] * squared, gradient + 2 * c[rows, None] * perturbation

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
