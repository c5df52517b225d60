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

from advlab import compiled
from advlab.attacks.chunks import blocks
from advlab.attacks.minimum_norm import kernels
from advlab.attacks.minimum_norm.rays import Rays
from advlab.attacks.projection import project_polytope

RETURN_GAIN = 2.5
"""From the clean side a step covers this multiple of the linearised distance to the boundary, from beyond it once:
iterates stay beyond, where a descent ends in better minima of networks with kinks."""
NEAR = 1.0
"""An iterate is near the boundary when the first-order crossing of its ray lies within this share of its length."""
DOUBT = 4.0
"""Weight of the squared relative gap between an iterate and its first-order crossing in the doubt of the crossing."""

BEND = (1e-5, 1e-3)
"""Relative changes of the length of the gradient, from one iterate to the next, between which the boundary is taken to
be curved there: on a linear piece it changes by rounding alone, across a kink by more."""
MIN_SHARE = 0.01
"""Smallest share of a squared normal that a correction of the multiplier assumes inside the box."""


@dataclass(slots=True)
class Lanes:
    """The state of L lanes, of which the first still move.

    Attributes:
        rays: of the images that the lanes belong to; lanes write what they find there.
        moving: how many lanes still move; the rest have converged or fallen behind.
        row: [L] int64, the image a lane belongs to.
        place: [L] int64, among the lanes of its image, the most promising first; it decides between equal merits.
        rivals: [L, m] int64, the classes whose boundaries matter: one that is to overtake the label, or those that
            the target is to overtake.
        x: [L, n], the current iterate.
        length: [L], of x − image, the radius.
        velocity: [L, n], the momentum average of the moves made near the boundary.
        weight: [L], the total weight of that average; 0 while far, where it means nothing.
        cap: [L], the longest step allowed while far from the boundary.
        slope: [L], the length of the last gradient.
        curved: [L] bool, by its change the boundary is smooth and curved there.
        normals: [L, m, n], the latest gradient of each rival's margin, for a target; [L, 0, n] without.
        multipliers: [L, m], of the last projection (a warm start); per unit normal without a target.
        merit: [L], the merit of the best ray that the lane has met.
        residual: [L], how far the iterate is from a smooth optimum: the lengths of the projected move and of the
            excess over the boundary, relative to the distance. The distance itself is off by about its square.
    """

    rays: Rays
    moving: int
    row: Tensor
    place: Tensor
    rivals: Tensor
    x: Tensor
    length: Tensor
    velocity: Tensor
    weight: Tensor
    cap: Tensor
    slope: Tensor
    curved: Tensor
    normals: Tensor
    multipliers: Tensor
    merit: Tensor
    residual: Tensor

    @classmethod
    def start(
        cls,
        rays: Rays,
        row: Tensor,
        place: Tensor,
        rivals: Tensor,
        x: Tensor,
        length: Tensor,
        normals: Tensor,
        multipliers: Tensor,
        cap: Tensor,
    ) -> Lanes:
        """Lanes at rest in x [L, n], at distances ``length``; the tensors become theirs to write."""
        far = torch.full_like(cap, torch.inf)
        return cls(
            rays=rays,
            moving=len(row),
            row=row,
            place=place,
            rivals=rivals,
            x=x,
            length=length,
            velocity=torch.empty_like(x),
            weight=torch.zeros_like(cap),
            cap=cap,
            slope=torch.zeros_like(cap),
            curved=torch.zeros_like(cap, dtype=torch.bool),
            normals=normals,
            multipliers=multipliers,
            merit=far,
            residual=far.clone(),
        )

    def __len__(self) -> int:
        return len(self.row)

    def part(self, lanes: slice) -> Lanes:
        """Views of some lanes, all of them moving."""
        parts = [getattr(self, name)[lanes] for name in PER_LANE]
        return Lanes(self.rays, len(parts[0]), *parts)

    def keep(self, lanes: Tensor) -> Lanes:
        """Copies of the chosen lanes (LongTensor [l]), all of them moving."""
        return Lanes(self.rays, len(lanes), *(getattr(self, name).index_select(0, lanes) for name in PER_LANE))

    def retire(self, lanes: Tensor) -> None:
        """Stop the chosen moving lanes (LongTensor [l]): the last that go on change places with them.

        What `ONLY_MOVING` names is lost of them.
        """
        source, to = compiled.vacate(self.moving, lanes)
        compiled.exchange_rows((getattr(self, name) for name in PER_LANE if name not in ONLY_MOVING), source, to)
        compiled.copy_rows((getattr(self, name) for name in ONLY_MOVING), source, to)
        self.moving -= len(lanes)

    def best(self, width: int) -> Tensor:
        """The places (LongTensor [l]) of the ``width`` moving lanes of smallest merit of every image."""
        order = self.place[: self.moving].argsort(stable=True)
        for key in (self.merit, self.row):
            order = order[key[order].argsort(stable=True)]
        row = self.row[order]
        rank = torch.arange(len(row), device=row.device) - torch.searchsorted(row, row)
        return order[rank < width]

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
        if not self.normals.shape[1] and compiled.fits(self.x, margins, gradient):
            compiled.run(
                kernels.advance,
                *(self.rays.images, self.rays.ends, self.rays.crossing, self.rays.doubt, self.rays.merit),
                *(self.row, self.x, self.length, self.velocity, self.weight, self.cap, self.slope),
                *(self.curved, self.multipliers, self.merit, self.residual),
                *(margins, gradient, step, momentum, lower, upper),
                *(RETURN_GAIN, NEAR, DOUBT, *BEND, MIN_SHARE),
            )
            return
        for rows in blocks(len(self), self.x.shape[1] * max(1, self.normals.shape[1]), self.x):
            self.part(rows)._advance(margins[rows], gradient[rows], step, momentum, lower, upper)

    def _advance(
        self, margins: Tensor, gradient: Tensor, step: float, momentum: float, lower: float, upper: float
    ) -> None:
        """:meth:`advance` on whole arrays, of lanes few enough for the processor's cache."""
        tiny = torch.finfo(self.x.dtype).tiny
        clean = self.rays.images[self.row]
        slope = vector_norm(gradient, dim=1)
        margin = margins.amax(1)
        usable = (slope > 0) & slope.isfinite() & margin.isfinite()
        gradient = torch.where(usable[:, None], gradient, 0)
        margin = torch.where(usable, margin, 0)
        unit = 1 / torch.where(usable, slope, 1)
        excess = margin * unit

        descent = torch.linalg.vecdot(gradient, clean - self.x) * unit
        crossing = 1 + excess / descent.clamp_min(tiny)
        off = torch.where(usable & (descent > 0), (crossing - 1).abs(), torch.inf)
        near = off < NEAR
        doubt = 1 + DOUBT * off.square()
        merit = torch.where(near, crossing * self.length * doubt, torch.inf)
        self.merit.copy_(torch.minimum(self.merit, merit))
        self._record(merit, crossing, doubt)

        aim = torch.where(near, 0, excess)
        move = self._project(clean, margins, gradient, unit, descent, aim, lower, upper) - self.x
        distance = vector_norm(move, dim=1)
        self.residual.copy_(torch.where(near, (distance + excess.abs()) / self.length.clamp_min(tiny), torch.inf))
        bend = (slope / self.slope - 1).abs()
        self.curved.copy_((bend > BEND[0]) & (bend < BEND[1]))
        self.slope.copy_(slope)
        weight = torch.where(near, momentum * self.weight + 1 - momentum, 0)
        average = self.velocity.lerp(move, ((1 - momentum) / weight)[:, None])
        self.velocity.copy_(torch.where((near & (self.weight > 0))[:, None], average, move))
        self.weight.copy_(weight)
        scale = torch.where(near, step, (self.cap / distance.clamp_min(tiny)).clamp_max(1)) * usable
        back = torch.where(near, torch.where(excess > 0, RETURN_GAIN, 1.0) * excess * unit, 0)
        self.x.addcmul_(scale[:, None], self.velocity).addcmul_(back[:, None], gradient, value=-1)
        self.x.clamp_(lower, upper)
        self.length.copy_(vector_norm(self.x - clean, dim=1))

    def _record(self, merit: Tensor, crossing: Tensor, doubt: Tensor) -> None:
        """Keep the iterates' rays where their merits [L] are the best of their images."""
        best = self.rays.merit.scatter_reduce(0, self.row, merit, "amin")
        wins = ((merit <= best[self.row]) & (merit < self.rays.merit[self.row])).nonzero().squeeze(1)
        row = self.row[wins]
        self.rays.ends.index_copy_(0, row, self.x.index_select(0, wins))
        self.rays.crossing.index_copy_(0, row, crossing[wins])
        self.rays.doubt.index_copy_(0, row, doubt[wins])
        self.rays.merit.copy_(best)

    def _project(
        self,
        clean: Tensor,
        margins: Tensor,
        gradient: Tensor,
        unit: Tensor,
        descent: Tensor,
        aim: Tensor,
        lower: float,
        upper: float,
    ) -> Tensor:
        """The clean images' projections [L, n] onto the linearised boundaries and the box.

        The boundary of the rival with the largest margin is taken to lie ``aim`` away; ``unit`` is one over the
        length of its gradient, ``descent`` what the radius gains along it. Those of the others keep their last
        gradients, moved to where they agree with the rivals' present margins.

        Without a target the one multiplier is the last step's, corrected once by the chord from multiplier 0: pixels
        at a bound that the gradient points out of do not move at all, so the chord is nearly the tangent. What is
        left of the error the next step sees.
        """
        if self.normals.shape[1]:
            return self._project_polytope(clean, margins, gradient, unit, aim, lower, upper)

        def goal(multiplier: Tensor) -> Tensor:
            return torch.addcmul(clean, (multiplier * unit)[:, None], gradient, value=-1).clamp_(lower, upper)

        multiplier = self.multipliers[:, 0]
        along = torch.linalg.vecdot(gradient, goal(multiplier) - self.x) * unit
        share = torch.where(multiplier > 0, (descent - along) / multiplier, 1).clamp(MIN_SHARE, 1)
        multiplier = (multiplier + (along + aim) / share).clamp_min(0)
        self.multipliers.copy_(multiplier[:, None])
        return goal(multiplier)

    def _project_polytope(
        self,
        clean: Tensor,
        margins: Tensor,
        gradient: Tensor,
        unit: Tensor,
        aim: Tensor,
        lower: float,
        upper: float,
    ) -> Tensor:
        lanes, active = torch.arange(len(self), device=margins.device), margins.argmax(1)
        self.normals[lanes, active] = gradient
        margins = margins.index_put((lanes, active), aim / unit)
        known = self.normals.isfinite().all(2) & margins.isfinite()
        planes = torch.where(known[:, :, None], self.normals, 0)
        offsets = torch.einsum("lmn,ln->lm", planes, self.x) - torch.where(known, margins, 0)
        goal, multipliers = project_polytope(
            clean, planes, offsets, lower, upper, iterations=12, start=self.multipliers
        )
        self.multipliers.copy_(multipliers)
        return goal


PER_LANE = tuple(field.name for field in fields(Lanes) if field.name not in ("rays", "moving"))
ONLY_MOVING = ("x", "velocity")
"""Attributes of `Lanes` that nobody asks for once a lane has stopped."""
