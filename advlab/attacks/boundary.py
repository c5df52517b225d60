"""Descent of the distance to the clean image along the decision boundary, for many lanes at once.

A lane is one (image, rival class, start). Its iterates are linearised at every step: a boundary that is locally
flat is solved by projecting the clean image onto the linearised boundary, and the kinks of ReLU and max pooling,
on which such projections zigzag, are averaged out by momentum and a decaying step.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from advlab.attacks.projection import project_polytope

RETURN_GAIN = 2.5
"""From the clean side a step covers this multiple of the linearised distance to the boundary, from beyond it once:
iterates stay beyond, where a descent ends in better minima of networks with kinks."""
NEAR = 1.0
"""An iterate is near the boundary when the first-order crossing of its ray lies within this share of its length."""
DOUBT = 4.0
"""Weight of the squared relative gap between an iterate and its first-order crossing in the merit of the crossing."""

SECANT_ITERATIONS = 2
"""Corrections of the warm-started multiplier per projection; what is left of its error the next step sees."""
MIN_SHARE = 0.01
"""Smallest share of a squared normal that a secant step of the multiplier assumes inside the box."""


@dataclass(slots=True)
class Lanes:
    """The state of L lanes; every field has one row per lane.

    Attributes:
        row: [L] int64, the image a lane belongs to.
        rivals: [L, m] int64, the classes whose boundaries matter: one that is to overtake the label, or those that
            the target is to overtake.
        clean: [L, n], the clean image.
        x: [L, n], the current iterate.
        velocity: [L, n], the momentum average of the moves made near the boundary.
        weight: [L], the total weight of that average; 0 while far.
        cap: [L], the longest step allowed while far from the boundary.
        normals: [L, m, n], the latest gradient of each rival's margin; only kept where m > 1.
        multipliers: [L, m], of the last projection (a warm start); per unit normal where m = 1.
        share: [L], the part of the squared normal that belongs to pixels inside the box (m = 1).
        candidate: [L, n], the iterate whose ray crosses the boundary closest to the clean image so far.
        crossing: [L], where that ray crosses, in lengths of the candidate's perturbation, to first order.
        merit: [L], the distance of that crossing, enlarged in doubt; infinite before the first.
        residual: [L], how far the iterate is from a smooth optimum: the lengths of the projected move and of the
            excess over the boundary, relative to the distance. The distance itself is off by about its square.
    """

    row: Tensor
    rivals: Tensor
    clean: Tensor
    x: Tensor
    velocity: Tensor
    weight: Tensor
    cap: Tensor
    normals: Tensor
    multipliers: Tensor
    share: Tensor
    candidate: Tensor
    crossing: Tensor
    merit: Tensor
    residual: Tensor

    @classmethod
    def start(
        cls, row: Tensor, rivals: Tensor, clean: Tensor, x: Tensor, normals: Tensor, multipliers: Tensor, cap: Tensor
    ) -> Lanes:
        """Lanes at rest in x [L, n]."""
        one, far = torch.ones_like(cap), torch.full_like(cap, torch.inf)
        return cls(
            row=row,
            rivals=rivals,
            clean=clean,
            x=x,
            velocity=torch.zeros_like(x),
            weight=torch.zeros_like(cap),
            cap=cap,
            normals=normals,
            multipliers=multipliers,
            share=one,
            candidate=x.clone(),
            crossing=one,
            merit=far,
            residual=far,
        )

    @classmethod
    def join(cls, parts: list[Lanes]) -> Lanes:
        """Several groups of lanes as one."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def __len__(self) -> int:
        return len(self.row)

    def keep(self, lanes: Tensor) -> Lanes:
        """The chosen lanes (LongTensor [l])."""
        return Lanes(*(getattr(self, field.name).index_select(0, lanes) for field in fields(self)))

    def advance(
        self,
        margins: Tensor,
        gradient: Tensor,
        radius: Tensor,
        length: Tensor,
        step: float,
        momentum: float,
        lower: float,
        upper: float,
    ) -> None:
        """Move every lane by one step.

        Comparisons and selections of whole images cost several times an addition, so choices between rows are made
        by scalars per row. Lanes with a zero or non-finite gradient stay where they are.

        Args:
            margins: [L, m], of the rivals at ``x``; the largest is the lane's margin, positive on the clean side.
            gradient: [L, n], of the largest margin.
            radius: [L, n], from the clean image to ``x``.
            length: [L], of the radius.
            step: share of the tangential move that is made near the boundary.
            momentum: weight of the past in the averaged move.
            lower: of the box.
            upper: of the box.
        """
        tiny = torch.finfo(self.x.dtype).tiny
        slope = gradient.norm(dim=1)
        margin = margins.amax(1)
        usable = (slope > 0) & slope.isfinite() & margin.isfinite()
        if not bool(usable.all()):
            gradient = torch.where(usable[:, None], gradient, 0)
            margin = torch.where(usable, margin, 0)
        unit = 1 / torch.where(usable, slope, 1)
        excess = margin * unit

        descent = -torch.linalg.vecdot(gradient, radius) * unit
        crossing = 1 + excess / descent.clamp_min(tiny)
        off = torch.where(usable & (descent > 0), (crossing - 1).abs(), torch.inf)
        near = off < NEAR
        merit = torch.where(near, crossing * length * (1 + DOUBT * off.square()), torch.inf)
        better = merit < self.merit
        self.merit = torch.where(better, merit, self.merit)
        self.crossing = torch.where(better, crossing, self.crossing)
        self.candidate.lerp_(self.x, better.to(self.x.dtype)[:, None])

        aim = torch.where(near, 0, excess)
        move = self._project(margins, gradient, unit, aim, lower, upper)
        distance = move.norm(dim=1)
        self.residual = torch.where(near, (distance + excess.abs()) / length.clamp_min(tiny), torch.inf)
        weight = torch.where(near, momentum * self.weight + 1 - momentum, 0)
        self.velocity.lerp_(move, torch.where(near & (self.weight > 0), (1 - momentum) / weight, 1)[:, None])
        self.weight = weight
        scale = torch.where(near, step, (self.cap / distance.clamp_min(tiny)).clamp_max(1)) * usable
        self.x = torch.addcmul(self.x, scale[:, None], self.velocity)
        back = torch.where(near, torch.where(excess > 0, RETURN_GAIN, 1.0) * excess * unit, 0)
        self.x.addcmul_(back[:, None], gradient, value=-1).clamp_(lower, upper)

    def _project(
        self, margins: Tensor, gradient: Tensor, unit: Tensor, aim: Tensor, lower: float, upper: float
    ) -> Tensor:
        """The moves [L, n] to the clean images' projections onto the linearised boundaries and the box.

        The boundary of the rival with the largest margin is taken to lie ``aim`` away; ``unit`` is one over the
        length of its gradient. Those of the others keep their last gradients, moved to where they agree with the
        rivals' present margins.
        """
        if self.normals.shape[1]:
            return self._project_polytope(margins, gradient, unit, aim, lower, upper) - self.x
        multiplier, share = self.multipliers[:, 0], self.share
        move, previous, before = gradient, multiplier, multiplier
        for iteration in range(SECANT_ITERATIONS + 1):
            move = torch.addcmul(self.clean, (multiplier * unit)[:, None], gradient, value=-1)
            move.clamp_(lower, upper).sub_(self.x)
            if iteration == SECANT_ITERATIONS:
                break
            after = torch.linalg.vecdot(gradient, move) * unit + aim
            if iteration:
                change = multiplier - previous
                secant = (before - after) / torch.where(change == 0, 1, change)
                share = torch.where(change == 0, share, secant).clamp(MIN_SHARE, 1)
            previous, before = multiplier, after
            multiplier = (multiplier + after / share).clamp_min(0)
        self.multipliers, self.share = multiplier[:, None], share
        return move

    def _project_polytope(
        self, margins: Tensor, gradient: Tensor, unit: Tensor, aim: Tensor, lower: float, upper: float
    ) -> Tensor:
        lanes, active = torch.arange(len(self), device=margins.device), margins.argmax(1)
        self.normals[lanes, active] = gradient
        margins = margins.index_put((lanes, active), aim / unit)
        known = self.normals.isfinite().all(2) & margins.isfinite()
        planes = torch.where(known[:, :, None], self.normals, 0)
        offsets = torch.einsum("lmn,ln->lm", planes, self.x) - torch.where(known, margins, 0)
        goal, self.multipliers = project_polytope(
            self.clean, planes, offsets, lower, upper, iterations=12, start=self.multipliers
        )
        return goal
