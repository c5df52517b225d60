"""The closest misread image: min ‖x' − x‖₂ subject to the decision boundary and the box.

Shapes: B images of a batch, n pixels, k classes, R rivals per image, L lanes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from advlab.attacks import targets
from advlab.attacks.blocks import blocks
from advlab.attacks.boundary import Lanes
from advlab.attacks.criterion import Criterion, rounding_margin
from advlab.attacks.projection import project_halfspace, project_polytope
from advlab.attacks.result import Adversarial, Model, judge, require_within
from advlab.errors import UserError

MAX_RIVALS, MAX_RIVALS_TARGETED = 6, 9
"""Most classes whose boundaries are linearised at the clean image: those that may overtake the label; those that a
target has to overtake."""
RANKED_RIVALS = 5
"""Of these, the nearest without the box are ranked by their distances within it."""
SAFETY = 1.1
"""Iterates aim at this multiple of the rounding margin beyond the boundary."""
SECANT_STEPS = 4
"""Forward passes that place the final image on the boundary."""
FIRST_STEP, LAST_STEP = 1.0, 0.03
"""The step decays geometrically between these over a descent."""
HOPE = 1.05
"""A lane goes on while its merit is below this multiple of the best converged one of its image."""
MEMORY = 1 / 8
"""Share of a lane's steps over which moves are averaged: long searches can afford to smooth more."""
CONVERGED = 5e-3
"""Lanes whose residual is below this stop; the distance is then within about its square of a local optimum."""
STARTS = ((0, math.inf), (1, math.inf), (0, 0.4), (2, math.inf))
"""The lanes of an image, most promising first: (rank of the rival, cap of the first steps in clean distances)."""
ROUNDS = ((4, 0.6), (2, 0.4))
"""(lanes per image, share of the exploration's budget); the best lane gets what is left."""
LONGEST_POLISH = 40
"""Steps after which following one lane no longer pays; a larger budget explores more."""
RETREAT = 2.0
"""Multiple of the best perturbation found at which the second descent starts."""
RETREAT_SHARE = 0.5
"""Share of the budget that the second descent gets: it comes from beyond the boundary and ends in other, mostly
better, minima of piecewise linear networks."""
OVERSHOOT = 1.5
"""Multiple of the linearised distance to the boundary that a step covers where all lanes have missed it."""
BEND_FIRST_STEP, BEND_RETREAT = 0.2, 1.1
"""First step and start of the descent that follows: gradients turn too fast there for long moves."""
TARGETED_STARTS = (math.inf, 0.4)
"""The same for a given target: the caps alone."""


def minimum_norm(
    model: Model,
    images: Tensor,
    labels: Tensor,
    target: str | Tensor = "nearest",
    bounds: tuple[float, float] = (0.0, 1.0),
    *,
    seed: int = 0,
    index: Tensor | None = None,
    max_evaluations: int = 96,
    batch_size: int = 256,
) -> Adversarial:
    """Find the nearest image that the model misreads (or reads as ``target``).

    Every image starts a few *lanes*, one per promising class and start; a lane projects the clean image onto the
    linearised boundary and the box, moves there with a decaying step, and linearises again (see `boundary`). Lanes
    that fall behind are dropped. From twice the best perturbation found a second descent comes back to the boundary,
    and a secant search along the ray of the better one puts the image just beyond it: far enough that it stays
    misread in any other batch. Gradients are taken with respect to the images alone; the model's parameters and
    their ``grad`` are left as they are.

    Args:
        model: images [B, ...] → logits [B, k], differentiable.
        images: [B, C, H, W] or [B, n], within ``bounds``.
        labels: [B] int64, true classes.
        target: ``nearest`` (any class but the label), ``runner-up``, ``random``, ``least-likely``, or classes [B].
        bounds: lowest and highest valid intensity.
        seed: of the ``random`` policy; the search itself draws no random numbers.
        index: [B] int64, the images' positions in the data set, for the ``random`` policy.
        max_evaluations: budget per image. A forward pass counts as one, with or without its backward pass; the
            gradients of R rivals at the clean image count as R. The final verdict (one forward pass) is not counted.
        batch_size: images searched at once; bounds the memory, and small batches stay in the processor's cache.

    Returns:
        Images read so already are returned unchanged at distance 0, and so are, without success, those for which
        the budget found no point across the boundary.

    Raises:
        UserError: images outside ``bounds``, a budget below 1, an unknown policy or unusable targets.
    """
    require_within(images, bounds)
    if max_evaluations < 1 or batch_size < 1:
        raise UserError(
            f"max_evaluations={max_evaluations} and batch_size={batch_size} must both be at least 1; raise them."
        )
    candidates = images.clone()
    evaluations = torch.zeros_like(labels)
    position = torch.arange(len(labels), device=labels.device) if index is None else index
    chosen = torch.full_like(labels, -1)
    for first in range(0, len(images), batch_size):
        rows = slice(first, first + batch_size)
        part = target[rows] if isinstance(target, Tensor) else target
        with torch.enable_grad():
            search = _Search(model, images[rows], labels[rows], bounds, max_evaluations)
            policy = targets.choose(part, search.logits, labels[rows], seed=seed, index=position[rows])
            search.run(Criterion(labels[rows], policy))
        candidates[rows] = search.best.view_as(images[rows])
        evaluations[rows] = search.spent
        if policy is not None:
            chosen[rows] = policy
    criterion = Criterion(labels, None if target == "nearest" else chosen)
    return judge(model, images, candidates, criterion, evaluations)


class _Search:
    """One batch: the budget and the best point of every image."""

    def __init__(
        self, model: Model, images: Tensor, labels: Tensor, bounds: tuple[float, float], max_evaluations: int
    ) -> None:
        self.model = model
        self.shape = images.shape[1:]
        self.clean = images.detach().flatten(1)
        self.labels = labels
        self.lower, self.upper = bounds
        self.max_evaluations = max_evaluations
        self.spent = torch.ones_like(labels)
        self.leaf = self.clean.clone().requires_grad_()
        self.graph = model(self.leaf.view(-1, *self.shape))
        self.logits = self.graph.detach()
        self.best = self.clean.clone()
        self.best_l2 = torch.full_like(self.clean[:, 0], torch.inf)

    def run(self, criterion: Criterion) -> None:
        """Spend the budget."""
        self.criterion = criterion
        margin = criterion.margin(self.logits)
        live = (margin >= 0).nonzero().squeeze(1)
        if not len(live):
            return
        lanes = self._start(live)
        budget = self.max_evaluations - int(self.spent.max()) - SECANT_STEPS
        second = int(RETREAT_SHARE * budget)
        found = self._descend(lanes, self._plan(budget - second))
        if second > 0:
            parts = [found, self._descend(self._retreat(found), [(1, second)])]
            missed = (~self.best_l2[found.row].isfinite()).nonzero().squeeze(1)
            if len(missed):
                through, steps = self._break_through(found.keep(missed), second)
                back = self._retreat(through, BEND_RETREAT)
                parts += [through, self._descend(back, [(1, second - steps)], BEND_FIRST_STEP)]
            found = Lanes.join(parts)
        self._finish(found)

    def _plan(self, budget: int) -> list[tuple[int, int]]:
        """(lanes per image, steps) of each round of the first descent."""
        plan = []
        explore = max(0.6 * budget, budget - LONGEST_POLISH)
        for width, share in ROUNDS:
            steps = int(explore * share / width)
            if steps:
                plan.append((width, steps))
                budget -= width * steps
        if budget > 0:
            plan.append((1, budget))
        return plan

    def _descend(self, lanes: Lanes, plan: list[tuple[int, int]], first_step: float = FIRST_STEP) -> Lanes:
        """Move the lanes, dropping those that fall behind; returns those that converged and those left."""
        settled = torch.full_like(self.best_l2, torch.inf)
        done: list[Lanes] = []
        total = sum(steps for _, steps in plan)
        momentum = min(max(1 - 1 / (MEMORY * max(total, 1)), 0.5), 0.95)
        taken = 0
        for width, steps in plan:
            chosen = self._best_lanes(lanes, width)
            chosen = chosen[~(lanes.merit > HOPE * settled[lanes.row])[chosen]]
            if len(chosen) < len(lanes):
                lanes = lanes.keep(chosen)
            for _ in range(steps):
                if not len(lanes):
                    break
                step = first_step * (LAST_STEP / first_step) ** (taken / max(total - 1, 1))
                lanes.advance(*self._evaluate_lanes(lanes), step, momentum, self.lower, self.upper)
                taken += 1
                converged = (~(lanes.residual > CONVERGED)).nonzero().squeeze(1)
                if len(converged):
                    row, merit = lanes.row[converged], lanes.merit[converged]
                    settled.scatter_reduce_(0, row, merit, "amin")
                    done.append(lanes.keep(converged[merit <= settled[row]]))
                    lanes.remove(converged)
        return Lanes.join([*done, lanes])

    def _break_through(self, missed: Lanes, most: int) -> tuple[Lanes, int]:
        """Go beyond the boundary from the clean images by steps that add up.

        A lane's every step starts at the clean image again: on a deep network, whose gradient turns on the way, it may
        circle about the image for good without ever reaching the boundary. These steps are DeepFool's (Moosavi-Dezfooli
        et al. 2016), each towards the class that is nearest by then.

        Args:
            missed: lanes of images for which no point beyond the boundary is known.
            most: steps.

        Returns:
            A lane for each image that was reached, its candidate beyond the boundary, and the number of steps taken.
        """
        lanes = missed.keep(self._best_lanes(missed, 1))
        row, x, steps = lanes.row, lanes.clean.clone(), 0
        rivals = torch.full_like(self.labels, -1)
        while len(row) and steps < most:
            length = (x - self.clean[row]).norm(dim=1)
            margins, normal, logits = self._evaluate(row, x, length, lambda to, logits: to.margin(logits)[:, None])
            steps += 1
            rivals[row] = self.criterion.rows(row).reached(logits)
            squared = torch.linalg.vecdot(normal, normal).clamp_min(torch.finfo(x.dtype).tiny)
            step = OVERSHOOT * margins / squared[:, None]
            x = torch.addcmul(x, step, normal, value=-1).nan_to_num(0).clamp_(self.lower, self.upper)
            left = (~self.best_l2[row].isfinite()).nonzero().squeeze(1)
            row, x = row[left], x[left]
        lanes = lanes.keep(self.best_l2[lanes.row].isfinite().nonzero().squeeze(1))
        lanes.candidate, lanes.merit = self.best[lanes.row], self.best_l2[lanes.row]
        lanes.crossing, lanes.residual = torch.ones_like(lanes.merit), torch.full_like(lanes.merit, torch.inf)
        if self.criterion.target is None:
            lanes.rivals = rivals[lanes.row][:, None]
        return lanes, steps

    def _retreat(self, found: Lanes, beyond: float = RETREAT) -> Lanes:
        """A fresh lane per image that was reached, beyond the boundary on the ray of the best found.

        Where the boundary is smooth there, and the lane had converged, it would come back to the same point.
        """
        best = found.keep(self._best_lanes(found, 1))
        smooth = best.curved & (best.residual <= CONVERGED)
        best = best.keep((self.best_l2[best.row].isfinite() & ~smooth).nonzero().squeeze(1))
        scale = beyond * best.crossing[:, None]
        x = torch.addcmul(best.clean, scale, best.candidate - best.clean).clamp_(self.lower, self.upper)
        cap = torch.full_like(best.cap, torch.inf)
        return Lanes.start(len(STARTS), best.row, best.rivals, best.clean, x, best.normals, best.multipliers, cap)

    def _start(self, live: Tensor) -> Lanes:
        """Linearise the boundaries around the live images and take the first step of their lanes."""
        away = self.labels if self.criterion.target is None else self.criterion.target
        others = self.logits.scatter(1, away[:, None], -torch.inf)
        most = MAX_RIVALS if self.criterion.target is None else MAX_RIVALS_TARGETED
        count = min(most, self.logits.shape[1] - 1, max(1, self.max_evaluations // 4))
        rivals = others.topk(count, dim=1).indices
        gaps = self._gaps(self.graph, away, rivals)
        gradients = [_gradient(gaps[:, j], self.leaf, retain=j < count - 1) for j in range(count)]
        self.spent[live] = count
        gaps = gaps.detach() + SAFETY * rounding_margin(self.logits)[:, None]
        starts = self._nearest_starts if self.criterion.target is None else self._targeted_starts
        parts = []
        for some in blocks(len(live), count * self.clean.shape[1], self.clean):
            row = live[some]
            normals = torch.stack([gradient.index_select(0, row) for gradient in gradients], 1).nan_to_num_(0, 0, 0)
            clean = self.clean.index_select(0, row)
            parts += starts(row, rivals[row], clean, normals, gaps[row])
        return Lanes.join(parts)

    def _targeted_starts(
        self, row: Tensor, rivals: Tensor, clean: Tensor, normals: Tensor, gaps: Tensor
    ) -> list[Lanes]:
        """Lanes towards the linearised region of the target."""
        offsets = torch.linalg.vecdot(normals, clean[:, None]) - gaps
        goal, multipliers = project_polytope(clean, normals, offsets, self.lower, self.upper)
        move = goal - clean
        distance = move.norm(dim=1)
        starts = []
        for place, cap in enumerate(TARGETED_STARTS):
            x = self._inside(clean + min(1.0, cap) * move)
            starts.append(Lanes.start(place, row, rivals, clean, x, normals, multipliers, cap * distance))
        return starts

    def _nearest_starts(self, row: Tensor, rivals: Tensor, clean: Tensor, normals: Tensor, gaps: Tensor) -> list[Lanes]:
        """Lanes towards the rivals whose linearised boundaries are nearest within the box."""
        slopes = normals.norm(dim=2)
        nearest = (gaps / slopes).nan_to_num(torch.inf).sort(1).indices[:, :RANKED_RIVALS]
        rows = torch.arange(len(row), device=row.device)
        rivals, gaps, slopes = (part.gather(1, nearest) for part in (rivals, gaps, slopes))
        normals = normals[rows[:, None], nearest]
        offsets = torch.linalg.vecdot(normals, clean[:, None]) - gaps
        count = nearest.shape[1]
        points, flat = clean.repeat_interleave(count, 0), normals.flatten(0, 1)
        goals, multipliers = project_halfspace(points, flat, offsets.flatten(), self.lower, self.upper, iterations=3)
        moves = goals.sub_(points).view_as(normals)
        distances = moves.norm(dim=2)
        missed = gaps + torch.linalg.vecdot(normals, moves) > 0.5 * gaps  # the box ends before that boundary
        far = self.clean.shape[1] ** 0.5 * (self.upper - self.lower)
        ranked = torch.where(missed, far + distances, distances).sort(1)
        multipliers = multipliers.view_as(gaps) * slopes
        shortest = distances.gather(1, ranked.indices[:, :1]).squeeze(1)
        starts = []
        for place, (rank, cap) in enumerate(STARTS):
            if rank < count:
                j = ranked.indices[:, rank]
                longest = cap * shortest
                share = (longest / distances[rows, j].clamp_min(torch.finfo(gaps.dtype).tiny)).clamp_max(1)
                x = self._inside(torch.addcmul(clean, share[:, None], moves[rows, j]))
                chosen = rivals[rows, j][:, None], normals[rows, :0], multipliers[rows, j][:, None]
                starts.append(Lanes.start(place, row, chosen[0], clean, x, chosen[1], chosen[2], longest))
        return starts

    def _inside(self, x: Tensor) -> Tensor:
        """``x``, which rounding alone may have carried out of the box, in place."""
        return x.clamp_(self.lower, self.upper)

    def _gaps(self, logits: Tensor, away: Tensor, rivals: Tensor) -> Tensor:
        """[L, m]: margins to the rivals; untargeted, ``away`` is the label, and otherwise the target."""
        gaps = logits.gather(1, away[:, None]) - logits.gather(1, rivals)
        return gaps if self.criterion.target is None else -gaps

    def _evaluate_lanes(self, lanes: Lanes) -> tuple[Tensor, Tensor]:
        """Margins [L, m] to the lanes' rivals, and the gradient [L, n] of the largest; see `_evaluate`."""

        def gaps(criterion: Criterion, logits: Tensor) -> Tensor:
            away = criterion.labels if criterion.target is None else criterion.target
            return self._gaps(logits, away, lanes.rivals)

        margins, normal, _ = self._evaluate(lanes.row, lanes.x, lanes.length, gaps)
        return margins, normal

    def _evaluate(
        self, row: Tensor, x: Tensor, l2: Tensor, margins: Callable[[Criterion, Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What ``margins`` makes of the rows' criterion and logits, [L, m], shifted by the rounding allowance; the
        gradient [L, n] of the largest; the logits. Records what the evaluation finds.
        """
        criterion = self.criterion.rows(row)
        leaf = x.detach().requires_grad_()
        logits = self.model(leaf.view(-1, *self.shape))
        found = margins(criterion, logits)
        normal = _gradient(found.amax(1), leaf)
        self.spent.index_add_(0, row, torch.ones_like(row))
        logits = logits.detach()
        self._record(row, x, l2, logits, criterion)
        return found.detach() + SAFETY * rounding_margin(logits)[:, None], normal, logits

    def _record(self, row: Tensor, x: Tensor, l2: Tensor, logits: Tensor, criterion: Criterion) -> None:
        """Keep the closest points that meet the criterion."""
        l2 = torch.where(criterion.is_met_robustly(logits), l2, torch.inf)
        closest = self.best_l2.scatter_reduce(0, row, l2, "amin")
        wins = ((l2 <= closest[row]) & (l2 < self.best_l2[row])).nonzero().squeeze(1)
        self.best.index_copy_(0, row[wins], x.index_select(0, wins))
        self.best_l2 = closest

    def _best_lanes(self, lanes: Lanes, width: int) -> Tensor:
        """The places (LongTensor [l]) of the ``width`` lanes of smallest merit of every image."""
        order = lanes.place.argsort(stable=True)
        for key in (lanes.merit, lanes.row):
            order = order[key[order].argsort(stable=True)]
        row = lanes.row[order]
        rank = torch.arange(len(row), device=row.device) - torch.searchsorted(row, row)
        return order[rank < width]

    def _finish(self, lanes: Lanes) -> None:
        """Put the best candidate of every image on the boundary, along its ray, by a safeguarded secant."""
        best = lanes.keep(self._best_lanes(lanes, 1))
        row, clean, radius = best.row, best.clean, best.crossing[:, None] * (best.candidate - best.clean)
        steps = min(SECANT_STEPS, self.max_evaluations - int(self.spent.max()))
        criterion = self.criterion.rows(row)
        start = self.criterion.margin(self.logits)[row]
        low = torch.zeros_like(start)
        high = torch.full_like(start, torch.inf)
        scale = torch.ones_like(start)
        previous, previous_margin = low, start
        for _ in range(steps):
            x = torch.addcmul(clean, scale[:, None], radius).clamp(self.lower, self.upper)
            with torch.no_grad():
                logits = self.model(x.view(-1, *self.shape))
            self.spent[row] += 1
            self._record(row, x, (x - clean).norm(dim=1), logits, criterion)
            margin = criterion.margin(logits) + SAFETY * rounding_margin(logits)
            outside = margin > 0
            low = torch.where(outside, torch.maximum(low, scale), low)
            high = torch.where(outside, high, torch.minimum(high, scale))
            guess = scale - margin * (scale - previous) / (margin - previous_margin)
            middle = torch.where(high.isfinite(), (low + high) / 2, 1.02 * scale)
            previous, previous_margin = scale, margin
            scale = torch.where((guess > low) & (guess < high), guess, middle)


def _gradient(values: Tensor, leaf: Tensor, *, retain: bool = False) -> Tensor:
    """∂ Σ values/∂ leaf; zero where the model does not depend on its input."""
    if not values.requires_grad:
        return torch.zeros_like(leaf)
    (gradient,) = torch.autograd.grad(values.sum(), leaf, retain_graph=retain, allow_unused=True)
    return torch.zeros_like(leaf) if gradient is None else gradient.detach()
