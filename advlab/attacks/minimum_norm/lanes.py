"""One step of the descent towards the clean image along the decision boundary, for many lanes at once.

A lane is one (image, rival, start). Each step linearises the boundary at the iterate. A boundary that is locally flat
is solved by projecting the clean image onto the linearised boundary; the kinks of ReLU and max pooling, on which such
projections zigzag, are averaged out by momentum and a decaying step.

Shapes: L lanes, n pixels, m rivals of a lane. Numbers in brackets are the equations of the package's overview.
"""

from dataclasses import dataclass, fields
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.linalg import vector_norm

from advlab import compiled
from advlab.attacks.chunks import blocks
from advlab.attacks.minimum_norm import kernels
from advlab.attacks.minimum_norm.rays import Rays
from advlab.attacks.model import finite
from advlab.attacks.projection import project_polytope

RETURN_GAIN = 2.5
"""κ of (3) on the clean side, where a step covers this multiple of the linearised distance to the boundary; beyond it,
1. So iterates stay beyond, where a descent ends in better minima of networks with kinks."""
NEAR = 1.0
"""An iterate is near the boundary when |τ − 1| is below this: its ray crosses within its own length of it."""
DOUBT = 4.0
"""Weight of (τ − 1)² in the doubt of a crossing (5)."""

BEND = (1e-5, 1e-3)
"""Relative changes of ‖g‖ from one iterate to the next between which the boundary is taken to be curved: on a linear
piece it changes by rounding alone, across a kink by more."""
MIN_SHARE = 0.01
"""Smallest share of ‖g‖² that a correction of the multiplier assumes on pixels inside the box."""


class Boundary(NamedTuple):
    """The boundary of every lane, linearised at its iterate x_t.

    Attributes:
        gradient: [L, n], g of the largest margin; zero where it is unusable.
        usable: [L] bool, the gradient is finite and not zero, and the margin is finite.
        slope: [L], ‖g‖.
        unit: [L], 1/‖g‖.
        excess: [L], e = m/‖g‖, the distance of x_t from the boundary, positive on the clean side.
        descent: [L], d = g · (x − x_t)/‖g‖, how far the clean image x lies behind x_t along g.
        near: [L] bool, x_t is near the boundary.
    """

    gradient: Tensor
    usable: Tensor
    slope: Tensor
    unit: Tensor
    excess: Tensor
    descent: Tensor
    near: Tensor


@dataclass(slots=True)
class Lanes:
    """The state of L lanes, of which the first ``moving`` still move.

    Attributes:
        rays: of the images that the lanes belong to; lanes write the best crossings that they find there.
        moving: how many lanes still move; the rest have converged or fallen behind.
        row: [L] int64, the image a lane belongs to.
        place: [L] int64, among the lanes of its image, the most promising first; it decides between equal merits.
        rivals: [L, m] int64, the classes whose boundaries matter: one that is to overtake the label, or those that
            the target is to overtake. With m = 0, the strongest class wherever the iterate is.
        x: [L, n], the iterate x_t.
        length: [L], ‖x_t − x‖.
        velocity: [L, n], v, the average of the moves p − x_t made near the boundary.
        weight: [L], the total weight of that average; 0 while far, where v is the last move alone.
        cap: [L], c, the longest step allowed while far from the boundary.
        slope: [L], ‖g‖ at the iterate before.
        curved: [L] bool, the boundary is smooth and curved there, by the change of ‖g‖.
        normals: [L, m, n], the latest gradient of each rival's margin, for a target; [L, 0, n] without.
        multipliers: [L, m], of the last projection, where the next one starts; without a target λ‖g‖.
        merit: [L], (5), the least that the lane has met.
        residual: [L], how far the iterate is from a smooth optimum: ‖p − x_t‖ + |e|, relative to the length. The
            relative error of the distance is about its square.
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
        cls, rays: Rays, *, row: Tensor, rivals: Tensor, x: Tensor, length: Tensor, normals: Tensor,
        multipliers: Tensor, place: Tensor | None = None, cap: Tensor | None = None,
    ) -> Self:  # fmt: skip
        """Lanes at rest in x [L, n], at distances ``length``; the tensors become theirs to write. By default there is
        one lane per image, free to take steps of any length.
        """
        far = torch.full_like(length, torch.inf)
        return cls(
            rays=rays, moving=len(row), row=row, place=torch.zeros_like(row) if place is None else place, rivals=rivals,
            x=x, length=length, velocity=torch.empty_like(x), weight=torch.zeros_like(far),
            cap=far.clone() if cap is None else cap, slope=torch.zeros_like(far),
            curved=torch.zeros_like(far, dtype=torch.bool), normals=normals, multipliers=multipliers, merit=far,
            residual=far.clone(),
        )  # fmt: skip

    def __len__(self) -> int:
        return self.row.shape[0]

    def part(self, lanes: slice) -> "Lanes":
        """Views of some lanes, all of them moving; the lanes themselves if these are all."""
        if lanes == slice(0, len(self)) and self.moving == len(self):
            return self
        parts = {name: getattr(self, name)[lanes] for name in PER_LANE}
        return Lanes(rays=self.rays, moving=len(parts["row"]), **parts)

    def keep(self, lanes: Tensor) -> "Lanes":
        """Copies of the chosen lanes (LongTensor [l]), all of them moving."""
        kept = {name: getattr(self, name).index_select(0, lanes) for name in PER_LANE}
        return Lanes(rays=self.rays, moving=len(lanes), **kept)

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
        """Move every lane by one step (3), in place.

        Pixels whose derivative is not finite do not count. Lanes whose gradient is zero stay where they are.

        Args:
            margins: [L, m], of the rivals at ``x``; the largest is the lane's margin, positive on the clean side.
            gradient: [L, n], of the largest margin.
            step: s, the share of the averaged move that is made near the boundary.
            momentum: β, the weight of the past in that average.
            lower, upper: of the box.
        """
        if not self.normals.shape[1] and compiled.fits(self.x, margins, gradient):
            compiled.run(
                kernels.advance, self, self.rays, best=self.rays.merit, margins=margins, gradient=gradient, step=step,
                momentum=momentum, lower=lower, upper=upper, return_gain=RETURN_GAIN, near_within=NEAR,
                doubt_weight=DOUBT, bend_from=BEND[0], bend_to=BEND[1], min_share=MIN_SHARE,
            )  # fmt: skip
            return
        for rows in blocks(len(self), self.x.shape[1] * max(1, self.normals.shape[1]), self.x):
            self.part(rows)._advance(margins[rows], gradient[rows], step, momentum, lower, upper)

    def _advance(
        self, margins: Tensor, gradient: Tensor, step: float, momentum: float, lower: float, upper: float
    ) -> None:
        """:meth:`advance` on whole arrays, of lanes few enough for the processor's cache."""
        tiny = torch.finfo(self.x.dtype).tiny
        clean = self.rays.images[self.row]
        here = self._linearise(clean, margins, gradient)

        move = self._project(here, clean, margins, lower, upper) - self.x  # (2)
        distance = vector_norm(move, dim=1)
        residual = (distance + here.excess.abs()) / self.length.clamp_min(tiny)
        self.residual.copy_(torch.where(here.near, residual, torch.inf))
        bend = (here.slope / self.slope - 1).abs()
        self.curved.copy_((bend > BEND[0]) & (bend < BEND[1]))
        self.slope.copy_(here.slope)

        weight = torch.where(here.near, momentum * self.weight + 1 - momentum, 0)
        average = self.velocity.lerp(move, ((1 - momentum) / weight)[:, None])
        self.velocity.copy_(torch.where((here.near & (self.weight > 0))[:, None], average, move))
        self.weight.copy_(weight)
        scale = torch.where(here.near, step, (self.cap / distance.clamp_min(tiny)).clamp_max(1)) * here.usable
        gain = torch.where(here.excess > 0, RETURN_GAIN, 1.0)
        back = torch.where(here.near, gain * here.excess * here.unit, 0)
        self.x.addcmul_(scale[:, None], self.velocity).addcmul_(back[:, None], here.gradient, value=-1)  # (3)
        self.x.clamp_(lower, upper)
        self.length.copy_(vector_norm(self.x - clean, dim=1))

    def _linearise(self, clean: Tensor, margins: Tensor, gradient: Tensor) -> Boundary:
        """Linearise the boundaries, and keep the rays that cross them first."""
        tiny = torch.finfo(self.x.dtype).tiny
        gradient = finite(gradient)
        slope, margin = vector_norm(gradient, dim=1), margins.amax(1)
        usable = (slope > 0) & slope.isfinite() & margin.isfinite()
        gradient, margin = torch.where(usable[:, None], gradient, 0), torch.where(usable, margin, 0)
        unit = 1 / torch.where(usable, slope, 1)
        excess = margin * unit
        descent = torch.linalg.vecdot(gradient, clean - self.x) * unit

        crossing = 1 + excess / descent.clamp_min(tiny)  # (4)
        off = torch.where(usable & (descent > 0), (crossing - 1).abs(), torch.inf)
        near = off < NEAR
        doubt = 1 + DOUBT * off.square()
        merit = torch.where(near, crossing * self.length * doubt, torch.inf)  # (5)
        self.merit.copy_(torch.minimum(self.merit, merit))
        self._record(merit, crossing, doubt)
        return Boundary(
            gradient=gradient, usable=usable, slope=slope, unit=unit, excess=excess, descent=descent, near=near
        )

    def _record(self, merit: Tensor, crossing: Tensor, doubt: Tensor) -> None:
        """Keep the iterates' rays where their merits [L] are the best of their images."""
        best = self.rays.merit.scatter_reduce(0, self.row, merit, "amin")
        wins = ((merit <= best[self.row]) & (merit < self.rays.merit[self.row])).nonzero().squeeze(1)
        row = self.row[wins]
        self.rays.ends.index_copy_(0, row, self.x.index_select(0, wins))
        self.rays.crossing.index_copy_(0, row, crossing[wins])
        self.rays.doubt.index_copy_(0, row, doubt[wins])
        self.rays.merit.copy_(best)

    def _project(self, here: Boundary, clean: Tensor, margins: Tensor, lower: float, upper: float) -> Tensor:
        """p (2): the projections [L, n] of the clean images [L, n] onto the linearised boundaries and the box.

        Without a target, the one multiplier μ = λ‖g‖ is the last step's, corrected once by the chord from μ = 0: pixels
        at a bound that the gradient points out of do not move at all, so the chord is nearly the tangent. The next
        step sees what is left of the error.
        """
        aim = torch.where(here.near, 0, here.excess)
        if self.normals.shape[1]:
            return self._project_polytope(here, aim, clean, margins, lower, upper)

        def goal(multiplier: Tensor) -> Tensor:
            shift = (multiplier * here.unit)[:, None]
            return torch.addcmul(clean, shift, here.gradient, value=-1).clamp_(lower, upper)

        multiplier = self.multipliers[:, 0]
        along = torch.linalg.vecdot(here.gradient, goal(multiplier) - self.x) * here.unit
        share = torch.where(multiplier > 0, (here.descent - along) / multiplier, 1).clamp(MIN_SHARE, 1)
        multiplier = (multiplier + (along + aim) / share).clamp_min(0)
        self.multipliers.copy_(multiplier[:, None])
        return goal(multiplier)

    def _project_polytope(
        self, here: Boundary, aim: Tensor, clean: Tensor, margins: Tensor, lower: float, upper: float
    ) -> Tensor:
        """p for a target: one half-space per rival. That of the largest margin is linearised here; the others keep
        their last gradients, moved to where they agree with the present margins."""
        lanes, largest = torch.arange(len(self), device=margins.device), margins.argmax(1)
        self.normals[lanes, largest] = here.gradient
        margins = margins.index_put((lanes, largest), aim / here.unit)
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
"""Attributes of `Lanes` that are not used once a lane has stopped."""
