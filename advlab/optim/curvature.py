"""A batch of limited-memory inverse Hessians in the compact form of Byrd, Nocedal & Schnabel (1994).

Each problem has its own memory of steps s and gradient changes y, the columns of S and Y, the oldest first. Then

    H = (I − S Tᵀ Yᵀ) γ (I − Y T Sᵀ) + S Tᵀ D T Sᵀ,    T = R⁻¹,  R = triu(SᵀY),  D = diag(SᵀY),    (1)

their equation (3.1) with its terms collected, where γ = sᵀy/yᵀy of the newest pair (Nocedal & Wright 2006, (7.20)).

**Learning a pair.** R is never formed. With the new pair it becomes [R, Sᵀy; 0, sᵀy], and so

    T becomes [T, −T Sᵀy/sᵀy; 0, 1/sᵀy];                                                            (2)

to forget the oldest pair, the first row and column of T are deleted. T is kept in the order of the slots of a circular
memory, with zeros in the row and column of an empty slot, so nothing is ever reordered. H is positive semidefinite for
any T, also a rounded one, and H y = s holds for the newest pair by construction. All problems write into the same slot
at the same time, and those with nothing to learn leave it empty; slots are therefore plain slices.

**A product.** With u = T Sᵀv and D from the diagonal of SᵀY, (1) is

    H v = γ v − γ Y u + S Tᵀ (D u − γ Yᵀv + γ YᵀY u).                                               (3)

It reads the memory twice; the products of the newest pair with all others are computed in the first pass.

**A shift.** When σI is added to the Hessian, every pair (s, y) becomes (s, y + σs). So

    SᵀY becomes SᵀY + σ SᵀS,    YᵀY becomes YᵀY + σ (SᵀY + YᵀS) + σ² SᵀS,                           (4)

and Yᵀv becomes Yᵀv + σ Sᵀv: the memory itself is neither read nor written; T is inverted again.

Shapes: B problems, M slots, N variables.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from advlab import compiled
from advlab.optim import kernels


@dataclass(slots=True)
class Curvature:
    """The memories of B problems.

    Attributes:
        pairs: [B, M, 2, N]; ``pairs[:, :, 0]`` holds the gradient changes as they were learnt, ``pairs[:, :, 1]`` the
            steps s.
        lag: [B, M], the sum of the shifts since: y = ``pairs[:, :, 0]`` + lag · s.
        t: [B, M, M], T in the order of the slots.
        sy, yy, ss: [B, M, M], SᵀY, YᵀY and SᵀS. Unless ``shiftable``, only the diagonal of SᵀY is kept up to date, and
            SᵀS not at all.
        gamma: [B], γ.
        empty: [B] bool, no pair is held and H = I.
        shiftable: multiples of I may be added to the Hessians.
        slot: the slot written last.
        used: the number of slots that were ever written; products leave out the others.
    """

    pairs: Tensor
    lag: Tensor
    t: Tensor
    sy: Tensor
    yy: Tensor
    ss: Tensor
    gamma: Tensor
    empty: Tensor
    shiftable: bool
    slot: int = -1
    used: int = 0

    @classmethod
    def allocate(cls, num_problems: int, history: int, like: Tensor, *, shiftable: bool = False) -> Self:
        """Empty memories of ``history`` slots; ``like`` [..., N] gives N, device and dtype."""
        t, sy, yy, ss = like.new_zeros(4, num_problems, history, history).unbind()
        return cls(
            pairs=like.new_zeros(num_problems, history, 2, like.shape[-1]),
            lag=like.new_zeros(num_problems, history),
            t=t,
            sy=sy,
            yy=yy,
            ss=ss,
            gamma=like.new_ones(num_problems),
            empty=torch.ones(num_problems, dtype=torch.bool, device=like.device),
            shiftable=shiftable,
        )

    def forget(self, which: Tensor) -> None:
        """Empty the memories where ``which`` [B] is true, so that H = I."""
        self.t.masked_fill_(which[:, None, None], 0)
        self.gamma.masked_fill_(which, 1)
        self.empty.logical_or_(which)

    def next_slot(self) -> Tensor:
        """A view [B, 2, N] of the next slot, to be filled with y and s; its old pair leaves H."""
        self.slot = (self.slot + 1) % self.pairs.shape[1]
        self.used = max(self.used, self.slot + 1)
        self.t[:, self.slot] = 0
        self.t[:, :, self.slot] = 0
        self.lag[:, self.slot] = 0
        return self.pairs[:, self.slot]

    def products(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Yᵀv and Sᵀv, [B, K, used] each, of the rows of ``vectors`` [B, K, N], in one pass over the memory."""
        both = torch.bmm(vectors, self._used().mT).nan_to_num_(0, 0, 0)  # an empty slot may hold anything finite
        s_v = both[..., 1::2]
        return both[..., ::2] + self.lag[:, None, : self.used] * s_v, s_v

    def learn(self, which: Tensor) -> None:
        """Take the pairs in the newest slot into H (2) where ``which`` [B] is true; sᵀy > 0 must hold there."""
        newest, used = self.slot, slice(self.used)
        pair = self.pairs[:, newest] if self.shiftable else self.pairs[:, newest, :1]
        on_y, on_s = self.products(pair)
        y_y, s_y = on_y[:, 0], on_s[:, 0]
        if self.shiftable:
            lag = self.lag[:, newest, None]
            y_y, s_y = y_y + lag * on_y[:, 1], s_y + lag * on_s[:, 1]
            self.sy[:, newest, used] = on_y[:, 1]
            self.ss[:, newest, used] = on_s[:, 1]
            self.ss[:, used, newest] = on_s[:, 1]
        self.sy[:, used, newest] = s_y
        self.yy[:, newest, used] = y_y
        self.yy[:, used, newest] = y_y
        diagonal = s_y[:, newest]
        column = torch.bmm(self.t[:, used, used], s_y[:, :, None]).squeeze(2)
        column[:, newest] = -1
        self.t[:, used, newest] = column * torch.where(which, -1 / diagonal, 0)[:, None]
        self.gamma = torch.where(which, diagonal / y_y[:, newest], self.gamma)
        self.empty = self.empty & ~which

    def shift(self, places: Tensor, by: Tensor) -> None:
        """Add by[k] · I, of either sign, to the Hessian of the problem at places[k] (4); pairs that this makes concave
        leave H.
        """
        if compiled.fits(self.t, by):
            compiled.run(kernels.shift, self, places=places, by=by, newest=self.slot)
            return
        used = slice(self.used)
        sy, yy, ss = (matrix[places, used, used] for matrix in (self.sy, self.yy, self.ss))
        by = by[:, None, None]
        yy = yy + by * (sy + sy.mT) + by.square() * ss
        sy = sy + by * ss
        self.sy[places, used, used] = sy
        self.yy[places, used, used] = yy
        self.lag[places] += by[:, 0]

        order = [(self.slot + 1 + age) % self.used for age in range(self.used)]  # the oldest first
        back = sorted(range(self.used), key=order.__getitem__)
        scale = torch.finfo(ss.dtype).eps * ss.diagonal(dim1=1, dim2=2)
        convex = (self.t[places, used, used].diagonal(dim1=1, dim2=2) > 0) & (sy.diagonal(dim1=1, dim2=2) > scale)
        convex = convex[:, order]
        both = convex[:, :, None] & convex[:, None, :]
        eye = torch.eye(self.used, dtype=sy.dtype, device=sy.device)
        r = torch.where(both, sy[:, order][:, :, order].triu(), eye)
        inverse = torch.linalg.solve_triangular(r, eye.expand_as(r), upper=True)
        self.t[places, used, used] = torch.where(both, inverse, 0)[:, back][:, :, back]
        age = torch.arange(1, self.used + 1, device=places.device)
        newest = (convex * age).argmax(1, keepdim=True)
        sy, yy = (matrix.diagonal(dim1=1, dim2=2)[:, order].gather(1, newest).squeeze(1) for matrix in (sy, yy))
        some = convex.any(1)
        self.gamma[places] = torch.where(some, sy / yy, 1.0)
        self.empty[places] = ~some

    def correction(self, y_v: Tensor, s_v: Tensor) -> Tensor:
        """(γI − H) v [B, N] (3), from the products Yᵀv and Sᵀv [B, used]."""
        used = slice(self.used)
        t = self.t[:, used, used]
        u = torch.bmm(t, s_v[:, :, None])
        on_y = self.gamma[:, None] * u.squeeze(2)
        w = self.gamma[:, None] * y_v - torch.bmm(self.yy[:, used, used], on_y[:, :, None]).squeeze(2)
        diagonal = self.sy[:, used, used].diagonal(dim1=1, dim2=2)
        on_s = torch.bmm((w - diagonal * u.squeeze(2))[:, None], t).squeeze(1) + self.lag[:, used] * on_y
        return torch.bmm(torch.stack((on_y, on_s), 2).view(len(u), 1, -1), self._used()).squeeze(1)

    def _used(self) -> Tensor:
        """[B, 2·used, N]: a view of the slots in use, y and s in turns."""
        return self.pairs.flatten(1, 2)[:, : 2 * self.used]
