"""The closest misread image: min ‖x' − x‖₂ subject to the decision boundary and the box.

Shapes: B images of a batch, n pixels, k classes, R rivals per image, L lanes.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from advlab.attacks import starts, targets
from advlab.attacks.arguments import checked
from advlab.attacks.blocks import block_rows, blocks
from advlab.attacks.boundary import Lanes
from advlab.attacks.closest import SAFETY, Closest
from advlab.attacks.criterion import Criterion, rounding_margin
from advlab.attacks.model import Classifier, Model, gradient
from advlab.attacks.rays import Rays, along
from advlab.attacks.result import Adversarial, judge
from advlab.errors import UserError

MAX_RIVALS = 9
"""Most classes whose boundaries are linearised at the clean image: those that may overtake the label, or those that a
target has to overtake."""
SECANT_STEPS = 4
"""Forward passes that place the final image on the boundary."""
LOOKS, MISSED = 2, 0.05
"""So many of them may fall short on a ray that promised to cross, where a closest point is known already; and the share
of the clean image's margin that may be left then."""
FIRST_STEP, LAST_STEP = 1.0, 0.03
"""The step decays geometrically between these over a descent."""
HOPE = 1.05
"""A lane goes on while its merit is below this multiple of the best converged one of its image."""
MEMORY = 1 / 8
"""Share of a lane's steps over which moves are averaged: long searches can afford to smooth more."""
CONVERGED = 5e-3
"""Lanes whose residual is below this stop; the distance is then within about its square of a local optimum."""
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


@checked
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
    batch_size: int | None = None,
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
        batch_size: images searched at once, which bounds the memory (default: 1.5 MiB of them on the CPU, for its
            cache, and 64 MiB elsewhere).

    Returns:
        Images read so already are returned unchanged at distance 0, and so are, without success, those for which
        the budget found no point across the boundary.

    Raises:
        UserError: images outside ``bounds``, a budget below 1, an unknown policy or unusable targets.
    """
    assert isinstance(model, Classifier)
    if batch_size is None:
        batch_size = block_rows(images[:1].numel(), images)
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
            closest = search.run(Criterion(labels[rows], policy))
        candidates[rows] = closest.x.view_as(images[rows])
        evaluations[rows] = closest.evaluations
        if policy is not None:
            chosen[rows] = policy
    criterion = Criterion(labels, None if target == "nearest" else chosen)
    return judge(model, images, candidates, criterion, evaluations)


class _Search:
    """One batch: the budget and the best point of every image."""

    def __init__(
        self, model: Classifier, images: Tensor, labels: Tensor, bounds: tuple[float, float], max_evaluations: int
    ) -> None:
        self.model = model
        self.shape = images.shape[1:]
        self.clean = images.detach().flatten(1).contiguous()
        self.labels = labels
        self.bounds = bounds
        self.max_evaluations = max_evaluations
        self.leaf = self.clean.clone().requires_grad_()
        self.graph = self._logits(self.leaf)
        self.logits = self.graph.detach()

    def run(self, criterion: Criterion) -> Closest:
        """Spend the budget."""
        count, far = torch.ones_like(self.labels), torch.full_like(self.clean[:, 0], torch.inf)
        rounding = rounding_margin(self.logits, self.model.precision)
        self.closest = Closest(criterion, self.clean.clone(), far, count, rounding)
        self.rays = Rays.unknown(self.clean)
        margin = criterion.margin(self.logits)
        live = (margin >= 0).nonzero().squeeze(1)
        if not len(live):
            return self.closest
        lanes = self._start(live)
        budget = self.max_evaluations - int(self.closest.evaluations.max()) - SECANT_STEPS
        second = int(RETREAT_SHARE * budget)
        self._descend(lanes, self._plan(budget - second))
        if second > 1:
            best = lanes.best(1)
            known = self._probe(lanes.row[best])
            self._descend(self._retreat(lanes, best[known]), [(1, second - 1)])
            if not bool(known.all()):
                for through, steps in self._break_through(lanes.keep(best[~known]), second - 1):
                    self._descend(through, [(1, second - 1 - steps)], BEND_FIRST_STEP)
        self._finish(live)
        return self.closest

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

    def _descend(self, lanes: Lanes, plan: list[tuple[int, int]], first_step: float = FIRST_STEP) -> None:
        """Move the lanes, retiring those that converge or fall behind; in the end all may move again."""
        settled = torch.full_like(self.rays.merit, torch.inf)
        total = sum(steps for _, steps in plan)
        momentum = min(max(1 - 1 / (MEMORY * max(total, 1)), 0.5), 0.95)
        taken = 0
        for width, steps in plan:
            behind = torch.ones_like(lanes.row[: lanes.moving], dtype=torch.bool)
            behind[lanes.best(width)] = False
            behind |= lanes.merit[: lanes.moving] > HOPE * settled[lanes.row[: lanes.moving]]
            lanes.retire(behind.nonzero().squeeze(1))
            moving = lanes.part(slice(lanes.moving))
            for _ in range(steps):
                if not len(moving):
                    break
                step = first_step * (LAST_STEP / first_step) ** (taken / max(total - 1, 1))
                for rows in blocks(len(moving), self.clean.shape[1], self.clean):
                    some = moving.part(rows)
                    margins, normal, _ = self._evaluate(some.row, some.x, some.length, some.rivals)
                    some.advance(margins, normal, step, momentum, *self.bounds)
                taken += 1
                converged = (~(moving.residual > CONVERGED)).nonzero().squeeze(1)
                if len(converged):
                    settled.scatter_reduce_(0, moving.row[converged], moving.merit[converged], "amin")
                    lanes.retire(converged)
                    moving = lanes.part(slice(lanes.moving))
        lanes.moving = len(lanes)

    def _probe(self, row: Tensor) -> Tensor:
        """Whether [l] a point beyond the boundary is known of the images: found on the way, or now on their rays."""
        missed = (~self.closest.l2[row].isfinite()).nonzero().squeeze(1)
        if len(missed):
            self._look(row[missed], *self._beyond(row[missed]))
        return self.closest.l2[row].isfinite()

    def _beyond(self, row: Tensor) -> tuple[Tensor, Tensor]:
        """Points [l, n] beyond the boundary on the images' rays, to first order, and their distances [l]."""
        return along(self.clean, row, self.rays.ends[row], RETREAT * self.rays.crossing[row], *self.bounds)

    def _retreat(self, lanes: Lanes, best: Tensor) -> Lanes:
        """Fresh lanes, beyond the boundary on the rays of the images that the lanes ``best`` [l] belong to.

        Where the boundary is smooth there, and the lane had converged, it would come back to the same point.
        """
        best = best[~(lanes.curved & (lanes.residual <= CONVERGED))[best]]
        row = lanes.row[best]
        known = lanes.normals[best], lanes.multipliers[best]
        return starts.rest(self.rays, row, lanes.rivals[best], *self._beyond(row), *known)

    def _break_through(self, missed: Lanes, most: int) -> Iterator[tuple[Lanes, int]]:
        """Go beyond the boundary from the clean images by steps that add up.

        A lane's every step starts at the clean image again: on a deep network, whose gradient turns on the way, it may
        circle about the image for good without ever reaching the boundary. These steps are DeepFool's (Moosavi-Dezfooli
        et al. 2016), each towards the class that is nearest by then.

        Args:
            missed: a lane for each image for which no point beyond the boundary is known.
            most: steps.

        Yields:
            Fresh lanes, somewhat beyond the points found, and the number of steps that took.
        """
        x, length = self.clean[missed.row], torch.zeros_like(missed.length)
        for steps in range(1, most + 1):
            margins, normal, logits = self._evaluate(missed.row, x, length, None)
            reached = self.closest.l2[missed.row].isfinite()
            if bool(reached.any()):
                found = missed.keep(reached.nonzero().squeeze(1))
                row = found.row
                if self.closest.criterion.target is None:
                    found.rivals = self.closest.criterion.rows(row).strongest(logits[reached])[:, None]
                scale = torch.full_like(found.length, BEND_RETREAT)
                start = along(self.clean, row, self.closest.x[row], scale, *self.bounds)
                yield starts.rest(self.rays, row, found.rivals, *start, found.normals, found.multipliers), steps
            left = (~reached).nonzero().squeeze(1)
            if not len(left):
                break
            missed, x, margins, normal = missed.keep(left), x[left], margins[left], normal[left]
            squared = torch.linalg.vecdot(normal, normal).clamp_min(torch.finfo(x.dtype).tiny)
            step = OVERSHOOT * margins / squared[:, None]
            x = torch.addcmul(x, step, normal, value=-1).nan_to_num(0).clamp_(*self.bounds)
            length = (x - self.clean[missed.row]).norm(dim=1)

    def _start(self, live: Tensor) -> Lanes:
        """Linearise the boundaries around the live images and take the first step of their lanes."""
        criterion = self.closest.criterion
        count = min(MAX_RIVALS, self.logits.shape[1] - 1, max(1, self.max_evaluations // 4))
        rivals = criterion.others(self.logits).topk(count, dim=1).indices
        gaps = criterion.gaps(self.logits, rivals) + SAFETY * self.closest.rounding[:, None]
        normals = [
            gradient(self.graph, self.leaf, criterion.weights(self.logits, rivals[:, j]), retain=j < count - 1)
            for j in range(count)
        ]
        self.closest.evaluations[live] = count
        begin = starts.towards_nearest if criterion.target is None else starts.towards_target
        lanes = begin(self.rays, live, rivals[live], normals, gaps[live], *self.bounds)
        self.rays.ends.index_copy_(0, live, lanes.x[: len(live)])
        return lanes

    def _evaluate(self, row: Tensor, x: Tensor, l2: Tensor, rivals: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Margins [L, m] to the rivals (None: the strongest), the gradient [L, n] of the largest, and the logits."""
        leaf = x.detach().requires_grad_()
        graph = self._logits(leaf)
        logits = graph.detach().contiguous()
        margins, weights = self.closest.see(row, x, l2, logits, rivals)
        return margins, gradient(graph, leaf, weights), logits

    def _look(self, row: Tensor, x: Tensor, l2: Tensor) -> Tensor:
        """Margins [L] at the points, by a forward pass alone."""
        with torch.no_grad():
            logits = self._logits(x).detach().contiguous()
        return self.closest.see(row, x, l2, logits, None)[0].squeeze(1)

    def _logits(self, x: Tensor) -> Tensor:
        """The model's logits [L, k] of points [L, n]."""
        return self.model(x.view(-1, *self.shape))

    def _finish(self, row: Tensor) -> None:
        """Put the best candidate of every image on the boundary, along its ray, by a safeguarded secant.

        A ray that was promising to first order may cross later or not at all. Where a closest point is known, and the
        ray has no hope of less, the search goes on along the ray of that point.
        """
        steps = min(SECANT_STEPS, self.max_evaluations - int(self.closest.evaluations.max()))
        ends, crossing = self.rays.ends.index_select(0, row), self.rays.crossing[row]
        known, distance = self.closest.x.index_select(0, row), self.closest.l2[row]
        start = self.closest.criterion.margin(self.logits)[row].to(crossing)
        low = torch.zeros_like(start)
        high = torch.full_like(start, torch.inf)
        scale = self.rays.doubt[row]
        previous, previous_margin = low, start
        for step in range(steps):
            x, length = along(self.clean, row, ends, scale * crossing, *self.bounds)
            margin = self._look(row, x, length)
            outside = margin > 0
            low = torch.where(outside, torch.maximum(low, scale), low)
            high = torch.where(outside, high, torch.minimum(high, scale))
            guess = scale - margin * (scale - previous) / (margin - previous_margin)
            middle = torch.where(high.isfinite(), (low + high) / 2, 1.02 * scale)
            previous, previous_margin = scale, margin
            scale = torch.where((guess > low) & (guess < high), guess, middle)
            if step < LOOKS:
                ahead = scale * length / previous  # of the next look
                given_up = (margin > MISSED * start) if step + 1 == LOOKS else torch.zeros_like(outside)
                missed = distance.isfinite() & high.isinf() & (given_up | ~(ahead < distance))
                ends, distance = torch.where(missed[:, None], known, ends), distance.masked_fill(missed, torch.inf)
                crossing, high = crossing.masked_fill(missed, 1), high.masked_fill(missed, 1)
                low, previous = low.masked_fill(missed, 0), previous.masked_fill(missed, 0)
                previous_margin, scale = torch.where(missed, start, margin), scale.masked_fill(missed, 0.5)
