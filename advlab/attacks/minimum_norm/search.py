"""The search of one batch: descents near the clean images, then rounds from other starts, within one budget.

`Search.run` is the plan: `_near_the_image` has parts 1 and 2 of the package's overview, `_elsewhere` part 3.

Shapes: B images of a batch, n pixels, k classes, R rivals per image, L lanes, l images or lanes of a subset.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from advlab.attacks.chunks import blocks
from advlab.attacks.criterion import Criterion, rounding_margin
from advlab.attacks.minimum_norm import restarts, starts
from advlab.attacks.minimum_norm.best import SAFETY, BestSoFar
from advlab.attacks.minimum_norm.lanes import Lanes
from advlab.attacks.minimum_norm.rays import Rays, along
from advlab.attacks.minimum_norm.restarts import Restarts, Start, displacement
from advlab.attacks.model import Classifier, finite, gradient
from advlab.attacks.references import BISECTIONS, NEAREST, References, crossing
from advlab.attacks.result import Ended

FIRST = 96
"""Evaluations for the descents near the clean image; what the budget has beyond them goes to rounds."""
UNEVEN = 3
"""Evaluations that rounding may leave when the descents near the clean image have taken all of theirs."""
MAX_RIVALS = 9
"""Most classes whose boundaries are linearised at the clean image: those that may overtake the label, or those that a
target has to overtake."""
ROUNDS = ((4, 0.6), (2, 0.4))
"""First descent: (lanes per image, share of the exploration's budget); then the best lane gets what is left."""
LONGEST_POLISH = 40
"""Steps after which following one lane no longer pays; a larger budget explores more."""
FIRST_STEP, LAST_STEP = 1.0, 0.03
"""The step s decays geometrically between these over a descent."""
MEMORY = 1 / 8
"""Share of a descent's steps that the averages reach over: long descents can afford to smooth more."""
HOPE = 1.05
"""A lane goes on while its merit is below this multiple of the best converged one of its image."""
CONVERGED = 5e-3
"""Lanes whose residual is below this stop; the relative error of the distance is then about its square."""
RETREAT, RETREAT_SHARE = 2.0, 0.5
"""The second descent starts at this multiple of the best perturbation, and gets this share of the budget: it comes from
beyond the boundary and ends in other, mostly better, minima of piecewise linear networks."""
DOUBTED = 0.25
"""A perturbation is doubted when it is longer than this share of the distance to the nearest reference that meets the
criterion: 2% of those on normally trained networks are, three quarters on hardened ones."""
OVERSHOOT = 1.5
"""Multiple of the linearised distance to the boundary that a step covers where all lanes have missed it."""
BEND_FIRST_STEP, BEND_RETREAT = 0.2, 1.1
"""First step and start of the descent that follows: gradients turn too fast there for long moves."""
LOOKS, MISSED = 2, 0.05
"""A ray that has not crossed the boundary after so many forward passes of the final secant is given up, where a closest
point is known and more than this share of the clean image's margin is left."""


class Search:
    """One batch, and what is known of it.

    Attributes:
        best: the closest point of every image, and what its search has spent.
        rays: the best crossing of every image.
        by_reference: [B] bool, the best point stems from a reference.
        used: [B] int64, references that the second descents have started from.
    """

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

    def run(self, criterion: Criterion, references: Callable[[], References], given: bool) -> BestSoFar:
        """Spend the budget. ``references`` is called where the user has ``given`` some, the budget is above `FIRST`, or
        nothing else leads across the boundary.
        """
        count, far = torch.ones_like(self.labels), torch.full_like(self.clean[:, 0], torch.inf)
        rounding = rounding_margin(self.logits, self.model.precision)
        self.best = BestSoFar(criterion, self.clean.clone(), far, count, rounding)
        self.rays = Rays.unknown(self.clean)
        self.by_reference, self.used = torch.zeros_like(self.labels, dtype=torch.bool), torch.zeros_like(self.labels)
        live = (criterion.margin(self.logits) >= 0).nonzero().squeeze(1)
        if len(live):
            self._near_the_image(live, references, given)
        if len(live) and self.max_evaluations > FIRST:
            self._elsewhere(live, references())
        return self.best

    def ended(self) -> Tensor:
        """[B] int64: how the search of every image ended, a value of `Ended`."""
        least = restarts.ROUND if self.max_evaluations > FIRST else UNEVEN
        converged = self.best.evaluations + least <= self.max_evaluations
        ended = torch.where(converged, Ended.CONVERGED, Ended.BUDGET)
        return torch.where(self.by_reference, Ended.REFERENCE, ended)

    def _near_the_image(self, live: Tensor, references: Callable[[], References], given: bool) -> None:
        """Two descents: from the boundaries linearised at the clean images, and from beyond the point found so."""
        lanes = self._start(live)
        budget = min(self.max_evaluations, FIRST) - int(self.best.evaluations.max()) - restarts.SECANT_STEPS
        second = int(RETREAT_SHARE * budget)
        self._descend(lanes, self._plan(budget - second))
        if second > 1:
            best = lanes.best(1)
            known = self._probe(lanes.row[best])
            if given and second > 2 * BISECTIONS:
                doubted = self._from_references(lanes.row[best], references(), second - 1 - BISECTIONS)
                best, known = best[~doubted], known[~doubted]
            self._descend(self._retreat(lanes, best[known]), [(1, second - 1)])
            if not bool(known.all()):
                most = second - 1 - (BISECTIONS if second > 2 * BISECTIONS else 0)
                for through, steps in self._break_through(lanes.keep(best[~known]), most):
                    self._descend(through, [(1, most - steps)], BEND_FIRST_STEP)
                self._rescue(lanes.row[best[~known]], references)
        self._finish(live)

    def _from_references(self, row: Tensor, references: References, steps: int) -> Tensor:
        """Let the second descent start on the way to the nearest reference, for those of ``row`` [l] whose perturbation
        is doubted; returns which [l] bool."""
        nearest = self._nearest(row, references)[:, 0]
        distance = (references.images[nearest] - self.clean[row]).norm(dim=1)
        doubted = (nearest >= 0) & (self.best.l2[row] > DOUBTED * distance)
        some, before = row[doubted], self.best.l2[row[doubted]]
        if len(some):
            start = restarts.CYCLE[restarts.REFERENCE]
            x, length = self._on_the_way(some, references.images[nearest[doubted]])
            self._descend(starts.free(self.rays, some, x, length), [(1, steps)], start.first, start.last, 0.0)
            self.by_reference[some], self.used[some] = self.best.l2[some] < before, 1
        return doubted

    def _rescue(self, row: Tensor, references: Callable[[], References]) -> None:
        """For images without a point across the boundary, take the one on the way to the nearest reference."""
        row = row[~self.best.l2[row].isfinite()]
        row = row[self.best.evaluations[row] + BISECTIONS + restarts.SECANT_STEPS <= self.max_evaluations]
        if not len(row):
            return
        nearest = self._nearest(row, references())[:, 0]
        row, nearest = row[nearest >= 0], nearest[nearest >= 0]
        if len(row):
            self._on_the_way(row, references().images[nearest])
            self.rays.restart(row, self.best.x)
            self.by_reference[row] = True

    def _nearest(self, row: Tensor, references: References) -> Tensor:
        """References [l, m] int64 that meet the criterion of ``row`` [l], nearest first; −1 for none."""
        return references.nearest(self.clean[row], self.best.criterion.rows(row), self.best.rounding[row])

    def _elsewhere(self, live: Tensor, references: References) -> None:
        """Rounds of one descent each, as `restarts` plans them, while they pay and the budget lasts."""
        best = self.best
        nearest = live.new_full((len(self.clean), min(NEAREST, len(references.images))), -1)
        nearest[live] = self._nearest(live, references)
        tried = Restarts(nearest, self.used)
        row = live
        while True:
            row = row[(best.evaluations[row] + restarts.ROUND <= self.max_evaluations) & tried.going(row)]
            if not len(row):
                break
            begin = tried.choose(row, best.l2[row].isfinite())
            for place, start in enumerate(restarts.CYCLE):
                if len(some := row[begin == place]):
                    before = best.l2[some]
                    self._round(some, start, tried, references.images)
                    tried.note(some, start, before, best.l2[some])
        self.by_reference |= tried.by_reference

    def _round(self, row: Tensor, start: Start, tried: Restarts, references: Tensor) -> None:
        """One descent of every image of ``row`` [l] from a new start, and the secant at its end."""
        if start.reference:
            x, length = self._on_the_way(row, references[tried.next_reference(row)])
        elif start.displaced:
            x, length = self._displaced(row, start, tried.rounds[row])
        else:
            x, length = self.best.x[row], self.best.l2[row]
        self.rays.restart(row, self.best.x)
        self._descend(starts.free(self.rays, row, x, length), [(1, restarts.STEPS)], start.first, start.last, 0.0)
        self._finish(row)

    def _on_the_way(self, row: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
        """Points [l, n] just beyond the boundary on the way from clean images to ``ends`` [l, n]; distances [l]."""

        def point(share: Tensor) -> tuple[Tensor, Tensor]:
            return along(self.clean, row, ends, share, *self.bounds)

        return point(crossing(lambda share: self._look(row, *point(share)) > 0, self.best.l2[row]))

    def _displaced(self, row: Tensor, start: Start, turns: Tensor) -> tuple[Tensor, Tensor]:
        """The best points, enlarged and displaced [l, n], and their distances [l].

        An image without such a point is displaced itself, farther in every turn.
        """
        known, clean = self.best.l2[row], self.clean[row]
        lower, upper = self.bounds
        perturbation = self.best.x[row] - clean
        each, place = turns.unique(return_inverse=True)
        shift = torch.stack([displacement(int(turn), self.clean) for turn in each])[place]
        if start.within:
            size = perturbation.abs()
            shift = shift * (size + restarts.ELSEWHERE * size.amax(1, keepdim=True))
            shift = shift / shift.norm(dim=1, keepdim=True)
        blind = (upper - lower) * clean.shape[1] ** 0.5 * torch.exp2(turns.clamp_max(6).to(known) - 6)
        length = torch.where(known.isfinite(), start.displaced * known, blind)
        x = (clean + restarts.ENLARGED * perturbation + length[:, None] * shift).clamp_(lower, upper)
        return x, (x - clean).norm(dim=1)

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

    def _descend(
        self,
        lanes: Lanes,
        plan: list[tuple[int, int]],
        step_from: float = FIRST_STEP,
        step_to: float = LAST_STEP,
        momentum: float | None = None,
    ) -> None:
        """Move the lanes, and retire those that converge or fall behind; at the end all may move again.

        ``plan`` has (lanes per image that go on, steps); s goes from ``step_from`` to ``step_to``; ``momentum`` is β,
        by default one that suits the number of steps (`MEMORY`).
        """
        settled = torch.full_like(self.rays.merit, torch.inf)
        total = sum(steps for _, steps in plan)
        if momentum is None:
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
                step = step_from * (step_to / step_from) ** (taken / max(total - 1, 1))
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
        """Whether a point across the boundary is known of each image [l] bool; where not, one on its ray is tried."""
        missed = (~self.best.l2[row].isfinite()).nonzero().squeeze(1)
        if len(missed):
            self._look(row[missed], *self._beyond(row[missed]))
        return self.best.l2[row].isfinite()

    def _beyond(self, row: Tensor) -> tuple[Tensor, Tensor]:
        """Points [l, n] beyond the boundary on the images' rays, to first order, and their distances [l]."""
        return along(self.clean, row, self.rays.ends[row], RETREAT * self.rays.crossing[row], *self.bounds)

    def _retreat(self, lanes: Lanes, best: Tensor) -> Lanes:
        """New lanes, beyond the boundary on the rays of the images that the lanes ``best`` [l] belong to.

        Lanes that have converged on a smooth boundary get none: it would come back to the same point.
        """
        best = best[~(lanes.curved & (lanes.residual <= CONVERGED))[best]]
        kept = lanes.keep(best)
        return self._restarted(kept, *self._beyond(kept.row))

    def _restarted(self, lanes: Lanes, x: Tensor, length: Tensor) -> Lanes:
        """New lanes in place of these, one per image, at x [l, n]."""
        known = {name: getattr(lanes, name) for name in ("row", "rivals", "normals", "multipliers")}
        return Lanes.start(self.rays, **known, x=x, length=length)

    def _break_through(self, missed: Lanes, most: int) -> Iterator[tuple[Lanes, int]]:
        """Go beyond the boundary from the clean images by steps that add up.

        Every step of a lane projects the clean image again: on a deep network, whose gradient turns on the way, the
        iterates may circle about the image without ever reaching the boundary. These steps are DeepFool's
        (Moosavi-Dezfooli et al. 2016, algorithm 2), but towards the strongest class: x ← x − 1.5 (m/‖g‖²) g.

        ``missed`` has a lane for each image for which no point beyond the boundary is known. Yields new lanes, somewhat
        beyond the points found, and the number of steps taken so far, of ``most``.
        """
        x, length = self.clean[missed.row], torch.zeros_like(missed.length)
        for steps in range(1, most + 1):
            margins, normal, logits = self._evaluate(missed.row, x, length, missed.rivals[:, :0])
            reached = self.best.l2[missed.row].isfinite()
            if bool(reached.any()):
                found = missed.keep(reached.nonzero().squeeze(1))
                row = found.row
                if self.best.criterion.target is None:
                    found.rivals = self.best.criterion.rows(row).strongest(logits[reached])[:, None]
                scale = torch.full_like(found.length, BEND_RETREAT)
                start = along(self.clean, row, self.best.x[row], scale, *self.bounds)
                yield self._restarted(found, *start), steps
            left = (~reached).nonzero().squeeze(1)
            if not len(left):
                break
            missed, x, margins, normal = missed.keep(left), x[left], margins[left], finite(normal[left])
            squared = torch.linalg.vecdot(normal, normal).clamp_min(torch.finfo(x.dtype).tiny)
            step = OVERSHOOT * margins / squared[:, None]
            x = torch.addcmul(x, step, normal, value=-1).nan_to_num(0).clamp_(*self.bounds)
            length = (x - self.clean[missed.row]).norm(dim=1)

    def _start(self, live: Tensor) -> Lanes:
        """Linearise the boundaries around the live images and take the first step of their lanes."""
        criterion = self.best.criterion
        count = min(MAX_RIVALS, self.logits.shape[1] - 1, max(1, self.max_evaluations // 4))
        rivals = criterion.others(self.logits).topk(count, dim=1).indices
        gaps = criterion.gaps(self.logits, rivals) + SAFETY * self.best.rounding[:, None]
        normals = [
            finite(gradient(self.graph, self.leaf, criterion.weights(self.logits, rivals[:, j]), retain=j < count - 1))
            for j in range(count)
        ]
        self.best.evaluations[live] = count
        begin = starts.towards_nearest if criterion.target is None else starts.towards_target
        lanes = begin(self.rays, live, rivals[live], normals, gaps[live], *self.bounds)
        self.rays.ends.index_copy_(0, live, lanes.x[: len(live)])
        return lanes

    def _evaluate(self, row: Tensor, x: Tensor, l2: Tensor, rivals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The margins [L, m] to the rivals, the gradient [L, n] of the largest, and the logits [L, k], in one pass.

        The points [L, n] of the images ``row`` [L] are judged, and counted as one evaluation each. Without rivals
        (m = 0), the margin is that to the strongest class.
        """
        leaf = x.detach().requires_grad_()
        graph = self._logits(leaf)
        logits = graph.detach().contiguous()
        margins, weights = self.best.update(row, x, l2, logits, rivals)
        return margins, gradient(graph, leaf, weights), logits

    def _look(self, row: Tensor, x: Tensor, l2: Tensor) -> Tensor:
        """The margins [L] at points [L, n] of the images ``row`` [L], by a forward pass alone; judged and counted."""
        with torch.no_grad():
            logits = self._logits(x).detach().contiguous()
        return self.best.update(row, x, l2, logits, row.new_empty(len(row), 0))[0].squeeze(1)

    def _logits(self, x: Tensor) -> Tensor:
        """The model's logits [L, k] of points [L, n]."""
        return self.model(x.view(-1, *self.shape))

    def _finish(self, row: Tensor) -> None:
        """Find the boundary along the best ray of every image of ``row`` [l], by a safeguarded secant.

        The points are x + σ τ (end − x); the first σ is the doubt, and ``low`` and ``high`` bracket the root of the
        margin. A ray may cross later than linearised, or not at all: where a closest point is known, and the ray
        promises nothing closer (`LOOKS`, `MISSED`), the secant starts again along the ray of that point.
        """
        steps = min(restarts.SECANT_STEPS, self.max_evaluations - int(self.best.evaluations[row].max()))
        ends, crossing = self.rays.ends.index_select(0, row), self.rays.crossing[row]
        known, distance = self.best.x.index_select(0, row), self.best.l2[row]
        start = self.best.criterion.margin(self.logits)[row].to(crossing)
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
                ahead = scale * length / previous  # the distance of the next point
                given_up = (margin > MISSED * start) if step + 1 == LOOKS else torch.zeros_like(outside)
                missed = distance.isfinite() & high.isinf() & (given_up | ~(ahead < distance))
                ends, distance = torch.where(missed[:, None], known, ends), distance.masked_fill(missed, torch.inf)
                crossing, high = crossing.masked_fill(missed, 1), high.masked_fill(missed, 1)
                low, previous = low.masked_fill(missed, 0), previous.masked_fill(missed, 0)
                previous_margin, scale = torch.where(missed, start, margin), scale.masked_fill(missed, 0.5)
