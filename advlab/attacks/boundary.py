"""Descent of the distance to the clean image along the decision boundary, for many lanes at once.

A lane is one (image, rival class, start). Its iterates are linearised at every step: a boundary that is locally
flat is solved by projecting the clean image onto the linearised boundary, and the kinks of ReLU and max pooling,
on which such projections zigzag, are averaged out by momentum and a decaying step.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.linalg import vector_norm

from advlab.attacks.blocks import blocks
from advlab.attacks.projection import project_polytope

RETURN_GAIN = 2.5
"""From the clean side a step covers this multiple of the linearised distance to the boundary, from beyond it once:
iterates stay beyond, where a descent ends in better minima of networks with kinks."""
NEAR = 1.0
"""An iterate is near the boundary when the first-order crossing of its ray lies within this share of its length."""
DOUBT = 4.0
"""Weight of the squared relative gap between an iterate and its first-order crossing in the merit of the crossing."""

BEND = (1e-5, 1e-3)
"""Relative changes of the length of the gradient, from one iterate to the next, between which the boundary is taken to
be curved there: on a linear piece it changes by rounding alone, across a kink by more."""
MIN_SHARE = 0.01
"""Smallest share of a squared normal that a correction of the multiplier assumes inside the box."""


@dataclass(slots=True)
class Lanes:
    """The state of L lanes; every field has one row per lane.

    Attributes:
        row: [L] int64, the image a lane belongs to.
        place: [L] int64, among the lanes of its image, the most promising first; it decides between equal merits.
        rivals: [L, m] int64, the classes whose boundaries matter: one that is to overtake the label, or those that
            the target is to overtake.
        clean: [L, n], the clean image.
        x: [L, n], the current iterate.
        radius: [L, n], x − clean.
        length: [L], of the radius.
        velocity: [L, n], the momentum average of the moves made near the boundary.
        weight: [L], the total weight of that average; 0 while far.
        cap: [L], the longest step allowed while far from the boundary.
        slope: [L], the length of the last gradient.
        curved: [L] bool, by its change the boundary is smooth and curved there.
        normals: [L, m, n], the latest gradient of each rival's margin; only kept where m > 1.
        multipliers: [L, m], of the last projection (a warm start); per unit normal where m = 1.
        candidate: [L, n], the iterate whose ray crosses the boundary closest to the clean image so far.
        crossing: [L], where that ray crosses, in lengths of the candidate's perturbation, to first order.
        merit: [L], the distance of that crossing, enlarged in doubt; infinite before the first.
        residual: [L], how far the iterate is from a smooth optimum: the lengths of the projected move and of the
            excess over the boundary, relative to the distance. The distance itself is off by about its square.
    """

    row: Tensor
    place: Tensor
    rivals: Tensor
    clean: Tensor
    x: Tensor
    radius: Tensor
    length: Tensor
    velocity: Tensor
    weight: Tensor
    cap: Tensor
    slope: Tensor
    curved: Tensor
    normals: Tensor
    multipliers: Tensor
    candidate: Tensor
    crossing: Tensor
    merit: Tensor
    residual: Tensor

    @classmethod
    def start(
        cls,
        place: int,
        row: Tensor,
        rivals: Tensor,
        clean: Tensor,
        x: Tensor,
        normals: Tensor,
        multipliers: Tensor,
        cap: Tensor,
    ) -> Lanes:
        """Lanes at rest in x [L, n]; the tensors become theirs to write."""
        radius = x - clean
        far = torch.full_like(cap, torch.inf)
        return cls(
            row=row,
            place=torch.full_like(row, place),
            rivals=rivals,
            clean=clean,
            x=x,
            radius=radius,
            length=vector_norm(radius, dim=1),
            velocity=torch.zeros_like(x),
            weight=torch.zeros_like(cap),
            cap=cap,
            slope=torch.zeros_like(cap),
            curved=torch.zeros_like(cap, dtype=torch.bool),
            normals=normals,
            multipliers=multipliers,
            candidate=x.clone(),
            crossing=torch.ones_like(cap),
            merit=far,
            residual=far.clone(),
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

    def remove(self, lanes: Tensor) -> None:
        """Give up the chosen lanes (LongTensor [l]); the last move into the gaps, so the cost is l lanes, not L."""
        size = len(self) - len(lanes)
        stays = torch.ones_like(self.row, dtype=torch.bool).index_fill_(0, lanes, False)
        gaps, movers = lanes[lanes < size], size + stays[size:].nonzero().squeeze(1)
        for field in fields(self):
            tensor = getattr(self, field.name)
            tensor.index_copy_(0, gaps, tensor.index_select(0, movers))
            setattr(self, field.name, tensor[:size])

    def advance(
        self, margins: Tensor, gradient: Tensor, step: float, momentum: float, lower: float, upper: float
    ) -> None:
        """Move every lane by one step, in place.

        Lanes with a zero or non-finite gradient stay where they are.

        Args:
            margins: [L, m], of the rivals at ``x``; the largest is the lane's margin, positive on the clean side.
            gradient: [L, n], of the largest margin.
            step: share of the tangential move that is made near the boundary.
            momentum: weight of the past in the averaged move.
            lower: of the box.
            upper: of the box.
        """
        for rows in blocks(len(self), self.x.shape[1] * max(1, self.normals.shape[1]), self.x):
            part = Lanes(*(getattr(self, field.name)[rows] for field in fields(self)))
            part._advance(margins[rows], gradient[rows], step, momentum, lower, upper)

    def _advance(
        self, margins: Tensor, gradient: Tensor, step: float, momentum: float, lower: float, upper: float
    ) -> None:
        """:meth:`advance` for lanes few enough for the processor's cache.

        Comparisons and selections of whole images cost several times an addition, and new arrays as much again, so
        choices between rows are made by scalars per row and whole images are written in place.
        """
        tiny = torch.finfo(self.x.dtype).tiny
        slope = vector_norm(gradient, dim=1)
        margin = margins.amax(1)
        usable = (slope > 0) & slope.isfinite() & margin.isfinite()
        if not bool(usable.all()):
            gradient = torch.where(usable[:, None], gradient, 0)
            margin = torch.where(usable, margin, 0)
        unit = 1 / torch.where(usable, slope, 1)
        excess = margin * unit

        spare = gradient * self.radius
        descent = -spare.sum(1) * unit
        crossing = 1 + excess / descent.clamp_min(tiny)
        off = torch.where(usable & (descent > 0), (crossing - 1).abs(), torch.inf)
        near = off < NEAR
        merit = torch.where(near, crossing * self.length * (1 + DOUBT * off.square()), torch.inf)
        better = merit < self.merit
        self.merit.copy_(torch.where(better, merit, self.merit))
        self.crossing.copy_(torch.where(better, crossing, self.crossing))
        self.candidate.lerp_(self.x, better.to(self.x.dtype)[:, None])

        aim = torch.where(near, 0, excess)
        move = self._project(margins, gradient, unit, descent, aim, lower, upper, spare)
        distance = vector_norm(move, dim=1)
        self.residual.copy_(torch.where(near, (distance + excess.abs()) / self.length.clamp_min(tiny), torch.inf))
        bend = (slope / self.slope - 1).abs()
        self.curved.copy_((bend > BEND[0]) & (bend < BEND[1]))
        self.slope.copy_(slope)
        weight = torch.where(near, momentum * self.weight + 1 - momentum, 0)
        self.velocity.lerp_(move, torch.where(near & (self.weight > 0), (1 - momentum) / weight, 1)[:, None])
        self.weight.copy_(weight)
        scale = torch.where(near, step, (self.cap / distance.clamp_min(tiny)).clamp_max(1)) * usable
        back = torch.where(near, torch.where(excess > 0, RETURN_GAIN, 1.0) * excess * unit, 0)
        self.x.addcmul_(scale[:, None], self.velocity).addcmul_(back[:, None], gradient, value=-1)
        self.x.clamp_(lower, upper)
        torch.sub(self.x, self.clean, out=self.radius)
        self.length.copy_(vector_norm(self.radius, dim=1))

    def _project(
        self,
        margins: Tensor,
        gradient: Tensor,
        unit: Tensor,
        descent: Tensor,
        aim: Tensor,
        lower: float,
        upper: float,
        spare: Tensor,
    ) -> Tensor:
        """The moves [L, n] to the clean images' projections onto the linearised boundaries and the box.

        The boundary of the rival with the largest margin is taken to lie ``aim`` away; ``unit`` is one over the
        length of its gradient, ``descent`` what the radius gains along it. Those of the others keep their last
        gradients, moved to where they agree with the rivals' present margins.

        The one multiplier that m = 1 has is the last step's, corrected once by the chord from multiplier 0: pixels
        at a bound that the gradient points out of do not move at all, so the chord is nearly the tangent. What is
        left of the error the next step sees. ``spare`` [L, n] is overwritten.
        """
        if self.normals.shape[1]:
            return self._project_polytope(margins, gradient, unit, aim, lower, upper).sub_(self.x)
        multiplier = self.multipliers[:, 0]
        move = torch.empty_like(self.x)
        for corrected in (False, True):
            torch.addcmul(self.clean, (multiplier * unit)[:, None], gradient, value=-1, out=move)
            move.clamp_(lower, upper).sub_(self.x)
            if corrected:
                break
            along = torch.mul(gradient, move, out=spare).sum(1) * unit
            share = torch.where(multiplier > 0, (descent - along) / multiplier, 1).clamp(MIN_SHARE, 1)
            multiplier = (multiplier + (along + aim) / share).clamp_min(0)
        self.multipliers.copy_(multiplier[:, None])
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
        goal, multipliers = project_polytope(
            self.clean, planes, offsets, lower, upper, iterations=12, start=self.multipliers
        )
        self.multipliers.copy_(multipliers)
        return goal
