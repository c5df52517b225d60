"""The penalised problems of a batch of images: min f(x′) = c D(x′) + loss(x′, l) over the box.

With r = x′ − x, the squared norm has D = ‖r‖² and ∇D = 2 r, the plain one, smoothed at 0, D = √(‖r‖² + δ²) and
∇D = r/D. The losses, of the logits z at x′, are the cross entropy −log softmax(z)_l, and the hinge max(0, m) of the
margin m = max_{j≠l} z_j − z_l (f₆ of Carlini & Wagner 2017).

Shapes: B images, n pixels, k classes; b problems of one call.
"""

import functools
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.linalg import vecdot
from torch.nn import functional

from advlab import compiled
from advlab.attacks import kernels
from advlab.attacks.criterion import Criterion, rounding_margin
from advlab.attacks.model import Classifier, finite, gradient
from advlab.attacks.references import BISECTIONS, References, crossing
from advlab.optim import lbfgsb
from advlab.optim import reference as reference_solver

Loss = Literal["cross-entropy", "margin"]
Norm = Literal["squared", "plain"]

GTOL, FTOL = 1e-5, 1e-6
"""Tolerances of a solve."""
ROUNDED = 1e-3
"""δ, which smooths the plain norm."""


@dataclass(frozen=True, slots=True)
class Method:
    """The form of the objective, and its solver.

    Attributes:
        max_iter: steps per constant.
        history: correction pairs.
        scipy: solve by SciPy, one problem at a time, as a reference.
    """

    loss: Loss
    norm: Norm
    max_iter: int
    history: int
    scipy: bool

    def losses(self, logits: Tensor, criterion: Criterion) -> Tensor:
        """loss(x′, l) of each row [b]."""
        assert criterion.target is not None
        if self.loss == "margin":
            return criterion.margin(logits).relu()
        return functional.cross_entropy(logits, criterion.target, reduction="none")

    def distance(self, squared: Tensor) -> tuple[Tensor, Tensor]:
        """From ‖r‖² [b], the distance D [b], and the factor [b] of r in ∇D."""
        if self.norm == "plain":
            length = (squared + ROUNDED**2).sqrt()
            return length, 1 / length
        return squared, torch.full_like(squared, 2.0)


class Problems:
    """The penalised problems of a batch, and the best point that each has come across.

    They are solved in the unit box, so that scaling images and bounds scales the answer and nothing else.

    Attributes:
        clean: [B, n], the images x in the unit box.
        already: [B] bool, classified as the target from the start.
        c: [B] float64, the present constants.
        best: [B, n] in the unit box, the closest success so far; before the first, the point of the smallest margin.
        best_distance: [B] float64, its ‖x′ − x‖₂; infinite without success.
        best_c: [B] float64, the constant at which it was found.
        rounding: [B], ρ: a margin m ≤ −ρ is a success in any batch (`criterion.rounding_margin`).
        loss, excess: [b], loss(x′, l) and m + ρ of the points that the last call of the objective evaluated.
        evaluations: [B] int64.
    """

    def __init__(
        self,
        model: Classifier,
        *,
        images: Tensor,
        logits: Tensor,
        criterion: Criterion,
        bounds: tuple[float, float],
        method: Method,
    ) -> None:
        self.model, self.criterion, self.bounds, self.images, self.method = model, criterion, bounds, images, method
        width = bounds[1] - bounds[0]
        self.lower, self.width = (bounds[0], width) if 0 < width < math.inf else (0.0, 1.0)
        self.clean = self._from_box(images).detach().flatten(1)
        self.already = criterion.is_met(logits)
        self.best = self.clean.clone()
        self.best_margin = criterion.margin(logits)
        self.rounding = rounding_margin(logits, model.precision)
        rows, device = len(images), images.device
        self.best_distance = torch.full((rows,), torch.inf, dtype=torch.float64, device=device)
        self.best_distance[self.already] = 0.0
        self.best_c = torch.full((rows,), torch.nan, dtype=torch.float64, device=device)
        self.c = self.best_c.clone()
        self.loss = self.excess = self.best_margin
        self.evaluations = torch.zeros(rows, dtype=torch.int64, device=device)

    def answer(self) -> Tensor:
        """[B, ...]: the best points as images; pixels that did not move keep their bits."""
        moved = (self.best != self.clean).view_as(self.images)
        return torch.where(moved, self._to_box(self.best).clamp(*self.bounds), self.images)

    def constants(self) -> Tensor:
        """[B] float64: the constants of the best points, for distances in the units of the images."""
        return self.best_c / (self.width**2 if self.method.norm == "squared" else self.width)

    def solve_once(self, c: float) -> None:
        """Minimise with one constant and keep the minimiser itself."""
        live = (~self.already).nonzero().squeeze(1)
        self.c[live] = c
        minimiser, beyond = self.solve(live, self.clean[live])
        distance = (minimiser - self.clean[live]).double().norm(dim=1)
        self.best[live] = minimiser
        self.best_distance[live] = torch.where(beyond <= 0, distance, torch.inf)
        self.best_c[live] = c

    def solve(self, live: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """Minimise for the rows ``live`` [b] with their constants; the minimisers [b, n] and their excess [b]."""
        minimiser = self.minimize(live, start).x
        with torch.no_grad():
            logits = self.model(self._to_box(minimiser))
        return minimiser, self.criterion.rows(live).margin(logits) + self.rounding[live]

    def is_long(self, references: Tensor, share: float) -> Tensor:
        """[B] bool: the best distance exceeds this share of the distance to the nearest reference of [R, ...]."""
        known = self._from_box(references.flatten(1).to(self.clean))
        return self.best_distance > share * torch.cdist(self.clean, known).amin(1)

    @torch.no_grad()
    def on_the_way(self, references: References, live: Tensor, share: float) -> tuple[Tensor, Tensor]:
        """Where a search can start again: just beyond the boundary, on the way to the nearest reference that succeeds.

        Returns the rows [b] of ``live`` that have such a reference, and the points [b, n]. Rows whose best point is
        nearer than this share of the distance to that reference are left out.
        """
        clean = self.images.flatten(1)[live]
        nearest = references.nearest(clean, self.criterion.rows(live), self.rounding[live])[:, 0]
        reach = (self._from_box(references.images[nearest]) - self.clean[live]).norm(dim=1)
        helps = (nearest >= 0) & (self.best_distance[live] > share * reach)
        live, nearest = live[helps], nearest[helps]
        clean, ends = self.clean[live], self._from_box(references.images[nearest])
        criterion, rounding = self.criterion.rows(live), self.rounding[live]
        if not len(live):
            return live, clean

        def outside(share: Tensor) -> Tensor:
            return ~criterion.is_met_robustly(self.model(self._to_box(clean.lerp(ends, share[:, None]))), rounding)

        self.evaluations[live] += BISECTIONS
        return live, clean.lerp(ends, crossing(outside, rounding)[:, None])

    def minimize(self, live: Tensor, start: Tensor, revise_objective: lbfgsb.Revise | None = None) -> lbfgsb.Result:
        """Run the solver on the rows ``live`` [b] from ``start`` [b, n], and count its evaluations; SciPy's problems
        are not revised.
        """
        lower, upper = ((bound - self.lower) / self.width for bound in self.bounds)
        limits = self.method.history, self.method.max_iter, GTOL, FTOL
        problem = functools.partial(self._objective, live), start, lower, upper, *limits
        if self.method.scipy:
            result = reference_solver.minimize(*problem)
        else:
            result = lbfgsb.minimize(*problem, revise_objective=revise_objective)
        self.evaluations[live] += result.evaluations
        return result

    def _objective(self, live: Tensor, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """f(x) [b] and its gradient [b, n]; records every point x [b, n]."""
        original = live[rows]
        criterion = self.criterion.rows(original)
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            logits = self.model(self._to_box(leaf))
            losses = self.method.losses(logits, criterion)
            slope = finite(gradient(losses, leaf))
        self.loss = losses.detach()
        margin = criterion.margin(logits.detach())
        self.excess = margin + self.rounding[original]
        c = self.c[original].to(x.dtype)
        squared, slope = self._penalise(original, x, c, slope)
        self._record(original, x, margin, squared)
        return self.loss + c * self.method.distance(squared)[0], slope

    def _penalise(self, original: Tensor, x: Tensor, c: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """‖r‖² [b] of r = x − clean, and the gradient [b, n] of the loss with c ∇D added."""
        if compiled.fits(x, self.clean, gradient):
            squared, whole = torch.empty_like(c), torch.empty_like(x)
            plain = self.method.norm == "plain"
            compiled.run(
                kernels.penalise, x=x, clean=self.clean, row=original, c=c, plain=plain, rounded=ROUNDED,
                of_loss=gradient, squared=squared, gradient=whole,
            )  # fmt: skip
            return squared, whole
        perturbation = x - self.clean.index_select(0, original)
        squared = vecdot(perturbation, perturbation)
        slope = self.method.distance(squared)[1]
        return squared, torch.addcmul(gradient, perturbation, (c * slope)[:, None])

    def _record(self, original: Tensor, x: Tensor, margin: Tensor, squared: Tensor) -> None:
        """Keep x [b, n] where it beats the best so far."""
        distance = torch.where(self.excess <= 0, squared.double().sqrt(), torch.inf)
        closest = self.best_distance[original]
        nearer = closest.isinf() & (margin < self.best_margin[original])
        better = ((distance < closest) | nearer).nonzero().squeeze(1)
        rows = original[better]
        self.best[rows] = x[better]
        self.best_c[rows] = self.c[rows]
        self.best_margin[rows] = margin[better]
        self.best_distance[rows] = distance[better]

    def _from_box(self, images: Tensor) -> Tensor:
        """Images in the unit box."""
        return images if (self.lower, self.width) == (0, 1) else (images - self.lower) / self.width

    def _to_box(self, x: Tensor) -> Tensor:
        """Points x [b, n] of the unit box as images [b, ...]."""
        images = x.view(-1, *self.images.shape[1:])
        return images if (self.lower, self.width) == (0, 1) else images * self.width + self.lower
